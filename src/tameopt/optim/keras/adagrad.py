"""Keras' Adagrad: epsilon inside the root, sums starting at 0.1."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State


def states(options: Options) -> tuple[State, ...]:
    """The sum of squared gradients."""
    return (State("accumulator", options["initial_accumulator_value"]),)


def flags(options: Options) -> dict[str, Any]:
    """Nothing changes the arithmetic."""
    return {}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The hyperparameters as they are."""
    return {"lr": options["lr"], "epsilon": options["epsilon"]}, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """n += g^2; theta -= alpha g / sqrt(n + epsilon)."""
    n = state.accumulator + g * g
    return theta - c.lr * g / sqrt(n + c.epsilon), {"accumulator": n}


RULE = Rule("keras.Adagrad", states, flags, coefficients, update)


class Adagrad(KerasOptimizer):
    """Adagrad as `keras.optimizers.Adagrad`: n += g^2, theta -= alpha g / sqrt(n + epsilon).

    learning_rate: alpha >= 0, or a schedule(k); initial_accumulator_value: n at first >= 0; epsilon >= 0; for the
    rest see `Common`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "Adagrad",
    Adagrad,
    "n = n + g^2; theta = theta - alpha g / sqrt(n + epsilon)",
    "Duchi, Hazan and Singer 2011",
    variants={"decay": {"weight_decay": 0.1, "initial_accumulator_value": 0.5}},
)
