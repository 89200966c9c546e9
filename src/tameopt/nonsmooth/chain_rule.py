"""The chain rule along curves: F(theta_b) - F(theta_a) against the integral of <g, dtheta>.

For a path-differentiable F and any selection g of a conservative gradient, backprop's for one, the two are equal
along every Lipschitz curve (Bolte & Pauwels 2021); for C^1 functions it is the fundamental theorem of calculus.
They differ when the number that autodiff returns is not a derivative of F on a set that the curve meets in
positive length: a detached branch, a straight-through estimator, a wrong custom backward, or an F without chain
rule.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

ValueAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Segment:
    """The energy identity on one straight piece of a curve.

    change: F(b) - F(a). integral: the quadrature of <g(a + s(b - a)), b - a> over s in [0, 1].
    uncertainty: the quadrature's own error, as its finer and coarser rules disagree, plus rounding.
    """

    change: float
    integral: float
    uncertainty: float

    @property
    def violation(self) -> float:
        """abs(change - integral)."""
        return abs(self.change - self.integral)

    @property
    def holds(self) -> bool:
        """The violation is within 5 times the uncertainty (our choice of factor)."""
        return self.violation <= 5 * self.uncertainty


@dataclass(frozen=True)
class ChainRule:
    """The energy identity along a polygon.

    violation: the largest over the segments, in units of F; worst: the segment that violates it most clearly.
    relative: violation over the variation of F along the polygon.
    holds: no segment violates the identity by more than 5 times its uncertainty.
    """

    segments: tuple[Segment, ...]
    relative: float

    @property
    def worst(self) -> Segment:
        return max(self.segments, key=lambda segment: segment.violation - 5 * segment.uncertainty)

    @property
    def violation(self) -> float:
        return max(segment.violation for segment in self.segments)

    @property
    def holds(self) -> bool:
        return all(segment.holds for segment in self.segments)

    def __repr__(self) -> str:
        verdict = "holds" if self.holds else "VIOLATED"
        return f"ChainRule({verdict}, violation {self.violation:.2e}, {len(self.segments)} segments)"


def _along(
    value_and_gradient: ValueAndGradient, a: torch.Tensor, b: torch.Tensor, panels: int
) -> tuple[float, float]:
    """The integral and the integral of the absolute value, by `panels` panels of two Gauss points."""
    offset = 0.5 / np.sqrt(3.0)
    step = b - a
    rates = []
    for panel in range(panels):
        for node in (0.5 - offset, 0.5 + offset):
            s = (panel + node) / panels
            rates.append(float(value_and_gradient(a + s * step)[1].detach() @ step))
    array = np.array(rates)
    return float(array.mean()), float(np.abs(array).mean())


def chain_rule(
    value_and_gradient: ValueAndGradient,
    curve: Sequence[torch.Tensor],
    *,
    panels: int = 4,
    most_panels: int = 64,
    seconds: float = float("inf"),
) -> ChainRule:
    """Check the chain rule along the polygon through the points of `curve`, each (d,).

    value_and_gradient: theta -> (F, (d,) what backprop returns). panels: Gauss panels of the first rule; a
    segment that seems to violate the identity is integrated again with twice as many, up to `most_panels`: a
    quadrature that a kink has spoilt recovers, a wrong derivative does not (our choices). seconds: stop early
    after at least one segment.

    Cost: 6 panels + 2 gradients a segment where the identity holds. Raises ValueError for a curve of fewer than
    2 points.

    >>> F = lambda x: (x.abs().sum(), x.sign())
    >>> chain_rule(F, [torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 1.0])]).holds
    True
    """
    if len(curve) < 2:
        raise ValueError(f"a curve needs at least 2 points, got {len(curve)}.")
    begun = time.perf_counter()
    segments, variation = [], 0.0
    for a, b in itertools.pairwise(curve):
        segment, total = _segment(value_and_gradient, a, b, panels, most_panels)
        segments.append(segment)
        variation += max(total, abs(segment.change))
        if time.perf_counter() - begun > seconds:
            break
    worst = max(segment.violation for segment in segments)
    return ChainRule(tuple(segments), worst / variation if variation > 0 else 0.0)


def _segment(
    value_and_gradient: ValueAndGradient, a: torch.Tensor, b: torch.Tensor, panels: int, most_panels: int
) -> tuple[Segment, float]:
    at_a, at_b = float(value_and_gradient(a)[0].detach()), float(value_and_gradient(b)[0].detach())
    coarse, _ = _along(value_and_gradient, a, b, panels)
    while True:
        fine, total = _along(value_and_gradient, a, b, 2 * panels)
        # values of F near each other cancel: 64 units in the last place of F, and of the integral, are rounding
        rounding = 64 * float(torch.finfo(a.dtype).eps) * (abs(at_a) + abs(at_b) + total)
        segment = Segment(at_b - at_a, fine, abs(fine - coarse) + rounding)
        if segment.holds:
            return segment, total
        if 2 * panels >= most_panels:
            if _persists(value_and_gradient, a, b - a, segment.violation / max(total, abs(segment.change)), panels):
                return segment, total
            return Segment(segment.change, segment.integral, max(segment.uncertainty, segment.violation)), total
        panels, coarse = 2 * panels, fine


def _persists(
    value_and_gradient: ValueAndGradient, a: torch.Tensor, step: torch.Tensor, relative: float, panels: int
) -> bool:
    """Whether a relative violation of this size stays on longer segments in the same direction.

    A wrong derivative is wrong on them too. What the rounding inside F leaves (1 - cos near 0 is computed to 1e-16,
    whatever its own size) does not grow with the segment, and refutes nothing. Segments are lengthened 16-fold up to
    a hundredth of theta (our choice): beyond, F is another function.
    """
    at_a = float(value_and_gradient(a)[0].detach())
    reach = 0.01 * max(1.0, float(a.norm()))
    factor = 16.0
    while factor * float(step.norm()) <= reach:
        b = a + factor * step
        change = float(value_and_gradient(b)[0].detach()) - at_a
        fine, total = _along(value_and_gradient, a, b, 2 * panels)
        size = max(total, abs(change))
        if not np.isfinite(size) or abs(change - fine) < 0.1 * relative * size:
            return False
        factor *= 16
    return True
