"""Real half-branches of a plane curve at the origin, by Newton's polygon in exact arithmetic.

A half-branch with x > 0 is y = c_1 x^(a_1) + c_2 x^(a_2) + ...; its coefficients are real algebraic numbers. They
live in one number field K = Q[T]/(m) with m irreducible, an element being a rational polynomial in T; a branch is
followed until it is *regular* (a simple root: by the implicit function theorem it then exists, is real and unique)
and the orders of the functions carried along it are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.extras import require

Terms2 = dict[tuple[int, int], Any]
_MOST_STEPS = 60


class UndecidedBranchError(ArithmeticError):
    """A branch needs a tower of extensions that this implementation does not build."""


class Field:
    """Q[T]/(m), m irreducible over Q with a real root; elements are fmpq_poly reduced mod m."""

    def __init__(self, modulus: Any = None) -> None:
        self.flint = require("flint", "exact KL exponents")
        self.modulus = modulus if modulus is not None else self.flint.fmpq_poly([0, 1])

    def reduce(self, element: Any) -> Any:
        """The representative of degree below that of m."""
        return element % self.modulus

    def constant(self, number: Fraction | int) -> Any:
        """A rational number as an element."""
        number = Fraction(number)
        return self.flint.fmpq_poly([self.flint.fmpq(number.numerator, number.denominator)])

    def inverse(self, element: Any) -> Any:
        """1/element, element != 0."""
        common, inverse, _ = element.xgcd(self.modulus)
        return self.reduce(inverse / common[0])

    @property
    def rational(self) -> bool:
        """Whether K = Q."""
        return int(self.modulus.degree()) == 1

    def words(self, element: Any) -> str:
        """An element for people: a rational, or a polynomial in T with T's minimal polynomial."""
        if element.degree() <= 0:
            return str(element[0])
        return f"{str(element).replace('x', 'T')} with {str(self.modulus).replace('x', 'T')} = 0"


@dataclass(frozen=True)
class HalfBranch:
    """A real half-branch and the orders, in t, of the functions carried along it.

    side: "x > 0", "x < 0" or "x = 0". ramification: x = +-t^ramification. terms: ((exponent of t, coefficient in
    words), ...) of y. orders: of each carried function in t; the terms alone have the same. elements: ((exponent of
    t, coefficient in Q[T]/(modulus)), ...) of y.
    """

    side: str
    ramification: int
    terms: tuple[tuple[int, str], ...]
    orders: tuple[int, ...]
    elements: tuple[tuple[int, Any], ...] = ()
    modulus: Any = None

    def __str__(self) -> str:
        if self.side == "x = 0":
            return "x = 0"
        sign = "" if self.side == "x > 0" else "-"
        series = " + ".join(f"({c}) t^{e}" for e, c in self.terms) or "0"
        return f"x = {sign}t^{self.ramification}, y = {series} + ..."


def _order(f: Terms2) -> int | None:
    """The order along y -> 0 when the leading power of t has a constant term in y; None while undecided."""
    least = min(i for i, _ in f)
    return least if (least, 0) in f else None


def _divide_t(P: Terms2) -> Terms2:
    least = min(i for i, _ in P)
    return {(i - least, j): c for (i, j), c in P.items()} if least else P


def _edges(P: Terms2) -> list[tuple[int, int, list[tuple[int, Any]]]]:
    """The Newton polygon's edges as (p, q, [(j, coefficient)]): branches y ~ c t^(p/q), p, q > 0 coprime."""
    lowest: dict[int, int] = {}
    for i, j in P:
        lowest[j] = min(i, lowest.get(j, i))
    edges = []
    j = min(lowest)
    stop = min((k for k, i in lowest.items() if i == 0), default=None)
    if stop is None:
        return []
    while j < stop:
        # from (lowest[j], j) to the steepest next vertex: the largest p/q = drop in i over rise in j
        slope, following = max((Fraction(lowest[j] - lowest[k], k - j), k) for k in lowest if k > j)
        if slope <= 0:
            break
        p, q = slope.numerator, slope.denominator
        level = lowest[j] * q + p * j
        points = [(k, P[(i, k)]) for i, k in P if i * q + p * k == level and j <= k <= following]
        edges.append((p, q, points))
        j = following
    return edges


