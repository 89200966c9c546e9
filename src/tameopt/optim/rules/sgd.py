"""Stochastic gradient descent: theta_{k+1} = theta_k - alpha_k g_k, with heavy-ball or Nesterov momentum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The velocity, when there is momentum."""
    return (State("momentum_buffer"),) if options["momentum"] != 0 else ()


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {
        "momentum": options["momentum"] != 0,
        "nesterov": options["nesterov"],
        "decay": options["weight_decay"] != 0,
        "maximize": options["maximize"],
    }


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """torch's first velocity is the gradient itself, without dampening: mu = 0 and 1 - tau = 1 at the first step."""
    fresh = 1.0 - s.first
    return {
        "lr": options["lr"],
        "momentum": options["momentum"] * fresh,
        "mix": 1.0 - options["dampening"] * fresh,
        "look_ahead": options["momentum"],
        "weight_decay": options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """v = mu v + (1 - tau) g; theta -= alpha v, or alpha (g + mu v) with Nesterov."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    if not on.momentum:
        return theta - c.lr * g, {}
    v = c.momentum * state.momentum_buffer + c.mix * g
    direction = g + c.look_ahead * v if on.nesterov else v
    return theta - c.lr * direction, {"momentum_buffer": v}


def sparse(options: Options) -> str:
    """Without momentum and decay only the rows with a gradient move; otherwise every row does."""
    return "dense" if options["momentum"] != 0 or options["weight_decay"] != 0 else "rows"


RULE = Rule("SGD", states, flags, coefficients, update, counts_steps=False, sparse=sparse)


class SGD(RuleOptimizer):
    """Stochastic gradient descent with torch.optim.SGD's arguments, defaults and numbers.

    theta_{k+1} = theta_k - alpha_k v_k with v_k = mu v_{k-1} + (1 - tau) g_k, v_0 = g_0. With mu = 0 this is the
    lecture's recursion (GD), or (SG) for a sampled gradient; mu > 0 is Polyak's heavy ball (1964), `nesterov` the
    form of Sutskever et al. (2013), which is torch's.

    lr: alpha_k > = 0; momentum: mu >= 0; dampening: tau; weight_decay: adds weight_decay * theta to g.

    >>> import torch
    >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([theta], lr=0.5)
    >>> theta.grad = torch.tensor([1.0])
    >>> optimizer.step()
    >>> theta.item()
    0.5
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, got momentum={momentum} and "
                f"dampening={dampening}: set them, or leave nesterov out."
            )
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "SGD",
    SGD,
    "v = mu v + (1 - tau) g; theta = theta - alpha v",
    "Robbins and Monro 1951; Polyak 1964 (momentum); Sutskever et al. 2013 (Nesterov)",
    theorems=(  # without momentum
        "tame-sgd",
        "stochastic-subgradient-tame",
        "ode-method",
        "sgd-linear-to-ball",
        "saddle-avoidance",
        "linear-rate",
        "iterates-converge",
    ),
    variants={
        "momentum": {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01},
        "Nesterov": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True},
    },
)
