"""The checker of KL exponents of piecewise polynomials, in rational arithmetic (checker code).

A function is a tree: ["var", name], ["num", "p/q"], ["+", a, b], ["-", a, b], ["*", a, b], ["^", a, k], ["abs", a],
["max", a, b, ...], ["min", a, b, ...]. The exponent is that of
dist(0, Clarke subdifferential) >= c abs(f - f*)^theta.

**separate**: f is a sum of functions of one variable each. On either side of the point each is a polynomial,
f_i - f_i* = a t^l + ..., whose derivative is of order l - 1: theta_i = max(1 - 1/l) over the two sides (a constant
side asks nothing). The Clarke subdifferential of a separate sum is the product, so theta = max theta_i where 0 is in
every one, and 0 otherwise (a closed subdifferential that misses 0 at the point stays away from it nearby).

**lasso**: f = q + sum lambda_j abs(a_j x_i(j) - c_j), q a convex quadratic, lambda_j >= 0. A convex piecewise
quadratic function has exponent 1/2 (Li and Pong 2018, corollary 5.1; from Luo and Tseng's error bound), and for
convex functions theta is equivalent to f - f* >= c dist(x, argmin)^(1/(1-theta)) (Bolte, Nguyen, Peypouquet and
Suter 2017, theorem 5). So theta = 1/2 where f grows quadratically along some direction from a minimiser, and 0 where
its directional derivatives at the minimiser are all positive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

Germ = list[Fraction]  # coefficients of t^0, t^1, ... for small t > 0
Terms = dict[tuple[int, ...], Fraction]
_MOST = 400  # terms of a germ, or nodes of a tree


def check(data: Mapping[str, Any]) -> bool:
    """Whether the function in the certificate has the exponent it claims at its point.

    data: {"rule": "separate" or "lasso", "tree", "point": {variable: "p/q"}, "theta": "p/q"}.
    Raises ValueError for what is no such certificate.
    """
    rules: dict[str, Callable[[Any, Mapping[str, Fraction]], Fraction | None]] = {
        "separate": separate, "lasso": lasso,
    }  # fmt: skip
    try:
        rule, tree = rules[str(data["rule"])], data["tree"]
        point = {str(name): Fraction(value) for name, value in data["point"].items()}
        theta = Fraction(data["theta"])
        if variables(tree) - set(point):
            raise ValueError("every variable must have a coordinate")
        return rule(tree, point) == theta
    except (KeyError, TypeError, IndexError, ZeroDivisionError, AttributeError, RecursionError) as error:
        raise ValueError(f"a certificate of an exponent must hold a rule, a tree and a point: {error!r}.") from error


def variables(tree: Any) -> set[str]:
    """The names in a tree."""
    if tree[0] == "var":
        return {str(tree[1])}
    if tree[0] == "num":
        return set()
    inner = tree[1:2] if tree[0] == "^" else tree[1:]
    return set().union(*(variables(part) for part in inner))


def summands(tree: Any, sign: int = 1) -> list[tuple[int, Any]]:
    """The signed summands of a tree."""
    if tree[0] == "+":
        return summands(tree[1], sign) + summands(tree[2], sign)
    if tree[0] == "-":
        return summands(tree[1], sign) + summands(tree[2], -sign)
    return [(sign, tree)]


def germ(tree: Any, point: Mapping[str, Fraction], side: int) -> Germ:
    """The function of one variable along x = point + side t, for all small t > 0."""
    kind = tree[0]
    if kind == "var":
        return [point[tree[1]], Fraction(side)]
    if kind == "num":
        return [Fraction(tree[1])]
    if kind == "^":
        result, base = [Fraction(1)], germ(tree[1], point, side)
        if not (isinstance(tree[2], int) and 0 <= tree[2] <= _MOST):
            raise TypeError(f"powers are whole numbers up to {_MOST}")
        for _ in range(tree[2]):
            result = _times(result, base)
        return result
    parts = [germ(part, point, side) for part in tree[1:]]
    if kind == "+":
        return _plus(parts[0], parts[1], 1)
    if kind == "-":
        return _plus(parts[0], parts[1], -1)
    if kind == "*":
        return _times(parts[0], parts[1])
    if kind == "abs":
        return [sign(parts[0]) * c for c in parts[0]]
    if kind in ("max", "min"):
        better, best = (1 if kind == "max" else -1), parts[0]
        for part in parts[1:]:
            if better * sign(_plus(part, best, -1)) > 0:
                best = part
        return best
    raise TypeError(f"no such operation: {kind!r}")


def _plus(a: Germ, b: Germ, factor: int) -> Germ:
    size = max(len(a), len(b))
    wide = [c + [Fraction(0)] * (size - len(c)) for c in (a, b)]
    return [left + factor * right for left, right in zip(*wide, strict=True)]


def _times(a: Germ, b: Germ) -> Germ:
    result = [Fraction(0)] * (len(a) + len(b) - 1)
    if len(result) > _MOST:
        raise TypeError(f"degrees are at most {_MOST}")
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            result[i + j] += left * right
    return result


def sign(a: Germ) -> int:
    """Of the germ, for small t > 0."""
    first = next((c for c in a if c), Fraction(0))
    return (first > 0) - (first < 0)


def separate(tree: Any, point: Mapping[str, Fraction]) -> Fraction | None:
    """The exponent of a sum of functions of one variable each; None when it is no such sum, or constant."""
    groups: dict[str, list[tuple[int, Any]]] = {}
    for s, part in summands(tree):
        names = variables(part)
        if len(names) > 1:
            return None
        for name in names:
            groups.setdefault(name, []).append((s, part))
    theta, moves, critical = Fraction(0), False, True
    for parts in groups.values():
        slopes = []
        for side in (-1, 1):
            total: Germ = [Fraction(0)]
            for s, part in parts:
                total = _plus(total, germ(part, point, side), s)
            slopes.append(side * total[1] if len(total) > 1 else Fraction(0))
            order = next((k for k, c in enumerate(total) if k and c), 0)
            if order:
                moves, theta = True, max(theta, 1 - Fraction(1, order))
        # Clarke's subdifferential of a function of one variable lies between the one-sided slopes
        critical &= min(slopes) <= 0 <= max(slopes)
    if not moves:
        return None
    return theta if critical else Fraction(0)


def _polynomial(tree: Any, names: Sequence[str]) -> Terms | None:
    """Terms of a tree without kinks, of degree at most 2; None for others."""
    zero = (0,) * len(names)
    if tree[0] == "var":
        return {tuple(int(name == tree[1]) for name in names): Fraction(1)}
    if tree[0] == "num":
        return {zero: Fraction(tree[1])}
    if tree[0] == "^":
        base = _polynomial(tree[1], names)
        if base is None or not isinstance(tree[2], int) or not 0 <= tree[2] <= _MOST:
            return None
        result: Terms | None = {zero: Fraction(1)}
        for _ in range(tree[2]):
            result = None if result is None else _product(result, base)
        return result
    if tree[0] not in ("+", "-", "*"):
        return None
    a, b = (_polynomial(part, names) for part in tree[1:])
    if a is None or b is None:
        return None
    if tree[0] == "*":
        return _product(a, b)
    factor = 1 if tree[0] == "+" else -1
    return {e: c for e in a.keys() | b.keys() if (c := a.get(e, Fraction(0)) + factor * b.get(e, Fraction(0)))}


def _product(a: Terms, b: Terms) -> Terms | None:
    result: Terms = {}
    for e, c in a.items():
        for f, d in b.items():
            key = tuple(i + j for i, j in zip(e, f, strict=True))
            result[key] = result.get(key, Fraction(0)) + c * d
    result = {e: c for e, c in result.items() if c}
    return None if any(sum(e) > 2 for e in result) else result


def lasso(tree: Any, point: Mapping[str, Fraction]) -> Fraction | None:
    """The exponent of a convex quadratic plus weighted absolute values of coordinates; None where no rule applies."""
    names = sorted(point)
    x = [point[name] for name in names]
    q: Terms = {}
    kinks: dict[int, Fraction] = {}  # the weight at coordinates where an absolute value vanishes
    slopes = [Fraction(0)] * len(names)
    for s, part in summands(tree):
        smooth = _polynomial(part, names)
        if smooth is not None:
            for e, c in smooth.items():
                q[e] = q.get(e, Fraction(0)) + s * c
            continue
        factor, inner = _weighted(part)
        weight = s * factor
        line = _polynomial(inner[1], names) if inner[0] == "abs" else None
        if line is None or weight < 0 or sum(1 for e in line if any(e)) != 1 or any(sum(e) > 1 for e in line):
            return None
        ((e, a),) = ((e, a) for e, a in line.items() if any(e))
        i = e.index(1)
        value = a * x[i] + line.get((0,) * len(names), Fraction(0))
        if value == 0:
            kinks[i] = kinks.get(i, Fraction(0)) + weight * abs(a)
        else:
            slopes[i] += weight * a * (1 if value > 0 else -1)
    H = [[Fraction(0)] * len(names) for _ in names]
    for e, c in q.items():
        places = [i for i, power in enumerate(e) for _ in range(power)]
        if len(places) == 1:
            slopes[places[0]] += c
        elif len(places) == 2:
            i, j = places
            H[i][j] += c
            H[j][i] += c
    slopes = [g + sum(h * y for h, y in zip(row, x, strict=True)) for g, row in zip(slopes, H, strict=True)]
    if not _positive_semidefinite(H):
        return None
    if any(abs(g) > kinks.get(i, Fraction(0)) for i, g in enumerate(slopes)):
        return Fraction(0)  # no minimiser of a convex function: 0 is not in its subdifferential
    flat = [i for i, g in enumerate(slopes) if abs(g) == kinks.get(i, Fraction(0))]
    if any(H[i][i] > 0 for i in flat):
        return Fraction(1, 2)
    return None if flat else Fraction(0)


def _weighted(tree: Any) -> tuple[Fraction, Any]:
    """(a, f) of a tree a * f or f * a."""
    if tree[0] == "*":
        for factor, rest in ((tree[1], tree[2]), (tree[2], tree[1])):
            if factor[0] == "num":
                return Fraction(factor[1]), rest
    return Fraction(1), tree


def _positive_semidefinite(matrix: list[list[Fraction]]) -> bool:
    A = [list(row) for row in matrix]
    for k in range(len(A)):
        if A[k][k] < 0 or (A[k][k] == 0 and any(A[k][j] for j in range(k, len(A)))):
            return False
        if A[k][k] == 0:
            continue
        for i in range(k + 1, len(A)):
            factor = A[i][k] / A[k][k]
            A[i] = [a - factor * b for a, b in zip(A[i], A[k], strict=True)]
    return True
