"""Activations with proved error bounds, from IEEE additions, multiplications and divisions alone (checker code).

No library function is trusted: exp, log1p, erf, sin and cos are sums of series whose truncation and rounding are
bounded a priori. u = 2^-53 is the unit roundoff; gamma_n = n u / (1 - n u). Every bound below is rounded up
generously: what they protect is ten orders of magnitude larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

# ln 2 and pi/2 in parts whose products with small integers are exact (33 leading bits each, fdlibm's split)
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_PIO2_PARTS = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624871116645580e-21)
_INVERSE_FACTORIALS = tuple(1.0 / math.factorial(j) for j in range(20))
_LARGEST_ANGLE = 1.0e5


def exp_of_minus(t: Array) -> Array:
    """exp(-t) for t >= 0, relative error at most 1e-14 for t <= 700, absolute error at most 1e-300 beyond.

    t = k ln 2 + r with |r| <= 0.36: k ln2_high is exact, so r errs by at most 2u; the Taylor polynomial of degree 14
    misses 0.36^15/15! < 2e-19, and Horner's rule errs by gamma_30 e^0.36 < 5e-15 against a value of at least
    e^-0.36. Scaling by 2^-k is exact.
    """
    clipped = np.minimum(t, 700.0)
    k = np.rint(clipped * 1.4426950408889634)
    r = -((clipped - k * _LN2_HIGH) - k * _LN2_LOW)
    total = np.full_like(r, _INVERSE_FACTORIALS[14])
    for j in range(13, -1, -1):
        total *= r
        total += _INVERSE_FACTORIALS[j]
    result: Array = np.ldexp(total, -k.astype(np.int64))
    return result


def log1p_of(e: Array) -> Array:
    """log(1 + e) for 0 <= e <= 1, absolute error at most 1e-14 when e is exact.

    2 artanh(s), s = e/(2+e) <= 1/3: 18 positive terms, the rest is below 3^-37; Horner errs by gamma_60.
    """
    s = e / (2.0 + e)
    square = s * s
    total = np.full_like(s, 1.0 / 35.0)
    for odd in range(33, 0, -2):
        total *= square
        total += 1.0 / odd
    result: Array = 2.0 * s * total
    return result


def erf_of(t: Array) -> Array:
    """erf(t) for t >= 0, absolute error at most 1e-13 when t is exact; 1 past t = 6 (it misses 2.2e-17).

    (2/sqrt(pi)) exp(-t^2) sum 2^n t^(2n+1)/(2n+1)!!: positive terms, so relative errors add up: 3 a term, 160 terms,
    and the exponent's 36 u: below 7e-14. At t = 6 the terms past 160 are below (72/323)^160's first factors, 1e-30.
    """
    inner = np.minimum(t, 6.0)
    square = inner * inner
    term = inner.copy()
    total = inner.copy()
    doubled = 2.0 * square
    for n in range(160):
        term *= doubled / (2 * n + 3)
        total += term
    series = np.minimum(1.1283791670955126 * exp_of_minus(square) * total, 1.0)
    return np.where(t > 6.0, 1.0, series)


def sin_cos_of(z: Array) -> tuple[Array, Array]:
    """sin and cos for |z| <= 1e5, absolute error at most 1e-14.

    z - k pi/2 with pi/2 in three parts of 33 bits (k < 2^17, products exact): r errs by at most 4u; Taylor to degree
    17 on |r| <= 0.8 misses 0.8^18/18! < 3e-18.

    Raises ValueError for larger angles.
    """
    if z.size and float(np.abs(z).max()) > _LARGEST_ANGLE:
        raise ValueError(
            f"sine pre-activations must be at most {_LARGEST_ANGLE:g} in size to be evaluated rigorously."
        )
    k = np.rint(z * 0.6366197723675814)
    r = z
    for part in _PIO2_PARTS:
        r = r - k * part
    square = r * r
    sine, cosine = np.full_like(r, _INVERSE_FACTORIALS[17]), np.full_like(r, _INVERSE_FACTORIALS[16])
    for j in range(15, 0, -2):
        sine = _INVERSE_FACTORIALS[j] - square * sine
        cosine = _INVERSE_FACTORIALS[j - 1] - square * cosine
    sine = r * sine
    quadrant = k.astype(np.int64) & 3
    swap, negative = (quadrant & 1) == 1, (quadrant & 2) == 2
    sign = np.where(negative, -1.0, 1.0)
    return sign * np.where(swap, cosine, sine), sign * np.where(swap, -sine, cosine)


@dataclass(frozen=True)
class Activation:
    """sigma with what the theorem needs of it.

    evaluate: z -> (sigma(z), sigma'(z)) with errors |sigma_hat - sigma| <= absolute + relative |z| and
    |sigma'_hat - sigma'| <= absolute. second: (z, sigma_hat, sigma'_hat) -> sigma''(z), wrong by at most
    second_error. slope, curvature, third: sup of the absolute first, second and third derivative, rounded up.
    """

    evaluate: Callable[[Array], tuple[Array, Array]]
    second: Callable[[Array, Array, Array], Array]
    slope: float
    curvature: float
    third: float
    absolute: float
    second_error: float
    relative: float = 0.0


def _tanh(z: Array) -> tuple[Array, Array]:
    e = exp_of_minus(2.0 * np.abs(z))
    ratio = 1.0 / (1.0 + e)
    return np.sign(z) * (1.0 - e) * ratio, 4.0 * e * ratio * ratio


def _sigmoid(z: Array) -> tuple[Array, Array]:
    e = exp_of_minus(np.abs(z))
    ratio = 1.0 / (1.0 + e)
    return np.where(z >= 0, ratio, e * ratio), e * ratio * ratio


def _softplus(z: Array) -> tuple[Array, Array]:
    e = exp_of_minus(np.abs(z))
    return np.maximum(z, 0.0) + log1p_of(e), np.where(z >= 0, 1.0, e) / (1.0 + e)


def _gelu(z: Array) -> tuple[Array, Array]:
    size = np.abs(z)
    half = 0.5 * erf_of(size * 0.7071067811865476)
    distribution = 0.5 + np.where(z >= 0, half, -half)
    density = 0.3989422804014327 * exp_of_minus(0.5 * z * z)
    return z * distribution, distribution + z * density


def _sin(z: Array) -> tuple[Array, Array]:
    return sin_cos_of(z)


def _gelu_second(z: Array, value: Array, slope: Array) -> Array:
    square = z * z
    return 0.3989422804014327 * exp_of_minus(0.5 * square) * (2.0 - square)


# sup |tanh''| = 4/(3 sqrt 3), sup |sigmoid''| = 1/(6 sqrt 3), sup |gelu''| = 2/sqrt(2 pi), sup |gelu'| = 1.12890...
# tanh'' = -2 v s, and tanh^(3) = -2 s (1 - 3 v^2) is largest at 0. sigmoid'' = s (1 - 2v), sigmoid^(3) = s (1 - 6s).
# softplus'' = s (1 - s), softplus^(3) = sigmoid''. gelu'' = phi(z) (2 - z^2), gelu^(3) = phi(z) (z^3 - 4z) with
# phi |z|^3 <= 0.4626 (at sqrt 3) and 4 phi |z| <= 0.9679 (at 1). second_error: the product rule on the errors of
# value and slope; GELU's own, with z^2 wrong by u and z^4 phi(z) <= 1.
ACTIVATIONS: dict[str, Activation] = {
    "tanh": Activation(_tanh, lambda z, v, s: -2.0 * v * s, 1.0, 0.7698003589196, 2.0, 3e-14, 2e-13),
    "sigmoid": Activation(_sigmoid, lambda z, v, s: s * (1.0 - 2.0 * v), 0.25, 0.0962250448650, 0.125, 3e-14, 1e-13),
    "softplus": Activation(_softplus, lambda z, v, s: s * (1.0 - s), 1.0, 0.25, 0.0962250448650, 5e-14, 2e-13, 4e-16),
    "gelu": Activation(_gelu, _gelu_second, 1.1289041461, 0.7978845608030, 1.4306, 3e-13, 1e-12, 3e-13),
    "sin": Activation(_sin, lambda z, v, s: -v, 1.0, 1.0, 1.0, 2e-14, 3e-14),
    "identity": Activation(lambda z: (z, np.ones_like(z)), lambda z, v, s: np.zeros_like(z), 1.0, 0.0, 0.0, 0.0, 0.0),
}
