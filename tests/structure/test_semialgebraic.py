"""Semialgebraic sets, functions and critical values, exactly."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.structure.semialgebraic import (
    EliminationError,
    Function,
    Set,
    critical_values,
    parse,
    parse_polynomial,
    qepcad,
    real_roots,
    truth,
)

needs_qepcad = pytest.mark.skipif(qepcad.program() is None, reason="QEPCAD is an optional external program")


def _strings(pieces):
    return [str(piece) for piece in pieces]


# -- the line ----------------------------------------------------------------------------------------------


def test_a_set_of_the_line_is_finitely_many_pieces():
    assert _strings(Set("x**3 - x > 0 or x == 0").pieces()) == ["(-1, 0]", "(1, inf)"]
    assert _strings(Set("(x**2 - 1)*(x - 3) == 0").pieces()) == ["{-1}", "{1}", "{3}"]
    assert _strings(Set("x**2 >= 0", ["x"]).pieces()) == ["(-inf, inf)"]
    assert Set("x**2 < 0").pieces() == ()
    assert _strings(Set("(10*x - 1)**2 < 0.0001").pieces()) == ["(99/1000, 101/1000)"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 2))
def test_roots_are_found_exactly_with_multiplicity_once(roots, leading, repeated):
    expanded = [Fraction(leading)]
    for root in roots + roots[:repeated]:
        shifted = [Fraction(0), *expanded]
        expanded = [a - root * b for a, b in itertools.zip_longest(shifted, expanded, fillvalue=Fraction(0))]
    found = real_roots(expanded)
    assert [root.low for root in found] == sorted(set(map(Fraction, roots)))
    assert all(root.is_rational for root in found)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=6))
def test_signs_between_roots_agree_with_evaluation(coefficients):
    if not any(coefficients[1:]):
        return
    text = " + ".join(f"({value})*x**{k}" for k, value in enumerate(coefficients))
    positive = Set(f"{text} > 0", ["x"])
    ends = [
        (-math.inf if piece.low is None else float(piece.low), math.inf if piece.high is None else float(piece.high))
        for piece in positive.pieces()
    ]
    for numerator in range(-20, 21):
        x = Fraction(numerator, 7)
        value = sum(Fraction(c) * x**k for k, c in enumerate(coefficients))
        if abs(value) > Fraction(1, 10**6):
            assert any(low < x < high for low, high in ends) == (value > 0)
        assert positive.contains(x=x) == (value > 0)


def test_algebraic_numbers_compare_exactly():
    low, high = real_roots([Fraction(-2), Fraction(0), Fraction(1)])
    (cube,) = real_roots([Fraction(-2), Fraction(0), Fraction(0), Fraction(1)])
    same = real_roots([Fraction(4), Fraction(0), Fraction(-4), Fraction(0), Fraction(1)])[-1]
    assert low < cube < high
    assert high == same
    assert float(high) == pytest.approx(math.sqrt(2), abs=1e-15)
    assert high.sign_of([Fraction(-2), Fraction(0), Fraction(1)]) == 0


def test_the_closure_and_boundary_of_a_set_of_the_line():
    open_set = Set("x**2 < 2 and x != 0")
    assert _strings(open_set.closure().pieces()) == [
        "[-1.41421356237 (root of degree 2), 1.41421356237 (root of degree 2)]"
    ]
    assert _strings(Set("x**2 <= 1 and x != 0").boundary().pieces()) == ["{-1}", "{0}", "{1}"]
    assert _strings(Set("x**2 <= 1 or x == 3").interior().pieces()) == ["(-1, 1)"]


# -- critical values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x**4/4 + x**2/2", ["0"]),  # elimination over C also gives -1/4, from x = i
        ("x**3 - 3*x", ["-2", "2"]),
        ("x", []),
        ("7", ["7"]),
        ("(x**2 - 2)**2", ["0", "4"]),
    ],
)
def test_critical_values_in_one_variable(text, values):
    found = critical_values(text)
    assert [str(value) for value in found] == values
    assert all(value.certified for value in found)


@needs_qepcad
@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("(x*y - 1)**2", ["0", "1"]),  # a curve of minima
        ("(x*y - 1)**2 + x**2", ["1"]),  # infimum 0 is not attained
        ("(x**2 + y**2 - 1)**2 + z**2", ["0", "1"]),
        ("x**4 + y**4 - 4*x*y", ["-2", "0"]),
        ("x**4/4 + x**2/2 + y**2", ["0"]),
    ],
)
def test_critical_values_in_several_variables(text, values):
    found = critical_values(text)
    assert [str(value) for value in found] == values
    assert all(value.certified for value in found)


# -- the lecture's examples ----------------------------------------------------------------------------------


@needs_qepcad
def test_the_lectures_set_is_empty_as_written_and_not_with_a_bound():
    # for y -> -infinity no z > 0 is left
    written = Set("ForAll(y, Implies(y <= 1, Exists(z, z > 0 and x**2 + y**2 + z == 1)))")
    assert written.is_empty()
    bounded = Set("ForAll(y, Implies(4*y**2 <= 1, Exists(z, z > 0 and x**2 + y**2 + z == 1)))")
    assert bounded.equals(Set("4*x**2 < 3"))


@needs_qepcad
def test_projection_image_and_preimage():
    assert Set("x**2 + y**2 <= 1").project("y").equals(Set("x**2 <= 1"))
    assert Set("x*y == 1").project("y").equals(Set("x != 0"))
    parabola = Function.of({"x > 0": "x**2", "x <= 0": "-x"}, ["x"])
    assert parabola.image().equals(Set("value >= 0"))
    assert parabola.preimage("value == 4").equals(Set("x == 2 or x == -4"))
    assert not Function.of({"x > 0": "x + 1", "x <= 0": "x"}, ["x"]).is_continuous()


@needs_qepcad
def test_planar_closure_interior_and_boundary():
    half = Set("x**2 + y**2 < 1 and x > 0")
    assert half.closure().equals(Set("x**2 + y**2 <= 1 and x >= 0"))
    assert half.interior().equals(half)
    assert half.boundary().contains(x=0, y=0)
    assert not half.boundary().contains(x=Fraction(1, 2), y=0)


@needs_qepcad
def test_the_derivative_of_the_lecture_as_a_formula():
    # l = f'(x) at x = 1 for f = x^2: for all eps some delta with |f(y) - f(1) - l (y - 1)| <= eps |y - 1|
    body = "(y**2 - 1 - l*(y - 1))**2 <= e**2*(y - 1)**2"
    formula = f"ForAll(e, Implies(e > 0, Exists(d, d > 0 and ForAll(y, Implies((y - 1)**2 < d**2, {body})))))"
    assert Set(formula).equals(Set("l == 2"))


@needs_qepcad
def test_inclusion_and_products():
    disc = Set("x**2 + y**2 < 1")
    assert disc.is_subset(Set("x < 1", ["x", "y"]))
    assert not disc.is_subset(Set("x < 1/2", ["x", "y"]))
    assert (disc | ~disc).is_everything()
    assert (disc & ~disc).is_empty()
    assert (Set("x > 0") * Set("y > 0")).contains(x=1, y=1)


@needs_qepcad
@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_random_eliminations_agree_with_points(count):
    draw = random.Random(0)
    for _ in range(count):
        a, b, c, d = (draw.randint(-3, 3) for _ in range(4))
        relation, bound = draw.choice(["<", "<=", "=="]), draw.randint(-2, 2)
        text = f"y**2 + ({a})*x*y + ({b})*x**2 + ({c})*y + ({d}) {relation} 0 and y > {bound}"
        projected = Set(f"Exists(y, {text})", ["x"])
        for k in range(-4, 5):
            x = Fraction(2 * k, 3)
            line = text.replace("x", f"({x.numerator}/{x.denominator})")
            assert projected.contains(x=x) == bool(Set(line, ["y"]).pieces()), (text, x)


# -- errors --------------------------------------------------------------------------------------------------


def test_errors_say_what_was_required():
    with pytest.raises(ValueError, match="is no polynomial"):
        parse("sin(x) > 0")
    with pytest.raises(ValueError, match="is no condition"):
        parse("x + 1")
    with pytest.raises(ValueError, match="must be written as Python"):
        parse("x >")
    with pytest.raises(ValueError, match="variables must name every free variable"):
        Set("x > y", ["x"])
    with pytest.raises(ValueError, match="a point must give"):
        Set("x > 0").contains(y=1)
    with pytest.raises(ValueError, match="the zero polynomial"):
        real_roots([Fraction(0)])
    with pytest.raises(ValueError, match="no free variables"):
        truth(parse("x > 0"))
    with pytest.raises(ValueError, match="pieces are those of a set of the line"):
        Set("x > y").pieces()
    with pytest.raises(ValueError, match="different variables"):
        Set("x > 0").product(Set("x < 0"))
    with pytest.raises(ValueError, match="must lie in the domain"):
        Function.of({"x > 0": "x"}, ["x"])(x=-1)
    with pytest.raises(ValueError, match="a polynomial in x alone"):
        parse_polynomial("x*y").coefficients("x")


@needs_qepcad
def test_a_question_past_the_time_limit_says_so():
    hard = parse("Exists(a, Exists(b, Exists(c, a**4*x + b**3*y - c**2*a + z == 0 and a*b*c > x*y*z + b**5)))")
    with pytest.raises(EliminationError, match=r"ran past|no answer"):
        qepcad.eliminate(hard, seconds=0.5)


def test_without_the_program_the_error_names_it(monkeypatch):
    monkeypatch.setattr(qepcad, "program", lambda: None)
    with pytest.raises(EliminationError, match="passagemath-qepcad"):
        qepcad.eliminate(parse("Exists(y, x**2 + y**2 == 1)"))
