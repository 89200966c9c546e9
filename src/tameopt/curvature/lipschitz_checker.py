"""Replays proofs that a gradient is Lipschitz on a box, by branch and bound with interval Hessians.

Shares no code with what finds the constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tameopt.curvature.jets import Jets, Undecided, arb_unary
from tameopt.extras import require

_PRECISION = 80


def check_box_bound(data: Mapping[str, Any]) -> bool:
    """norm(grad^2 F)_2 <= bound on a box, hence the gradient is bound-Lipschitz there (the box is convex).

    On a cell, c I - H and c I + H are positive definite when Q^T (c I -+ H) Q has Gershgorin discs right of 0, for
    any Q (floating eigenvectors of the middle matrix here); else the cell is halved along its widest side.
    data: tape, lower, upper, bound (hex floats), max_cells.
    """
    flint = require("flint", "replaying a proof about a Lipschitz constant")
    tape = list(data["tape"])
    lower = [float.fromhex(text) for text in data["lower"]]
    upper = [float.fromhex(text) for text in data["upper"]]
    if len(lower) != len(upper) or any(not low <= high for low, high in zip(lower, upper, strict=True)):
        raise ValueError("a box needs as many lower as upper ends, in order.")
    open_cells = [(lower, upper)]
    with flint.ctx.workprec(_PRECISION):
        bound = flint.arb(float.fromhex(data["bound"]))
        for _ in range(int(data["max_cells"])):
            if not open_cells:
                return True
            low, high = open_cells.pop()
            if _holds(flint, tape, low, high, bound):
                continue
            widest = max(range(len(low)), key=lambda j: high[j] - low[j])
            middle = (low[widest] + high[widest]) / 2
            if not low[widest] < middle < high[widest]:
                return False
            # both halves hold the face between them: the cells cover the box
            left, right = list(high), list(low)
            left[widest] = right[widest] = middle
            open_cells += [(low, left), (right, high)]
    return not open_cells


def _holds(flint: Any, tape: list[Any], low: list[float], high: list[float], bound: Any) -> bool:
    cell = [flint.arb(a).union(flint.arb(b)) for a, b in zip(low, high, strict=True)]
    try:
        hessian = Jets(lambda text: flint.arb(float.fromhex(text)), arb_unary).run(tape, cell)[2]
    except Undecided:
        return False
    dim, zero = len(cell), flint.arb(0)
    H = [[hessian.get((min(i, j), max(i, j)), zero) for j in range(dim)] for i in range(dim)]
    if not all(number.is_finite() for row in H for number in row):
        return False
    middle = np.array([[float(number.mid()) for number in row] for row in H])
    Q = [[flint.arb(float(number)) for number in row] for row in np.linalg.eigh((middle + middle.T) / 2)[1]]
    return all(
        _positive([[(bound if i == j else zero) - sign * H[i][j] for j in range(dim)] for i in range(dim)], Q, zero)
        for sign in (1, -1)
    )


def _positive(matrix: list[list[Any]], Q: list[list[Any]], zero: Any) -> bool:
    """Whether Q^T M Q has all Gershgorin discs right of 0: then it is positive definite, and so is M."""
    dim = len(matrix)
    inner = [[sum((matrix[i][k] * Q[k][j] for k in range(dim)), zero) for j in range(dim)] for i in range(dim)]
    for i in range(dim):
        row = [sum((Q[k][i] * inner[k][j] for k in range(dim)), zero) for j in range(dim)]
        if not row[i] - sum((abs(number) for j, number in enumerate(row) if j != i), zero) > 0:
            return False
    return True
