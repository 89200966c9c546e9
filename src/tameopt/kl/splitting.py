"""The splitting lemma: the nondegenerate directions of a critical point taken out, in exact arithmetic.

Let E span a complement of the Hessian's kernel, and v (one vector here, columns in general) the kernel. By the
implicit function theorem grad_z f(y v + E z) = 0 has one solution z(y), a power series, and f is, in other analytic
coordinates, a nondegenerate quadratic form plus g(y) = f(y v + E z(y)) (Gromoll and Meyer 1969). Exponents do not
depend on the coordinates, so theta = 1 - 1/ord(g), and 1/2 when g = 0. If 0 is an isolated critical point (of
complex variables), ord(g) - 1 is its multiplicity, at most (d - 1)^n by Bezout: a larger order means that g = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.extras import require
from tameopt.kl.polynomial import Polynomial

LARGEST_ORDER = 150  # our choice: series longer than that are left to the other methods

Rows = tuple[tuple[Fraction, ...], ...]


@dataclass(frozen=True)
class Split:
    """The splitting of f at the origin.

    basis: (n, n) columns v, E as rows of coordinates; series: z_j(y) = sum of series[j][i] y^(i+1). order: of g, None
    when g = 0.
    """

    basis: Rows
    series: Rows
    order: int | None


def hessian(f: Polynomial) -> list[list[Fraction]]:
    """The Hessian of f at the origin."""
    n = len(f.variables)
    H = [[Fraction(0)] * n for _ in range(n)]
    for e, c in f.terms.items():
        if sum(e) == 2:
            i, j = [k for k, power in enumerate(e) for _ in range(power)]
            H[i][j] += c
            H[j][i] += c
    return H


def split(f: Polynomial) -> Split | None:
    """The splitting of f, with f(0) = 0 and grad f(0) = 0, when its Hessian has corank 1 and the series are short."""
    flint = require("flint", "exact KL exponents")
    n = len(f.variables)
    H = hessian(f)
    matrix = flint.fmpq_mat(n, n, [flint.fmpq(c.numerator, c.denominator) for row in H for c in row])
    reduced, rank = matrix.rref()
    bound = (f.degree - 1) ** n + 1
    if rank != n - 1 or bound > LARGEST_ORDER:
        return None
    pivots = [next(j for j in range(n) if reduced[i, j] != 0) for i in range(rank)]
    (free,) = set(range(n)) - set(pivots)
    kernel = [Fraction(0)] * n
    kernel[free] = Fraction(1)
    for i, pivot in enumerate(pivots):
        kernel[pivot] = -Fraction(int(reduced[i, free].p), int(reduced[i, free].q))
    # f in the coordinates (y, z): x = y v + sum of z_j e_pivot(j)
    inner = flint.fmpq_mat(rank, rank, [matrix[i, j] for i in pivots for j in pivots]).inv()
    gradients = [f.derivative(j) for j in pivots]
    z = [flint.fmpq_poly([0]) for _ in pivots]
    length = bound // 2 + 1
    for size in range(2, length + 1):
        # one Newton step with the Hessian at 0 gains one order
        slopes = [_along(gradient, kernel, pivots, z, size, flint) for gradient in gradients]
        z = [z[a] - sum((inner[a, b] * slopes[b] for b in range(rank)), flint.fmpq_poly([0])) for a in range(rank)]
    value = _along(f, kernel, pivots, z, bound + 1, flint)
    order = next((i for i in range(bound + 1) if value[i] != 0), None)
    basis = (tuple(kernel), *(tuple(Fraction(int(k == pivot)) for k in range(n)) for pivot in pivots))
    return Split(basis, tuple(tuple(_fraction(p[i]) for i in range(1, length)) for p in z), order)


def _fraction(number: Any) -> Fraction:
    return Fraction(int(number.p), int(number.q))


def _along(f: Polynomial, kernel: list[Fraction], pivots: list[int], z: list[Any], size: int, flint: Any) -> Any:
    """f(y v + E z(y)) modulo y^size."""
    values = [flint.fmpq_poly([0, flint.fmpq(c.numerator, c.denominator)]) for c in kernel]
    for pivot, series in zip(pivots, z, strict=True):
        values[pivot] = values[pivot] + series
    modulus = flint.fmpq_poly([0] * size + [1])
    powers = []
    for j, series in enumerate(values):
        row = [flint.fmpq_poly([1])]
        for _ in range(max(e[j] for e in f.terms) if f.terms else 0):
            row.append(row[-1] * series % modulus)
        powers.append(row)
    total = flint.fmpq_poly([0])
    for e, c in f.terms.items():
        term = flint.fmpq_poly([flint.fmpq(c.numerator, c.denominator)])
        for j, power in enumerate(e):
            if power:
                term = term * powers[j][power] % modulus
        total = total + term
    return total


def residual(f: Polynomial) -> tuple[Polynomial, int] | None:
    """(g, D): what is left of f in the kernel's c coordinates, 2 <= c < n, all terms up to degree D.

    f is g plus a nondegenerate quadratic form in other coordinates, so that theta is the larger of 1/2 and g's. None
    for another corank.
    """
    flint = require("flint", "exact KL exponents")
    n = len(f.variables)
    matrix = flint.fmpq_mat(n, n, [flint.fmpq(c.numerator, c.denominator) for row in hessian(f) for c in row])
    reduced, rank = matrix.rref()
    if not 0 < rank < n - 1:
        return None
    pivots = [next(j for j in range(n) if reduced[i, j] != 0) for i in range(rank)]
    free = [j for j in range(n) if j not in pivots]
    degree = max(10, f.degree + 2)
    names = tuple(f.variables[j] for j in free)
    context = flint.fmpq_mpoly_ctx.get(names, flint.Ordering.lex)
    ys = context.gens()
    inner = flint.fmpq_mat(rank, rank, [matrix[i, j] for i in pivots for j in pivots]).inv()
    z = [context.from_dict({}) for _ in pivots]

    def truncated(poly: Any, most: int) -> Any:
        return context.from_dict({e: c for e, c in poly.to_dict().items() if sum(e) <= most})

    def along(source: Polynomial, most: int) -> Any:
        values: list[Any] = [None] * n
        for y, j in zip(ys, free, strict=True):
            values[j] = y
        for i, pivot in enumerate(pivots):
            shift = sum((y * -reduced[i, j] for y, j in zip(ys, free, strict=True)), context.from_dict({}))
            values[pivot] = z[i] + shift
        powers: list[list[Any]] = [[context.from_dict({(0,) * len(ys): 1})] for _ in values]
        total = context.from_dict({})
        for e, c in source.terms.items():
            term = context.from_dict({(0,) * len(ys): flint.fmpq(c.numerator, c.denominator)})
            for j, power in enumerate(e):
                while len(powers[j]) <= power:
                    powers[j].append(truncated(powers[j][-1] * values[j], most))
                if power:
                    term = truncated(term * powers[j][power], most)
            total = total + term
        return total

    gradients = [f.derivative(j) for j in pivots]
    for most in range(2, degree // 2 + 1):
        slopes = [along(gradient, most) for gradient in gradients]
        z = [z[a] - sum((inner[a, b] * slopes[b] for b in range(rank)), context.from_dict({})) for a in range(rank)]
    g = along(f, degree)
    return Polynomial(names, {tuple(int(i) for i in e): _fraction(c) for e, c in g.to_dict().items()}), degree