def _substitute(P: Terms2, p: int, q: int, c: Any, field: Field) -> Terms2:
    """P(t^q, t^p (c + y))."""
    most = max(j for _, j in P)
    powers = [field.constant(1)]
    for _ in range(most):
        powers.append(field.reduce(powers[-1] * c))
    rows = [[1]]
    for _ in range(most):
        rows.append([1, *(a + b for a, b in zip(rows[-1], rows[-1][1:], strict=False)), 1])
    result: Terms2 = {}
    for (i, j), a in P.items():
        for k in range(j + 1):
            key = (i * q + p * j, k)
            term = field.reduce(a * powers[j - k]) * rows[j][k]
            result[key] = result[key] + term if key in result else term
    return {key: value for key, value in result.items() if value != 0}


def _trim(a: list[Any]) -> list[Any]:
    while a and a[-1] == 0:
        a = a[:-1]
    return a


def _derivative(a: list[Any]) -> list[Any]:
    return _trim([c * k for k, c in enumerate(a)][1:])


def _divide(a: list[Any], b: list[Any], field: Field) -> tuple[list[Any], list[Any]]:
    """Quotient and remainder of polynomials [a_0, a_1, ...] over K."""
    inverse, rest = field.inverse(b[-1]), list(a)
    quotient = [field.constant(0)] * max(0, len(a) - len(b) + 1)
    for k in range(len(a) - len(b), -1, -1):
        factor = field.reduce(rest[k + len(b) - 1] * inverse)
        quotient[k] = factor
        for m, coefficient in enumerate(b):
            rest[k + m] = field.reduce(rest[k + m] - factor * coefficient)
    return _trim(quotient), _trim(rest[: len(b) - 1])


def _monic(a: list[Any], field: Field) -> list[Any]:
    inverse = field.inverse(a[-1])
    return [field.reduce(c * inverse) for c in a]


def _common(a: list[Any], b: list[Any], field: Field) -> list[Any]:
    """The monic greatest common divisor."""
    while b:
        a, b = b, _divide(a, b, field)[1]
    return _monic(a, field)


def _subtract(a: list[Any], b: list[Any], field: Field) -> list[Any]:
    zero, size = field.constant(0), max(len(a), len(b))
    a, b = a + [zero] * (size - len(a)), b + [zero] * (size - len(b))
    return _trim([field.reduce(x - y) for x, y in zip(a, b, strict=True)])


def _square_free(poly: list[Any], field: Field) -> list[list[Any]]:
    """The factors of Yun's square-free factorisation over K of a polynomial [a_0, a_1, ...]."""
    poly = _trim(poly)
    g = _common(poly, _derivative(poly), field)
    b, d = _divide(poly, g, field)[0], _divide(_derivative(poly), g, field)[0]
    parts = []
    while len(b) > 1:
        d = _subtract(d, _derivative(b), field)
        a = _common(b, d, field) if d else _monic(b, field)
        if len(a) > 1:
            parts.append(a)
        b = _divide(b, a, field)[0]
        d = _divide(d, a, field)[0] if d else []
    return parts


@dataclass(frozen=True)
class _Root:
    """A root c in a field L that contains K; image: the T of K as an element of L (None when L = K)."""

    c: Any
    field: Field
    image: Any = None

    def move(self, terms: Terms2) -> Terms2:
        """Coefficients in K as elements of L."""
        return {key: self.moved(c) for key, c in terms.items()}

    def moved(self, element: Any) -> Any:
        """An element of K as one of L."""
        return self.field.reduce(element(self.image)) if self.image is not None and element.degree() > 0 else element


