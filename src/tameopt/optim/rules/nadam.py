"""NAdam: Adam with Nesterov's look-ahead and a momentum that warms up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, average, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, Scalar, State
from tameopt.optim.torch_optimizer import RuleOptimizer

_WARM_UP = 0.96  # Dozat's constant, fixed in torch and Keras alike


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
    """The momentum mu_k = beta1 (1 - 0.96^(k psi) / 2) and the product of the mu so far."""
    beta1, beta2 = options["betas"]
    psi, lr = options["momentum_decay"], options["lr"]
    mu = beta1 * (1.0 - 0.5 * _WARM_UP ** (s.step * psi))
    mu_next = beta1 * (1.0 - 0.5 * _WARM_UP ** ((s.step + 1.0) * psi))
    product = s.stored(s.mu_product * s.stored(mu))
    return {
        "g_step": lr * (1.0 - mu) / (1.0 - product),
        "m_step": lr * mu_next / (1.0 - product * mu_next),
        "correction2": 1.0 - beta2**s.step,
        "keep1": beta1,
        "take1": 1.0 - beta1,
        "keep2": beta2,
        "take2": 1.0 - beta2,
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
        "shrink": 1.0 - lr * options["weight_decay"],
    }, {"mu_product": product}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta -= alpha [(1 - mu_k) g / (1 - P_k) + mu_{k+1} m / (1 - P_k mu_{k+1})] / (sqrt(v_hat) + eps)."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    if on.shrink:
        theta = theta * c.shrink
    m = average(state.exp_avg, g, c.keep1, c.take1, on.slow)
    v = c.keep2 * state.exp_avg_sq + c.take2 * g * g
    denominator = sqrt(v / c.correction2) + c.eps
    theta = theta - c.g_step * g / denominator
    return theta - c.m_step * m / denominator, {"exp_avg": m, "exp_avg_sq": v}


RULE = Rule("NAdam", states, flags, coefficients, update, (Scalar("mu_product", lambda options: 1.0),))


class NAdam(RuleOptimizer):
    """NAdam (Dozat 2016) with torch.optim.NAdam's arguments, defaults and numbers.

    Adam's m_k and v_k, the momentum mu_k = beta1 (1 - 0.96^(k psi) / 2), P_k = mu_1 ... mu_k, and
    theta_{k+1} = theta_k - alpha_k [(1 - mu_k) g_k / (1 - P_k) + mu_{k+1} m_k / (1 - P_k mu_{k+1})]
    / (sqrt(v_k / (1 - beta2^k)) + eps), k from 1.

    lr: alpha_k >= 0; betas: in [0, 1); eps >= 0; momentum_decay: psi >= 0; weight_decay: added to g as
    weight_decay * theta, or shrinking theta by 1 - alpha_k * weight_decay when `decoupled_weight_decay`.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
    "NAdam",
    NAdam,
    "theta = theta - alpha [(1-mu_k) g / (1-P_k) + mu_{k+1} m / (1-P_k mu_{k+1})] / (sqrt(v_hat) + eps)",
    "Dozat 2016",
    variants={
        "decay": {"weight_decay": 0.1, "maximize": True, "momentum_decay": 0.1},
        "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.5, 0.9)},
    },
)
