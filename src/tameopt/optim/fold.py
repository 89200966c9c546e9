"""A rule's `coefficients` as a graph of scalars, for an engine that folds hyperparameters on its device.

Called with numbers `coefficients` gives the numbers of a step; called with symbols it gives the graph below, from
which the triton engine generates a kernel in double. So a learning rate that lives on the device is never read by the
host, and a step that is captured in a CUDA graph counts on when it is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from tameopt.optim.expr import Instruction, Symbol, lift, ordered
from tameopt.optim.rule import Options, Rule


@dataclass(frozen=True)
class Fold:
    """Scalar arithmetic, in an order that can be executed.

    options: the hyperparameters read, such as "lr" and "betas.0"; scalars: the other numbers read ("step" is k,
    already counted); coefficients, kept: name -> position, of the numbers for `update` and of the scalars after it.
    """

    instructions: tuple[Instruction, ...]
    options: tuple[str, ...]
    scalars: tuple[str, ...]
    coefficients: tuple[tuple[str, int], ...]
    kept: tuple[tuple[str, int], ...]


def fold(rule: Rule, options: Options, wanted: tuple[str, ...]) -> Fold:
    """The graph of a rule's `coefficients`.

    options: a parameter group, of which numbers (and pairs of them) become symbols and all else stays what it is;
    wanted: the coefficients that `update` uses.

    >>> from tameopt.optim.rules.adagrad import RULE
    >>> fold(RULE, {"lr": 0.1, "lr_decay": 0.0, "eps": 1e-10, "weight_decay": 0.0}, ("step", "eps")).options
    ('lr', 'lr_decay', 'eps')
    """
    numbers, moved = rule.coefficients(_OptionSymbols(options), _Scalars())
    kept = {name: lift(value) for name, value in moved.items()}
    if rule.counts_steps:
        kept["step"] = Symbol("scalar", name="step")
    instructions, places = ordered([*(lift(numbers[name]) for name in wanted), *kept.values()])
    return Fold(
        instructions,
        tuple(i.name for i in instructions if i.operation == "option"),
        tuple(i.name for i in instructions if i.operation == "scalar"),
        tuple(zip(wanted, places, strict=False)),
        tuple(zip(kept, places[len(wanted) :], strict=True)),
    )


def option(options: Options, name: str) -> Any:
    """The hyperparameter that a fold calls `name`.

    >>> option({"betas": (0.9, 0.99)}, "betas.1")
    0.99
    """
    whole, _, place = name.partition(".")
    return options[whole][int(place)] if place else options[whole]


class _OptionSymbols(Mapping[str, Any]):
    """A parameter group whose numbers are symbols."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __getitem__(self, name: str) -> Any:
        return _symbol(name, self._options[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)


def _symbol(name: str, value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_symbol(f"{name}.{place}", each) for place, each in enumerate(value))
    if isinstance(value, bool) or not isinstance(value, int | float | torch.Tensor):
        return value
    return Symbol("option", name=name)


class _Scalars(SimpleNamespace):
    """A namespace that answers any name with a scalar."""

    def __getattr__(self, name: str) -> Symbol:
        if name.startswith("__"):
            raise AttributeError(name)
        return Symbol("scalar", name=name)

    def stored(self, x: Any) -> Symbol:
        """x as a state of 0-d holds it."""
        return lift(x).apply("stored")
