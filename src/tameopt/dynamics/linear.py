"""Linear maps x -> M x: stable, unstable and centre spaces, and whether iterates converge to 0.

A centre eigenvalue (modulus 1) cannot be told from a neighbour in floating point: eigenvalues of a defective matrix
move by eps^(1/m). What lies within the tolerance of the unit circle, or would after a change of M by rounding, is
called centre, and said to be so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.extras import require


@dataclass(frozen=True)
class Subspace:
    """An invariant subspace of M.

    basis: (d, m) orthonormal, Q. eigenvalues: (m,) complex. residual: norm(M Q - Q (Q^T M Q)).
    """

    basis: torch.Tensor
    eigenvalues: torch.Tensor
    residual: float

    @property
    def dimension(self) -> int:
        """m."""
        return int(self.basis.shape[1])


@dataclass(frozen=True)
class Splitting:
    """R^d as the sum of the stable, centre and unstable spaces of M (moduli below, at and above 1).

    tolerance: moduli within this of 1 count as 1, and so do those that a change of M by rounding takes there.
    hyperbolic: there is no centre space.
    """

    stable: Subspace
    center: Subspace
    unstable: Subspace
    tolerance: float

    @property
    def hyperbolic(self) -> bool:
        """Whether no eigenvalue lies on the unit circle, to the tolerance."""
        return self.center.dimension == 0

    def __repr__(self) -> str:
        return (
            f"Splitting(stable {self.stable.dimension}, centre {self.center.dimension}, "
            f"unstable {self.unstable.dimension})"
        )


@dataclass(frozen=True)
class LinearVerdict:
    """What becomes of x_{k+1} = M x_k.

    generic: for almost every x_0: "converges to 0", "diverges", "stays bounded" or "undecided".
    from_start: the same from the given x_0, or "" when none was given. rate: the factor a step, asymptotically.
    reason: in words.
    """

    generic: str
    from_start: str
    rate: float
    spectral_radius: float
    reason: str


def _square(M: Any) -> np.ndarray:
    matrix = np.asarray(M.detach().cpu() if isinstance(M, torch.Tensor) else M, dtype=np.float64)
    if matrix.ndim == 0:
        matrix = matrix.reshape(1, 1)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise ValueError(f"M must be a square matrix, got shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise ValueError("M must be finite, got a NaN or an infinity.")
    return matrix


def splitting(M: Any, *, tolerance: float = 1e-8) -> Splitting:
    """The stable, centre and unstable spaces of a square matrix by ordered real Schur forms.

    M: (d, d) array or tensor; a map x -> M x, such as the Jacobian of a gradient map at a fixed point.
    Accuracy: each basis is orthonormal and invariant to `residual`; a group of eigenvalues close to the tolerance
    makes its space ill-conditioned. Cost: three Schur decompositions.

    Raises ValueError unless M is square and finite.

    >>> splitting([[0.5, 1.0], [0.0, 2.0]])
    Splitting(stable 1, centre 0, unstable 1)
    """
    matrix = _square(M)
    unsure = _of_no_side(matrix)

    def is_center(value: complex) -> bool:
        near = unsure.size and np.abs(unsure - value).min() <= 1e-6 * (1 + abs(value))
        return bool(abs(abs(value) - 1) <= tolerance or near)

    return Splitting(
        stable=_space(matrix, lambda value: abs(value) < 1 and not is_center(value)),
        center=_space(matrix, is_center),
        unstable=_space(matrix, lambda value: abs(value) > 1 and not is_center(value)),
        tolerance=tolerance,
    )


def _of_no_side(matrix: np.ndarray) -> np.ndarray:
    """The computed eigenvalues that a change of M by rounding may take to the unit circle.

    z is an eigenvalue of some matrix within sigma_min(z - M) of M: those z form the pseudospectrum, and an eigenvalue
    is unsure if a part of it that rounding fills joins the eigenvalue to the circle. Looked for on straight lines.
    """
    values = np.linalg.eigvals(matrix)
    size = float(np.linalg.norm(matrix, 2))
    rounding = 20 * len(matrix) * np.finfo(np.float64).eps * size
    angles = np.sort(np.angle(values[np.argsort(np.abs(np.abs(values) - 1))[:40]]))
    angles = np.unique(np.concatenate([angles, (angles[1:] + angles[:-1]) / 2, [0.0, np.pi]]))

    def within_rounding(z: np.ndarray) -> np.ndarray:
        shifted = z[:, None, None] * np.eye(len(matrix)) - matrix
        return np.asarray(np.linalg.svd(shifted, compute_uv=False)[:, -1] <= rounding)

    on_circle = np.exp(1j * angles)
    on_circle = on_circle[within_rounding(on_circle)]
    shares = np.linspace(0.0, 1.0, 9)[1:-1]
    unsure = [
        value
        for value in values
        if any(within_rounding(value + shares * (z - value)).all() for z in on_circle if abs(z - value) < 0.5)
    ]
    return np.asarray(unsure, dtype=complex)


def _never_expands(matrix: np.ndarray) -> bool:
    """Whether norm(M x) <= norm(x) for all x, in rational arithmetic: I - M^T M by elimination. False past d = 16."""
    d = len(matrix)
    if d > 16:
        return False
    M = [[Fraction(float(number)) for number in row] for row in matrix]
    rest = [[Fraction(int(i == j)) - sum(row[i] * row[j] for row in M) for j in range(d)] for i in range(d)]
    for k in range(d):
        if rest[k][k] < 0 or (rest[k][k] == 0 and any(rest[k][j] != 0 for j in range(k + 1, d))):
            return False
        for i in range(k + 1, d if rest[k][k] else k + 1):
            share = rest[i][k] / rest[k][k]
            rest[i] = [a - share * b for a, b in zip(rest[i], rest[k], strict=True)]
    return True


def stable_space(M: Any, *, tolerance: float = 1e-8) -> Subspace:
    """The space of all x with M^k x -> 0: spanned by generalised eigenvectors with modulus below 1.

    >>> stable_space([[0.5, 0.0], [0.0, 2.0]]).dimension
    1
    """
    return splitting(M, tolerance=tolerance).stable


def unstable_space(M: Any, *, tolerance: float = 1e-8) -> Subspace:
    """The space of all x that M^-k takes to 0: generalised eigenvectors with modulus above 1."""
    return splitting(M, tolerance=tolerance).unstable


def _space(matrix: np.ndarray, inside: Callable[[complex], bool]) -> Subspace:
    linalg = require("scipy.linalg", "an ordered Schur form")

    def chosen(real: float, imaginary: float) -> bool:
        # scipy reads the number of arguments off the signature: two, for a real form
        return bool(inside(complex(real, imaginary)))

    form, vectors, size = linalg.schur(matrix, output="real", sort=chosen)
    basis = vectors[:, :size]
    block = form[:size, :size]
    residual = float(np.linalg.norm(matrix @ basis - basis @ block)) if size else 0.0
    values = np.linalg.eigvals(block) if size else np.zeros(0, dtype=complex)
    return Subspace(torch.from_numpy(basis.copy()), torch.from_numpy(np.asarray(values, dtype=complex)), residual)


def convergence(M: Any, x0: Any = None, *, tolerance: float = 1e-8) -> LinearVerdict:
    """Whether x_{k+1} = M x_k converges to 0: for almost every x_0, and from the given one.

    M: a number (possibly complex) or a square matrix. Moduli farther from 1 than rounding of M moves them decide.
    Where others reach 1, "stays bounded" says that norm(M x) <= norm(x), in rational arithmetic (d <= 16); else the
    answer is "undecided": a Jordan block grows, and 1 + 1e-12 is not 1. A start counts as in the stable space when
    its share of the others is below 1e-13 times the condition of the three bases.

    >>> convergence([[0.9, 0.0], [0.0, 1.1]]).generic
    'diverges'
    >>> convergence([[0.9, 0.0], [0.0, 1.1]], x0=[1.0, 0.0]).from_start
    'converges to 0'
    """
    if np.ndim(M) == 0 and isinstance(M, complex):
        # multiplication by a + ib on the plane
        M = [[M.real, -M.imag], [M.imag, M.real]]
    matrix = _square(M)
    radius = float(np.abs(np.linalg.eigvals(matrix)).max())
    parts = splitting(matrix, tolerance=tolerance)
    bounded = parts.center.dimension > 0 and parts.unstable.dimension == 0 and _never_expands(matrix)
    count = parts.unstable.dimension
    if count:
        many = "1 eigenvalue has" if count == 1 else f"{count} eigenvalues have"
        generic, reason = "diverges", f"{many} modulus above 1 (up to {radius:.10g})"
    elif parts.center.dimension == 0:
        generic, reason = "converges to 0", f"all moduli are at most {radius:.10g} < 1"
    elif bounded:
        generic, reason = "stays bounded", "moduli reach 1 to rounding, and norm(M x) <= norm(x) for all x"
    else:
        generic, reason = "undecided", "moduli reach 1 to rounding, where a Jordan block would grow"
    return LinearVerdict(
        generic=generic,
        from_start="" if x0 is None else _from(matrix, parts, np.asarray(x0, dtype=np.float64), bounded),
        rate=radius,
        spectral_radius=radius,
        reason=reason,
    )


def _from(matrix: np.ndarray, parts: Splitting, start: np.ndarray, bounded: bool) -> str:
    """The fate of one start: what share of it the unstable and centre spaces take."""
    if start.shape != (matrix.shape[0],):
        raise ValueError(f"x0 must have shape ({matrix.shape[0]},), got {start.shape}.")
    bases = [part.basis.numpy() for part in (parts.stable, parts.center, parts.unstable)]
    together = np.concatenate(bases, axis=1)
    shares = np.linalg.solve(together, start)
    sizes = [basis.shape[1] for basis in bases]
    center, unstable = shares[sizes[0] : sizes[0] + sizes[1]], shares[sizes[0] + sizes[1] :]
    # what rounding puts into the other spaces grows with the condition of the three bases
    negligible = 1e-13 * np.linalg.cond(together) * max(float(np.linalg.norm(start)), 1e-300)
    if np.abs(unstable).max(initial=0.0) > negligible:
        return "diverges"
    if np.abs(center).max(initial=0.0) > negligible:
        return "stays bounded" if bounded else "undecided"
    return "converges to 0"
