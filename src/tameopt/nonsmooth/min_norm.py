"""The point of least norm in the hull of finitely many points, by Wolfe's algorithm, with its own certificate.

It is the distance from 0 to a Clarke subdifferential given by its vertices, the direction of steepest descent,
and the velocity of the subgradient flow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.extras import available, require

_MAX_ROUNDS = 40  # major cycles per point before we stop and report the gap: our choice, typical runs need < 3
_MAX_PIVOTS = 60  # rounds of block pivoting, typical ones need under ten; then Wolfe's algorithm: our choice
_PATIENCE = 3  # rounds without progress before single exchanges (Judice & Pires 1994, 10 there)
_REFINEMENTS = 6  # each gains the digits that the condition of the Gram matrix leaves: our choice


@dataclass(frozen=True)
class MinNorm:
    """The least-norm point x = sum_i w_i p_i of conv{p_1, ..., p_m}.

    point: (d,) float64, or Fractions when the points were rational. weights: (m,) >= 0, sum 1.
    distance: norm(x), an upper bound on the true distance. lower_bound: min_i <p_i, x> / norm(x), >= 0, a lower
        bound on it; both are equal up to rounding when the algorithm has converged.
    gap: norm(x)^2 - min_i <p_i, x>, >= 0 up to rounding, 0 exactly at the solution (Wolfe 1976).
    exact: computed in rational arithmetic, so that `point` and `squared_distance` are exact.
    """

    point: Any
    weights: Any
    distance: float
    lower_bound: float
    gap: float
    iterations: int
    exact: bool = False
    squared_distance: Fraction | None = None

    def __repr__(self) -> str:
        how = "exact" if self.exact else f"gap {self.gap:.1e}"
        return f"MinNorm(distance={self.distance:.6g}, {how}, {int(np.count_nonzero(self.weights))} active)"


def min_norm(points: Any) -> MinNorm:
    """The least-norm point of the hull of `points`: (m, d), a tensor, an array or nested sequences.

    Floating points give float64 results with a certified gap: relative error of the distance below 1e-8 for
    distances down to 1e-4 of the largest point, an absolute one below 1e-15 of it nearer 0 (for the points as they
    are given: the rounding of their entries alone moves a hull by more). Integers and Fractions give the exact
    rational solution.

    Cost: a handful of solves of size at most min(m, d + 1). Source: P. Wolfe, Finding the nearest point in a
    polytope, Math. Programming 11 (1976).

    Raises ValueError when there is no point, or one is not finite.

    >>> min_norm([[1, 0], [0, 1]]).point
    [Fraction(1, 2), Fraction(1, 2)]
    >>> round(min_norm(np.array([[3.0, 4.0], [3.0, -4.0]])).distance, 12)
    3.0
    """
    rational = _as_rational(points)
    if rational is not None:
        return _exact_min_norm(rational)
    array = points.detach().cpu().double().numpy() if isinstance(points, torch.Tensor) else np.asarray(points)
    array = np.asarray(array, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"points must be (m, d) with m, d >= 1, got shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"points must be finite, row {int(np.argwhere(~np.isfinite(array))[0, 0])} is not.")
    return _float_min_norm(array)


def _as_rational(points: Any) -> list[list[Fraction]] | None:
    if isinstance(points, torch.Tensor):
        if points.is_floating_point():
            return None
        points = points.tolist()
    if isinstance(points, np.ndarray):
        if points.dtype.kind == "f":
            return None
        points = points.tolist()
    rows = [list(row) for row in points]
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise ValueError(f"points must be (m, d) with m, d >= 1, got rows of lengths {[len(row) for row in rows]}.")
    if all(isinstance(entry, (int, Fraction)) for row in rows for entry in row):
        return [[Fraction(entry) for entry in row] for row in rows]
    return None


def _float_min_norm(points: np.ndarray) -> MinNorm:
    m, d = points.shape
    largest = float(np.abs(points).max())
    if largest == 0.0:
        return MinNorm(np.zeros(d), np.eye(1, m)[0], 0.0, 0.0, 0.0, 0)
    scale = math.ldexp(1.0, math.frexp(largest)[1] - 1)  # a power of two: dividing by it rounds nothing
    unit = points / scale
    full, point, iterations = _solved(unit)
    products = unit @ point
    squared = float(point @ point)
    distance = float(np.sqrt(squared))
    least = float(products.min())
    return MinNorm(
        point * scale,
        full,
        distance * scale,
        max(0.0, least / distance) * scale if distance > 0 else 0.0,
        (squared - least) * scale**2,
        iterations,
    )


def _affine_minimiser(rows: np.ndarray) -> np.ndarray:
    """Weights with sum 1 (any sign) of the least-norm point of the affine hull; rows affinely independent."""
    if len(rows) == 1:
        return np.ones(1)
    differences = (rows[1:] - rows[0]).T
    inner = np.linalg.lstsq(differences, -rows[0], rcond=None)[0]
    return np.concatenate([[1.0 - inner.sum()], inner])


def _solved(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """All weights, the point, and the iterations: by block pivoting, else by Wolfe's algorithm."""
    m, d = unit.shape
    if m <= d + 1:
        found = _block_pivoting(unit)
        if found is not None:
            return found
    # the geometry lives in the row space: with d > m work in m coordinates instead
    low = np.asarray(np.linalg.qr(unit.T, mode="r")).T if d > m else unit
    corral, weights, iterations = _wolfe(low, _by_nonnegative_least_squares(low))
    full = np.zeros(m)
    full[corral] = weights
    point = full @ unit
    # near 0 the weighted sum of a small corral has lost digits that a projection keeps; the weights of a large one
    # were refined from the points themselves, or cost too much to improve
    if len(corral) <= 64:
        polished = _polished(unit[corral])
        # a nearly dependent corral has a basis that points anywhere: then the weighted sum is all we have
        if float(np.abs(polished - point).max()) <= 1e-12:
            point = polished
    return full, point, iterations


