"""From the initial point: the replay's distance bound holds against extended precision, and certificates from it."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from tameopt.evidence import Verdict
from tameopt.kl import check_trap, shadow_certificate
from tameopt.kl.check_shadowing import _Replay, shadow
from tameopt.kl.shallow import ShallowNetwork, recognise
from tameopt.problem import Problem

D = torch.float64
MSE = nn.functional.mse_loss


def problem_of(n=4, d=5, m=6, k=1, seed=0, biases=False, trained="first") -> Problem:
    generator = torch.Generator().manual_seed(seed)
    X = nn.functional.normalize(torch.randn(n, d, dtype=D, generator=generator), dim=1)
    Y = torch.randint(0, 2, (n, k), generator=generator).to(D) * 2 - 1
    if biases:
        torch.manual_seed(seed)
        return Problem(nn.Sequential(nn.Linear(d, m), nn.Tanh(), nn.Linear(m, k)).double(), MSE, (X, Y))
    return Problem(ShallowNetwork(d, m, outputs=k, trained=trained, generator=generator), MSE, (X, Y))


def extended(net, eta: float, steps: int) -> dict[str, np.ndarray]:
    """Gradient descent in 80-bit arithmetic: its rounding is 2,000 times smaller than that of the replay."""
    now = {name: array.astype(np.longdouble) for name, array in net.arrays().items()}
    X, Y = now["X"], now["Y"]
    for _ in range(steps):
        z = np.longdouble(net.gain) * (now["W"] @ X.T + (now["b"][:, None] if "b" in now else 0))
        v = np.tanh(z)
        u = np.longdouble(net.scale) * (v.T @ now["C"].T) + now.get("e", 0) - Y
        Q = np.longdouble(net.scale) * np.longdouble(net.gain) * ((now["C"].T @ u.T) * (1 - v * v))
        moves = {"W": Q @ X, "b": Q.sum(1), "C": np.longdouble(net.scale) * (u.T @ v.T), "e": u.sum(0)}
        for name in net.trained:
            now[name] = now[name] - np.longdouble(eta) * moves[name]
    return now


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="no extended precision on this machine")
@pytest.mark.parametrize("options", [{}, {"biases": True, "k": 2}, {"trained": "both"}])
def test_exact_gradient_descent_is_within_the_stated_distance(options):
    net = recognise(problem_of(**options))
    eta, steps = 0.02, 150
    found = shadow(net.description(), net.arrays(), eta, steps)
    exact = extended(net, eta, steps)
    gap = math.sqrt(sum(float(np.square(exact[name] - found.arrays[name]).sum()) for name in net.trained))
    assert 0 < gap <= found.distance < 1e-8
    assert found.exponent > 0


@pytest.mark.parametrize("distance", [0.0, 1e-3])
@pytest.mark.parametrize("options", [{}, {"biases": True, "k": 2}, {"trained": "both", "k": 2}])
def test_a_step_expands_no_more_than_its_growth(options, distance):
    # the Jacobian of the step, I - eta Hess, by autodiff at random points of the ball
    problem = problem_of(seed=3, **options)
    net = recognise(problem)
    generator = torch.Generator().manual_seed(1)
    for eta in (0.05, 0.5, 3.0):
        replay = _Replay(net.description(), net.arrays(), eta)
        growth, _ = replay.step(distance)
        for _ in range(4):
            away = torch.randn(problem.dim, dtype=D, generator=generator)
            theta = problem.theta + distance * away / away.norm()

            def phi(flat):
                outputs = problem.batch_output(problem.unflatten(flat), problem.batches.whole, True)
                return ((outputs - problem.targets()) ** 2).sum() / 2

            hessian = torch.func.hessian(phi)(theta)
            step = torch.eye(problem.dim, dtype=D) - eta * hessian
            norm = float(torch.linalg.matrix_norm(step, 2))
            assert norm <= growth * (1 + 1e-12)
        if distance == 0 and eta == 0.05 and not options:
            # not vacuous: the expansion is that of the most negative curvature, exactly
            curvature = float(torch.linalg.eigvalsh(hessian - jacobian_part(problem, theta))[0])
            assert growth == pytest.approx(1 - eta * curvature, rel=1e-6)


def jacobian_part(problem: Problem, theta: torch.Tensor) -> torch.Tensor:
    def outputs(flat):
        return problem.batch_output(problem.unflatten(flat), problem.batches.whole, True).reshape(-1)

    J = torch.func.jacrev(outputs)(theta)
    return J.T @ J


@pytest.fixture(scope="module")
def certified():
    problem = problem_of(m=12)
    certificate = shadow_certificate(problem, most=400)
    assert certificate.verdict is Verdict.PROVED, certificate
    return problem, certificate


def test_the_whole_run_is_certified_from_the_initial_weights(certified):
    problem, certificate = certified
    assert certificate.before > 0 and certificate.steps > certificate.before
    theta = problem.theta
    for _ in range(certificate.steps):
        theta = theta - certificate.step * problem.gradient(theta)
    assert float(problem.value(theta)) <= certificate.target * (1 + 1e-6)
    finding = certificate.finding()
    assert finding.verdict is Verdict.PROVED
    assert finding.statement.startswith("From these initial weights, exact gradient descent")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(before=d["before"] // 2),
        lambda d: d["claims"].update(step=0.9 * d["claims"]["step"]),
        lambda d: d["claims"].update(u0=d["claims"]["u0"] * 0.9),
        lambda d: d["claims"].update(s0=d["claims"]["s0"] * 1.01),
        lambda d: d["arrays"].update(W=1.1 * d["arrays"]["W"]),
        lambda d: d["arrays"].update(Y=-d["arrays"]["Y"]),
        lambda d: d["network"].update(activation="sin"),
        lambda d: d["network"].update(trained=["W", "C"]),
    ],
)
def test_tampered_certificates_are_rejected(certified, change):
    data = copy.deepcopy(certified[1].data)
    change(data)
    assert check_trap.check(data) is False


@pytest.mark.parametrize("before", [-1, 2.5, True, 10**9, "many"])
def test_the_number_of_steps_must_be_a_count(certified, before):
    data = {**certified[1].data, "before": before}
    with pytest.raises(ValueError, match="the steps before the certificate must be"):
        check_trap.check(data)


def test_it_says_when_the_theorem_does_not_apply_in_time():
    certificate = shadow_certificate(problem_of(), most=3)
    assert certificate.verdict is Verdict.UNKNOWN
    assert "did not apply within 3 steps" in certificate.reason


def test_a_step_that_expands_loses_the_iterate():
    net = recognise(problem_of())
    found = shadow(net.description(), net.arrays(), 1e3, 400)
    assert math.isinf(found.distance)


def test_other_networks_are_named():
    problem = Problem(
        nn.Sequential(nn.Linear(3, 2), nn.ReLU()).double(),
        MSE,
        (torch.ones(2, 3, dtype=D),) * 1 + (torch.ones(2, 2, dtype=D),),
    )
    assert "shadowing is known for one hidden layer" in shadow_certificate(problem).reason
