"""Adam: steps scaled by running averages of the gradient and of its square, corrected for their zero start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, average, maximum, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """m, v, and the largest v so far with amsgrad."""
    largest = (State("max_exp_avg_sq"),) if options["amsgrad"] else ()
    return (State("exp_avg"), State("exp_avg_sq"), *largest)


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    decay = options["weight_decay"] != 0
    decoupled = options["decoupled_weight_decay"]
    return {
        "amsgrad": options["amsgrad"],
        "maximize": options["maximize"],
        "decay": decay and not decoupled,
        "shrink": decay and decoupled,
        "slow": options["betas"][0] > 0.5,
    }


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The bias corrections 1 - beta^k, folded into the step and the root."""
    beta1, beta2 = options["betas"]
    return {
        "step": options["lr"] / (1.0 - beta1**s.step),
        "root_correction": (1.0 - beta2**s.step) ** 0.5,
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
    """theta -= alpha / (1 - beta1^k) m / (sqrt(v) / sqrt(1 - beta2^k) + eps)."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    if on.shrink:
        theta = theta * c.shrink
    m = average(state.exp_avg, g, c.keep1, c.take1, on.slow)
    v = c.keep2 * state.exp_avg_sq + c.take2 * g * g
    new = {"exp_avg": m, "exp_avg_sq": v}
    largest = v
    if on.amsgrad:
        largest = new["max_exp_avg_sq"] = maximum(state.max_exp_avg_sq, v)
    return theta - c.step * m / (sqrt(largest) / c.root_correction + c.eps), new


RULE = Rule("Adam", states, flags, coefficients, update)


class Adam(RuleOptimizer):
    """Adam (Kingma and Ba 2015) with torch.optim.Adam's arguments, defaults and numbers.

    m_k = beta1 m_{k-1} + (1 - beta1) g_k, v_k = beta2 v_{k-1} + (1 - beta2) g_k^2,
    theta_{k+1} = theta_k - alpha_k / (1 - beta1^k) m_k / (sqrt(v_k / (1 - beta2^k)) + eps), k from 1.

    lr: alpha_k >= 0; betas: in [0, 1); eps >= 0; weight_decay: added to g as weight_decay * theta, or shrinking
    theta by 1 - alpha_k * weight_decay when `decoupled_weight_decay` (AdamW); amsgrad: divide by the root of the
    largest v so far (Reddi et al. 2018), which restores convergence on convex problems.

    >>> import torch
    >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Adam([theta], lr=0.5)
    >>> theta.grad = torch.tensor([3.0])
    >>> optimizer.step()
    >>> round(theta.item(), 6)
    0.5
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "Adam",
    Adam,
    "m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; theta = theta - alpha m_hat / (sqrt(v_hat) + eps)",
    "Kingma and Ba 2015; Reddi et al. 2018 (amsgrad)",
    variants={
        "amsgrad": {"amsgrad": True, "weight_decay": 0.1, "maximize": True},
        "decoupled, fast average": {"decoupled_weight_decay": True, "weight_decay": 0.1, "betas": (0.3, 0.9)},
    },
)