def _block_pivoting(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, int] | None:
    """All weights, the point and the rounds by block principal pivoting on the Gram matrix; None when it fails.

    With H = P P^T + s 1 1^T the solution is w / sum w for min w^T H w / 2 - s sum w over w >= 0. Each round solves
    for one set of active points and exchanges all that violate the conditions (Judice & Pires 1994): one Cholesky
    factorisation a round, few rounds. The Gram matrix squares the condition of the points, so the solution is
    refined with residuals formed from the points, which brings back the digits (corrected seminormal equations).
    """
    m = len(unit)
    gram = unit @ unit.T
    scale = float(gram.diagonal().max())
    gram += scale
    active, fewest, patience = np.ones(m, dtype=bool), m + 1, _PATIENCE
    for rounds in range(1, _MAX_PIVOTS + 1):
        chosen = np.flatnonzero(active)
        solve = _cholesky(gram if len(chosen) == m else gram[np.ix_(chosen, chosen)])
        if solve is None:
            return None
        weights = solve(np.full(len(chosen), scale))
        slack = np.zeros(m)
        slack[chosen] = weights * scale
        if len(chosen) < m:
            rest = np.flatnonzero(~active)
            slack[rest] = gram[np.ix_(rest, chosen)] @ weights - scale
        # a millionth of a millionth: what is nearer 0 than this the refinement and the gap decide
        wrong = np.flatnonzero(slack < -1e-12 * scale)
        if len(wrong) == 0:
            return _refined(unit, chosen, weights, solve, scale, rounds)
        if len(wrong) < fewest:
            fewest, patience = len(wrong), _PATIENCE
        elif patience > 0:
            patience -= 1
        else:
            wrong = wrong[-1:]  # one at a time cannot cycle
        active[wrong] = ~active[wrong]
        if not active.any():
            return None
    return None


