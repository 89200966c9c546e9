"""Functions of one number with fixed formulas: exp, relu, tanh and their relatives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from tameopt.structure.aten._row import Row
from tameopt.structure.ranges import INF, NONNEGATIVE, POSITIVE, Interval
from tameopt.structure.rules._call import Call
from tameopt.structure.rules.elementwise import JUMP, KINK, Elementwise, unary
from tameopt.structure.tame import ALGEBRAIC, CONTINUOUS, EXPONENTIAL, GAMMA, PFAFFIAN, RESTRICTED_ANALYTIC
from tameopt.structure.value import CONCAVE, CONVEX, Value

_EXP = frozenset({EXPONENTIAL})
_ALG = frozenset({ALGEBRAIC})
_GAMMA = frozenset({GAMMA})
_QUARTER = 1.5707963267948968  # pi/2 rounded up
_AN = frozenset({RESTRICTED_ANALYTIC})


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _abs(x: Interval) -> Interval:
    if x.nonnegative:
        return x
    if x.nonpositive:
        return -x
    return Interval(0.0, max(-x.lo, x.hi))


def _relu(x: Interval) -> Interval:
    return Interval(max(x.lo, 0.0), max(x.hi, 0.0), x.lo > 0 and x.lo_open, x.hi > 0 and x.hi_open)


def _dip(bottom: float) -> Callable[[Interval], Interval]:
    """The image of a function like silu: 0 at 0, between `bottom` and 0 to the left, below x to the right."""

    def image(x: Interval) -> Interval:
        return Interval(0.0 if x.nonnegative else bottom, max(x.hi, 0.0))

    return image


def _even_up(f: Callable[[float], float]) -> Callable[[Interval], Interval]:
    """The image of an even function increasing on [0, inf)."""

    def image(x: Interval) -> Interval:
        return _abs(x).monotone(f)

    return image


def _sin_like(x: Interval) -> Interval:
    return Interval(-1.0, 1.0)


def _rounded(x: Interval) -> Interval:
    return Interval(x.lo if math.isinf(x.lo) else math.floor(x.lo), x.hi if math.isinf(x.hi) else math.ceil(x.hi))


# name -> (function, definable, lipschitz, autodiff in words)
FUNCTIONS: dict[str, Elementwise] = {
    "relu": Elementwise(_relu, degree=1, kinks=(0.0,), shape=CONVEX, monotone=1, homogeneous=True, bend=KINK),
    "abs": Elementwise(_abs, degree=1, kinks=(0.0,), shape=CONVEX, homogeneous=True, bend=KINK),
    "relu6": Elementwise(lambda x: Interval(0.0, 6.0), degree=1, kinks=(0.0, 6.0), monotone=1, bend=KINK),
    "hardsigmoid": Elementwise(
        lambda x: Interval(0.0, 1.0), degree=1, kinks=(-3.0, 3.0), monotone=1, bend=KINK
    ),
    "hardswish": Elementwise(_dip(-0.3750001), degree=2, kinks=(-3.0, 3.0), bend=KINK),
    "exp": Elementwise(
        lambda x: x.monotone(math.exp).clip(0.0, INF, True), _EXP, shape=CONVEX, monotone=1
    ),
    "exp2": Elementwise(lambda x: x.monotone(lambda y: 2.0**y).clip(0.0, INF, True), _EXP, shape=CONVEX, monotone=1),
    "expm1": Elementwise(lambda x: x.monotone(math.expm1).clip(-1.0, INF, True), _EXP, shape=CONVEX, monotone=1),
    "log": Elementwise(lambda x: x.monotone(math.log).clip(0.0 if x.lo >= 1 else -INF),
        _EXP, domain=POSITIVE, shape=CONCAVE, monotone=1),
    "log2": Elementwise(lambda x: x.monotone(math.log2), _EXP, domain=POSITIVE, shape=CONCAVE, monotone=1),
    "log10": Elementwise(lambda x: x.monotone(math.log10), _EXP, domain=POSITIVE, shape=CONCAVE, monotone=1),
    "log1p": Elementwise(
        lambda x: x.monotone(math.log1p).clip(0.0 if x.nonnegative else -INF),
        _EXP, domain=Interval(-1.0, INF, True), shape=CONCAVE, monotone=1,
    ),
    "sigmoid": Elementwise(lambda x: x.monotone(_sigmoid).clip(0.0, 1.0, True, True), _EXP, monotone=1),
    "log_sigmoid": Elementwise(
        lambda x: -((-x).monotone(_softplus).clip(0.0, INF, True)), _EXP, shape=CONCAVE, monotone=1
    ),
    "tanh": Elementwise(
        lambda x: x.monotone(math.tanh).clip(0.0 if x.nonnegative else -1.0, 0.0 if x.nonpositive else 1.0,
                                             not x.nonnegative, not x.nonpositive),
        _EXP, monotone=1,
    ),
    "silu": Elementwise(_dip(-0.2784646), _EXP),
    "mish": Elementwise(_dip(-0.3088492), _EXP),
    "sinh": Elementwise(lambda x: x.monotone(math.sinh), _EXP, monotone=1),
    "cosh": Elementwise(lambda x: _even_up(math.cosh)(x).clip(1.0), _EXP, shape=CONVEX),
    "asinh": Elementwise(lambda x: x.monotone(math.asinh), _EXP, monotone=1),
    "acosh": Elementwise(
        lambda x: x.monotone(math.acosh).clip(0.0), _EXP, domain=Interval(1.0, INF), edge_smooth=CONTINUOUS,
        shape=CONCAVE, monotone=1,
    ),
    "atanh": Elementwise(
        lambda x: x.monotone(math.atanh), _EXP, domain=Interval(-1.0, 1.0, True, True), monotone=1
    ),
    "sqrt": Elementwise(
        lambda x: x.monotone(math.sqrt).clip(0.0, INF, x.positive), _ALG, domain=NONNEGATIVE,
        edge_smooth=CONTINUOUS, shape=CONCAVE, monotone=1,
    ),
    "rsqrt": Elementwise(
        lambda x: x.monotone(lambda y: y**-0.5, increasing=False).clip(0.0, INF, True), _ALG, domain=POSITIVE,
        shape=CONVEX, monotone=-1,
    ),
    "square": Elementwise(lambda x: x.square(), degree=2, shape=CONVEX),
    "neg": Elementwise(lambda x: -x, degree=1, shape="affine", monotone=-1, homogeneous=True),
    "sin": Elementwise(_sin_like, _AN, bounded_only=True),
    "cos": Elementwise(_sin_like, _AN, bounded_only=True),
    "sinc": Elementwise(_sin_like, _AN, bounded_only=True),
    "atan": Elementwise(lambda x: x.monotone(math.atan).clip(-_QUARTER, _QUARTER), _AN, monotone=1),
    "asin": Elementwise(
        lambda x: x.monotone(math.asin), _AN, domain=Interval(-1.0, 1.0), edge_smooth=CONTINUOUS, monotone=1
    ),
    "acos": Elementwise(
        lambda x: x.monotone(math.acos, increasing=False).clip(0.0), _AN, domain=Interval(-1.0, 1.0),
        edge_smooth=CONTINUOUS, monotone=-1,
    ),
    "erf": Elementwise(lambda x: x.monotone(math.erf).clip(-1.0, 1.0, True, True), frozenset({PFAFFIAN}), monotone=1),
    "erfc": Elementwise(
        lambda x: x.monotone(math.erfc, increasing=False).clip(0.0, 2.0, True, True), frozenset({PFAFFIAN}),
        monotone=-1,
    ),
    "lgamma": Elementwise(
        lambda x: Interval(-0.1214863, INF), _GAMMA, domain=POSITIVE, shape=CONVEX, wild_outside=True
    ),
    "digamma": Elementwise(
        lambda x: Interval(), _GAMMA, domain=POSITIVE, shape=CONCAVE, monotone=1, wild_outside=True
    ),
    "sign": Elementwise(lambda x: Interval(-1.0, 1.0), degree=0, kinks=(0.0,), monotone=1, bend=JUMP),
    "sgn": Elementwise(lambda x: Interval(-1.0, 1.0), degree=0, kinks=(0.0,), monotone=1, bend=JUMP),
}  # fmt: skip

_LIPSCHITZ_NO = {"sqrt", "acosh", "asin", "acos"}


def _words(name: str, f: Elementwise) -> tuple[str, str, str, str]:
    if f.bounded_only:
        definable = "not definable on R; R_an on a bounded range"
    elif f.degree is not None:
        definable = f"{'piecewise ' if f.kinks else ''}polynomial of degree {f.degree}"
    else:
        definable = " and ".join(sorted(f.generators))
    smoothness = "analytic on its domain"
    autodiff = "exact"
    if f.kinks and f.bend[0] == 0:
        smoothness, autodiff = "locally Lipschitz", "an element of the Clarke subdifferential, probed"
    elif f.kinks:
        smoothness, autodiff = "discontinuous", "0 almost everywhere"
    if name in _LIPSCHITZ_NO:
        return definable, "continuous, analytic inside its domain", "not at the end of its domain", "infinite there"
    return definable, smoothness, "no" if "dis" in smoothness else "locally", autodiff


def _rule(f: Elementwise, call: Call) -> list[Value]:
    return unary(call, f)


ROWS: tuple[Row, ...] = tuple(
    Row(name, functools.partial(_rule, f), *_words(name, f)) for name, f in FUNCTIONS.items()
)
