"""Adamax: Adam with the infinity norm of past gradients in place of their root mean square."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, absolute, average, maximum
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """m and the decaying maximum u."""
    return (State("exp_avg"), State("exp_inf"))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {
        "maximize": options["maximize"],
        "decay": options["weight_decay"] != 0,
        "slow": options["betas"][0] > 0.5,
    }


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The bias correction of m, folded into the step."""
    beta1, beta2 = options["betas"]
    return {
        "step": options["lr"] / (1.0 - beta1**s.step),
        "keep1": beta1,
        "take1": 1.0 - beta1,
        "keep2": beta2,
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """u = max(beta2 u, |g| + eps); theta -= alpha / (1 - beta1^k) m / u."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    m = average(state.exp_avg, g, c.keep1, c.take1, on.slow)
    u = maximum(c.keep2 * state.exp_inf, absolute(g) + c.eps)
    return theta - c.step * m / u, {"exp_avg": m, "exp_inf": u}


RULE = Rule("Adamax", states, flags, coefficients, update)


class Adamax(RuleOptimizer):
    """Adamax (Kingma and Ba 2015, section 7.1) with torch.optim.Adamax's arguments, defaults and numbers.

    m_k = beta1 m_{k-1} + (1 - beta1) g_k, u_k = max(beta2 u_{k-1}, |g_k| + eps),
    theta_{k+1} = theta_k - alpha_k / (1 - beta1^k) m_k / u_k, k from 1.

    lr: alpha_k >= 0; betas: in [0, 1); eps >= 0; weight_decay: added to g as weight_decay * theta.

    >>> import torch
    >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Adamax([theta], lr=0.5)
    >>> theta.grad = torch.tensor([3.0])
    >>> optimizer.step()
    >>> round(theta.item(), 6)
    0.5
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "Adamax",
    Adamax,
    "m = b1 m + (1-b1) g; u = max(b2 u, |g| + eps); theta = theta - alpha m_hat / u",
    "Kingma and Ba 2015",
    variants={"decay": {"weight_decay": 0.1, "maximize": True, "betas": (0.4, 0.9)}},
)
