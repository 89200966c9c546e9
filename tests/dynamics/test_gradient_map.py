"""The gradient map, its inverse, and witnesses that it is no diffeomorphism."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tameopt as tame
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.evidence import Verdict

F64 = torch.float64


def lee(t):
    return t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2


def logistic(t):
    """Globally: the Hessian is within [0, 1/4] + 0.1, L = 0.35 with unit inputs."""
    return torch.nn.functional.softplus(t).sum() + 0.05 * t.square().sum()


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3), st.floats(0.05, 2.5))
def test_the_inverse_undoes_the_map_below_one_over_l(x, alpha):
    T = GradientMap(logistic, alpha)
    point = torch.tensor(x, dtype=F64)
    back = T.inverse(T(point))
    assert back.converged and back.convex
    assert float((back.x - point).norm()) <= back.error + 1e-12


def test_the_inverse_is_the_prox_of_minus_alpha_f():
    """It minimises -alpha F(y) + norm(y - z)^2 / 2: no point nearby is better."""
    T, z = GradientMap(lee, 0.4), torch.tensor([0.2, 0.5], dtype=F64)
    x = T.inverse(z).x

    def objective(y):
        return -0.4 * lee(y) + (y - z).square().sum() / 2

    for seed in range(20):
        nearby = x + 0.1 * torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=F64)
        assert objective(nearby) >= objective(x)


def test_a_network_can_be_inverted_too():
    problem = tame.problems.load("digits-linear").to(F64)
    T = GradientMap(problem, 0.1)
    back = T.inverse(T(problem.theta))
    assert back.converged and float((back.x - problem.theta).norm()) < 1e-9
    assert back.error < 1e-9 and back.products > 0


def test_beyond_the_lemma_the_inverse_says_that_it_is_not_unique():
    """T(y) = 1.7 y - 0.7 y^3 in the second coordinate: 1 has three preimages at alpha = 0.7."""
    T = GradientMap(lee, 0.7)
    back = T.inverse(torch.tensor([0.0, 1.0], dtype=F64), start=torch.tensor([0.0, 1.2], dtype=F64))
    assert not back.convex and back.error == math.inf


def test_curvature_on_both_sides_of_one_over_alpha_gives_a_singular_point():
    found = GradientMap(lee, 0.4).is_diffeomorphism([[0.0, 0.0], [0.0, 3.0]])
    assert found.verdict is Verdict.REFUTED and found.witness["kind"] == "singular"
    # 1 - alpha (3 y^2 - 1) = 0 at y = sqrt((1 + alpha) / (3 alpha))
    assert found.witness["x"][1] == pytest.approx(math.sqrt(1.4 / 1.2), abs=1e-9)


def test_two_preimages_are_a_witness():
    found = GradientMap(lee, 0.7).is_diffeomorphism([[0.0, 1.0]])
    assert found.verdict is Verdict.REFUTED and found.witness["kind"] == "two preimages"
    T = GradientMap(lee, 0.7)
    x, y = (torch.tensor(found.witness[name], dtype=F64) for name in ("x", "y"))
    assert float((x - y).norm()) > 0.1 and float((T(x) - T(y)).norm()) < 1e-9


def test_a_steep_quadratic_is_not_refuted_and_a_flat_one_measured():
    steep = GradientMap(lambda t: (t**2).sum() / 2, 4.0).is_diffeomorphism([[0.0, 3.0], [1.0, 1.0]])
    assert steep.verdict is Verdict.UNKNOWN and "lemma does not apply" in steep.reason
    flat = GradientMap(lambda t: (t**2).sum() / 2, 0.4).is_diffeomorphism([[0.0, 3.0]])
    assert flat.verdict is Verdict.MEASURED and "only if L holds everywhere" in flat.reason


def test_the_jacobian():
    assert torch.allclose(
        GradientMap(lee, 0.5).jacobian(torch.zeros(2, dtype=F64)), torch.diag(torch.tensor([0.5, 1.5], dtype=F64))
    )


@pytest.mark.parametrize("alpha", [0.0, -0.1, math.nan, math.inf])
def test_bad_steps(alpha):
    with pytest.raises(ValueError, match="alpha must be > 0"):
        GradientMap(lee, alpha)


def test_bad_points_and_nan():
    with pytest.raises(ValueError, match=r"points must have shape \(m, d\)"):
        GradientMap(lee, 0.1).is_diffeomorphism(torch.zeros(2))
    lost = GradientMap(lambda t: torch.sqrt(t).sum(), 0.1).inverse(torch.tensor([-5.0], dtype=F64))
    assert not lost.converged and lost.error == math.inf


def test_points_and_ways_outside_the_domain_of_F_decide_nothing():
    slow = GradientMap(lambda t: t[0] * t[0].abs().log() + 0 * (t[0].abs() - 1).sqrt(), 0.2)
    with pytest.raises(ValueError, match="finite at the points, at number 1"):
        slow.is_diffeomorphism([[2.0], [0.5]])
    # alpha F'' = 0.1 |t|: below 1 at -9, above at 20; halving meets 5.5, where there is no F
    wide = GradientMap(lambda t: t[0].abs() ** 3 / 6 + 0 * (t[0].abs() - 8).sqrt(), 0.1)
    assert wide.is_diffeomorphism([[-9.0], [20.0]]).verdict is Verdict.UNKNOWN


def test_a_flat_map_that_is_one_to_one_has_no_second_preimage():
    """T(x) = x^5: 0.002 goes to 0 within rounding, but only 0 is mapped there."""
    T = GradientMap(lambda t: t[0] ** 2 / 2 - t[0] ** 6 / 6, 1.0)
    for points in ([[0.0]], [[0.0], [0.5]]):
        assert T.is_diffeomorphism(torch.tensor(points, dtype=torch.float64)).verdict is Verdict.UNKNOWN


def test_a_hessian_that_is_not_finite_is_a_diagnosis():
    T = GradientMap(lambda t: (t.abs() ** 1.5).sum(), 0.1)
    found = T.is_diffeomorphism(torch.tensor([[1.0], [0.0]], dtype=torch.float64))
    assert found.verdict is Verdict.UNKNOWN and "the Hessian is not finite at point number 1" in found.reason


def test_what_may_have_been_missed_counts_against_alpha_l():
    """Curvatures fill [-4, 4] in 3000 directions: 80 products see less than the end, and say how much less."""
    curvatures = torch.linspace(-4, 4, 3000, dtype=torch.float64)
    T = GradientMap(lambda t: (curvatures * t**2).sum() / 2, 0.2495)
    found = T.is_diffeomorphism(torch.zeros(1, 3000, dtype=torch.float64))
    assert found.verdict is Verdict.UNKNOWN and "may have been missed (99%)" in found.reason


def test_a_kink_between_two_points_is_no_sign_of_a_diffeomorphism():
    """norm_1: no curvature at either point, and x - alpha sign(x) maps 0.05 and -0.15 to -0.05 both."""
    T = tame.dynamics.GradientMap(lambda t: t.abs().sum(), 0.1)
    points = torch.tensor([[0.05, 0.3], [-0.1, 0.3]], dtype=torch.float64)
    found = T.is_diffeomorphism(points)
    assert str(found.verdict) != "MEASURED" and found.alpha_L > 1


def test_rounding_does_not_tell_a_singular_map_from_its_neighbour():
    points = torch.zeros(2, 2, dtype=torch.float64)
    at = tame.dynamics.GradientMap(lambda t: (t**2).sum() / 2, 1.0).is_diffeomorphism(points)
    assert str(at.verdict) == "UNKNOWN" and "alpha lambda_max is 1 to rounding" in at.reason
    below = tame.dynamics.GradientMap(lambda t: (t**2).sum() / 2, 1 - 1e-6).is_diffeomorphism(points)
    assert "alpha L = 1 - 1.0e-06 at 2 points" in below.reason


def test_a_preimage_across_a_region_beyond_1_over_l_is_not_called_the_only_one():
    """cos with alpha = 3: z where the curvature is 1, x where it is not."""
    T = tame.dynamics.GradientMap(lambda t: torch.cos(t).sum(), 3.0)
    z = torch.tensor([torch.pi], dtype=torch.float64)
    found = T.inverse(z, start=torch.tensor([0.0], dtype=torch.float64))
    assert not found.convex and found.error == float("inf")
