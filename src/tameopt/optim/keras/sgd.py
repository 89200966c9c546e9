"""Keras' SGD: the learning rate inside the velocity."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State


def states(options: Options) -> tuple[State, ...]:
    """The velocity, when there is momentum."""
    return (State("momentum"),) if options["momentum"] != 0 else ()


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"momentum": options["momentum"] != 0, "nesterov": options["nesterov"]}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The hyperparameters as they are."""
    return {"lr": options["lr"], "momentum": options["momentum"]}, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """v = mu v - alpha g; theta += v, or mu v - alpha g with Nesterov."""
    step = g * c.lr
    if not on.momentum:
        return theta - step, {}
    v = state.momentum * c.momentum - step
    return theta + (v * c.momentum - step if on.nesterov else v), {"momentum": v}


RULE = Rule("keras.SGD", states, flags, coefficients, update)


class SGD(KerasOptimizer):
    """SGD as `keras.optimizers.SGD`: v = mu v - alpha g, theta += v (Nesterov: theta += mu v - alpha g).

    Unlike torch's, the velocity holds the learning rate, so a change of it reaches the old steps too late.
    learning_rate: alpha >= 0, or a schedule(k); momentum: mu in [0, 1]; nesterov; for the rest see `Common`.

    >>> import torch
    >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = SGD([theta], learning_rate=0.5)
    >>> theta.grad = torch.tensor([1.0])
    >>> optimizer.step()
    >>> theta.item()
    0.5
    """

    rule = RULE
    ranges: ClassVar = {"momentum": "[0, 1]"}

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "SGD",
    SGD,
    "v = mu v - alpha g; theta = theta + v",
    "Robbins and Monro 1951; Polyak 1964",
    variants={
        "momentum": {"momentum": 0.9, "weight_decay": 0.1},
        "Nesterov": {"momentum": 0.9, "nesterov": True, "clipvalue": 0.5},
    },
)
