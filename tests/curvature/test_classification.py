"""Classification on functions whose critical points are known, and against what would fool it."""

import math

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.curvature.nearby import kernel_part
from tameopt.evidence import Verdict
from tameopt.problem import Problem

F64 = torch.float64


def problem_of(function, theta):
    return Problem.from_function(function, torch.as_tensor(theta, dtype=F64))


def lee(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


@pytest.mark.parametrize(
    "theta, kind, index",
    [([0.0, 0.0], "strict saddle", 1), ([0.0, 1.0], "minimum", 0), ([0.0, -1.0], "minimum", 0)],
)
def test_the_double_well(theta, kind, index):
    point = tame.curvature.classify(problem_of(lee, theta))
    assert (point.kind, point.index, point.nullity, point.verdict) == (kind, index, 0, Verdict.MEASURED)


def test_a_maximum_and_a_flat_point():
    assert tame.curvature.classify(problem_of(lambda t: -(t**2).sum(), [0.0, 0.0])).kind == "maximum"
    flat = tame.curvature.classify(problem_of(lambda t: t[0] ** 2 + t[1] ** 4, [0.0, 0.0]))
    assert (flat.kind, flat.index, flat.nullity) == ("degenerate", 0, 1)
    # a zero eigenvalue might be a tiny negative one: the interval says so
    assert flat.index_interval == (0, 1)


def test_a_non_strict_saddle_is_not_called_a_minimum_nor_a_strict_saddle():
    point = tame.curvature.classify(problem_of(lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3, [0.0, 0.0]))
    assert point.kind == "degenerate"


def test_a_point_on_a_slope_is_not_critical_though_its_hessian_is_that_of_a_saddle():
    point = tame.curvature.classify(problem_of(lee, [0.5, 0.1]))
    assert point.kind == "not critical" and point.hessian_kind == "strict saddle"
    assert point.negative_directions.shape == (2, 1)
    v = point.negative_directions[:, 0]
    assert float(v @ (problem_of(lee, [0.5, 0.1]).hessian(torch.tensor([0.5, 0.1], dtype=F64)) @ v)) < 0


def test_gradient_flat_points_are_not_critical():
    """The gradient lies in the kernel of the Hessian and is not 0: gradient-norm minimisers stop here."""
    point = tame.curvature.classify(problem_of(lambda t: t[0] ** 3 + t[0] + t[1] ** 2, [0.0, 0.0]))
    assert point.kind == "not critical"


@pytest.mark.parametrize(
    "F, theta, kind, counts",
    [
        # the Hessian next to the critical point has a sign, the one at it has none
        (lambda t: t[0] ** 3 / 3, [1e-9], "degenerate", (0, 1)),
        (lambda t: t[0] ** 3 / 3, [-1e-9], "degenerate", (0, 1)),
        (lambda t: 1 + t[0] ** 3 / 3, [1e-9], "degenerate", (0, 1)),
        (lambda t: t[0] ** 3 - 3 * t[0] * t[1] ** 2, [8e-10, 5e-10], "degenerate", (0, 2)),
        (lambda t: t[0] ** 2 + t[1] ** 4, [0.0, 5e-4], "degenerate", (0, 1)),
        (lambda t: -(t[0] ** 2) - t[0] * t[1] ** 2, [-7.84e-7, -1.2526e-3], "strict saddle", (1, 1)),
        # and where it keeps its sign, a gradient that is not quite 0 does no harm
        (lambda t: t[0] ** 2 + 1e-5 * t[1] ** 2 - 1e-4 * t[2] ** 2, [1e-9, 1e-9, -1e-8], "strict saddle", (1, 0)),
    ],
)
def test_signs_are_those_of_the_critical_point(F, theta, kind, counts):
    point = tame.curvature.classify(problem_of(F, theta))
    assert (point.kind, (point.index, point.nullity)) == (kind, counts)
    assert point.index_interval[0] <= counts[0] <= point.index_interval[1]
    assert point.nullity_interval[1] >= counts[1]


def test_a_slope_that_is_small_against_the_curvature_is_not_critical():
    """No critical point anywhere, and norm(g) / L = 5e-7: Newton's step gets nowhere, and that is told."""
    point = tame.curvature.classify(problem_of(lambda t: 5e5 * t[0] ** 2 + 0.5 * t[1], [0.0, 0.0]))
    assert point.kind == "not critical"
    assert "gradient-flat" in point.reason and "so no critical point was found near" in point.reason


@pytest.mark.parametrize("dim", [1_500, 10_000])
def test_a_gradient_in_the_kernel_is_seen_by_products_alone(dim):
    """Too many parameters for all eigenvalues: norm(g) / L = 5e-7 on one flat coordinate, no critical point anywhere;
    and a gradient that Newton's step does away with, next to a minimum."""
    scale = torch.linspace(1.0, 2.0, dim, dtype=F64)
    scale[0] = 0.0
    sloping = problem_of(lambda t: (scale * t**2).sum() + 2e-6 * t[0], torch.zeros(dim))
    flat = tame.curvature.classify(sloping, k=1, max_products=60)
    assert flat.kind == "not critical" and "gradient-flat" in flat.reason and flat.verdict is Verdict.MEASURED
    off = 1e-9 * torch.randn(dim, generator=torch.Generator().manual_seed(0), dtype=F64)
    bowl = problem_of(lambda t: (scale[1:] * t[1:] ** 2).sum() + t[0] ** 2 / 50, off)
    near = tame.curvature.classify(bowl, k=1, max_products=60)
    assert near.gradient_norm > 1e-8 and near.kind != "not critical"


def test_where_small_eigenvalues_crowd_no_gradient_is_called_flat():
    """Sixty products resolve none of 2,000 eigenvalues from 1e-5 on: a Ritz value near 0 is no kernel. With a slope
    along one more coordinate, fifty times the rest of the gradient, there is one."""
    scale = torch.cat([torch.logspace(-5, 0, 2_000, dtype=F64), torch.zeros(1, dtype=F64)])
    scale[1:2_000:2] *= -1

    for slope, kind in ((0.0, "strict saddle"), (5e-7, "not critical")):
        off = torch.randn(2_001, generator=torch.Generator().manual_seed(0), dtype=F64) / scale.abs()
        off[-1] = 0
        off /= float((scale * off).norm()) / 1e-8
        problem = problem_of(lambda t, slope=slope: (scale * t**2).sum() / 2 + slope * t[-1], off)
        point = tame.curvature.classify(problem, k=1, max_products=40)
        assert point.kind in (kind, "undecided" if slope == 0 else kind)
        assert ("(gradient-flat)" in point.reason) is (slope > 0)
        part = kernel_part(problem.hessian(), problem.gradient(), 5e-4)
        assert part.share > 0.9 if slope else part.share < 0.5


def test_an_edge_of_the_domain_on_the_way_is_a_diagnosis():
    def F(t):
        return torch.where(t[0] < 1e-7, torch.log(t[0] - 1), (t[0] - 5e-8) ** 2 + t[1] ** 2)

    point = tame.curvature.classify(problem_of(F, [2e-7, 0.0]))
    assert point.kind == "undecided" and "no number one step of Newton's method away" in point.reason


def test_scaling_f_changes_no_kind():
    for scale in (1e-12, 1.0, 1e12):
        point = tame.curvature.classify(problem_of(lambda t, c=scale: c * lee(t), [0.0, 0.0]))
        assert point.kind == "strict saddle"
        slope = tame.curvature.classify(problem_of(lambda t, c=scale: c * lee(t), [0.3, 0.5]))
        assert slope.kind == "not critical"


def test_nan_is_a_diagnosis():
    point = tame.curvature.classify(problem_of(lambda t: torch.sqrt(t - 1).sum(), [0.0, 0.0]))
    assert point.kind == "undecided" and point.verdict is Verdict.UNKNOWN
    assert "nan" in point.reason


def large(values, tilt=0.0):
    """sum a_j t_j^2 / 2 in many variables; at 0 its Hessian is diag(a)."""
    a = torch.as_tensor(values, dtype=F64)
    return Problem.from_function(lambda t: (a * t**2).sum() / 2 + tilt * t[0], torch.zeros(a.numel(), dtype=F64))


def test_large_problems_get_intervals_and_never_a_nullity():
    values = torch.cat([torch.tensor([-1.0, -0.5]), torch.linspace(0.5, 3, 700)])
    point = tame.curvature.classify(large(values), dense_below=100)
    assert point.kind == "strict saddle" and point.index is None and point.nullity is None
    assert point.index_interval[0] == 2 and point.index_interval[1] >= 2


def test_large_minimum_needs_room_below_the_smallest_eigenvalue():
    """lambda_min = 1e-9 against lambda_max = 1 cannot be told from 0 by a few products."""
    sure = tame.curvature.classify(large(torch.linspace(2, 3, 600)), dense_below=100)
    assert sure.kind == "minimum"
    thin = tame.curvature.classify(
        large(torch.cat([torch.tensor([1e-9]), torch.linspace(0, 1, 599)])), dense_below=100
    )
    assert thin.kind in ("undecided", "degenerate")


def test_one_hidden_negative_direction_among_many_is_not_called_a_minimum():
    values = torch.ones(3000, dtype=F64)
    values[1234] = -1e-4
    point = tame.curvature.classify(large(values), dense_below=100, max_products=8)
    assert point.kind != "minimum"


def test_linear_regression_has_the_hessian_2_xtx_over_n():
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(30, 4, generator=generator, dtype=F64), torch.randn(30, 1, generator=generator, dtype=F64)
    problem = Problem(nn.Linear(4, 1, bias=False, dtype=F64), nn.functional.mse_loss, (X, y), batch_size=7)
    expected = torch.linalg.eigvalsh(2 * X.T @ X / 30)
    assert torch.allclose(tame.curvature.spectrum(problem).eigenvalues, expected, atol=1e-12)


def test_repr_and_html_show_the_kind():
    point = tame.curvature.classify(problem_of(lee, [0.0, 0.0]))
    assert repr(point) == "Classification(strict saddle, index 1, nullity 0, norm(g) 0.00e+00, MEASURED)"
    assert "<table>" in point._repr_html_() and math.isfinite(point.spectrum.norm)


@pytest.mark.parametrize(
    "F, theta",
    [
        (lambda t: t[0].abs() + t[1] ** 2, [0.0, 0.0]),  # autodiff takes slope 0: a flat direction it is not
        (lambda t: 2 * torch.relu(t[0]) - t[0] + t[1] ** 2, [0.0, 0.0]),  # autodiff takes -1: a slope it is not
        (lambda t: torch.maximum(t[0], -t[0] / 3) - t[1] ** 2, [0.0, 0.0]),
        (lambda t: 1e-9 * t.norm() + 1e-9 * t[0], [0.0, 0.0]),
        (lambda t: 1e6 * (t[0] - 3).abs() + t[1] ** 2 + 1e3, [3.0, 0.0]),
    ],
)
def test_a_kink_at_theta_leaves_the_kind_open(F, theta):
    point = tame.curvature.classify(problem_of(F, theta), rigorous=True)
    assert point.kind == "undecided" and point.verdict is Verdict.UNKNOWN
    assert "F has a kink at theta" in point.reason


@pytest.mark.parametrize(
    "F, theta, kind",
    [
        (lambda t: 1e8 + t[0] ** 2 + t[1] ** 2 - 1e8, [0.0, 0.0], "minimum"),  # rounding of F is no kink
        (lambda t: 1e5 * (t[0] ** 4 + t[1] ** 2), [0.0, 0.0], "degenerate"),
        (lambda t: (1e3 * t[0]).cos() + t[1] ** 2, [0.0, 0.0], "strict saddle"),
        (lambda t: torch.relu(t[0]) ** 2 + t[1] ** 2 + t[0] ** 4, [0.0, 0.0], "degenerate"),  # C^1
        (lambda t: (t[0] + 1e-3).abs() + t[1] ** 2, [0.0, 0.0], "not critical"),  # beside the kink
    ],
)
def test_no_kink_is_seen_where_there_is_none(F, theta, kind):
    point = tame.curvature.classify(problem_of(F, theta))
    assert point.kind == kind and "kink" not in point.reason


def test_a_slope_beside_a_kink_stays_a_slope():
    point = tame.curvature.classify(problem_of(lambda t: t[0].abs() + 3 * t[1], [0.0, 0.0]))
    assert point.kind == "not critical" and "F falls along -g all the same" in point.reason
