"""Functions of one number, applied to every element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tameopt.structure.ranges import INF, REALS, Interval
from tameopt.structure.rules._call import Call
from tameopt.structure.tame import (
    ALMOST_EVERYWHERE,
    ANALYTIC,
    CLASSICAL,
    CONSERVATIVE,
    DISCONTINUOUS,
    LIPSCHITZ,
    WILD,
)
from tameopt.structure.value import AFFINE, CONCAVE, CONVEX, NO_SHAPE, Value, constant


@dataclass(frozen=True)
class Elementwise:
    """A function R -> R as data.

    image: an interval around the values on an interval of the domain.
    generators: what it needs beyond polynomials (`tame`). degree: its degree where it is piecewise polynomial,
        None elsewhere. kinks: where it is less than analytic; bend: its smoothness there, and what autodiff
        returns there, as levels; between kinks it is one analytic piece. domain: where it is defined and finite;
        edge_smooth: its smoothness at a closed end of the domain.
    shape: "affine", "convex", "concave" or ""; monotone: +1, -1 or 0. homogeneous: f(t x) = t f(x) for t > 0.
    bounded_only: definable (in R_an) only where the argument is bounded. wild_outside: outside the domain it is
        finite here and there, and not definable (the poles of the Gamma function).
    """

    image: Callable[[Interval], Interval]
    generators: frozenset[str] = frozenset()
    degree: int | None = None
    kinks: tuple[float, ...] = ()
    bend: tuple[int, int] = (ANALYTIC, CLASSICAL)
    domain: Interval = REALS
    edge_smooth: int = ANALYTIC
    shape: str = NO_SHAPE
    monotone: int = 0
    homogeneous: bool = False
    bounded_only: bool = False
    wild_outside: bool = False


def with_limit(x: Value) -> Interval:
    """Where the elements of x lie, -inf among them where some are."""
    return Interval(-INF, x.range.hi, False, x.range.hi_open) if x.extended else x.range


def apply(f: Elementwise, x: Value) -> Value:
    """f of every element of x; of -inf it is the limit, for the functions that `masks` lets have it."""
    if x.extended:
        found = apply(f, x.but(range=with_limit(x), extended=False))
        # the limit is attained
        return found.but(range=Interval(found.range.lo, found.range.hi, False, found.range.hi_open))
    inside = x.range.inside(f.domain)
    image = f.image(x.range if inside else x.range.clip(f.domain.lo, f.domain.hi, f.domain.lo_open, f.domain.hi_open))
    if not x.varies:
        return constant(image)
    smooth, autodiff = x.smooth, x.autodiff
    met = any(kink in x.range for kink in f.kinks)
    if met:
        smooth, autodiff = min(smooth, f.bend[0]), max(autodiff, f.bend[1])
    edges = [
        end
        for end, is_open in ((f.domain.lo, f.domain.lo_open), (f.domain.hi, f.domain.hi_open))
        if not is_open and end in x.range and abs(end) != float("inf")
    ]
    if (edges or not inside) and f.edge_smooth < ANALYTIC:
        smooth, autodiff = min(smooth, f.edge_smooth), max(autodiff, ALMOST_EVERYWHERE)
    if not inside:
        autodiff = max(autodiff, ALMOST_EVERYWHERE)
    generators = x.generators | f.generators
    degree = None if f.degree is None or x.degree is None else f.degree * x.degree
    if (f.bounded_only and not x.range.bounded) or (f.wild_outside and not inside):
        generators, degree = generators | {WILD}, None
    return Value(
        True,
        image,
        generators,
        degree,
        x.piecewise or (met and f.degree is not None),
        smooth,
        autodiff,
        x.total and inside,
        composed_shape(f.shape, f.monotone, x),
        (x.homogeneous if f.homogeneous else (0 if x.homogeneous == 0 else None)),
        flat=x.flat or f.degree == 0,
    )


def composed_shape(shape: str, monotone: int, x: Value) -> str:
    """The shape of f(x) by the composition rule of disciplined convex programming (Grant, Boyd and Ye 2006)."""
    if x.shape == AFFINE:
        return shape
    if shape in (AFFINE, CONVEX) and ((monotone > 0 and x.convex) or (monotone < 0 and x.concave)):
        return CONVEX
    if shape in (AFFINE, CONCAVE) and ((monotone > 0 and x.concave) or (monotone < 0 and x.convex)):
        return CONCAVE
    return NO_SHAPE


def unary(call: Call, f: Elementwise, argument: str = "self") -> list[Value]:
    """A call of an elementwise operator."""
    return [apply(f, call.value(argument))]


KINK = (LIPSCHITZ, CONSERVATIVE)
JUMP = (DISCONTINUOUS, ALMOST_EVERYWHERE)