def _real_roots(part: list[Any], field: Field) -> list[_Root]:
    """Roots c != 0 of a square-free polynomial over K that are real at some real place.

    Orders are computed formally in the field, so they are the same at each of its real places: one stands for all.
    """
    if len(part) == 2:
        c = field.reduce(-part[0] * field.inverse(part[1]))
        return [_Root(c, field)] if c != 0 else []
    if not field.rational:
        return _roots_over(part, field)
    found = []
    for factor in _irreducible(field.flint.fmpq_poly([coefficient[0] for coefficient in part])):
        if factor.degree() == 1:
            root = field.flint.fmpq(-factor[0], factor[1])
            if root != 0:
                found.append(_Root(field.flint.fmpq_poly([root]), field))
        elif _has_real_root(factor):
            found.append(_Root(field.flint.fmpq_poly([0, 1]), Field(field.flint.fmpq_poly(factor))))
    return found


def _irreducible(poly: Any) -> list[Any]:
    """The irreducible factors over the integers of a rational polynomial."""
    return [factor for factor, _ in poly.numer().factor()[1]]


def _has_real_root(factor: Any) -> bool:
    # flint isolates all roots, and gives the real ones an imaginary part that is exactly 0
    return factor.degree() == 1 or any(root.imag == 0 for root, _ in factor.complex_roots())


def root_between(modulus: Any) -> list[Fraction]:
    """Rationals between which an irreducible polynomial changes its sign; [] for an odd degree."""
    if int(modulus.degree()) % 2:
        return []
    coefficients = [Fraction(int(c.p), int(c.q)) for c in modulus.coeffs()]

    def sign(at: Fraction) -> int:
        value = sum((c * at**k for k, c in enumerate(coefficients)), Fraction(0))
        return (value > 0) - (value < 0)

    for root, _ in modulus.complex_roots():
        if root.imag == 0:
            middle = Fraction(float(root.real))
            for digits in range(40, -10, -5):
                width = Fraction(2) ** -digits * (1 + abs(middle))
                if sign(middle - width) * sign(middle + width) < 0:
                    return [middle - width, middle + width]
    return [Fraction(0), Fraction(0)]


def _roots_over(part: list[Any], field: Field) -> list[_Root]:
    """Roots in extensions of K = Q[T]/(m), by Trager's norm (1976).

    For all but finitely many k the norm N(S) = Res_T(m(T), part(S - k T)) is square-free; its irreducible factors n
    give the fields L = Q[S]/(n), in which T is the common root of m(X) and part_X(S - k X), and c = S - k T.
    """
    flint = field.flint
    context = flint.fmpq_mpoly_ctx.get(("T", "S"), flint.Ordering.lex)
    T, S = context.gens()

    def bivariate(element: Any) -> Any:
        return context.from_dict({(i, 0): element[i] for i in range(int(element.degree()) + 1) if element[i] != 0})

    modulus = bivariate(field.modulus)
    for k in range(20):
        shifted, power = context.from_dict({}), context.from_dict({(0, 0): 1})
        for coefficient in part:
            shifted = shifted + bivariate(coefficient) * power
            power = power * (S - k * T)
        norm = modulus.resultant(shifted, "T")
        poly = flint.fmpq_poly(_coefficients(norm))
        if poly.gcd(poly.derivative()).degree() == 0:
            break
    else:
        raise UndecidedBranchError("no square-free norm among twenty")
    found = []
    for factor in _irreducible(poly):
        if not _has_real_root(factor):
            continue
        bigger = Field(flint.fmpq_poly(factor))
        generator = bigger.reduce(flint.fmpq_poly([0, 1]))
        in_X: dict[int, Any] = {}
        for (i, j), c in shifted.to_dict().items():
            term = bigger.reduce(generator ** int(j)) * c
            in_X[int(i)] = in_X.get(int(i), bigger.constant(0)) + term
        other = [bigger.reduce(in_X.get(i, bigger.constant(0))) for i in range(max(in_X) + 1)]
        m = [flint.fmpq_poly([c]) for c in field.modulus.coeffs()]
        linear = _common(m, _trim(other), bigger)
        if len(linear) != 2:
            raise UndecidedBranchError("the common root of the extension is not unique")
        image = bigger.reduce(-linear[0])
        c = bigger.reduce(generator - k * image)
        if c != 0:
            found.append(_Root(c, bigger, image))
    return found


