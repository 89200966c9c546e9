"""RAdam: Adam that waits until the variance of its step is known to be small."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, average, sqrt, where
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer

_TRACTABLE = 5.0  # Liu et al.: the variance of 1/sqrt(v) has a closed form for rho > 4; torch asks for 5


def states(options: Options) -> tuple[State, ...]:
    """m and v."""
    return (State("exp_avg"), State("exp_avg_sq"))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    decay = options["weight_decay"] != 0
    decoupled = options["decoupled_weight_decay"]
    return {
        "maximize": options["maximize"],
        "decay": decay and not decoupled,
        "shrink": decay and decoupled,
        "slow": options["betas"][0] > 0.5,
    }


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The length rho_k of the average behind v, and the rectification when it is long enough."""
    beta1, beta2 = options["betas"]
    decay2 = beta2**s.step
    rho_limit = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_limit - 2.0 * s.step * decay2 / (1.0 - decay2)
    # rho <= rho_limit: where neither is tractable the formula is fed what it can bear, and its value is not used
    long = where(rho > _TRACTABLE, rho, 2.0 * _TRACTABLE)
    longest = where(rho > _TRACTABLE, rho_limit, 2.0 * _TRACTABLE)
    squared = (long - 4.0) * (long - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * long)
    rectification = sqrt(squared)
    return {
        "step": options["lr"] / (1.0 - beta1**s.step),
        "rectified": where(rho > _TRACTABLE, 1.0, 0.0),
        "rectification": rectification * sqrt(1.0 - decay2),
        "keep1": beta1,
        "take1": 1.0 - beta1,
        "keep2": beta2,
        "take2": 1.0 - beta2,
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
        "shrink": 1.0 - options["lr"] * options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta -= alpha m_hat r_k / (sqrt(v_hat) + eps) once rho_k > 5, before that theta -= alpha m_hat."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    if on.shrink:
        theta = theta * c.shrink
    m = average(state.exp_avg, g, c.keep1, c.take1, on.slow)
    v = c.keep2 * state.exp_avg_sq + c.take2 * g * g
    scale = where(c.rectified > 0.5, c.rectification / (sqrt(v) + c.eps), 1.0)
    return theta - c.step * m * scale, {"exp_avg": m, "exp_avg_sq": v}


RULE = Rule("RAdam", states, flags, coefficients, update)


class RAdam(RuleOptimizer):
    """RAdam (Liu et al. 2020) with torch.optim.RAdam's arguments, defaults and numbers.

    Adam's averages; rho_k = rho - 2 k beta2^k / (1 - beta2^k) with rho = 2 / (1 - beta2) - 1. While rho_k <= 5 the
    step is alpha_k m_hat; then alpha_k m_hat r_k sqrt(1 - beta2^k) / (sqrt(v) + eps) with
    r_k^2 = (rho_k - 4) (rho_k - 2) rho / ((rho - 4) (rho - 2) rho_k).

    lr: alpha_k >= 0; betas: in [0, 1); eps >= 0; weight_decay: added to g as weight_decay * theta, or shrinking
    theta by 1 - alpha_k * weight_decay when `decoupled_weight_decay`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "RAdam",
    RAdam,
    "theta = theta - alpha m_hat r_k / (sqrt(v_hat) + eps), or theta - alpha m_hat while rho_k <= 5",
    "Liu et al. 2020",
    variants={
        "decay": {"weight_decay": 0.1, "maximize": True, "betas": (0.9, 0.9)},
        "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.3, 0.99)},
        "never rectified": {"betas": (0.9, 0.5)},
    },
)
