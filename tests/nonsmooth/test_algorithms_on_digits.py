"""The algorithms of the references on real digits: hypotheses checked, lengths finite, rates as predicted."""

import itertools

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.nonsmooth import prox, sparsity_path
from tameopt.nonsmooth.palm import PALM
from tameopt.nonsmooth.proximal_point import gauss_seidel, proximal_point, stochastic_subgradient


def _digits(n):
    inputs, target = tame.problems.load("digits-mlp", n=n).batches.whole
    return inputs.double(), target


def _two_blocks(constant=1.0, n=200):
    """Hidden and output layer as blocks: the second's constant is known, the first's is found.

    Cross-entropy has a Hessian of at most 1/2 in the logits (Boehning 1992): the output block's gradient is
    lambda_max(Phi^T Phi) / (2 n)-Lipschitz, Phi the hidden values with a column of ones.
    """
    inputs, target = _digits(n)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).double()

    def modulus():
        with torch.no_grad():
            hidden = torch.cat([model[1](model[0](inputs)), torch.ones(n, 1, dtype=torch.float64)], 1)
            return constant * float(torch.linalg.eigvalsh(hidden.T @ hidden)[-1]) / (2 * n)

    optimizer = PALM(
        [
            {"params": list(model[0].parameters()), "prox": "l1", "strength": 1e-3},
            {"params": list(model[2].parameters()), "prox": "l2_squared", "strength": 1e-3, "lipschitz": modulus},
        ]
    )
    return optimizer, lambda: nn.functional.cross_entropy(model(inputs), target), model


def test_palm_on_a_network_of_two_blocks():
    optimizer, smooth, model = _two_blocks()
    values = [float(smooth().detach() + optimizer.regularizer())]
    for _ in range(30):
        optimizer.step(smooth)
        values.append(float(smooth().detach() + optimizer.regularizer()))
    report = optimizer.report()
    assert report.step_hypothesis_holds and report.steps == 60
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))
    assert values[-1] < 0.8 * values[0]
    # the theorem's finite length: what was decreased pays for the moves, sum L (gamma - 1) norm^2 / 2 <= F_0 - F_K
    assert report.length < 60 * (values[0] - values[-1]) + 60
    assert int((model[0].weight == 0).sum()) > 100


def test_a_constant_that_is_too_small_is_seen():
    """A tenth of the true constant: the steps are too long, and the report says so instead of trusting it."""
    optimizer, smooth, _ = _two_blocks(constant=0.01)
    for _ in range(10):
        optimizer.step(smooth)
    report = optimizer.report()
    assert report.violations > 0 and not report.step_hypothesis_holds
    assert "violations" in repr(report)


@pytest.mark.parametrize("inertia", [0.0, 0.3])
def test_a_sparse_dictionary_of_digits(inertia):
    """l1 codes and atoms in the unit ball, by PALM and iPALM with both constants computed at each step."""
    A, _ = _digits(200)
    g = torch.Generator().manual_seed(0)
    codes = nn.Parameter(torch.rand(200, 12, dtype=torch.float64, generator=g))
    atoms = nn.Parameter(torch.rand(12, 64, dtype=torch.float64, generator=g) / 8)
    blocks = [
        {"params": [codes], "prox": "l1", "strength": 0.2,
         "lipschitz": lambda: float(torch.linalg.eigvalsh((atoms @ atoms.T).detach())[-1])},
        {"params": [atoms], "prox": "ball_l2",
         "lipschitz": lambda: float(torch.linalg.eigvalsh((codes.T @ codes).detach())[-1])},
    ]  # fmt: skip
    optimizer = PALM(blocks, inertia=inertia, gamma=1.01 if not inertia else 1.5)
    values = []
    for _ in range(80):
        optimizer.step(lambda: (A - codes @ atoms).square().sum() / 2)
        values.append(
            float((A - codes @ atoms).detach().square().sum()) / 2 + 0.2 * float(codes.detach().abs().sum())
        )
    report = optimizer.report()
    assert report.step_hypothesis_holds
    if not inertia:
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(values))
    assert (atoms.detach().norm(dim=1) <= 1 + 1e-12).all()
    assert float((codes == 0).double().mean()) > 0.3
    assert float((A - codes @ atoms).detach().norm() / A.norm()) < 0.35
    assert report.last_move < 0.05 * report.length


