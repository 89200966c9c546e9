"""What a row of the operator tables says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tameopt.structure.rules._call import Call
from tameopt.structure.value import Value

Rule = Callable[[Call], list[Value]]


@dataclass(frozen=True)
class Row:
    """One ATen operator.

    name: the operator packet's name. rule: inputs -> outputs. definable, smoothness, lipschitz, autodiff: in
    words, of the operator alone as a function of its tensor arguments. reference: where the operator is defined or
    the fact is proved.
    """

    name: str
    rule: Rule
    definable: str
    smoothness: str
    lipschitz: str
    autodiff: str
    reference: str = "PyTorch documentation"


def family(
    names: str, rule: Rule, definable: str, smoothness: str, lipschitz: str, autodiff: str, reference: str = ""
) -> tuple[Row, ...]:
    """Rows for operators of one kind that share a rule."""
    return tuple(
        Row(name, rule, definable, smoothness, lipschitz, autodiff, reference or "PyTorch documentation")
        for name in names.split()
    )
