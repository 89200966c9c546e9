"""Keras' Adadelta: rho 0.95, and a learning rate of 0.001 that the method was made to avoid."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State


def states(options: Options) -> tuple[State, ...]:
    """The averages of g^2 and of the squared step."""
    return (State("accumulated_grad"), State("accumulated_delta_var"))


def flags(options: Options) -> dict[str, Any]:
    """Nothing changes the arithmetic."""
    return {}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The hyperparameters as they are."""
    rho = options["rho"]
    return {"lr": options["lr"], "keep": rho, "take": 1.0 - rho, "epsilon": options["epsilon"]}, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """d = sqrt(u + epsilon) g / sqrt(v + epsilon); theta -= alpha d; u averages d^2."""
    v = c.keep * state.accumulated_grad + c.take * (g * g)
    d = sqrt(state.accumulated_delta_var + c.epsilon) * g / sqrt(v + c.epsilon)
    u = c.keep * state.accumulated_delta_var + c.take * (d * d)
    return theta - c.lr * d, {"accumulated_grad": v, "accumulated_delta_var": u}


RULE = Rule("keras.Adadelta", states, flags, coefficients, update)


class Adadelta(KerasOptimizer):
    """Adadelta as `keras.optimizers.Adadelta`.

    v = rho v + (1 - rho) g^2, d = sqrt(u + epsilon) / sqrt(v + epsilon) g, u = rho u + (1 - rho) d^2,
    theta -= alpha d. The original method has alpha = 1; Keras' default is 0.001.

    learning_rate: alpha >= 0, or a schedule(k); rho: in [0, 1]; epsilon >= 0; for the rest see `Common`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "Adadelta",
    Adadelta,
    "d = sqrt(u + epsilon) / sqrt(v + epsilon) g; theta = theta - alpha d",
    "Zeiler 2012",
    variants={"original": {"learning_rate": 1.0, "rho": 0.8, "epsilon": 1e-6, "weight_decay": 0.1}},
)
