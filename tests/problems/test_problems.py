"""The ready problems against their known answers."""

from __future__ import annotations

import math

import pytest
import torch

import tameopt as tame
from tameopt.evidence import Verdict
from tameopt.problems.mexican_hat import orbit_length


@pytest.mark.parametrize("name", tame.problems.names())
def test_every_problem_loads_with_a_finite_value_and_gradient(name: str) -> None:
    entry = tame.problems.entry(name)
    problem = tame.problems.load(name)
    assert problem.name == name and entry.title and entry.source
    assert torch.isfinite(problem.value()) and torch.isfinite(problem.gradient()).all()
    assert set(entry.training) == {"optimizer", "lr", "steps", "batch_size", "schedule"}


def test_digits_are_the_real_ones() -> None:
    problem = tame.problems.load("digits-mlp")
    assert (problem.n, problem.dim) == (1797, 4810)
    # ten classes, untrained: near ln 10
    assert float(problem.value()) == pytest.approx(math.log(10), abs=0.1)
    assert torch.equal(tame.problems.load("digits-mlp", seed=0).theta, problem.theta)
    assert not torch.equal(tame.problems.load("digits-mlp", seed=1).theta, problem.theta)


def test_the_saddle_and_its_minima() -> None:
    problem = tame.problems.load("saddle")
    zero, minimum = torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, -1.0], dtype=torch.float64)
    assert torch.equal(problem.hessian(zero).dense(), torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)))
    assert torch.equal(problem.hessian(minimum).dense(), torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)))
    assert problem.value(minimum) == -0.25


def test_deep_linear_critical_values() -> None:
    problem = tame.problems.load("deep-linear")
    # keep the singular values 4 and 3: loss (2^2 + 1^2) / 2
    W1, W2 = torch.zeros(3, 4), torch.zeros(4, 3)
    W1[0, 0] = W2[0, 0] = 2.0
    W1[1, 1] = W2[1, 1] = math.sqrt(3.0)
    theta = torch.cat([W1.reshape(-1), W2.reshape(-1)]).double()
    assert float(problem.value(theta)) == pytest.approx(2.5, abs=1e-6)  # sqrt(3) in float32
    assert float(problem.gradient(theta).norm()) < 1e-6


def test_the_mexican_hat_is_smooth_and_its_spiral_is_an_orbit() -> None:
    problem = tame.problems.load("mexican-hat")
    # on t = r' the angular derivative of F is 1/r^2 of its radial one times dr'/dr: the curve is a gradient orbit
    for radius in (0.4, 0.6, 0.8):
        angle = 1 / (1 - radius**2)
        point = torch.tensor([radius * math.cos(angle), radius * math.sin(angle)], dtype=torch.float64)
        gradient = problem.gradient(point)
        radial = torch.stack([point[0], point[1]]) / radius
        angular = torch.stack([-point[1], point[0]]) / radius
        slope = 2 * radius / (1 - radius**2) ** 2  # d r' / d r
        tangent = radial + radius * slope * angular
        across = torch.stack([-tangent[1], tangent[0]])
        assert abs(float(gradient @ across)) < 1e-12 * float(tangent.norm())
    for point in ([0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [0.6, 0.8]):
        theta = torch.tensor(point, dtype=torch.float64)
        assert torch.isfinite(problem.gradient(theta)).all() and torch.isfinite(problem.hessian(theta).dense()).all()


def test_bad_names_and_options_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'digits-mlp'"):
        tame.problems.load("digit-mlp")
    with pytest.raises(TypeError, match=r"takes the options width, n, seed, got 'depth'"):
        tame.problems.load("digits-mlp", depth=3)
    for options, message in (
        ({"name": "digits-mlp", "width": 0}, "at least 1 unit, got 0"),
        ({"name": "digits-linear", "n": 5000}, "between 1 and 1797"),
        ({"name": "quadratic", "eigenvalues": ()}, "at least one number"),
        ({"name": "rosenbrock", "dim": 1}, "at least 2, got 1"),
        ({"name": "mexican-hat", "radius": 1.5}, r"in \(0, 1\)"),
        ({"name": "deep-linear", "hidden": 0}, "hidden must be >= 1"),
    ):
        name = options.pop("name")
        with pytest.raises(ValueError, match=message):
            tame.problems.load(name, **options)


def test_the_mexican_hat_is_known_to_lack_the_kl_property() -> None:
    (known,) = tame.problems.load("mexican-hat").known
    assert known.claim == "F.kl" and known.verdict is Verdict.REFUTED
    # the length grows like 1 / (2 (1 - R)): ten times for each decimal of the radius, without bound
    short, middle, long = orbit_length(0.5, 0.9), orbit_length(0.5, 0.99), orbit_length(0.5, 0.999)
    assert 8 < middle / short < 16 and 9 < long / middle < 11
    # closed form of the integral of 2 r^2/(1-r^2)^2, which the orbit's length exceeds
    winding = [r / (1 - r**2) - math.atanh(r) for r in (0.5, 0.999)]
    assert long > winding[1] - winding[0]
