"""What is known about one tensor as a function of theta: class, smoothness, autodiff, range, convexity, degree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tameopt.structure.ranges import Interval, hull, point
from tameopt.structure.tame import ANALYTIC, CLASSICAL, WILD, class_name, smoothness_name

AFFINE, CONVEX, CONCAVE, NO_SHAPE = "affine", "convex", "concave", ""


@dataclass(frozen=True)
class Value:
    """A tensor as a function of theta; every field holds for each of its elements, for every theta.

    varies: depends on theta. generators, degree, piecewise: see `tame`; degree is None where no polynomial
        degree is known. smooth, autodiff: levels of `tame`. total: defined (finite) for every theta.
    range: where the elements lie. shape: "affine", "convex", "concave" or "" (each element).
    homogeneous: h with value(t theta) = t^h value(theta) for t > 0, or None. extended: some elements are -inf
        for every theta (a mask), the others are as described. flat: locally constant off a set of measure zero.
    """

    varies: bool
    range: Interval
    generators: frozenset[str] = frozenset()
    degree: int | None = 0
    piecewise: bool = False
    smooth: int = ANALYTIC
    autodiff: int = CLASSICAL
    total: bool = True
    shape: str = AFFINE
    homogeneous: int | None = 0
    extended: bool = False
    flat: bool = False

    @property
    def zero(self) -> bool:
        return self.range.lo == 0 == self.range.hi

    @property
    def definable(self) -> str:
        return class_name(self.generators, self.degree, self.piecewise)

    @property
    def convex(self) -> bool:
        return self.shape in (AFFINE, CONVEX)

    @property
    def concave(self) -> bool:
        return self.shape in (AFFINE, CONCAVE)

    def but(self, **changes: Any) -> Value:
        return replace(self, **changes)

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "varies": self.varies,
            "range": self.range.data(),
            "generators": sorted(self.generators),
            "degree": self.degree,
            "piecewise": self.piecewise,
            "smooth": self.smooth,
            "autodiff": self.autodiff,
            "total": self.total,
            "shape": self.shape,
            "homogeneous": self.homogeneous,
            "extended": self.extended,
            "flat": self.flat,
        }

    def __str__(self) -> str:
        degree = "" if self.degree is None or self.generators else f" of degree {self.degree}"
        return f"{self.definable}{degree}, {smoothness_name(self.smooth)}, in {self.range}"


def constant(range: Interval, extended: bool = False) -> Value:
    """A tensor that does not depend on theta."""
    return Value(False, range, extended=extended, flat=True)


def number(x: float) -> Value:
    """A Python number."""
    return constant(point(float(x)))


def parameter() -> Value:
    """theta itself: a coordinate of R^d."""
    return Value(True, Interval(), degree=1, homogeneous=1)


def join(values: Sequence[Value]) -> Value:
    """What a function that selects or adds elements of these tensors needs: the worst of each field.

    The shape is kept only where all agree; homogeneity only where all nonzero values agree.
    """
    varying = [value for value in values if value.varies]
    ranges = hull([value.range for value in values])
    extended = any(value.extended for value in values)
    if not varying:
        return constant(ranges, extended).but(total=all(value.total for value in values))
    degrees = [value.degree for value in varying]
    homogeneities = {value.homogeneous for value in values if not value.zero}
    return Value(
        True,
        ranges,
        frozenset().union(*(value.generators for value in varying)),
        None if None in degrees else max(degree for degree in degrees if degree is not None),
        any(value.piecewise for value in varying),
        min(value.smooth for value in varying),
        max(value.autodiff for value in varying),
        all(value.total for value in values),
        _common_shape([value.shape for value in values]),
        homogeneities.pop() if len(homogeneities) == 1 else (0 if not homogeneities else None),
        extended,
        all(value.flat for value in varying),
    )


def _common_shape(shapes: Sequence[str]) -> str:
    if all(shape in (AFFINE, CONVEX) for shape in shapes):
        return CONVEX if CONVEX in shapes else AFFINE
    if all(shape in (AFFINE, CONCAVE) for shape in shapes):
        return CONCAVE
    return NO_SHAPE


def flipped(shape: str) -> str:
    """The shape of the negative."""
    return {CONVEX: CONCAVE, CONCAVE: CONVEX}.get(shape, shape)


def wild(value: Value) -> Value:
    """The same function put beyond every known o-minimal structure."""
    return value.but(generators=value.generators | {WILD}, degree=None, shape=NO_SHAPE, homogeneous=None)
