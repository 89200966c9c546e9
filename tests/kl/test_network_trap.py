"""Certificates of deeper networks: the bounds hold against autodiff, promises are kept, forgeries are refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from tameopt.evidence import Verdict
from tameopt.kl import check_network, check_trap, ntk, trap_certificate
from tameopt.kl.network import network_numbers, trace_network
from tameopt.problem import Problem

D = torch.float64
MSE = nn.functional.mse_loss


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(h + 0.5 * torch.sin(self.middle(h))) / 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 5), nn.Linear(5, 5), nn.Linear(5, 2, bias=False)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = torch.sigmoid(self.middle(torch.tanh(self.middle(h))))
        return self.last(h)


class Tokens(nn.Module):
    """The same layer at four places, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 7), nn.Linear(28, 2)

    def forward(self, x):
        return self.last(nn.functional.gelu(self.first(x.reshape(-1, 4, 4))).flatten(1))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 3, 3, padding=1, stride=1), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(3, 3, 2), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip


MODELS = {
    "two hidden": lambda: nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 2)),
    "three hidden": lambda: nn.Sequential(
        nn.Linear(16, 6),
        nn.Tanh(),
        nn.Linear(6, 5, bias=False),
        nn.GELU(),
        nn.Linear(5, 4),
        nn.Tanh(),
        nn.Linear(4, 2),
    ),
    "cnn": cnn,
    "residual": Residual,
    "tied": Tied,
    "tokens": Tokens,
}


def problem_of(name: str, n: int = 5, seed: int = 0, freeze: int | None = None) -> Problem:
    torch.manual_seed(seed)
    model = MODELS[name]().double()
    if freeze is not None:
        list(model.parameters())[freeze].requires_grad_(False)
    X = nn.functional.normalize(torch.randn(n, 16, dtype=D), dim=1)
    return Problem(model, MSE, (X, torch.randn(n, 2, dtype=D)))


def jacobian(problem: Problem, theta: torch.Tensor) -> torch.Tensor:
    def outputs(flat):
        return problem.batch_output(problem.unflatten(flat), problem.batches.whole, True).reshape(-1)

    return torch.func.jacrev(outputs)(theta)


