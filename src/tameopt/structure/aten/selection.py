"""Comparisons, masks, signs and choices."""

from __future__ import annotations

from tameopt.structure.aten._row import Row, family
from tameopt.structure.rules import selection

_STEP = ("piecewise constant", "discontinuous", "no", "no derivative")

ROWS: tuple[Row, ...] = (
    *family(
        "eq ne lt le gt ge isnan isinf isfinite isposinf isneginf logical_and logical_or logical_not logical_xor "
        "bitwise_and bitwise_or bitwise_not bitwise_xor any all signbit",
        selection.compared,
        *_STEP,
    ),
    *family(
        "where",
        selection.where,
        "a choice between its arguments",
        "discontinuous unless the condition is constant",
        "no",
        "exact for a constant condition",
    ),
    *family(
        "masked_fill",
        selection.masked_fill,
        "a choice between its arguments",
        "discontinuous unless the mask is constant",
        "no",
        "exact for a constant mask",
    ),
    *family(
        "threshold",
        selection.threshold,
        "piecewise linear",
        "Lipschitz for equal threshold and value",
        "as smooth",
        "probed",
    ),
)
