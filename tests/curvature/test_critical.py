"""The search for critical points against functions whose critical points are all known."""

import itertools
import math

import pytest
import torch

import tameopt as tame
from tameopt.problem import Problem

F64 = torch.float64


def problem_of(function, d):
    return Problem.from_function(function, torch.zeros(d, dtype=F64))


def himmelblau(t):
    return (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2


def test_himmelblau():
    found = tame.curvature.find_critical_points(problem_of(himmelblau, 2), spread=4.0, num_starts=60)
    assert sorted(point.kind for point in found) == ["maximum"] + ["minimum"] * 4 + ["strict saddle"] * 4
    assert found.unfinished == 0 and sum(found.counts) + len(found.gradient_flat) == 60
    top = found[-1]
    assert top.value == pytest.approx(181.616522, abs=1e-6)
    assert top.eigenvalues.tolist() == pytest.approx([-45.6052, -16.0660], abs=1e-4)
    assert sum(found.histogram.values()) == sum(found.counts)


def table_of_linear_net(s, hidden):
    """(loss, index, nullity) by the set of singular values kept."""
    d, rows = len(s), set()
    for r in range(min(hidden, d) + 1):
        for kept in itertools.combinations(range(d), r):
            left = [j for j in range(d) if j not in kept]
            loss = sum(s[j] ** 2 for j in left) / 2
            index = (hidden - r) * (d - r) + sum(s[j] > s[i] for i in kept for j in left)
            rows.add((loss, index, r**2 + 2 * r * (hidden - r)))
    return rows


def test_two_layer_linear_nets_everywhere_it_lands():
    """40 random starts end at critical points of many symmetry orbits: loss, index and nullity are the table's."""
    s, hidden = (4.0, 3.0, 2.0, 1.0), 3
    Y = torch.diag(torch.tensor(s, dtype=F64))

    def F(t):
        return (t[:12].view(4, 3) @ t[12:].view(3, 4) - Y).square().sum() / 2

    found = tame.curvature.find_critical_points(problem_of(F, 24), num_starts=40)
    table = table_of_linear_net(s, hidden)
    assert len(found) >= 6
    for point in found:
        nearest = min(table, key=lambda row: abs(row[0] - point.value))
        assert point.value == pytest.approx(nearest[0], abs=1e-6)
        rows = {row[1:] for row in table if abs(row[0] - point.value) < 1e-6}
        assert (point.index, point.nullity) in rows


def test_symmetric_factorisation_everywhere_it_lands():
    """norm(X X^T - M)^2 / 4: index (k - r)(d - r) + card{mu_j > mu_s}, nullity r(r - 1)/2 + r(k - r)."""
    mu, k, d = (3.0, 2.0, 1.0), 2, 3
    M = torch.diag(torch.tensor(mu, dtype=F64))
    found = tame.curvature.find_critical_points(
        problem_of(lambda t: (t.view(d, k) @ t.view(d, k).T - M).square().sum() / 4, d * k), num_starts=60
    )
    table = {}
    for r in range(k + 1):
        for kept in itertools.combinations(range(d), r):
            left = [j for j in range(d) if j not in kept]
            index = (k - r) * (d - r) + sum(mu[j] > mu[i] for i in kept for j in left)
            table[round(sum(mu[j] ** 2 for j in left) / 4, 6)] = (index, r * (r - 1) // 2 + r * (k - r))
    assert len(found) >= 4
    for point in found:
        assert (point.index, point.nullity) == table[round(point.value, 6)]


def test_products_have_a_rank_one_hessian_at_their_minima_and_a_non_strict_saddle_at_zero():
    problem = problem_of(lambda t: (t.prod() - 2) ** 2 / 2, 3)
    minimum = tame.curvature.classify(problem, torch.tensor([2.0, 1.0, 1.0], dtype=F64))
    assert (minimum.kind, minimum.index, minimum.nullity) == ("degenerate", 0, 2)
    assert float(minimum.eigenvalues[-1]) == pytest.approx(4 * (1 / 4 + 1 + 1))
    origin = tame.curvature.classify(problem, torch.zeros(3, dtype=F64))
    assert (origin.kind, origin.nullity) == ("degenerate", 3)


@pytest.mark.parametrize(
    "F, counts",
    [
        (lambda t: -(t[0] ** 2) - t[0] * t[1] ** 2, (1, 1)),
        (lambda t: t[0] ** 3 - 3 * t[0] * t[1] ** 2, (0, 2)),
        (lambda t: t[0] ** 2 + t[1] ** 4, (0, 1)),
    ],
)
def test_a_degenerate_point_is_one_class_from_wherever_it_is_reached(F, counts):
    """Steps halve the distance only, so the starts end at different ones; the origin is the only critical point."""
    found = tame.curvature.find_critical_points(problem_of(F, 2), num_starts=40)
    assert len(found) == 1 and found.counts == (40,)
    assert (found[0].index, found[0].nullity) == counts


def test_starts_stay_where_f_is_a_number():
    """x - log x: the gradient 1 - 1/x is a number for x < 0 too, where F is none; from there nothing is reported."""
    starts = torch.tensor([[0.05], [0.5], [3.0], [9.0], [-0.5]], dtype=F64)
    found = tame.curvature.find_critical_points(problem_of(lambda t: (t - torch.log(t)).sum(), 1), starts)
    assert [(point.kind, point.index) for point in found] == [("minimum", 0)]
    assert found.counts == (4,) and found.unfinished == 1 and found.gradient_flat.shape[0] == 0


@pytest.mark.parametrize("F", [lambda t: torch.sqrt(t).sum(), lambda t: torch.log(t[0]) + t[1] ** 2])
def test_a_gradient_that_fades_at_infinity_is_no_gradient_flat_point(F):
    """No critical point at all, and norm(g) falls for ever: the search does not finish, and says so."""
    starts = torch.tensor([[0.5, 0.2], [2.0, 1.0], [-1.0, 1.0]], dtype=F64)
    found = tame.curvature.find_critical_points(problem_of(F, 2), starts)
    assert len(found) == 0 and found.gradient_flat.shape[0] == 0 and found.unfinished == 3


def test_gradient_flat_points_are_told_apart():
    """t^3/3 + t has no critical point, yet norm(g)^2 is stationary at 0, where H = 0 and g = 1."""
    found = tame.curvature.find_critical_points(
        problem_of(lambda t: t[0] ** 3 / 3 + t[0] + t[1] ** 2, 2), num_starts=15
    )
    assert len(found) == 0 and found.gradient_flat.shape[0] == 15
    assert float(found.gradient_flat.abs().max()) < 1e-4


def test_large_problems_use_a_krylov_space():
    """A chain of double wells in 400 variables: every coordinate ends at -1, 0 or 1, so the index is countable."""
    problem = problem_of(lambda t: (t**4 / 4 - t**2 / 2).sum(), 400)
    found = tame.curvature.find_critical_points(problem, num_starts=1)
    assert found.thetas.shape[0] == 1
    for theta in found.thetas:
        assert float((theta - theta.round()).abs().max()) < 1e-6
        point = tame.curvature.classify(problem, theta)
        assert point.index == int((theta.round() == 0).sum()) and point.nullity == 0


def test_a_function_without_batching_rule_is_searched_one_by_one():
    def F(t):
        return torch.linalg.det(torch.diag(t[:2]) + 0 * t.sum()) + (t[2] ** 2 if bool(torch.tensor(True)) else 0)

    found = tame.curvature.find_critical_points(problem_of(F, 3), num_starts=4)
    assert [point.kind for point in found] == ["strict saddle"]


def test_bad_arguments_and_nan():
    problem = problem_of(himmelblau, 2)
    with pytest.raises(ValueError, match=r"starts must have shape \(m, 2\)"):
        tame.curvature.find_critical_points(problem, torch.zeros(3))
    with pytest.raises(ValueError, match="num_starts must be at least 1 and spread > 0"):
        tame.curvature.find_critical_points(problem, num_starts=0)
    lost = tame.curvature.find_critical_points(problem_of(lambda t: torch.sqrt(t - 50).sum(), 2), num_starts=3)
    assert len(lost) == 0 and lost.unfinished == 3
    assert "0 classes" in repr(lost) and math.isfinite(lost.unfinished)


def test_an_interruption_keeps_what_was_found(monkeypatch):
    """Ctrl-C in the search and in the classification: the points up to there."""
    search = tame.curvature.critical._Search
    steps = []
    models = search.models

    def stop_late(self, thetas, gradients):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return models(self, thetas, gradients)

    starts = torch.tensor([[3.0, 2.0], [3.1, 2.1], [40.0, -70.0]], dtype=F64)
    monkeypatch.setattr(search, "models", stop_late)
    found = tame.curvature.find_critical_points(problem_of(himmelblau, 2), starts)
    assert found.interrupted and found.counts == (2,) and found.unfinished == 1
    assert torch.allclose(found[0].theta, starts[0], atol=1e-6)
    monkeypatch.setattr(search, "models", models)

    def stop_at_the_second(problem, theta, **options):
        if float(theta[0]) < 0:
            raise KeyboardInterrupt
        return classify(problem, theta, **options)

    classify = tame.curvature.critical.classify
    monkeypatch.setattr(tame.curvature.critical, "classify", stop_at_the_second)
    starts = torch.tensor([[3.0, 2.0], [-2.8, 3.1], [3.5, -1.8]], dtype=F64)
    found = tame.curvature.find_critical_points(problem_of(himmelblau, 2), starts)
    assert found.interrupted and found.counts == (1,) and found.unfinished == 2


def test_an_interrupted_box_proves_nothing_of_all(monkeypatch):
    search = tame.curvature.rigorous._Search
    tree = search.tree

    def stop(self, low, high, depth=0):
        if self.cells >= 100:
            raise KeyboardInterrupt
        return tree(self, low, high, depth)

    monkeypatch.setattr(search, "tree", stop)
    some = tame.curvature.critical_points_in_box(problem_of(himmelblau, 2), [-5, -5], [5, 5])
    assert some.interrupted and str(some.verdict) == "UNKNOWN" and some.certificate is None
    assert 1 <= len(some.kinds) < 9 and "interrupted after 100 cells" in some.reason
