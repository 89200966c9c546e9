"""Rprop: a step size a coordinate, grown while the gradient keeps its sign and shrunk when it turns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, clip, sign, where
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The last gradient used and the step sizes."""
    return (State("prev"), State("step_size", options["lr"]))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"maximize": options["maximize"]}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """The factors and the range of the step sizes."""
    shrink, grow = options["etas"]
    smallest, largest = options["step_sizes"]
    return {"shrink": shrink, "grow": grow, "smallest": smallest, "largest": largest}, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """size *= eta+ or eta- by the sign of g g_prev; theta -= size sign(g), not moving where the sign turned."""
    if on.maximize:
        g = -g
    agreement = g * state.prev
    same, grown, shrunk = state.step_size, state.step_size * c.grow, state.step_size * c.shrink
    size = clip(where(agreement > 0.0, grown, where(agreement < 0.0, shrunk, same)), c.smallest, c.largest)
    g = where(agreement < 0.0, 0.0, g)
    return theta - sign(g) * size, {"prev": g, "step_size": size}


RULE = Rule("Rprop", states, flags, coefficients, update)


class Rprop(RuleOptimizer):
    """Rprop (Riedmiller and Braun 1993) with torch.optim.Rprop's arguments, defaults and numbers.

    Each coordinate has a step size, lr at first. Where g_k g_{k-1} > 0 it grows by etas[1]; where < 0 it shrinks by
    etas[0] and the coordinate rests for a step; theta_{k+1} = theta_k - size sign(g_k). Made for full batches.

    lr: the first step size >= 0; etas: 0 < etas[0] < 1 < etas[1]; step_sizes: smallest and largest size.
    """

    rule = RULE

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"etas must satisfy 0 < etas[0] < 1 < etas[1], got {tuple(etas)}: (0.5, 1.2) is usual.")
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "Rprop",
    Rprop,
    "size = clip(size * (1.2 if g g_prev > 0, 0.5 if < 0)); theta = theta - size sign(g)",
    "Riedmiller and Braun 1993",
    variants={"wide": {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-3, 0.2), "maximize": True}},
)
