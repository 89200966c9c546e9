"""That no branch of the talweg curve is missed is replayed; forgeries are refused."""

from __future__ import annotations

import copy
import json
from fractions import Fraction

import numpy as np
import pytest

from tameopt.evidence import Verdict
from tameopt.kl import check_exponent, check_talweg, exponent
from tameopt.kl.check_talweg import half_branch_count
from tameopt.kl.polynomial import Polynomial, polynomial
from tameopt.kl.puiseux import half_branches

F = Fraction
TEXTS = [
    "(y**2 - x**3)**2 + x**7",
    "(x**2 - 2*y**2)**2 + x**5",
    "(x**3 - 2*y**3)**2 + x**8",
    "x**8 + y**8 + x**3*y**3",
    "((y - x**2)**2 - x**5)*(x + y**3)",
    "(y - x**2)**2*(y + x**2)",
    "x**4 + x*y**5",
    "x**2*y**2*(x - y)**3 + x**9",
]


def plane(text: str) -> dict[tuple[int, int], Fraction]:
    return {(e[0], e[1]): c for e, c in polynomial(text).terms.items()}


@pytest.fixture(scope="module")
def claims():
    found = [exponent(text) for text in TEXTS]
    assert all(one.verdict is Verdict.PROVED for one in found), found
    return [dict(one.claim) for one in found]


@pytest.mark.parametrize(
    ("text", "right", "left"),
    [
        ("y**2 - x**3", 2, 0),
        ("x**2 + y**2 + x**3", 0, 0),
        ("y*(y - x)*(y + x) + x**4", 3, 3),
        ("y**3 - x", 1, 1),
        ("(y**2 - x)*(y**2 - 2*x)", 4, 0),
        ("(y**2 - x)**2*(y - 1)*(1 + x)", 2, 0),  # a double curve counts once, other factors are away from 0
        ("y**4 - 5*x**2*y**2 + 2*x**4 + y**7", 4, 4),
        ("y + x*y + x**2 - 1/2", 0, 0),
    ],
)
def test_half_branches_are_counted(text, right, left):
    assert (half_branch_count(plane(text), 1), half_branch_count(plane(text), -1)) == (right, left)


def test_the_count_is_that_of_newtons_polygon_on_random_curves():
    generator = np.random.default_rng(0)
    compared = 0
    for _ in range(60):
        terms = {
            (int(i), int(j)): F(int(generator.integers(-4, 5)))
            for i, j in generator.integers(0, 5, size=(6, 2))
            if i + j
        }
        terms = {e: c for e, c in terms.items() if c}
        terms[0, int(generator.integers(1, 6))] = F(1)
        columns = check_talweg._columns(terms, 1)
        if len(check_talweg._sturm(columns)[-1]) > 1:
            continue  # a double factor
        found = half_branches(terms, ())
        for side, name in ((1, "x > 0"), (-1, "x < 0")):
            listed = sum(check_talweg._real_roots(branch.modulus) for branch in found if branch.side == name)
            assert listed == half_branch_count(terms, side), terms
        compared += 1
    assert compared > 30


def test_another_exponent_is_refused(claims):
    for claim in claims:
        theta = F(claim["theta"])
        for other in (theta - F(1, 1000), theta + F(1, 1000), (theta + 1) / 2, F(1, 2)):
            if other != theta:
                assert not check_exponent.check({**claim, "theta": str(other)}), claim["terms"]


def test_a_missing_a_double_and_an_invented_branch_are_refused(claims):
    for claim in claims[:2] + claims[5:]:
        assert check_talweg.check(claim)
        branches = claim["branches"]
        for i in range(len(branches)):
            assert not check_talweg.check({**claim, "branches": branches[:i] + branches[i + 1 :]})
            assert not check_talweg.check({**claim, "branches": [*branches, branches[i]]})
            # another in the place of this one: the count agrees, the branches do not
            if len(branches) > 1:
                swapped = [*branches[:i], branches[i - 1], *branches[i + 1 :]]
                assert not check_talweg.check({**claim, "branches": swapped})
        invented = {"side": 1, "ramification": 1, "modulus": ["0", "1"], "elements": [[1, ["17"]]]}
        assert not check_talweg.check({**claim, "branches": [*branches, invented]})


def test_a_double_curve_cannot_be_hidden(claims):
    claim = claims[5]
    terms = claim["terms"]
    one = [[[0, 0], "1"]]
    assert not check_talweg.check({**claim, "powers": [[terms, 1]]})
    assert not check_talweg.check({**claim, "powers": [[terms, 1], [one, 1]]})
    # nor can a part of the talweg be called a factor of f
    hidden = {**claim, "talweg": one, "others": [[claim["talweg"], "f", one], *claim["others"]], "branches": []}
    assert not check_talweg.check(hidden)


def test_what_is_passed_on_to_sums_and_powers_is_replayed_too():
    found = exponent("(y**2 - x**3)**2 + x**7 + z**6")
    assert found.theta == F(6, 7) and found.verdict is Verdict.PROVED
    found = exponent("((y**2 - x**3)**2 + x**7)**2*(1 + x)")
    assert found.theta == F(13, 14) and found.verdict is Verdict.PROVED


def _leaves(node, path=()):
    if isinstance(node, dict):
        for key, child in node.items():
            yield from _leaves(child, (*path, key))
    elif isinstance(node, (list, tuple)):
        for i, child in enumerate(node):
            yield from _leaves(child, (*path, i))
    else:
        yield path


def test_random_changes_are_refused_or_change_nothing(claims):
    # numbers changed one at a time: what still passes is true
    generator = np.random.default_rng(1)
    passed = 0
    for claim in claims[:3]:
        plain = json.loads(json.dumps(claim))
        places = list(_leaves(plain))
        for _ in range(40):
            changed = copy.deepcopy(plain)
            path = places[int(generator.integers(len(places)))]
            node = changed
            for key in path[:-1]:
                node = node[key]
            old = node[path[-1]]
            if isinstance(old, int):
                node[path[-1]] = old + int(generator.choice([-1, 1, 2]))
            elif isinstance(old, str) and path[-1] not in ("rule",) and old not in "fgP":
                node[path[-1]] = str(F(old) + F(int(generator.integers(1, 4)), int(generator.integers(1, 4))))
            else:
                continue
            try:
                accepted = check_exponent.check(changed)
            except ValueError:
                continue
            if accepted:
                passed += 1
                function = Polynomial(("x", "y"), {tuple(e): F(c) for e, c in changed["terms"]})
                assert F(changed["theta"]) == exponent(function).theta, path
    assert passed < 30


@pytest.mark.parametrize(
    "change",
    [
        {"terms": [[[1, 2, 3], "1"]]},
        {"branches": [{"side": 2}]},
        {"powers": None},
        {"theta": "1/0"},
        {"talweg": [[0]]},
    ],
)
def test_what_is_no_claim_is_named(claims, change):
    with pytest.raises(ValueError, match="must"):
        check_talweg.check({**claims[0], **change})
