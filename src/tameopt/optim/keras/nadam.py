"""Keras' Nadam: torch's with the momentum warming up 250 times faster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.keras._base import Common, KerasOptimizer, LearningRate
from tameopt.optim.rule import Numbers, Options, Rule, Scalar, State

_WARM_UP = 0.96


def states(options: Options) -> tuple[State, ...]:
    """m and v."""
    return (State("momentum"), State("velocity"))


def flags(options: Options) -> dict[str, Any]:
    """Nothing changes the arithmetic."""
    return {}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """mu_k = beta1 (1 - 0.96^k / 2) and the product of the mu so far."""
    beta1, beta2 = options["beta_1"], options["beta_2"]
    mu = beta1 * (1.0 - 0.5 * _WARM_UP**s.step)
    mu_next = beta1 * (1.0 - 0.5 * _WARM_UP ** (s.step + 1.0))
    product = s.stored(s.u_product * mu)
    return {
        "lr": options["lr"],
        "m_part": mu_next / (1.0 - product * mu_next),
        "g_part": (1.0 - mu) / (1.0 - product),
        "correction2": 1.0 - beta2**s.step,
        "take1": 1.0 - beta1,
        "take2": 1.0 - beta2,
        "epsilon": options["epsilon"],
    }, {"u_product": product}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta -= alpha [mu_{k+1} m / (1 - P_{k+1}) + (1 - mu_k) g / (1 - P_k)] / (sqrt(v_hat) + epsilon)."""
    m = state.momentum + (g - state.momentum) * c.take1
    v = state.velocity + (g * g - state.velocity) * c.take2
    m_hat = c.m_part * m + c.g_part * g
    return theta - m_hat * c.lr / (sqrt(v / c.correction2) + c.epsilon), {"momentum": m, "velocity": v}


RULE = Rule("keras.Nadam", states, flags, coefficients, update, (Scalar("u_product", lambda options: 1.0),))


class Nadam(KerasOptimizer):
    """Nadam as `keras.optimizers.Nadam`: torch's NAdam with momentum_decay = 1.

    mu_k = beta1 (1 - 0.96^k / 2), P_k = mu_1 ... mu_k,
    theta -= alpha [mu_{k+1} m / (1 - P_{k+1}) + (1 - mu_k) g / (1 - P_k)] / (sqrt(v / (1 - beta2^k)) + epsilon).

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
    "Nadam",
    Nadam,
    "theta = theta - alpha [mu_{k+1} m / (1-P_{k+1}) + (1-mu_k) g / (1-P_k)] / (sqrt(v_hat) + epsilon)",
    "Dozat 2016",
    variants={"decay": {"weight_decay": 0.1, "beta_1": 0.5, "loss_scale_factor": 4.0}},
)
