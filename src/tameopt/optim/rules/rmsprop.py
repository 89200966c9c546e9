"""RMSprop: the gradient divided by its root mean square, with momentum and centring as options."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, average, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The average of g^2; the velocity with momentum; the average of g when centred."""
    made = [State("square_avg")]
    if options["momentum"] > 0:
        made.append(State("momentum_buffer"))
    if options["centered"]:
        made.append(State("grad_avg"))
    return tuple(made)


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {
        "momentum": options["momentum"] > 0,
        "centered": options["centered"],
        "maximize": options["maximize"],
        "decay": options["weight_decay"] != 0,
        "slow": options["alpha"] > 0.5,
    }


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The hyperparameters as they are."""
    return {
        "lr": options["lr"],
        "keep": options["alpha"],
        "take": 1.0 - options["alpha"],
        "momentum": options["momentum"],
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta -= alpha g / (sqrt(v - mean^2) + eps), through a velocity with momentum."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    v = c.keep * state.square_avg + c.take * g * g
    new = {"square_avg": v}
    spread = v
    if on.centered:
        mean = new["grad_avg"] = average(state.grad_avg, g, c.keep, c.take, on.slow)
        spread = v - mean * mean
    root = sqrt(spread) + c.eps
    if not on.momentum:
        return theta - c.lr * g / root, new
    velocity = new["momentum_buffer"] = c.momentum * state.momentum_buffer + g / root
    return theta - c.lr * velocity, new


RULE = Rule("RMSprop", states, flags, coefficients, update)


class RMSprop(RuleOptimizer):
    """RMSprop (Tieleman and Hinton 2012) with torch.optim.RMSprop's arguments, defaults and numbers.

    v_k = a v_{k-1} + (1 - a) g_k^2, theta_{k+1} = theta_k - alpha_k g_k / (sqrt(v_k) + eps); `centered` (Graves
    2013) subtracts the squared average of g from v; with momentum the ratio enters a velocity.

    lr: alpha_k >= 0; alpha: the decay rate a >= 0; momentum >= 0; eps >= 0; weight_decay: added to g as
    weight_decay * theta.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "RMSprop",
    RMSprop,
    "v = a v + (1-a) g^2; theta = theta - alpha g / (sqrt(v) + eps)",
    "Tieleman and Hinton 2012; Graves 2013 (centred)",
    variants={
        "momentum": {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
        "centred": {"centered": True, "momentum": 0.5, "alpha": 0.9},
    },
)
