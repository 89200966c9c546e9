"""Flow certificates of ReLU networks: bounds against brute force, promises against a simulated flow, forgeries."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from tameopt.evidence import Verdict
from tameopt.kl import check, check_flow, flow_certificate
from tameopt.kl.relu_flow import recognise_relu
from tameopt.problem import Problem

D = torch.float64
MSE = nn.functional.mse_loss


def problem_of(n=4, d=6, m=40, k=1, seed=0, activation=None, frozen=()) -> Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(d, m), activation or nn.ReLU(), nn.Linear(m, k)).double()
    for name, parameter in zip("WbCe", model.parameters(), strict=True):
        parameter.requires_grad_(name not in frozen)
    X = nn.functional.normalize(torch.randn(n, d, dtype=D), dim=1)
    return Problem(model, MSE, (X, 0.3 * torch.randn(n, k, dtype=D)))


def flow_of(problem: Problem) -> check_flow.Flow:
    network, arrays = recognise_relu(problem)
    return check_flow.Flow(network, arrays)


@pytest.mark.parametrize(
    "options", [{}, {"k": 2}, {"activation": nn.LeakyReLU(0.2)}, {"frozen": "Ce"}, {"frozen": "b"}]
)
def test_the_kernel_bound_is_below_every_kernel_on_the_way(options):
    # move every neuron by as much as it may, at random, flip at random what may flip, and look at the kernel there
    problem = problem_of(**options)
    flow = flow_of(problem)
    generator = np.random.default_rng(0)
    first = [letter for letter in "Wb" if letter in flow.trained]
    inputs = flow.inputs
    products = np.abs(inputs @ inputs.T)
    for tau in (0.0, 0.01, 0.05, 0.2):
        low = flow.kernel_low(tau)
        z = flow.W @ flow.X.T + flow.b[:, None]
        speed = flow.scale * np.linalg.norm(flow.C, axis=0)[:, None] * tau
        active = np.where(z + speed * np.linalg.norm(products, axis=1)[None] > 0, 1.0, flow.slope)
        reach = speed * np.sqrt(active**2 @ products**2)
        for _ in range(30):
            slope = np.where(z > 0, 1.0, flow.slope)
            free = (np.abs(z) <= reach) & (generator.random(z.shape) < 0.7)
            slope = np.where(free, generator.uniform(flow.slope, 1, z.shape), slope)
            J = np.einsum("or,ri,id->iord", flow.C, slope, inputs).reshape(flow.n * flow.k, -1) * flow.scale
            assert np.linalg.eigvalsh(J @ J.T)[0] >= low - 1e-12
        if tau == 0:
            slope = np.where(z > 0, 1.0, flow.slope)
            J = np.einsum("or,ri,id->iord", flow.C, slope, inputs).reshape(flow.n * flow.k, -1)
            assert low == pytest.approx(np.linalg.eigvalsh(J @ J.T)[0], rel=1e-6)
    assert first


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"activation": nn.LeakyReLU(0.2)}, {"frozen": "Ce"}])
def test_the_kernel_bound_holds_along_simulated_flows(options):
    problem = problem_of(seed=5, **options)
    flow = flow_of(problem)
    theta, clock, h = problem.theta, 0.0, 0.01
    for k in range(60):
        outputs = problem.outputs(theta)
        if k % 10 == 0:
            at, arrays = recognise_relu(problem, theta)
            z = arrays["W"] @ arrays["X"].T + arrays["b"][:, None]
            slope = np.where(z > 0, 1.0, at["slope"])
            J = np.einsum("or,ri,id->iord", arrays["C"], slope, flow.inputs).reshape(flow.n * flow.k, -1)
            assert np.linalg.eigvalsh(J @ J.T)[0] >= flow.kernel_low(clock) * (1 - 1e-9)
        # the flow of norm(u)^2/2: its clock runs by norm(u)
        gradient = problem.gradient(theta) * problem.n * flow.k / 2
        clock += h * float((outputs - problem.targets()).norm())
        theta = theta - h * gradient


def train(problem: Problem, steps: int = 4000) -> torch.Tensor:
    """Gradient descent until the certificate holds, tried at every tenth of the steps."""
    theta = problem.theta
    for k in range(steps):
        if k % (steps // 10) == 0 and flow_certificate(problem, theta).holds:
            break
        theta = theta - 0.3 * problem.gradient(theta)
    return theta


@pytest.fixture(scope="module", params=["relu", "leaky", "two outputs", "first layer"])
def certified(request):
    options = {
        "relu": {}, "leaky": {"activation": nn.LeakyReLU(0.1)}, "two outputs": {"k": 2, "m": 60},
        "first layer": {"frozen": "Ce"},
    }[request.param]  # fmt: skip
    problem = problem_of(**options)
    theta = train(problem)
    certificate = flow_certificate(problem, theta)
    assert certificate.verdict is Verdict.PROVED, certificate
    return problem, theta, certificate


def test_the_flow_keeps_the_promise(certified):
    problem, theta, certificate = certified
    F0, t, h = float(problem.value(theta)), 0.0, 1e-3
    for _ in range(400):
        # explicit Euler with small steps is below exp(-rate t) to first order in h
        theta = theta - h * problem.gradient(theta)
        t += h
    assert float(problem.value(theta)) <= F0 * math.exp(-certificate.rate * t) * (1 + 1e-3)


def test_it_is_saved_and_replayed(certified, tmp_path):
    certificate = certified[2]
    certificate.save(tmp_path / "flow.safetensors")
    assert check(tmp_path / "flow.safetensors") is True
    finding = certificate.finding(step=7)
    assert finding.verdict is Verdict.PROVED and finding.evidence.certificate.replay()
    assert finding.statement.startswith("From step 7 on the gradient flow")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["claims"].update(q=1.01 * d["claims"]["q"]),
        lambda d: d["claims"].update(q=0.0),
        lambda d: d["claims"].update(taus=[0.9 * tau for tau in d["claims"]["taus"]]),
        lambda d: d["claims"].update(taus=[*d["claims"]["taus"][::-1], 0.0]),
        lambda d: d["arrays"].update(Y=d["arrays"]["Y"] + 1),
        lambda d: d["arrays"].update(W=0 * d["arrays"]["W"]),
        lambda d: d["arrays"].update(X=np.vstack([d["arrays"]["X"][:1]] * 4)),
        lambda d: d["network"].update(scale=0.3),
    ],
)
def test_tampered_certificates_are_rejected(certified, change):
    data = copy.deepcopy(certified[2].data)
    change(data)
    assert check_flow.check(data) is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="x"), "must have format"),
        (lambda d: d["claims"].pop("taus"), "must hold a network"),
        (lambda d: d["claims"].update(taus=[]), "between 1 and 200"),
        (lambda d: d["claims"].update(q=math.nan), "between 1 and 200"),
        (lambda d: d["network"].update(slope=-1.0), "slope must be in"),
        (lambda d: d["network"].update(trained=["Z"]), "must be among the stored"),
        (lambda d: d["network"].update(trained=["C"]), "needs a trained first layer"),
        (lambda d: d["arrays"].update(X=np.ones((4, 2))), "must fit one network"),
        (lambda d: d["arrays"].update(X=np.full((4, 6), np.inf)), "must be finite"),
    ],
)
def test_what_is_no_flow_certificate_is_refused(certified, change, message):
    data = copy.deepcopy(certified[2].data)
    change(data)
    with pytest.raises(ValueError, match=message):
        check_flow.check(data)


def test_at_initialisation_it_says_what_fails():
    certificate = flow_certificate(problem_of())
    assert certificate.verdict is Verdict.UNKNOWN
    assert "must be at least norm(u)" in certificate.reason
    assert certificate.finding().verdict is Verdict.UNKNOWN


def test_twins_have_no_certificate():
    problem = problem_of()
    X, _ = problem.batches.whole
    X[1] = X[0]
    assert "lambda_min" in flow_certificate(problem, train(problem, 10)).reason


@pytest.mark.parametrize("bias", [False, True])
def test_scaled_copies_of_a_bias_free_network_are_named(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40, bias=bias), nn.ReLU(), nn.Linear(40, 1, bias=False)).double()
    X, Y = problem_of().batches.whole
    X[3], Y[3] = 2 * X[0], 3 * Y[0]
    reason = flow_certificate(Problem(model, MSE, (X, Y))).reason
    assert ("sample 3 is 2 times that of sample 0, with targets that are not" in reason) != bias


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)), MSE, "must be ReLU or leaky ReLU"),
        (lambda: nn.Sequential(nn.Linear(6, 1)), MSE, "must be Linear, ReLU, Linear"),
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)), nn.HuberLoss(), "not least squares"),
        (lambda: nn.Sequential(nn.Linear(6, 5), nn.LeakyReLU(-1.0), nn.Linear(5, 1)), MSE, "between 0 and 1"),
    ],
)
def test_other_problems_are_named(model, loss, message):
    torch.manual_seed(0)
    problem = Problem(model().double(), loss, (torch.randn(4, 6, dtype=D), torch.ones(4, 1, dtype=D)))
    assert message in flow_certificate(problem).reason
