"""Adadelta: steps in the units of theta, from running averages of squared steps and gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The averages of g^2 and of the squared step."""
    return (State("square_avg"), State("acc_delta"))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"maximize": options["maximize"], "decay": options["weight_decay"] != 0}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The hyperparameters as they are."""
    return {
        "lr": options["lr"],
        "keep": options["rho"],
        "take": 1.0 - options["rho"],
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """d = sqrt(u + eps) / sqrt(v + eps) g; theta -= alpha d; u averages d^2."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    v = c.keep * state.square_avg + c.take * g * g
    d = sqrt(state.acc_delta + c.eps) / sqrt(v + c.eps) * g
    u = c.keep * state.acc_delta + c.take * d * d
    return theta - c.lr * d, {"square_avg": v, "acc_delta": u}


RULE = Rule("Adadelta", states, flags, coefficients, update)


class Adadelta(RuleOptimizer):
    """Adadelta (Zeiler 2012) with torch.optim.Adadelta's arguments, defaults and numbers.

    v_k = rho v_{k-1} + (1 - rho) g_k^2, d_k = sqrt(u_{k-1} + eps) / sqrt(v_k + eps) g_k,
    u_k = rho u_{k-1} + (1 - rho) d_k^2, theta_{k+1} = theta_k - alpha_k d_k.

    lr: alpha_k >= 0; rho: in [0, 1]; eps >= 0; weight_decay: added to g as weight_decay * theta.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "Adadelta",
    Adadelta,
    "v = rho v + (1-rho) g^2; d = sqrt(u + eps) / sqrt(v + eps) g; u = rho u + (1-rho) d^2; theta = theta - alpha d",
    "Zeiler 2012",
    variants={"decay": {"weight_decay": 0.1, "rho": 0.5, "maximize": True}},
)