@pytest.mark.parametrize("freeze", [None, 0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_the_checker_sees_the_jacobian_that_autodiff_sees(name, freeze):
    problem = problem_of(name, freeze=freeze)
    net = trace_network(problem)
    bounds = check_network.network_bounds(net.description(), net.arrays())
    kernel = ntk(problem)
    assert kernel.lambda_max <= bounds.J0**2 * (1 + 1e-12) and pytest.approx(kernel.lambda_max) == bounds.J0**2
    if kernel.lambda_min > 1e-9:
        assert bounds.s0**2 == pytest.approx(kernel.lambda_min, rel=1e-5)
        assert bounds.s0**2 <= kernel.lambda_min + 1e-13
    u = float((problem.outputs() - problem.targets()).norm())
    assert u * (1 - 1e-14) <= bounds.u0 <= u * (1 + 1e-9)


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_the_jacobian_changes_by_no_more_than_its_lipschitz_constant(name, radius):
    # the worst direction of change at the centre, by power iteration, and random pairs of points in the ball
    problem = problem_of(name, seed=1)
    net = trace_network(problem)
    ell = network_numbers(net).ell(radius + 1e-4)
    generator = torch.Generator().manual_seed(2)
    theta, step = problem.theta, 1e-4
    direction = torch.randn(problem.dim, dtype=D, generator=generator)
    found = 0.0
    for trial in range(10):
        direction = direction / direction.norm()
        centre = theta
        if radius and trial > 4:
            away = torch.randn(problem.dim, dtype=D, generator=generator)
            centre = theta + radius * away / away.norm()
        change = (jacobian(problem, centre + step * direction) - jacobian(problem, centre - step * direction)) / (
            2 * step
        )
        _, sizes, directions = torch.linalg.svd(change, full_matrices=False)
        found, direction = max(found, float(sizes[0])), directions[0]
    # 1e-6: finite differences of step 1e-4 err by 1e-8 third derivatives
    assert found <= ell * (1 + 1e-6)
    assert radius > 0 or ell < 20 * found  # not vacuous


@pytest.fixture(scope="module")
def trained():
    """Two hidden layers, trained until the certificate fires."""
    problem = problem_of("two hidden")
    X, Y = problem.batches.whole
    optimizer = torch.optim.LBFGS(
        problem.model.parameters(), max_iter=60, history_size=30, line_search_fn="strong_wolfe", tolerance_grad=0
    )

    def closure():
        optimizer.zero_grad()
        loss = MSE(problem.model(X), Y)
        loss.backward()
        return loss

    for _ in range(8):
        optimizer.step(closure)
        theta = torch.cat([parameter.detach().reshape(-1) for parameter in problem.model.parameters()])
        certificate = trap_certificate(problem, theta)
        if certificate.holds:
            return problem, theta, certificate
    raise AssertionError(certificate)


def test_gradient_descent_keeps_every_promise(trained):
    problem, start, certificate = trained
    assert certificate.verdict is Verdict.PROVED and "layers" in certificate.network
    theta, F0 = start.clone(), float(problem.value(start))
    for k in range(60):
        value, gradient = problem.value_and_gradient(theta)
        assert float(value) <= F0 * certificate.rate**k * (1 + 1e-9) + 1e-28
        assert float((theta - start).norm()) <= certificate.radius
        theta = theta - certificate.step * gradient


def test_saved_certificates_replay(trained, tmp_path):
    from tameopt.kl import check

    trained[2].save(tmp_path / "deep.safetensors")
    assert check(tmp_path / "deep.safetensors") is True
    assert trained[2].finding().verdict is Verdict.PROVED


@pytest.mark.parametrize(
    ("name", "factor"),
    [("ell", 1 - 1e-4), ("s0", 1 + 1e-5), ("J0", 1 - 1e-5), ("u0", 1 - 1e-5), ("radius", 0.9), ("step", 1.01)],
)
def test_a_claim_made_a_little_better_is_rejected(trained, name, factor):
    data = copy.deepcopy(trained[2].data)
    data["claims"][name] *= factor
    assert check_trap.check(data) is False


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["arrays"].update(X=1.5 * d["arrays"]["X"]),
        lambda d: d["arrays"].update(Y=-d["arrays"]["Y"]),
        lambda d: d["network"]["ops"][1].update(name="sin"),
        lambda d: d["network"]["ops"][0].update(bias=None),
        lambda d: d["network"].update(trained=d["network"]["trained"][1:]),
        lambda d: d["arrays"].update({d["network"]["trained"][2]: 2 * d["arrays"][d["network"]["trained"][2]]}),
        lambda d: d["network"]["ops"].append({"op": "scale", "in": len(d["network"]["ops"]), "factor": 0.5}),
    ],
)
def test_tampered_networks_are_rejected(trained, change):
    data = copy.deepcopy(trained[2].data)
    change(data)
    try:
        assert check_trap.check(data) is False
    except ValueError as error:
        assert "trained arrays must be" in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["network"].update(ops=[]), "must list its operators"),
        (lambda d: d["network"]["ops"][0].update(op="relu"), "this checker knows linear"),
        (lambda d: d["network"]["ops"][1].update(name="relu"), "this checker knows tanh"),
        (lambda d: d["network"]["ops"][0].update({"in": 3}), "must read an earlier value"),
        (lambda d: d["network"]["ops"][0].update(positions=2), "does not fit a value of size"),
        (lambda d: d["network"]["ops"][0].pop("weight"), "is damaged"),
        (lambda d: d["network"].update(trained=["X"]), "trained arrays must be"),
        (lambda d: d["network"]["ops"].pop(), "trained arrays must be"),
        (lambda d: d["network"]["ops"].append({"op": "mean", "in": 5, "count": 3}), "cannot be averaged"),
        (lambda d: d["network"]["ops"].append({"op": "add", "in": 5, "other": 0}), "cannot be added"),
        (lambda d: d["network"]["ops"].append({"op": "gather", "in": 5, "index": "X"}), "must be a list of whole"),
        (lambda d: d["arrays"].update(X=d["arrays"]["X"][:3]), "the targets must be"),
        (lambda d: d.update(before=5), "shadowing is known for one hidden layer"),
    ],
)
def test_what_is_no_network_is_refused(trained, change, message):
    data = copy.deepcopy(trained[2].data)
    change(data)
    with pytest.raises(ValueError, match=message):
        check_trap.check(data)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)

    def forward(self, x):
        y = torch.tanh(self.layer(x))
        return y if self.layer.bias.sum() > 0 else -y