def _coefficients(poly: Any) -> list[Any]:
    """[a_0, a_1, ...] of a polynomial in S alone."""
    terms = {int(e[1]): c for e, c in poly.to_dict().items()}
    return [terms.get(k, 0) for k in range(max(terms, default=0) + 1)]


def half_branches(P: Terms2, carried: tuple[Terms2, ...]) -> list[HalfBranch]:
    """All real half-branches of P = 0 at the origin, with the orders of the carried functions along them.

    P, carried: rational polynomials {(i, j): Fraction} in (x, y). P must be square-free and share no factor with a
    carried function (then orders are finite).

    Raises UndecidedBranchError when a branch cannot be decided in the fields this builds.
    """
    field = Field()
    found: list[HalfBranch] = []
    axis = min(i for i, _ in P)
    if axis:
        orders = tuple(min(j for i, j in f if i == 0) for f in carried)
        found.append(HalfBranch("x = 0", 0, (), orders))
    for side, sign in (("x > 0", 1), ("x < 0", -1)):
        signed = [{(i, j): field.constant(c * sign**i) for (i, j), c in f.items()} for f in (_divide_t(P), *carried)]
        found += _follow(side, signed[0], tuple(signed[1:]), field, 1, (), 0)
    return found


def _follow(
    side: str,
    P: Terms2,
    carried: tuple[Terms2, ...],
    field: Field,
    ramification: int,
    terms: tuple[tuple[int, str], ...],
    depth: int,
    elements: tuple[tuple[int, Any], ...] = (),
) -> list[HalfBranch]:
    """The half-branches of P(t, y) = 0 with t > 0, y -> 0; `carried` are the functions in the same coordinates."""
    if depth > _MOST_STEPS:
        raise UndecidedBranchError(f"orders not decided after {_MOST_STEPS} terms of a branch")
    orders = tuple(_order(f) for f in carried)
    multiplicity = min((j for i, j in P if i == 0), default=0)
    if multiplicity == 0:
        return []
    found: list[HalfBranch] = []
    if multiplicity == 1 and all(order is not None for order in orders):
        return [HalfBranch(side, ramification, terms, orders, elements, field.modulus)]  # type: ignore[arg-type]
    if not any(j == 0 for _, j in P):
        # y = 0 is a branch by itself
        exact = tuple(min(i for i, j in f if j == 0) for f in carried)
        found.append(HalfBranch(side, ramification, terms, exact, elements, field.modulus))
        P = {(i, j - 1): c for (i, j), c in P.items()}
        if min((j for i, j in P if i == 0), default=0) == 0:
            return found
    last = terms[-1][0] if terms else 0
    for p, q, points in _edges(P):
        bottom = min(j for j, _ in points)
        coefficients = [field.constant(0)] * (max(j for j, _ in points) - bottom + 1)
        for j, c in points:
            coefficients[j - bottom] = c
        for part in _square_free(coefficients, field):
            for root in _real_roots(part, field):
                new = _divide_t(_substitute(root.move(P), p, q, root.c, root.field))
                moved = tuple(_substitute(root.move(f), p, q, root.c, root.field) for f in carried)
                scaled = tuple((e * q, words) for e, words in terms)
                extended = (*scaled, (last * q + p, root.field.words(root.c)))
                kept = (*((e * q, root.moved(c)) for e, c in elements), (last * q + p, root.c))
                found += _follow(side, new, moved, root.field, ramification * q, extended, depth + 1, kept)
    return found


def ratio_of(branch: HalfBranch) -> Fraction:
    """ord(norm(grad f)) / ord(f) when the carried functions were f and norm(grad f)^2."""
    order, squared = branch.orders
    return Fraction(squared, 2 * order)
