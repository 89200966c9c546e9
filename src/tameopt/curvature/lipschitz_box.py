"""A proved Lipschitz constant of the gradient on a box, for small problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tameopt.curvature.boxes import box_of, sampled
from tameopt.curvature.tape import proof_tape
from tameopt.evidence import Certificate, Verdict
from tameopt.problem import Problem


@dataclass(frozen=True)
class BoxConstant:
    """L on a box: lower <= L <= upper.

    lower: the largest abs(eigenvalue) at sampled points (measured). upper: proved when verdict is PROVED, else inf.
    certificate: of the upper bound.
    """

    lower: float
    upper: float
    verdict: Verdict
    certificate: Certificate | None

    def __repr__(self) -> str:
        return f"BoxConstant({self.lower:.6g} <= L <= {self.upper:.6g}, {self.verdict})"


def lipschitz_on_box(
    problem: Problem,
    lower: Sequence[float],
    upper: Sequence[float],
    *,
    samples: int = 200,
    max_cells: int = 3000,
    generator: torch.Generator | None = None,
) -> BoxConstant:
    """The Lipschitz constant of grad F on a box: sampled from below, proved from above.

    The proof (interval Hessians on cells of the box) is tried with bounds 0.1% to 300% above the largest curvature
    sampled. Raises ValueError on a bad box, NotOnTapeError where F has no tape. Small d: some 5.

    >>> F = lambda t: t[0] ** 4 + t[1] ** 2
    >>> lipschitz_on_box(Problem.from_function(F, torch.zeros(2, dtype=torch.float64)), [-1, -1], [1, 1])
    BoxConstant(12 <= L <= 12.012, PROVED)
    """
    exact = problem if problem.dtype == torch.float64 else problem.to(torch.float64)
    corner, width = box_of(exact.dim, lower, upper)
    # polynomials are steepest in corners: they are sampled too
    points = sampled(corner, width, samples, generator)
    tape = proof_tape(exact, corner + 0.5 * width, *points[:20])
    largest = 0.0
    for point in points:
        values = torch.linalg.eigvalsh(exact.hessian(point).dense())
        largest = max(largest, float(values.abs().max()))
    for factor in (1.001, 1.01, 1.1, 1.5, 2.0, 4.0):
        bound = max(largest, 1e-300) * factor
        data = {
            "tape": tape,
            "lower": [float(number).hex() for number in lower],
            "upper": [float(number).hex() for number in upper],
            "bound": bound.hex(),
            "max_cells": max_cells,
        }
        certificate = Certificate("tameopt.curvature.lipschitz_checker:check_box_bound", data)
        if certificate.replay():
            return BoxConstant(largest, bound, Verdict.PROVED, certificate)
    return BoxConstant(largest, float("inf"), Verdict.UNKNOWN, None)
