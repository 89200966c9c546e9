"""Exponents of piecewise polynomials: known ones, slopes by another channel, and tampered claims."""

from __future__ import annotations

import copy
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.commands.kl import kl
from tameopt.evidence import Verdict
from tameopt.kl import exponent
from tameopt.kl.check_pieces import check
from tameopt.kl.piecewise import tree_of

KNOWN = [
    ("abs(x)", None, "0"),
    ("-abs(x)", None, "0"),
    ("abs(x)**3", None, "2/3"),
    ("max(0, x)", None, "0"),
    ("max(0, x)**2", None, "1/2"),
    ("max(x**2, x**4)", None, "1/2"),
    ("min(x**2, x**4)", None, "3/4"),
    ("max(x**3, -x**5)", None, "4/5"),
    ("abs(x**2 - 1)", [1], "0"),
    ("abs(x**2 - 1)", [0], "1/2"),
    ("abs(x - 1)**4 + x**2 - 2*x", [1], "1/2"),
    ("relu(x)**2 + abs(y)**5", None, "4/5"),
    # 0 is in the Clarke subdifferential of -abs(x), where the limiting one is {-1, 1}
    ("y**4 - abs(x)", None, "3/4"),
    ("y**4 + x + abs(x)/2", None, "0"),  # the slopes of x + abs(x)/2 are 1/2 and 3/2
    # LASSO: at its minimiser, a sharp one, and where it is not minimal
    ("(x + y - 2)**2/2 + abs(x) + abs(y)", ["1/2", "1/2"], "1/2"),
    ("(x + y - 1/2)**2/2 + abs(x) + abs(y)", [0, 0], "0"),
    ("(x + y - 1)**2/2 + abs(x) + abs(y)", [0, 0], "1/2"),
    ("(x + y - 3)**2/2 + abs(x) + abs(y)", [0, 0], "0"),
    ("(x + y - 5/2)**2/2 + abs(x)*2 + abs(2*y - 1)", [0, "1/2"], "1/2"),
    ("(x - y)**2 - abs(x)/(-1)", None, "1/2"),  # two minuses make a convex absolute value
    ("(x - y)**2 - abs(x - 1)/(-1)", [1, 1], "1/2"),
    ("(x - y)**2 - abs(x - 1)/(-1)", [0, 0], "0"),
]


@pytest.mark.parametrize(("text", "at", "theta"), KNOWN)
def test_known_exponents_are_proved(text, at, theta):
    found = exponent(text, at)
    assert found.theta == Fraction(theta)
    assert found.verdict is Verdict.PROVED and check(found.claim)


def test_where_no_rule_applies_it_says_so():
    found = exponent("abs(x*y)")
    assert found.theta is None and found.verdict is Verdict.UNKNOWN
    assert "sums of functions of one variable" in found.rule
    # a concave absolute value is none of LASSO's
    assert exponent("(x + y)**2 - abs(x) - abs(y)").theta is None
    # an indefinite quadratic neither
    assert exponent("x*y + abs(x) + abs(y)").theta is None
    # nor a negative weight
    assert exponent("(x - y)**2 + abs(x)/(-1)").theta is None


PIECE = st.tuples(st.integers(1, 5), st.sampled_from([-2, -1, 1, 3]))


@settings(max_examples=40, deadline=None)
@given(PIECE, PIECE, st.sampled_from(["max", "min"]))
def test_orders_are_those_of_the_slopes(left, right, name):
    (k, a), (m, b) = left, right
    text = f"{name}({a}*x**{k}, {b}*x**{m})"
    pick = max if name == "max" else min

    def f(x):
        return pick(a * x**k, b * x**m)

    if all(f(s) == 0 for s in (-1e-6, 1e-6)):
        return
    theta = Fraction(0)
    slopes = []
    for side in (-1, 1):
        t = np.array([1e-4, 1e-6]) * side
        order = round(np.log(abs(f(t[0]) / f(t[1]))) / np.log(100))
        theta = max(theta, 1 - Fraction(1, order))
        slopes.append(f(side * 1e-9) / (side * 1e-9))
    if min(slopes) > 1e-3 or max(slopes) < -1e-3:
        theta = Fraction(0)
    assert exponent(text).theta == theta


@pytest.mark.parametrize(("text", "at", "theta"), KNOWN)
def test_every_other_exponent_is_refused(text, at, theta):
    claim = exponent(text, at).claim
    for wrong in ("0", "1/3", "1/2", "2/3", "3/4", "4/5"):
        forged = copy.deepcopy(dict(claim)) | {"theta": wrong}
        assert check(forged) is (Fraction(wrong) == Fraction(theta))
    moved = dict(claim) | {"point": dict.fromkeys(claim["point"], "7/3")}
    assert check(moved) is (exponent(text, ["7/3"] * len(claim["point"])).theta == Fraction(theta))


@pytest.mark.parametrize(
    "data",
    [{}, {"rule": "separate"}, {"rule": "magic", "tree": ["var", "x"], "point": {"x": "0"}, "theta": "0"},
     {"rule": "separate", "tree": ["sin", ["var", "x"]], "point": {"x": "0"}, "theta": "0"},
     {"rule": "separate", "tree": ["^", ["var", "x"], 10**9], "point": {"x": "0"}, "theta": "0"},
     {"rule": "separate", "tree": ["var", "x"], "point": {}, "theta": "0"}],
)  # fmt: skip
def test_what_is_no_claim_is_refused(data):
    with pytest.raises(ValueError, match=r"certificate|coordinate"):
        check(data)


@pytest.mark.parametrize("text", ["abs(x, y)", "max()", "abs(x)**y", "abs(x) + sin(x)", "abs(", "abs(x)/0", "abs(3)"])
def test_what_is_no_piecewise_polynomial_is_refused(text):
    with pytest.raises(ValueError, match="polynomial"):
        exponent(text)


def test_constants_and_points_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match="must not be constant"):
        exponent("max(0, x)", [-1])
    with pytest.raises(ValueError, match="2 coordinates"):
        exponent("abs(x) + y", [1])


def test_sympy_and_the_command(capsys):
    import sympy

    x = sympy.Symbol("x")
    assert exponent(sympy.Abs(x) ** 3).theta == Fraction(2, 3)
    assert exponent(sympy.Max(0, x) ** 2).theta == Fraction(1, 2)
    kl("abs(x) + max(0, y)^2")
    assert "PROVED" in capsys.readouterr().out


def test_trees_read_as_written():
    assert tree_of("-x^2 / -2") == ["*", ["num", "-1/2"], ["-", ["num", "0"], ["^", ["var", "x"], 2]]]
