"""Every example of the lecture's pages on semialgebraic sets and functions, exactly."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest

from tameopt.structure.semialgebraic import Function, Set, breaks, critical_values, line_pieces, qepcad

needs_qepcad = pytest.mark.skipif(qepcad.program() is None, reason="QEPCAD is an optional external program")
_PLACES = [Fraction(k, 3) for k in range(-7, 8)]


def _strings(pieces):
    return [str(piece) for piece in pieces]


def test_a_basic_set_and_a_finite_union_of_intervals():
    # {x : P(x) = 0, Q_1(x) > 0, ..., Q_l(x) > 0}, and unions of such
    basic = Set("x*y - 1 == 0 and x > 0 and y < 2")
    assert basic.contains(x=1, y=1)
    assert not basic.contains(x=-1, y=-1)
    assert _strings(Set("x**2 - 1 > 0 and x < 3 or x == 0").pieces()) == ["(-inf, -1)", "{0}", "(1, 3)"]


def test_union_intersection_complement_and_product_are_those_of_the_points():
    a, b = Set("x**2 + y**2 <= 1"), Set("x > y")
    both, either, neither, line = a & b, a | b, ~(a | b), Set("z > 0")
    for x, y in itertools.product(_PLACES, _PLACES):
        in_a, in_b = x * x + y * y <= 1, x > y
        assert both.contains(x=x, y=y) == (in_a and in_b)
        assert either.contains(x=x, y=y) == (in_a or in_b)
        assert neither.contains(x=x, y=y) == (not in_a and not in_b)
    product = a * line
    assert product.variables == ("x", "y", "z")
    assert product.contains(x=0, y=1, z=2)
    assert not product.contains(x=0, y=1, z=0)


def test_piecewise_polynomials_and_rational_functions_and_powers_have_semialgebraic_graphs():
    pieces = Function.of({"x > 0": "x**2", "x <= 0": "-x"}, ["x"])
    assert [pieces(x=x) for x in (2, 0, -3)] == [4, 0, 3]
    # 1 / P(x) for P = x^2 + 1, and P(x)^(2/3) for P = x: graphs as polynomial conditions
    reciprocal = Set("z*(x**2 + 1) == 1")
    power = Set("z**3 == x**2")
    for x in _PLACES:
        assert reciprocal.contains(x=x, z=1 / (x * x + 1))
    assert power.contains(x=8, z=4)
    assert not power.contains(x=8, z=-4)


def test_the_l1_norm_the_l0_pseudo_norm_and_the_rank_are_semialgebraic():
    l1 = Function.of({
        "x >= 0 and y >= 0": "x + y", "x >= 0 and y < 0": "x - y", "x < 0 and y >= 0": "y - x",
        "x < 0 and y < 0": "-x - y",
    }, ["x", "y"])  # fmt: skip
    l0 = Function.of({
        "x == 0 and y == 0": "0", "(x == 0 and y != 0) or (x != 0 and y == 0)": "1", "x != 0 and y != 0": "2",
    }, ["x", "y"])  # fmt: skip
    for x, y in itertools.product(_PLACES, _PLACES):
        assert l1(x=x, y=y) == abs(x) + abs(y)
        assert l0(x=x, y=y) == (x != 0) + (y != 0)
    names = ["a", "b", "c", "d"]
    zero = "a == 0 and b == 0 and c == 0 and d == 0"
    rank = Function.of({
        zero: "0", f"a*d - b*c == 0 and not ({zero})": "1", "a*d - b*c != 0": "2",
    }, names)  # fmt: skip
    for entries in itertools.product((-1, 0, 2), repeat=4):
        a, b, c, d = entries
        expected = 2 if a * d != b * c else int(any(entries))
        assert rank(dict(zip(names, entries, strict=True))) == expected


@needs_qepcad
def test_tarski_seidenberg_eliminates_both_quantifiers():
    a = Set("x**2 + y**2 <= 1 and y > x")
    some = a.project("y")
    # pi(A)^c is what the universal quantifier describes
    none = Set("ForAll(y, not (x**2 + y**2 <= 1 and y > x))")
    assert (~some).equals(none)
    assert some.contains(x=Fraction(7, 10))
    assert not some.contains(x=Fraction(71, 100))
    # recursively: both variables
    assert Set("Exists(x, Exists(y, x**2 + y**2 == -1))", []).is_empty()


@needs_qepcad
def test_the_first_order_formula_of_the_lecture_is_empty_as_written():
    written = Set("ForAll(y, Implies(y <= 1, Exists(z, z > 0 and x**2 + y**2 + z == 1)))")
    # y = -10 leaves no z > 0, whatever x is
    assert written.is_empty()
    assert not Set("Exists(z, z > 0 and x**2 + 100 + z == 1)", ["x"]).pieces()


@needs_qepcad
def test_image_interior_and_derivative_by_their_formulas():
    square = Function.of("x**2 - 2*x", ["x"])
    assert square.image().equals(Set("value >= -1"))
    disc = Set("x**2 + y**2 <= 1")
    assert disc.interior().equals(Set("x**2 + y**2 < 1"))
    # int S = {x : some eps > 0 with y in S for all y in the ball}, written out on the line
    interval = "y >= 0 and y < 2"
    ball = f"Exists(e, e > 0 and ForAll(y, Implies((y - x)**2 < e**2, {interval})))"
    assert Set(ball).equals(Set("x > 0 and x < 2"))
    # f'(1) for f = x^3 - x is 2; |x| has no derivative at 0
    cube = "(y**3 - y - l*(y - 1))**2 <= e**2*(y - 1)**2"
    derivative = f"ForAll(e, Implies(e > 0, Exists(d, d > 0 and ForAll(y, Implies((y - 1)**2 < d**2, {cube})))))"
    assert Set(derivative).equals(Set("l == 2"))
    kink = "(1 - l)**2 <= e**2 and (-1 - l)**2 <= e**2"
    assert Set(f"ForAll(e, Implies(e > 0, {kink}))").is_empty()


def test_univariate_functions_are_not_pathological():
    # left and right limits; continuous and C^k but for finitely many points; monotone pieces
    f = Function.of({"x < 0": "x**2", "0 <= x <= 2": "x**3 - 3*x", "x > 2": "x - 1"}, ["x"])
    assert [(str(b.at), b.order) for b in breaks(f)] == [("0", 0), ("2", -1)]
    (_, jump) = breaks(f)
    assert (jump.left.at({"x": 2}), jump.right.at({"x": 2})) == (2, 1)
    slopes = [piece.slope for piece in line_pieces(f) if not piece.piece.is_point]
    # cut at the critical points of every piece, so neighbours may have one slope
    merged = [slope for slope, _ in itertools.groupby(slopes)]
    assert merged == [-1, 1]
    smooth = Function.of({"x <= 0": "0", "x > 0": "x**3"}, ["x"])
    assert [(str(b.at), b.order) for b in breaks(smooth)] == [("0", 2)]
    # at an irrational point, and at the end of the domain
    assert [b.order for b in breaks(Function.of({"x**2 > 2": "x**2 - 2", "x**2 <= 2": "0"}, ["x"]))] == [0, 0]
    assert [str(b.at) for b in breaks(Function.of({"x >= 0": "x"}, ["x"]))] == ["0"]
    assert breaks(Function.of("x**2", ["x"])) == ()
    with pytest.raises(ValueError, match="a function of one variable is required"):
        line_pieces(Function.of("x*y", ["x", "y"]))


def test_morse_sard_in_one_dimension():
    # f' = 0 on finitely many intervals, on each of which f is constant: finitely many values
    f = Function.of({"x < -1": "(x + 1)**2 + 3", "-1 <= x <= 1": "3", "x > 1": "(x - 1)**3 + 3"}, ["x"])
    assert breaks(f)
    flat = [piece for piece in line_pieces(f) if not piece.piece.is_point and piece.slope == 0]
    assert {str(piece.polynomial) for piece in flat} == {"3"}
    assert [str(value) for value in critical_values("x**3 - 3*x")] == ["-2", "2"]


def test_a_set_of_the_plane_has_a_picture():
    picture = Set("x**2 + y**2 <= 1 and y >= 0").picture(radius=1, points=5)
    assert picture.image is not None
    assert picture.image.z[4] == (0.0, 0.0, 1.0, 0.0, 0.0)
    assert picture.image.z[0] == (0.0,) * 5
    curve = Set("x**2 + y**2 == 1").picture(points=21)
    assert len(curve.series) == 1
    assert all(abs(x * x + y * y - 1) < 0.25 for x, y in zip(curve.series[0].x, curve.series[0].y, strict=True))
    with pytest.raises(ValueError, match="a picture needs a set in two variables"):
        Set("x > 0").picture()
