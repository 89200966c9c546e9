"""All rows by operator name."""

from __future__ import annotations

import functools

from tameopt.structure.aten import activations, elementwise, linear, more, network, products, selection
from tameopt.structure.aten._row import Row

# functional names of in-place and renamed overloads
_ALIASES = {
    "log_sigmoid_forward": "log_sigmoid",
    "absolute": "abs",
    "negative": "neg",
    "clamp_": "clamp",
    "special_expit": "sigmoid",
    "special_erf": "erf",
    "arctan": "atan",
    "arccos": "acos",
    "arcsin": "asin",
    "greater": "gt",
    "less": "lt",
}


@functools.cache
def rows() -> dict[str, Row]:
    """Operator packet name -> row.

    Raises TypeError when two rows share a name.
    """
    found: dict[str, Row] = {}
    for module in (elementwise, linear, products, network, selection, activations, more):
        for row in module.ROWS:
            if row.name in found:
                raise TypeError(f"two rows are called {row.name!r}; the second is in {module.__name__}.")
            found[row.name] = row
    return found


def row_named(name: str) -> Row | None:
    """The row of an operator packet, in-place names included, or None."""
    table = rows()
    for candidate in (name, name.rstrip("_"), _ALIASES.get(name, ""), _ALIASES.get(name.rstrip("_"), "")):
        if candidate in table:
            return table[candidate]
    return None
