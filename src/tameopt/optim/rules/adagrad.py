"""Adagrad: each coordinate divided by the root of the sum of its squared gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The sum of squared gradients."""
    return (State("sum", options["initial_accumulator_value"]),)


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"maximize": options["maximize"], "decay": options["weight_decay"] != 0}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The step alpha / (1 + (k - 1) lr_decay)."""
    return {
        "step": options["lr"] / (1.0 + (s.step - 1.0) * options["lr_decay"]),
        "eps": options["eps"],
        "weight_decay": options["weight_decay"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """n += g^2; theta -= alpha g / (sqrt(n) + eps)."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    n = state.sum + g * g
    return theta - c.step * g / (sqrt(n) + c.eps), {"sum": n}


def sparse(options: Options) -> str:
    """Only the rows with a gradient move; weight decay would move all."""
    return "no" if options["weight_decay"] != 0 else "rows"


RULE = Rule("Adagrad", states, flags, coefficients, update, sparse=sparse)


class Adagrad(RuleOptimizer):
    """Adagrad (Duchi, Hazan and Singer 2011) with torch.optim.Adagrad's arguments, defaults and numbers.

    n_k = n_{k-1} + g_k^2, theta_{k+1} = theta_k - alpha_k / (1 + (k - 1) lr_decay) g_k / (sqrt(n_k) + eps).

    lr: alpha_k >= 0; lr_decay >= 0; initial_accumulator_value: n_0 >= 0; eps >= 0; weight_decay: added to g as
    weight_decay * theta. A sparse gradient moves its rows alone.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)

    def share_memory(self) -> None:
        """Put the sums in memory shared between processes (Hogwild training)."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if "sum" in self.state[parameter]:
                    self.state[parameter]["sum"].share_memory_()


ENTRY = Entry(
    "Adagrad",
    Adagrad,
    "n = n + g^2; theta = theta - alpha g / (sqrt(n) + eps)",
    "Duchi, Hazan and Singer 2011",
    variants={
        "decay": {"weight_decay": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3, "maximize": True},
    },
)
