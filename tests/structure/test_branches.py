"""Python's decisions on theta: every way is certified, or the certificate says that it holds for one of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from tameopt.evidence import Verdict
from tameopt.problem import Problem
from tameopt.report._derivation_html import derivation_markup
from tameopt.structure import certify
from tameopt.structure.checker import check
from tameopt.structure.derivation import as_data, derivation

_T = torch.tensor([0.5, 0.7, -0.2], dtype=torch.float64)


def _two_ways(t):
    return t.sum() if t.sum() > 0 else t.sum().exp()


def test_both_ways_make_the_class_and_the_jump_is_not_hidden():
    found = certify(_two_ways, inputs=_T)
    assert (found.definable, found.verdict) == ("R_exp", Verdict.PROVED)
    assert (found.smoothness, found.autodiff, found.total) == ("discontinuous", "almost everywhere", True)
    assert len(found.ways) == 2
    assert found.ways[0].startswith("True at ")
    assert found.ways[0].endswith("polynomial of degree 1, analytic, autodiff classical")
    assert "test_branches.py:" in found.ways[1]
    assert "one of 2 functions" in found.summary


def test_a_way_left_out_of_the_certificate_is_rejected():
    found = certify(_two_ways, inputs=_T)
    assert check(found.certificate.data)
    for key, value in (("ways", [[True], [True]]), ("ways", [[True], [True, False]]), ("raising", [[False]])):
        forged = copy.deepcopy(found.certificate.data)
        forged["nodes"][-1]["arguments"][key] = value
        assert not check(forged)
    lonely = copy.deepcopy(found.certificate.data)
    arguments = lonely["nodes"][-1]["arguments"]
    arguments["ways"], arguments["tensors"] = arguments["ways"][:1], arguments["tensors"][:1]
    arguments["conditions"] = arguments["conditions"][:1]
    assert not check(lonely)


def test_a_decision_that_the_ranges_make_is_none():
    # torch checks var < 0 in Python
    target = torch.ones(3, dtype=torch.float64)
    found = certify(lambda t: functional.gaussian_nll_loss(t, target, functional.softplus(t)), inputs=_T)
    assert (found.definable, found.verdict, found.total, found.ways) == ("R_exp", Verdict.PROVED, True, ())
    assert found.smoothness == "locally Lipschitz"
    assert found.autodiff == "wrong"  # torch clamps var at eps under no_grad


def test_a_way_that_raises_is_outside_the_domain():
    target = torch.ones(3, dtype=torch.float64)
    found = certify(lambda t: functional.gaussian_nll_loss(t, target, t + 1), inputs=_T)
    assert (found.definable, found.verdict, found.total) == ("R_exp", Verdict.PROVED, False)
    assert "raises ValueError: var has negative entry/entries" in "".join(found.ways)
    forged = copy.deepcopy(found.certificate.data)
    forged["nodes"][-1]["arguments"]["raising"] = []
    assert not check(forged)


def _nan_guard(t):
    y = t.square()
    if torch.isnan(y).any() or not torch.isfinite(y).all():
        raise ValueError("not a number")
    return y.sum()


def test_a_check_for_nan_of_what_is_always_a_number_costs_nothing():
    found = certify(_nan_guard, inputs=_T)
    assert (found.definable, found.smoothness, found.total) == ("polynomial", "analytic", True)
    assert found.verdict is Verdict.PROVED


def test_a_check_for_nan_of_what_may_be_none_stays():
    found = certify(lambda t: t.log().sum() if not torch.isnan(t.log()).any() else t.sum(), inputs=_T.abs())
    assert len(found.ways) == 2
    assert not found.total


def _value_decides_after_the_branch(t):
    if t.sum() > 100:
        # raises where it is made to run, not on all of the set where it would run
        torch.linalg.cholesky(torch.diag(t))
        return t.sum().sin()
    return t.sum()


def _number_then_raise(t):
    if t.sum() > 100:
        size = float(t[0])
        if t.sum() > 200 and size < 1:
            raise ValueError("small")
        return t.sum().sin()
    return t.sum()


def _equal(t):
    return t.sum() if torch.equal(t, t.round()) else t.sum().sin()


def _loop(t):
    x = t.sum()
    while x > 1e-9:
        x = x * 0.5
    return x


def _hidden(t):
    return t.sum() if t.sum() > 0 else t.sum() * float(t.detach().sum())


@pytest.mark.parametrize("function", [_value_decides_after_the_branch, _number_then_raise, _equal, _loop, _hidden])
def test_what_cannot_be_followed_is_for_the_branch_taken_only(function):
    found = certify(function, inputs=_T)
    assert found.verdict is Verdict.UNKNOWN
    assert not found.ways
    assert found.branches
    assert "on the branch taken" in found.summary


def test_a_way_that_would_not_end_is_given_up():
    def endless(t):
        x = t.sum()
        while x < 0:
            x = x - 1
        return x

    assert certify(endless, inputs=_T).verdict is Verdict.UNKNOWN


def test_comparisons_of_touching_ranges_are_left_open():
    for function in (
        lambda t: t.square().sum() if (t.square() > 0).all() else t.sum().sin(),
        lambda t: t.square().sum() if (t.relu() <= 0).any() else t.sum().sin(),
        lambda t: t.square().sum() if (t[:0].exp() < 0).any() else t.sum().sin(),
    ):
        assert certify(function, inputs=_T).definable == "not definable"
    for function in (
        lambda t: t.square().sum() if (t.square() >= 0).all() else t.sum().sin(),
        lambda t: t.square().sum() if (t.exp() > 0).all() else t.sum().sin(),
        lambda t: t.sum().sin() if (t.relu() < 0).any() else t.square().sum(),
    ):
        assert certify(function, inputs=_T).definable == "polynomial"


class _Deciding(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) if self.weight.sum() < 1 else super().forward(x).abs().sqrt()


def test_decisions_in_several_batches():
    x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.ones(6, 1)
    found = certify(Problem(_Deciding(2, 1), functional.mse_loss, (x, y), batch_size=3))
    assert (found.definable, found.verdict) == ("semialgebraic", Verdict.PROVED)
    assert len(found.ways) == 4


def test_the_report_shows_the_ways_and_the_class_of_the_whole():
    found = certify(_two_ways, inputs=_T)
    tree = as_data(derivation(found))
    assert tree["result"] == "R_exp, discontinuous"
    markup = derivation_markup({"structure.certificate": {**found.to_json(), "derivation": tree}})
    assert "F is one of these, as Python decides" in markup
    assert markup.count("<li>True at") == markup.count("<li>False at") == 1
    assert "exp(self)" in markup
