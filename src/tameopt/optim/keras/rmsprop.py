"""Keras' RMSprop: epsilon inside the root, the learning rate inside the velocity."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State


def states(options: Options) -> tuple[State, ...]:
    """The average of g^2; the velocity with momentum; the average of g when centred."""
    made = [State("velocity")]
    if options["momentum"] > 0:
        made.append(State("momentum"))
    if options["centered"]:
        made.append(State("average_gradient"))
    return tuple(made)


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"momentum": options["momentum"] > 0, "centered": options["centered"]}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The hyperparameters as they are."""
    return {
        "lr": options["lr"],
        "keep": options["rho"],
        "take": 1.0 - options["rho"],
        "momentum": options["momentum"],
        "epsilon": options["epsilon"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta -= alpha g / sqrt(v - mean^2 + epsilon), through a velocity with momentum."""
    v = c.keep * state.velocity + c.take * (g * g)
    new = {"velocity": v}
    spread = v
    if on.centered:
        mean = new["average_gradient"] = c.keep * state.average_gradient + c.take * g
        spread = v - mean * mean
    step = c.lr * g / sqrt(spread + c.epsilon)
    if on.momentum:
        step = new["momentum"] = c.momentum * state.momentum + step
    return theta - step, new


RULE = Rule("keras.RMSprop", states, flags, coefficients, update)


class RMSprop(KerasOptimizer):
    """RMSprop as `keras.optimizers.RMSprop`: v = rho v + (1 - rho) g^2, theta -= alpha g / sqrt(v + epsilon).

    With momentum the step enters a velocity; `centered` subtracts the squared average of g from v.
    learning_rate: alpha >= 0, or a schedule(k); rho: in [0, 1]; momentum, epsilon >= 0; for the rest see `Common`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "RMSprop",
    RMSprop,
    "v = rho v + (1-rho) g^2; theta = theta - alpha g / sqrt(v + epsilon)",
    "Tieleman and Hinton 2012; Graves 2013 (centred)",
    variants={
        "momentum": {"momentum": 0.9, "weight_decay": 0.1},
        "centred": {"centered": True, "momentum": 0.5, "rho": 0.8},
    },
)