def test_proximal_point_has_the_rate_of_each_mode():
    """Ridge regression: each mode of Hessian eigenvalue s shrinks by 1 / (1 + lam s) a step, exactly."""
    inputs, target = _digits(300)
    A, y, lam, mu = inputs / 300**0.5, (target == 0).double() / 300**0.5, 5.0, 0.2
    H = A.T @ A + mu * torch.eye(64, dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.eye(64, dtype=torch.float64) + lam * H)

    def of_ridge(x, step):
        assert step == lam
        return torch.cholesky_solve((x + lam * (A.T @ y))[:, None], factor)[:, 0]

    start = torch.ones(64, dtype=torch.float64)
    path = proximal_point(of_ridge, start, lam, 30)
    limit = torch.linalg.solve(H, A.T @ y)
    values, modes = torch.linalg.eigh(H)
    before, after = ((path.points[k] - limit) @ modes for k in (0, 6))
    torch.testing.assert_close(after, before / (1 + lam * values) ** 6, rtol=1e-6, atol=1e-12)
    assert path.ratio == pytest.approx(1 / (1 + lam * float(values[0])), rel=5e-3)  # the slowest, in the end
    assert float((path.points[-1] - limit).norm()) < 1e-6
    assert path.length >= float((start - limit).norm()) * (1 - 1e-9)


def test_regularised_gauss_seidel_on_a_factorisation_of_digits():
    """norm(A - X Y)^2 / 2 with both blocks solved exactly: every pass decreases it by norm(move)^2 / (2 lam)."""
    A, _ = _digits(200)
    g, lam, r = torch.Generator().manual_seed(0), 2.0, 5
    start = [torch.rand(shape, dtype=torch.float64, generator=g) for shape in ((200, r), (r, 64))]
    eye = torch.eye(r, dtype=torch.float64)

    def of_left(now, X, lam):
        Y = now[1]
        return torch.linalg.solve(Y @ Y.T + eye / lam, (A @ Y.T + X / lam).T).T

    def of_right(now, Y, lam):
        X = now[0]
        return torch.linalg.solve(X.T @ X + eye / lam, X.T @ A + Y / lam)

    (X, Y), path = gauss_seidel([of_left, of_right], start, lam, 40)
    best = float(torch.linalg.svdvals(A)[r:].square().sum()) / 2  # Eckart & Young
    value = float((A - X @ Y).square().sum()) / 2
    assert best <= value <= 1.02 * best
    values = [
        float((A - point[: 200 * r].view(200, r) @ point[200 * r :].view(r, 64)).square().sum()) / 2
        for point in path.points
    ]
    for before, after, move in zip(values[:-1], values[1:], path.moves.tolist(), strict=True):
        assert after + move**2 / (2 * lam) <= before * (1 + 1e-12)
    assert path.moves[-1] < path.moves[0] / 50


def test_stochastic_subgradient_trains_a_support_vector_machine():
    """Hinge loss on zeros against the rest, a subgradient of mini-batches, alpha_k = 1 / (k + 1)^0.6."""
    inputs, target = _digits(600)
    sign = torch.where(target == 0, 1.0, -1.0).double()
    g = torch.Generator().manual_seed(0)

    def subgradient(w):
        chosen = torch.randint(600, (32,), generator=g)
        short = sign[chosen] * (inputs[chosen] @ w) < 1
        return 1e-3 * w - (sign[chosen] * short) @ inputs[chosen] / 32

    path = stochastic_subgradient(subgradient, torch.zeros(64, dtype=torch.float64), lambda k: (k + 1) ** -0.6, 800)
    right = (sign * (inputs @ path.points[-1]) > 0).double().mean()
    assert float(right) > 0.98


def test_a_convolutional_network_is_trained_sparse():
    problem = tame.problems.load("digits-cnn", channels=3, n=300)
    path = sparsity_path(problem, "l1", (1e-3, 5e-3), steps=50, passes=4, lr=0.05)
    first, last = path.points
    assert last.nonzero < first.nonzero < 1
    assert last.accuracy > 0.4
    assert all(point.report.step_hypothesis_holds for point in path.points)
    assert path.parameters == ("1.weight", "4.weight", "8.weight")


def test_every_regulariser_can_train_a_layer():
    """Each entry of the catalogue through the optimizer: finite, and a fixed point of its own set or penalty."""
    inputs, target = _digits(40)
    for name in prox.names():
        torch.manual_seed(0)
        layer = nn.Linear(64, 10).double()
        strength = 1e-3 if name != "s_sparse" else 1.0
        options = {"s": 20} if name == "s_sparse" else {}
        groups = [{"params": [layer.weight], "prox": name, "strength": strength, "options": options},
                  {"params": [layer.bias]}]  # fmt: skip
        optimizer = tame.optim.ProximalGradient(groups, lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(inputs), target).backward()
            optimizer.step()
        assert torch.isfinite(layer.weight).all(), name
        assert torch.isfinite(optimizer.regularizer()), name
