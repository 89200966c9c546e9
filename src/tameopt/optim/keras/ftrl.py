"""Keras' Ftrl: the rule of `tameopt.optim.Ftrl` under Keras' names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.rules import ftrl

_NAMES = {
    "lr_power": "learning_rate_power",
    "l1": "l1_regularization_strength",
    "l2": "l2_regularization_strength",
    "l2_shrinkage": "l2_shrinkage_regularization_strength",
}


def _translated(options: Options) -> Options:
    """The group under the names of tameopt's rule; weight decay is Keras' own and handled around the rule."""
    return {
        **options,
        **{ours: options[theirs] for ours, theirs in _NAMES.items()},
        "maximize": False,
        "weight_decay": 0,
    }


def states(options: Options) -> tuple[State, ...]:
    """The sum n of squared gradients and the linear term z."""
    return ftrl.states(_translated(options))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return ftrl.flags(_translated(options))


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """Those of tameopt's rule."""
    return ftrl.coefficients(_translated(options), s)


RULE = Rule("keras.Ftrl", states, flags, coefficients, ftrl.update)


class Ftrl(KerasOptimizer):
    """Ftrl as `keras.optimizers.Ftrl`; the formulas are those of `tameopt.optim.Ftrl`.

    learning_rate: alpha > 0, or a schedule(k); learning_rate_power <= 0; initial_accumulator_value,
    l1_regularization_strength, l2_regularization_strength, l2_shrinkage_regularization_strength, beta >= 0; for the
    rest see `Common`.
    """

    rule = RULE
    ranges: ClassVar = {"learning_rate": "> 0"}

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, learning_rate, hyperparameters(locals()), **common)


ENTRY = Entry(
    "Ftrl",
    Ftrl,
    "n = n + g^2; z = z + g - (n^-p - n_old^-p) / alpha theta; theta = (clip(z, +-l1) - z) / (n^-p / alpha + 2 l2)",
    "McMahan et al. 2013",
    variants={
        "regularised": {
            "learning_rate": 0.05,
            "learning_rate_power": -0.2,
            "initial_accumulator_value": 0.4,
            "l1_regularization_strength": 0.05,
            "l2_regularization_strength": 0.15,
            "l2_shrinkage_regularization_strength": 0.01,
            "beta": 0.3,
            "weight_decay": 0.1,
        },
    },
)
