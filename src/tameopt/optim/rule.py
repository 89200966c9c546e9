"""What an update rule is: a pure function of (theta, g, state, k), written once for every engine.

A rule has four parts. `states` names the tensors that it keeps for each parameter. `scalars` names the numbers
that it keeps for each parameter besides the step count k. `coefficients` folds hyperparameters and k into the few
numbers that a step needs, in double. `update` is elementwise arithmetic from theta, g, the states and those
numbers to the new theta and the new states. Called with tensors `update` is the reference; called with symbols it
gives the graph from which the fast engines are generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from tameopt.optim.functions import Value

Options = Mapping[str, Any]
"""A parameter group: its hyperparameters by their names in torch."""

Numbers = dict[str, Any]
"""Named scalars: floats, or symbols when an engine folds them on its device (`tameopt.optim.fold`)."""


@dataclass(frozen=True)
class State:
    """A tensor that a rule keeps for each parameter, of the parameter's shape.

    name: its key in torch's state_dict; initial: the value every element starts from; dtype: None for the parameter's
    (or what `state_dtype` asks for); copies_theta: whether it starts as a copy of the parameter.
    """

    name: str
    initial: float = 0.0
    dtype: torch.dtype | None = None
    copies_theta: bool = False


@dataclass(frozen=True)
class Scalar:
    """A number that a rule keeps for each parameter, float32 as in torch's state_dict.

    initial: its value before the first step, from the group's options.
    """

    name: str
    initial: Callable[[Options], float]


def _no_sparse(options: Options) -> str:
    del options
    return "no"


@dataclass(frozen=True)
class Rule:
    """An optimizer as a pure function.

    name: how people call it. states(options) -> the tensors it keeps. flags(options) -> the booleans (and the few
    other hashable choices) that change the arithmetic and hence the generated kernel; everything else may change at
    each step for free. coefficients(options, s) -> (numbers for `update`, new values of the scalars), where `s.step`
    is k = 1, 2, ..., `s.first` is 1.0 at the first step of a parameter and 0.0 after, s carries the scalars, and
    `s.stored(x)` rounds x as the state will hold it; it must not branch on a number, use `where`.
    update(theta, g, state, c, on) -> (new theta, {name: new state}), where state, c and on are namespaces of the
    states, the coefficients and the flags. sparse(options) -> what a sparse gradient does: "rows" (the rule acts on
    its rows alone), "dense" (it is filled up with zeros), "only" (a dense gradient is the error) or "no".
    """

    name: str
    states: Callable[[Options], tuple[State, ...]]
    flags: Callable[[Options], dict[str, Any]]
    coefficients: Callable[[Options, SimpleNamespace], tuple[Numbers, Numbers]]
    update: Callable[
        [Value, Value, SimpleNamespace, SimpleNamespace, SimpleNamespace], tuple[Value, dict[str, Value]]
    ]
    scalars: tuple[Scalar, ...] = ()
    counts_steps: bool = True  # whether torch's state has "step" for it (SGD's has not)
    sparse: Callable[[Options], str] = _no_sparse


def coefficients_of(rule: Rule, options: Options, scalars: Mapping[str, Any]) -> tuple[Numbers, Numbers]:
    """The coefficients of one step and the scalars after it.

    scalars: "step" (k, from 1), "first" (1.0 or 0.0) and the rule's own.
    """
    return rule.coefficients(options, SimpleNamespace(**scalars))


def apply(
    rule: Rule,
    flags: Mapping[str, Any],
    theta: Value,
    g: Value,
    state: Mapping[str, Value],
    numbers: Mapping[str, Any],
) -> tuple[Value, dict[str, Value]]:
    """One step of the rule: (new theta, new states). Nothing is changed in place."""
    return rule.update(theta, g, SimpleNamespace(**state), SimpleNamespace(**numbers), SimpleNamespace(**flags))
