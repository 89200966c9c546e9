"""Bounds on what float64 arithmetic computed: sums, products, norms, extreme eigenvalues (checker code).

Each bound holds for any order of summation and with or without fused multiply-adds, as long as every operation is
IEEE float64 rounded to nearest and matrix products are conventional (Higham 2002, chapter 3). Underflow is covered
by the tiny absolute terms.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

U = 2.0**-53
_TINY = 1e-290  # far above what underflow can lose in the sums that occur here, far below everything they bound


def gamma(n: int) -> float:
    """An upper bound of n u / (1 - n u).

    Raises ValueError when n u is not small: the bounds here assume n < 2^40.
    """
    if not 0 < n < 2**40:
        raise ValueError(f"rounding bounds need between 1 and 2^40 operations, got {n}.")
    return n * U * (1.0 + 2.0**-10)


def up(x: float) -> float:
    """The next larger float: a correctly rounded result moved up bounds the exact one."""
    return math.nextafter(x, math.inf)


def down(x: float) -> float:
    """The next smaller float."""
    return math.nextafter(x, -math.inf)


def norm_upper(x: np.ndarray) -> float:
    """An upper bound of the Euclidean (Frobenius) norm of the float64 numbers x."""
    if x.size == 0:
        return 0.0
    total = float(np.square(x).sum())
    # squaring and summing err by gamma_{size+1} relatively
    return up(math.sqrt(up(total * (1.0 + 2.0 * gamma(x.size + 4)) + _TINY)) * (1.0 + 4 * U))


def row_norms_upper(x: np.ndarray) -> np.ndarray:
    """(m,) upper bounds of the norms of the rows of x: (m, d)."""
    totals = np.square(x).sum(axis=1) * (1.0 + 2.0 * gamma(x.shape[1] + 4)) + _TINY
    bounds: np.ndarray = np.sqrt(totals) * (1.0 + 8 * U)
    return bounds


def positive_definite_above(A: np.ndarray, shift: float) -> float:
    """A number e >= 0 such that the symmetric part of A (its upper triangle mirrored) has lambda_min >= shift - e.

    An approximate Cholesky factor R of B = A - shift I is only a suggestion: B = R^T R + E exactly with
    E = B - R^T R, so lambda_min(B) >= -norm(E), and norm(E) is bounded from the computed residual plus
    gamma_{n+1} |R|^T |R| for its rounding. Infinity when no factor is found.
    """
    n = A.shape[0]
    symmetric = np.triu(A) + np.triu(A, 1).T
    B = symmetric - shift * np.eye(n)
    # the subtraction on the diagonal rounds
    diagonal_error = U * float(np.abs(np.diag(B)).max()) * 2.0 + _TINY
    try:
        R = np.linalg.cholesky(B).T
    except np.linalg.LinAlgError:
        return math.inf
    if not np.all(np.isfinite(R)):
        return math.inf
    R = np.triu(R)
    residual = B - R.T @ R
    columns = np.square(R).sum(axis=0) * (1.0 + 2.0 * gamma(n + 4))
    # |fl(R^T R) - R^T R|_ij <= gamma_n norm(r_i) norm(r_j), whose Frobenius norm is at most gamma_n sum norm(r_i)^2;
    # the subtraction adds u |residual|
    product_error = gamma(n + 2) * float(columns.sum()) * (1.0 + 1e-10)
    return up(norm_upper(residual) * (1.0 + 8 * U) + product_error + diagonal_error + _TINY)


def lambda_min_lower(A: np.ndarray) -> float:
    """A proved lower bound of the smallest eigenvalue of the symmetric matrix in A's upper triangle; -inf if none."""
    symmetric = np.triu(A) + np.triu(A, 1).T
    if not np.all(np.isfinite(symmetric)):
        return -math.inf
    guess = float(np.linalg.eigvalsh(symmetric)[0])
    scale = float(np.abs(np.diag(symmetric)).sum()) + abs(guess)
    for slack in (1e-15, 1e-14, 1e-12, 1e-10, 1e-7):
        shift = guess - slack * scale
        error = positive_definite_above(A, shift)
        if math.isfinite(error):
            return down(shift - error)
    return -math.inf


def lambda_max_upper(A: np.ndarray) -> float:
    """A proved upper bound of the largest eigenvalue of the symmetric matrix in A's upper triangle; inf if none."""
    return -lambda_min_lower(-A)


def largest_of_blocks_upper(blocks: np.ndarray) -> float:
    """An upper bound of all eigenvalues of symmetric matrices (count, d, d), given by upper triangles; inf if none.

    As `lambda_max_upper`, with one shift t for all: t I - B = R^T R + E, so lambda_max(B) <= t + norm(E).
    """
    if not blocks.size:
        return -math.inf
    if not np.all(np.isfinite(blocks)):
        return math.inf
    d = blocks.shape[-1]
    symmetric = np.triu(blocks) + np.swapaxes(np.triu(blocks, 1), -1, -2)
    guess = float(np.linalg.eigvalsh(symmetric)[:, -1].max())
    scale = float(np.abs(np.diagonal(symmetric, axis1=1, axis2=2)).sum(axis=1).max()) + abs(guess) + _TINY
    for slack in (1e-13, 1e-10, 1e-7):
        shift = guess + slack * scale
        B = shift * np.eye(d) - symmetric
        try:
            R = np.swapaxes(np.linalg.cholesky(B), -1, -2)
        except np.linalg.LinAlgError:
            continue
        R = np.triu(R)
        residual = np.sqrt(np.square(B - np.swapaxes(R, -1, -2) @ R).sum(axis=(1, 2))) * (1.0 + gamma(d * d + 8))
        products = gamma(d + 2) * np.square(R).sum(axis=(1, 2)) * (1.0 + 1e-9)
        diagonal = 2.0 * U * np.abs(np.diagonal(B, axis1=1, axis2=2)).max(axis=1)
        worst = float((residual * (1.0 + 1e-9) + products + diagonal).max())
        if math.isfinite(worst):
            return up(shift + worst + _TINY)
    return math.inf


def exact(x: float) -> Fraction:
    """The rational number a finite float is.

    Raises ValueError for infinities and NaN.
    """
    if not math.isfinite(x):
        raise ValueError(f"a certificate's numbers must be finite, got {x}.")
    return Fraction(x)


def power_at_most(base: Fraction, exponent: int, bound: Fraction) -> bool:
    """Whether base^exponent <= bound for 0 <= base <= 1, with products rounded up to 200 bits; True is a proof."""
    if not 0 <= base <= 1 or exponent < 0:
        return False
    bits = 200

    def round_up(x: Fraction) -> Fraction:
        return Fraction(-((-x.numerator << bits) // x.denominator), 1 << bits)

    result, square = Fraction(1), round_up(base)
    while exponent:
        if exponent & 1:
            result = round_up(result * square)
        square = round_up(square * square)
        exponent >>= 1
    return result <= bound
