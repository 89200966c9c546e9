"""Exact exponents: known answers, invariances, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.evidence import Verdict
from tameopt.kl import bound, check_exponent, exponent
from tameopt.kl.level_sets import simplest
from tameopt.kl.polynomial import Polynomial, add, multiply, polynomial

pytest.importorskip("flint")


@pytest.mark.parametrize(
    ("text", "at", "theta"),
    [
        ("x**2", None, "1/2"),
        ("x**7 - 3*x**9", None, "6/7"),
        ("(x - 1)**3*(x + 2)", ["1"], "2/3"),
        ("(x - 1)**3*(x + 2)", [0], "0"),
        ("x**4 + y**6", None, "5/6"),
        ("x**2 - y**2", None, "1/2"),
        ("(x/2 - y**2)**2", None, "1/2"),
        ("x**2*y**3", None, "4/5"),
        ("x**2*y*z**4", None, "6/7"),
        ("(x**2 - y**3)**3", None, "8/9"),  # 1 - (1 - 2/3)/3
        ("(x - y**2)**2 + x**4", None, "7/8"),  # z^2 + y^8 up to a change of variables
        ("(x - y**2)**2 + y**8", None, "7/8"),
        ("x**3 - 3*x*y**2", None, "2/3"),
        ("(y - x**2)*(y - 2*x**2)", None, "3/4"),  # weighted homogeneous, isolated: 1 - 1/4
        ("x**3 + y**5 + z**4", None, "4/5"),
        ("(x**2 + y**2 - 1)**2", [1, 0], "1/2"),
        ("(x**2 + y**2)**3", None, "5/6"),
        ("(x + y)**4", None, "3/4"),
        ("(x*y - 1)**2", [2, "1/2"], "1/2"),  # norm(UV - M)^2, rank one, matched
        ("(x*y)**2", None, "3/4"),  # and rank defect
        ("(x**2 - 2*y**2)**2 + y**7", None, "6/7"),  # needs sqrt 2, and then a root over Q(sqrt 2)
        ("x**2 + y**2 + z**2 + x*y*z", None, "1/2"),
    ],
)
def test_known_exponents(text, at, theta):
    found = exponent(text, at)
    assert found.theta == Fraction(theta)
    assert found.lower == found.upper == found.theta
    assert found.verdict in (Verdict.PROVED, Verdict.MEASURED)
    assert found.witness


@pytest.mark.parametrize(
    ("text", "theta"),
    [
        ("x**5", "4/5"),
        ("(x - y**2)**2 + x**4", "7/8"),
        ("(x - y**2)**2", "1/2"),  # Morse-Bott
        ("(x/2 - y**2)**2 + z**3", "2/3"),
        ("(x + y - z**2)**2 + (x - y)**2 + z**6", "5/6"),
        ("x**2*y**3", "4/5"),
        ("(1 + x)*(x**2 - y**3)**3", "8/9"),
        ("x**3 + y**4*z**2", "5/6"),
    ],
)
def test_rules_are_replayed_by_the_checker(text, theta):
    found = exponent(text)
    assert found.theta == Fraction(theta)
    assert found.verdict is Verdict.PROVED
    assert found.claim is not None and check_exponent.check(found.claim)
    for other in ("1/2", "2/3", "3/4", "4/5", "5/6", "7/8", "8/9", "9/10"):
        if Fraction(other) != found.theta:
            assert not check_exponent.check({**found.claim, "theta": other})


def test_tampered_splittings_are_rejected():
    claim = dict(exponent("(x - y**2)**2 + x**4").claim or {})
    assert check_exponent.check(claim)
    series = [list(row) for row in claim["series"]]
    for i in range(4):
        # a wrong coefficient of low order: the gradient across the curve no longer vanishes far enough
        wrong = [[*row[:i], str(Fraction(row[i]) + 1), *row[i + 1 :]] for row in series]
        assert not check_exponent.check({**claim, "series": wrong}), i
    assert not check_exponent.check({**claim, "basis": [["1", "0"], ["0", "1"]]})
    assert not check_exponent.check({**claim, "basis": [["0", "1"], ["0", "2"]]})
    with pytest.raises(ValueError, match="must hold what that rule needs"):
        check_exponent.check({key: value for key, value in claim.items() if key != "series"})


def test_the_morse_bott_claim_needs_every_order():
    claim = dict(exponent("(x - y**2)**2").claim or {})
    assert check_exponent.check(claim)
    # y^30 is beyond no order that degree 30 allows
    terms = [*claim["terms"], [[0, 30], "1"]]
    assert not check_exponent.check({**claim, "terms": terms})


def substituted(f: Polynomial, a: int, b: int, c: int, d: int) -> Polynomial:
    """f(a x + b y, c x + d y)."""
    result: dict[tuple[int, ...], Fraction] = {}
    for (i, j), coefficient in f.terms.items():
        product = {(0, 0): coefficient}
        for power, (p, q) in ((i, (a, b)), (j, (c, d))):
            line = {e: Fraction(v) for e, v in (((1, 0), p), ((0, 1), q)) if v}
            for _ in range(power):
                product = multiply(product, line)
        result = add(result, product)
    return Polynomial(f.variables, result)


INVARIANT = [
    "(x - y**2)**2 + x**4",
    "x**4 + x*y**5",
    "(y**2 - x**3)**2 + x**5*y",
    "x**2*y**3",
    "(x**2 - 2*y**2)**2 + x**5",
]


@pytest.mark.parametrize("text", INVARIANT)
@pytest.mark.parametrize("change", [(0, 1, 1, 0), (1, 1, 0, 1), (2, 1, 1, 1)])
def test_linear_changes_of_variables_keep_the_exponent(text, change):
    # the talweg curve is metric and changes altogether; the exponent must not
    f = polynomial(text)
    assert exponent(substituted(f, *change)).theta == exponent(f).theta


@pytest.mark.parametrize("text", ["(x - y**2)**2 + x**4", "x**3 + y**4", "x*y"])
def test_powers_follow_the_rule(text):
    theta = exponent(text).theta
    for power in (2, 3):
        assert exponent(f"({text})**{power}").theta == 1 - (1 - theta) / power


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 5), st.integers(0, 5)), st.integers(-3, 3).filter(bool), min_size=2, max_size=5
    )
)
def test_random_exponents_lie_between_their_bounds(terms):
    terms = {e: Fraction(c) for e, c in terms.items() if sum(e) > 0}
    if not terms:
        return
    found = exponent(Polynomial(("x", "y"), terms))
    multiplicity = min(sum(e) for e in terms)
    degree = max(sum(e) for e in terms)
    assert 1 - Fraction(1, multiplicity) <= found.lower <= found.upper
    if degree > 1:
        assert found.lower <= bound(degree, 2)


@pytest.mark.parametrize(
    ("text", "theta"),
    [
        ("x**2 + y**3*z + z**5 + x*y*z", "4/5"),  # a cubic form with an isolated zero of its gradient
        pytest.param("x**2*z + y**3 + z**4", "3/4", marks=pytest.mark.slow),  # weights 3/8, 1/3, 1/4
        pytest.param("(x*a)**2 + (x*b)**2 + (y*a)**2 + (y*b)**2", "3/4", marks=pytest.mark.slow),  # rank defect
    ],
)
def test_more_variables_are_measured_between_rigorous_bounds(text, theta):
    found = exponent(text)
    assert found.theta == Fraction(theta)
    assert found.verdict is Verdict.MEASURED
    assert found.lower <= found.theta <= found.upper < 1
    assert found.lower < found.upper


@pytest.mark.parametrize(("slope", "error"), [(0.8751, 1e-3), (0.8333333, 1e-6)])
def test_the_simplest_rational_is_named_only_when_no_other_is_near(slope, error):
    assert simplest(slope, error) in (Fraction(7, 8), Fraction(5, 6))
    assert simplest(0.8137, 0.02) is None


def test_bounds():
    assert bound(2, 5) == 1 - Fraction(1, 2 * 3**4)
    assert bound(1, 3) == 0
    assert bound(3, 2, isolated=True) == Fraction(4, 5)
    with pytest.raises(ValueError, match="must be at least 1"):
        bound(0, 2)


def test_sympy_expressions_are_read():
    sympy = pytest.importorskip("sympy")
    x, y = sympy.symbols("x y")
    assert exponent((x - y**2) ** 2 + x**4).theta == Fraction(7, 8)


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("3 + 1", None, "must have a variable"),
        ("x - x + 2", None, "must not be constant"),
        ("sin(x)", None, "only . - . / and powers"),
        ("x**y", None, "only . - . / and powers"),
        ("x**0.5", None, "powers must be integers"),
        ("1/x", None, "only . - . / and powers"),
        ("x +", None, "must be an expression"),
        ("x + y", [0], "must have 2 coordinates"),
        ("__import__('os')", None, "only . - . / and powers"),
    ],
)
def test_what_is_no_polynomial_is_refused(text, at, message):
    with pytest.raises(ValueError, match=message):
        exponent(text, at)


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="a string or a sympy expression"):
        exponent(3)


def test_decimals_are_exact():
    assert polynomial("0.1*x").terms == {(1,): Fraction(1, 10)}


def test_the_checker_rejects_a_wrong_exponent():
    claim = {"rule": "one variable", "terms": [[[3], "1"]], "theta": "2/3"}
    assert check_exponent.check(claim) is True
    assert check_exponent.check({**claim, "theta": "1/2"}) is False
    assert check_exponent.check({**claim, "terms": [[[2], "0"], [[3], "1"]], "theta": "1/2"}) is False
    assert (
        check_exponent.check({"rule": "monomial", "terms": [[[2, 0], "1"], [[0, 3], "1"]], "theta": "1/2"}) is False
    )
    assert check_exponent.check({"rule": "nondegenerate", "terms": [[[2, 0], "1"]], "theta": "1/2"}) is False
    with pytest.raises(ValueError, match="must vanish at 0"):
        check_exponent.check({**claim, "terms": [[[0], "1"]]})
    with pytest.raises(ValueError, match="must hold a rule, terms and theta"):
        check_exponent.check({"theta": "1/2"})
