"""Lower bounds of exponents by an arc: replayed apart from the search, and not to be forged."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.evidence import Verdict
from tameopt.kl import check_arc, exponent

pytest.importorskip("flint")

TEXTS = (
    "(y**2 - x**3)**2 + x**7", "x**4*y + y**5", "(x**2 - 2*y**2)**2 + x**5 + 3*y**7",
    "(y**4 - 2*x**4)**2 + x**9 + y**9", "x**4 + x**2*y**3 + y**7", "(y - x**2)**4 + x**9",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_talweg_branches_replay_as_lower_bounds(text):
    found = exponent(text)
    assert found.verdict is Verdict.PROVED and found.lower == found.theta == found.upper
    assert found.lower_claim is not None and check_arc.check(found.lower_claim)
    # nothing larger is shown by the same arc
    more = {**found.lower_claim, "theta": str(found.theta + Fraction(1, 1000))}
    assert not check_arc.check(more)


ALGEBRAIC = exponent(TEXTS[2]).lower_claim


def test_what_is_changed_in_an_arc_is_noticed():
    assert ALGEBRAIC is not None and len(ALGEBRAIC["modulus"]) == 3
    forged = copy.deepcopy(dict(ALGEBRAIC))
    forged["modulus"] = ["1", "0", "2"]  # no real root
    assert not check_arc.check(forged)
    assert not check_arc.check({**ALGEBRAIC, "between": ["5", "6"]})
    forged = copy.deepcopy(dict(ALGEBRAIC))
    forged["modulus"][0] = "-3"  # another number: the arc leaves the branch
    forged["between"] = ["0", "9"]
    assert not check_arc.check(forged)
    # an arc that does not go through the point
    forged = copy.deepcopy(dict(ALGEBRAIC))
    forged["arc"][0] = [[0, ["1"]], *forged["arc"][0]]
    assert not check_arc.check(forged)


@pytest.mark.parametrize(
    "broken", [{}, {"terms": [[[1, 0], "1"]]}, {**ALGEBRAIC, "terms": [[[0, 0], "1"]]}, {**ALGEBRAIC, "theta": "a"}]
)
def test_what_is_no_claim_is_an_error(broken):
    with pytest.raises(ValueError, match=r"claim must hold|must have one power"):
        check_arc.check(broken)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 3)), min_size=2, max_size=2), st.integers(0, 2))
def test_no_arc_shows_more_than_the_exponent(arc, which):
    # the exponent of these is known by the calculus rules, which share nothing with the checker of arcs
    text, theta, terms = (
        ("x**4 + y**6", Fraction(5, 6), [[[4, 0], "1"], [[0, 6], "1"]]),
        ("x**2*y**3", Fraction(4, 5), [[[2, 3], "1"]]),
        ("(x/2 - y**2)**2", Fraction(1, 2), [[[2, 0], "1/4"], [[1, 2], "-1"], [[0, 4], "1"]]),
    )[which]
    assert exponent(text).theta == theta
    claim = {
        "terms": terms, "theta": str(theta + Fraction(1, 100)), "modulus": ["0", "1"], "between": [],
        "arc": [[[power, [str(c)]]] for c, power in arc],
    }  # fmt: skip
    assert not check_arc.check(claim)
