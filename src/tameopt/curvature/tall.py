"""A few long vectors, held as rows: inner products, combinations and orthonormal bases for d in the millions.

A product of two rows with a hundred others waits for memory, not for arithmetic, so everything goes through the
vectors in stretches that a cache holds. The sums stay short as well, which float32 needs: over d = 1e7 entries a norm
in one sum, as Householder's QR takes it, is wrong by 3e-4.

Source: Yamamoto, Nakatsukasa, Yanagisawa and Fukaya 2015 (Cholesky QR, twice).
"""

from __future__ import annotations

import torch

# our choices: entries of a row taken at once. On a CPU, as many as leave a hundred rows in a cache; elsewhere, few
# enough for a float32 sum, in one launch for all
STRETCH = 1 << 14
_LONG_STRETCH = 1 << 16
# our choice: rows taken one by one up to here, since a product of so thin a matrix is slower than as many of a vector
_THIN = 2
# our choice: Cholesky's factor of a Gram matrix is taken up to this condition; it loses its square in digits
_CONDITION = 100.0


def inner(rows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """rows others^T of (s, d) and (m, d): (s, m) float64, from short sums in their own precision."""
    if rows.shape[1] <= STRETCH:
        return (rows @ others.T).double()
    if rows.device.type != "cpu":
        return _inner_at_once(rows, others)
    total = torch.zeros(rows.shape[0], others.shape[0], dtype=torch.float64)
    for left, right in zip(rows.split(STRETCH, dim=1), others.split(STRETCH, dim=1), strict=True):
        if left.shape[0] <= _THIN:
            for one, sums in zip(left, total, strict=True):
                sums += torch.mv(right, one)
        else:
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
        if left.shape[0] <= _THIN:
            for one, factors in zip(left, small, strict=True):
                one.addmv_(right.T, factors, alpha=-1)
        else:
            left.addmm_(small, right, alpha=-1)
    return rows


def combine(coefficients: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """coefficients rows, written into the first rows: (p, s) with p <= s and (s, d) give (p, d)."""
    small = coefficients.to(rows)
    for part in rows.split(STRETCH if rows.device.type == "cpu" else _LONG_STRETCH, dim=1):
        part[: small.shape[0]] = small @ part
    return rows[: small.shape[0]]


def orthonormal(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Q (s, d) with orthonormal rows and the lower triangle L (s, s), float64, with rows = L Q.

    rows may be overwritten. Where they are dependent, L is singular to rounding and Q all the same orthonormal.
    """
    if rows.shape[1] <= STRETCH:
        columns, triangle = torch.linalg.qr(rows.T)
        return columns.T.contiguous(), triangle.T.double().cpu()
    triangle = torch.eye(rows.shape[0], dtype=torch.float64)
    for _ in range(2):
        factor, failed = torch.linalg.cholesky_ex(inner(rows, rows).cpu())
        if bool(failed) or not float(torch.linalg.cond(factor)) < _CONDITION:
            # seldom: slow, but exact to the dtype
            columns, rest = torch.linalg.qr(rows.double().T)
            return columns.T.to(rows).contiguous(), triangle @ rest.T.cpu()
        triangle = triangle @ factor
        # the second time from a Gram matrix near 1, which leaves rounding only
        rows = combine(torch.linalg.inv(factor), rows)
    return rows, triangle
