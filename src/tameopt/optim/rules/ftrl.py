"""Ftrl: follow the regularised leader, which makes coordinates exactly zero with l1."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, clip, power, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The sum n of squared gradients and the linear term z."""
    return (State("accumulator", options["initial_accumulator_value"]), State("linear"))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {
        "root": options["lr_power"] == -0.5,
        "maximize": options["maximize"],
        "shrink": options["weight_decay"] != 0,
        "pull": options["l2_shrinkage"] != 0,
    }


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """l2 + beta / (2 alpha), doubled, and the rest as it is."""
    lr = options["lr"]
    return {
        "lr": lr,
        "exponent": -options["lr_power"],
        "l1": options["l1"],
        "minus_l1": -options["l1"],
        "twice_l2": 2.0 * (options["l2"] + options["beta"] / (2.0 * lr)),
        "twice_pull": 2.0 * options["l2_shrinkage"],
        "shrink": 1.0 - lr * options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta = (clip(z, -l1, l1) - z) / (n^-p / alpha + 2 l2), the minimiser of the regularised sum so far."""
    if on.maximize:
        g = -g
    if on.shrink:
        theta = theta * c.shrink
    n = state.accumulator + g * g
    if on.root:
        before, after = sqrt(state.accumulator), sqrt(n)
    else:
        before, after = power(state.accumulator, c.exponent), power(n, c.exponent)
    pulled = g + c.twice_pull * theta if on.pull else g
    z = state.linear + (pulled - (after - before) / c.lr * theta)
    theta = (clip(z, c.minus_l1, c.l1) - z) / (after / c.lr + c.twice_l2)
    return theta, {"accumulator": n, "linear": z}


RULE = Rule("Ftrl", states, flags, coefficients, update)


class Ftrl(RuleOptimizer):
    """Ftrl-proximal (McMahan et al. 2013), which torch lacks; TensorFlow's numbers, torch's interface.

    n_k = n_{k-1} + g_k^2, z_k = z_{k-1} + g_k + 2 s theta_k - (n_k^-p - n_{k-1}^-p) / alpha_k theta_k,
    theta_{k+1} = (clip(z_k, -l1, l1) - z_k) / (n_k^-p / alpha_k + 2 l2 + beta / alpha_k): a coordinate with
    |z| <= l1 is exactly 0. With n_0 = 0 a coordinate whose gradient is 0 from the start is 0 / 0 = NaN.

    lr: alpha_k > 0; lr_power: p <= 0; initial_accumulator_value: n_0 >= 0; l1, l2, l2_shrinkage (s), beta >= 0;
    weight_decay: theta shrinks by 1 - alpha_k * weight_decay first.

    >>> import torch
    >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Ftrl([theta], lr=0.1, l1=20.0)
    >>> theta.grad = torch.tensor([3.0])
    >>> optimizer.step()
    >>> round(theta.item(), 4)
    0.1327
    """

    rule = RULE
    ranges: ClassVar = {"lr": "> 0"}

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-3,
        lr_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1: float = 0.0,
        l2: float = 0.0,
        l2_shrinkage: float = 0.0,
        beta: float = 0.0,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "Ftrl",
    Ftrl,
    "n = n + g^2; z = z + g - (n^-p - n_old^-p) / alpha theta; theta = (clip(z, +-l1) - z) / (n^-p / alpha + 2 l2)",
    "McMahan et al. 2013",
    variants={
        "l1": {"lr": 0.1, "l1": 0.5, "l2": 0.1, "l2_shrinkage": 0.05, "beta": 0.2, "weight_decay": 0.1},
        "power": {"lr": 0.1, "lr_power": -0.7, "maximize": True},
    },
)