def _cholesky(matrix: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """x -> matrix^-1 x, or None where the matrix is not positive definite up to rounding."""
    try:
        if available("scipy"):
            linalg = require("scipy.linalg", "a Cholesky factorisation")
            factor = linalg.cho_factor(matrix, lower=True, check_finite=False)
            diagonal = factor[0].diagonal()
            solve = lambda x: np.asarray(linalg.cho_solve(factor, x, check_finite=False))  # noqa: E731
        else:
            diagonal = np.linalg.cholesky(matrix).diagonal()
            inverse = np.linalg.inv(matrix)
            solve = lambda x: inverse @ x  # noqa: E731
    except np.linalg.LinAlgError:
        return None
    # a condition beyond 1e13 leaves no digit for the refinement to contract with
    return solve if float(diagonal.min()) ** 2 > 1e-13 * float(diagonal.max()) ** 2 else None


def _refined(
    unit: np.ndarray,
    chosen: np.ndarray,
    weights: np.ndarray,
    solve: Callable[[np.ndarray], np.ndarray],
    scale: float,
    rounds: int,
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """The weights and the point from the points themselves, with the gap that rounding allows; else None."""
    full = np.zeros(len(unit))
    full[chosen] = weights / weights.sum()
    point = full @ unit
    step = np.zeros(len(unit))
    for _ in range(_REFINEMENTS):
        products = unit @ point
        squared = float(point @ point)
        # a sum of d products is uncertain by about u sqrt(d) norm(x) norm(p); a gap of that size is rounding
        if squared - float(products.min()) <= 2e-15 * np.sqrt(len(point) * squared * scale) + 1e-30 * scale:
            return np.maximum(full, 0.0) / np.maximum(full, 0.0).sum(), point, rounds
        # at the solution all active products are equal. The correction is added to the point: summing the weights
        # anew would leave an error of 1e-16 of the largest row, which near 0 is larger than the point
        step[chosen] = solve(products[chosen].mean() - products[chosen])
        step -= step.sum() * full
        full = full + step
        point = point + step @ unit
        if not np.isfinite(full).all() or full.min() < -1e-12:
            return None
    return None


def _by_nonnegative_least_squares(points: np.ndarray) -> tuple[list[int], np.ndarray] | None:
    """A first corral: norm(P^T w)^2 + (sum w - 1)^2 over w >= 0 has the solution's weights, up to a factor."""
    if not available("scipy"):
        return None
    optimize = require("scipy.optimize", "a first corral")
    target = np.zeros(points.shape[1] + 1)
    target[-1] = 1.0
    try:
        weights, _ = optimize.nnls(np.vstack([points.T, np.ones(len(points))]), target)
    except RuntimeError:  # its own iteration limit: Wolfe's algorithm starts from one point then
        return None
    total = float(weights.sum())
    corral = [int(i) for i in np.flatnonzero(weights > 1e-13 * max(total, 1e-300))]
    if not corral or len(corral) > points.shape[1] + 1:
        return None
    return corral, weights[corral] / weights[corral].sum()


def _polished(rows: np.ndarray) -> np.ndarray:
    """The least-norm point of the affine hull by orthogonal projection, twice: weights @ rows loses digits when the
    distance is small, this keeps them to 1e-16 of the largest row."""
    x = rows[0]
    if len(rows) > 1:
        basis, _ = np.linalg.qr((rows[1:] - rows[0]).T)
        for _ in range(2):
            x = x - basis @ (basis.T @ x)
    return x


def _wolfe(points: np.ndarray, start: tuple[list[int], np.ndarray] | None) -> tuple[list[int], np.ndarray, int]:
    m = len(points)
    squares = np.einsum("ij,ij->i", points, points)
    corral, weights = start if start is not None else ([int(squares.argmin())], np.ones(1))
    best: tuple[float, list[int], np.ndarray] = (np.inf, corral, weights)
    largest = float(squares.max())
    for iteration in range(1, _MAX_ROUNDS * m + 1):
        x = weights @ points[corral]
        products = points @ x
        norm2 = float(x @ x)
        if norm2 >= best[0]:  # rounding has ended the descent: keep the better one
            return best[1], best[2], iteration
        best = (norm2, list(corral), weights.copy())
        entering = int(products.argmin())
        # 4 u (norm(x) max norm(p)) is what the products themselves are uncertain by
        if norm2 - float(products[entering]) <= 1e-15 * np.sqrt(norm2 * largest) or entering in corral:
            return corral, weights, iteration
        corral.append(entering)
        weights = np.append(weights, 0.0)
        while True:
            affine = _affine_minimiser(points[corral])
            if affine.min() > 1e-14:
                weights = affine
                break
            falling = affine <= 1e-14
            with np.errstate(divide="ignore", invalid="ignore"):
                steps = np.where(falling, weights / (weights - affine), np.inf)
            step = float(np.clip(np.nanmin(steps), 0.0, 1.0))
            weights = np.maximum(weights + step * (affine - weights), 0.0)
            weights[int(np.nanargmin(steps))] = 0.0
            keep = weights > 0
            corral = [index for index, kept in zip(corral, keep, strict=True) if kept]
            weights = weights[keep] / weights[keep].sum()
            if len(corral) == 1:
                weights = np.ones(1)
                break
    return best[1], best[2], _MAX_ROUNDS * m


def _exact_min_norm(points: list[list[Fraction]]) -> MinNorm:
    """Wolfe's algorithm over the rationals: it ends, because a corral never comes back."""
    m, d = len(points), len(points[0])
    squares = [_dot(row, row) for row in points]
    corral = [min(range(m), key=lambda index: squares[index])]
    weights = [Fraction(1)]
    iterations = 0
    while True:
        iterations += 1
        x = _combined(points, corral, weights, d)
        norm2 = _dot(x, x)
        products = [_dot(row, x) for row in points]
        entering = min(range(m), key=lambda index: products[index])
        if products[entering] >= norm2:
            break
        corral.append(entering)
        weights.append(Fraction(0))
        while True:
            affine = _exact_affine([points[index] for index in corral])
            if all(weight > 0 for weight in affine):
                weights = affine
                break
            step = min(w / (w - a) for w, a in zip(weights, affine, strict=True) if a <= 0 and w != a)
            weights = [w + step * (a - w) for w, a in zip(weights, affine, strict=True)]
            corral = [index for index, w in zip(corral, weights, strict=True) if w > 0]
            weights = [w for w in weights if w > 0]
    full = [Fraction(0)] * m
    for index, weight in zip(corral, weights, strict=True):
        full[index] = weight
    distance = float(norm2) ** 0.5
    return MinNorm(x, full, distance, distance, 0.0, iterations, True, norm2)


def _dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True) if x and y), Fraction(0))


def _combined(points: list[list[Fraction]], corral: list[int], weights: list[Fraction], d: int) -> list[Fraction]:
    return [
        sum((w * points[index][j] for index, w in zip(corral, weights, strict=True)), Fraction(0)) for j in range(d)
    ]


def _exact_affine(rows: list[list[Fraction]]) -> list[Fraction]:
    """The weights of `_affine_minimiser`, exactly: normal equations of the differences, by elimination."""
    base = rows[0]
    differences = [[a - b for a, b in zip(row, base, strict=True)] for row in rows[1:]]
    size = len(differences)
    table = [
        [*(_dot(differences[i], differences[j]) for j in range(size)), -_dot(differences[i], base)]
        for i in range(size)
    ]
    for column in range(size):
        pivot = next(i for i in range(column, size) if table[i][column] != 0)
        table[column], table[pivot] = table[pivot], table[column]
        head = table[column][column]
        table[column] = [entry / head for entry in table[column]]
        for i in range(size):
            if i != column and table[i][column] != 0:
                factor = table[i][column]
                table[i] = [a - factor * b for a, b in zip(table[i], table[column], strict=True)]
    inner = [table[i][size] for i in range(size)]
    return [1 - sum(inner, Fraction(0)), *inner]
