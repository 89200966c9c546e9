"""Keras' Adamax: epsilon is added to the norm when it divides, not inside the maximum."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, absolute, maximum
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State


def states(options: Options) -> tuple[State, ...]:
    """m and the decaying maximum u."""
    return (State("momentum"), State("norm"))


def flags(options: Options) -> dict[str, Any]:
    """Nothing changes the arithmetic."""
    return {}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The bias correction of m."""
    beta1, beta2 = options["beta_1"], options["beta_2"]
    return {
        "lr": options["lr"],
        "correction": 1.0 - beta1**s.step,
        "take1": 1.0 - beta1,
        "keep2": beta2,
        "epsilon": options["epsilon"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """u = max(beta2 u, |g|); theta -= alpha m / ((1 - beta1^k) (u + epsilon))."""
    m = state.momentum + (g - state.momentum) * c.take1
    u = maximum(c.keep2 * state.norm, absolute(g))
    return theta - c.lr * m / (c.correction * (u + c.epsilon)), {"momentum": m, "norm": u}


RULE = Rule("keras.Adamax", states, flags, coefficients, update)


class Adamax(KerasOptimizer):
    """Adamax as `keras.optimizers.Adamax`: theta -= alpha / (1 - beta1^k) m / (u + epsilon), u = max(beta2 u, |g|).

    learning_rate: alpha >= 0, or a schedule(k); beta_1, beta_2: in [0, 1); epsilon >= 0; for the rest see `Common`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "Adamax",
    Adamax,
    "u = max(b2 u, |g|); theta = theta - alpha / (1-b1^k) m / (u + epsilon)",
    "Kingma and Ba 2015",
    variants={"decay": {"weight_decay": 0.1, "beta_2": 0.9, "clipnorm": 1.0}},
)
