"""A few long vectors, held as rows: inner products, combinations and orthonormal bases for d in the millions.

A product of two rows with a hundred others waits for memory, not for arithmetic, so everything goes through the
vectors in stretches that a cache holds. The sums stay short as well, which float32 needs: over d = 1e7 entries a norm
in one sum, as Householder's QR takes it, is wrong by 3e-4.

Source: Yamamoto, Nakatsukasa, Yanagisawa and Fukaya 2015 (Cholesky QR, twice).
"""

from __future__ import annotations

import math

import torch

# our choices: entries of a row taken at once. On a CPU, as many as leave a hundred rows in a cache; elsewhere, few
# enough for a float32 sum, in one launch for all
STRETCH = 1 << 14
_LONG_STRETCH = 1 << 16
# our choices: Cholesky's factor of a Gram matrix is taken up to this condition, and once up to that; the basis is
# orthonormal to the square of it, in units of rounding
_CONDITION = 100.0
_ONCE = 3.0


def inner(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """rows others^T of (s, d) and (m, d): (s, m) float64, from short sums in their own precision."""
    if rows.shape[1] <= STRETCH:
        return (rows @ others.T).double()
    if rows.device.type != "cpu":
        return _inner_at_once(rows, others)
    total = torch.zeros(rows.shape[0], others.shape[0], dtype=torch.float64)
    for left, right in zip(rows.split(STRETCH, dim=1), others.split(STRETCH, dim=1), strict=True):
        total += left @ right.T
    return total


def _inner_at_once(rows: torch.Tensor, others: torch.Tensor, stretch: int = _LONG_STRETCH) -> torch.Tensor:
    """The same in one launch: a GPU would wait for a thousand small ones."""
    whole = rows.shape[1] - rows.shape[1] % stretch
    left = rows[:, :whole].unflatten(1, (-1, stretch)).transpose(0, 1)
    right = others[:, :whole].unflatten(1, (-1, stretch)).permute(1, 2, 0)
    rest = rows[:, whole:] @ others[:, whole:].T
    return torch.bmm(left, right).sum(dim=0, dtype=torch.float64) + rest


def subtract(rows: torch.Tensor, coefficients: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """rows - coefficients others, written into rows: (s, d), (s, m) and (m, d)."""
    small = coefficients.to(rows)
    if rows.device.type != "cpu":
        return rows.addmm_(small, others, alpha=-1)
    for left, right in zip(rows.split(STRETCH, dim=1), others.split(STRETCH, dim=1), strict=True):
        left.addmm_(small, right, alpha=-1)
    return rows


def combine(coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """coefficients rows, written into the first rows: (p, s) with p <= s and (s, d) give (p, d)."""
    small = coefficients.to(rows)
    for part in rows.split(STRETCH if rows.device.type == "cpu" else _LONG_STRETCH, dim=1):
        part[: small.shape[0]] = small @ part
    return rows[: small.shape[0]]


def orthonormal(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Q (s, d) with orthonormal rows, the lower triangle L (s, s), float64, and a bound of norm(rows - L Q).

    rows are overwritten. Where they are dependent, L is singular to rounding and Q all the same orthonormal.
    """
    eps = torch.finfo(rows.dtype).eps
    triangle = torch.eye(rows.shape[0], dtype=torch.float64)
    lost = 0.0
    if rows.shape[1] <= STRETCH:
        return _by_reflections(rows, rows, triangle, lost)
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex(inner(rows, rows).cpu())
        condition = math.nan if bool(failed) else float(torch.linalg.cond(factor))
        if not condition < _CONDITION:
            # seldom: slow, but exact to the dtype
            return _by_reflections(rows.double(), rows, triangle, lost)
        triangle = triangle @ factor
        rows = combine(torch.linalg.inv(factor), rows)
        # of s products and sums each, with the inverse as rounded
        lost += 2 * rows.shape[0] * eps * condition * float(triangle.norm())
        # else the second time, from a Gram matrix near 1, leaves rounding only
        if condition < _ONCE:
            break
    return rows, triangle, lost


def _by_reflections(
    rows: torch.Tensor, like: torch.Tensor, before: torch.Tensor, lost: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """`orthonormal` by Householder's QR in the precision of `rows`, rounded to that of `like`."""
    columns, upper = torch.linalg.qr(rows.T)
    error = float((rows.T - columns @ upper).norm() + torch.finfo(like.dtype).eps * rows.norm())
    lost += float(torch.linalg.matrix_norm(before, 2)) * error
    return columns.T.to(like).contiguous(), before @ upper.T.double().cpu(), lost