class Detached(nn.Module):
    """Half of the output is cut off from its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        with torch.no_grad():
            cut = torch.tanh(self.first(x))
        return self.last(h + cut)


class Straight(torch.autograd.Function):
    """tanh with the gradient of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return torch.tanh(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class StraightThrough(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(Straight.apply(self.first(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Detached, "cut off from gradients"),
        (StraightThrough, "something on the way is detached"),
        (lambda: nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.ReLU(), nn.Linear(6, 2)), "relu is not smooth"),
        (lambda: nn.Sequential(nn.Linear(16, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)), "layer_norm"),
        (Branches, "could not be traced"),
        (lambda: nn.Sequential(nn.Linear(16, 2), nn.Softmax(1)), "softmax"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(16, 2)), nn.Tanh()), "not available"),
    ],
)  # fmt: skip
def test_other_models_are_not_certified_with_the_reason(model, message):
    torch.manual_seed(0)
    X = torch.randn(4, 16, dtype=D)
    certificate = trap_certificate(Problem(model().double(), MSE, (X, torch.ones(4, 2, dtype=D))))
    assert certificate.verdict is Verdict.UNKNOWN
    assert message in certificate.reason


def test_softplus_past_torchs_threshold_is_refused():
    problem = problem_of("cnn")
    net = trace_network(problem)
    network_numbers(net)
    assert net.obstacle(1e-3) == ""
    assert "identity past 20" in net.obstacle(100.0)


def test_too_large_jacobians_are_named():
    model = nn.Sequential(nn.Linear(4, 3000), nn.Tanh(), nn.Linear(3000, 300), nn.Tanh(), nn.Linear(300, 1)).double()
    X = torch.randn(100, 4, dtype=D)
    certificate = trap_certificate(Problem(model, MSE, (X, X[:, :1])))
    assert "entries: fewer samples" in certificate.reason


def test_twins_with_different_labels_are_named():
    problem = problem_of("two hidden")
    X, Y = problem.batches.whole
    X[3] = X[1]
    certificate = trap_certificate(problem)
    assert "samples 1 and 3 have the same input and different targets" in certificate.reason
    assert math.isinf(certificate.h)
    Y[3] = Y[1]
    assert "samples 1 and 3 have the same input and the same target" in trap_certificate(problem).reason


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Identity])
def test_opposite_inputs_of_a_bias_free_network_are_named(kind):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 9, bias=False), kind(), nn.Linear(9, 8, bias=False), kind(), nn.Linear(8, 1, bias=False)]
    X, Y = torch.randn(3, 4, dtype=D), torch.randn(3, 1, dtype=D)
    X[2] = -X[0] if kind is nn.Tanh else -2 * X[0]
    reason = trap_certificate(Problem(nn.Sequential(*layers).double(), MSE, (X, Y))).reason
    words = "are opposite" if kind is nn.Tanh else "sample 2 is -2 times that of sample 0"
    assert words in reason and "with targets that are not" in reason
