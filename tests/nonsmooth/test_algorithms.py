"""The algorithms of the references: their rates on closed forms, their hypotheses, and real data."""

import itertools

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.nonsmooth import prox
from tameopt.nonsmooth.factorise import factorise, nmf
from tameopt.nonsmooth.palm import PALM
from tameopt.nonsmooth.proximal_gradient import ProximalGradient
from tameopt.nonsmooth.proximal_point import gauss_seidel, proximal_point, stochastic_subgradient


def test_proximal_point_on_powers():
    """abs(x): finite; x^2: the ratio 1 / (1 + 2 lam)."""
    x0 = torch.tensor([1.3], dtype=torch.float64)
    assert proximal_point(prox.l1, x0, 0.3, 10).finite == 5
    square = proximal_point(lambda x, lam: prox.l2_squared(x, 2 * lam), x0, 0.4, 20)
    assert square.ratio == pytest.approx(1 / 1.8, rel=1e-9)
    assert square.finite is None
    assert square.length < 1.3


def _lasso(seed=0):
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(40, 20, dtype=torch.float64, generator=g) / 40**0.5
    truth = torch.zeros(20, dtype=torch.float64)
    truth[:4] = torch.tensor([2.0, -3.0, 1.5, 4.0])
    return A, A @ truth, float(torch.linalg.eigvalsh(A.T @ A)[-1])


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_proximal_gradient_solves_the_lasso(momentum):
    A, y, L = _lasso()
    w = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    lam = 0.05
    optimizer = ProximalGradient([w], lr=(1 - momentum) / L, prox="l1", strength=lam, momentum=momentum)
    for _ in range(800):
        optimizer.zero_grad()
        ((A @ w - y).square().sum() / 2).backward()
        optimizer.step()
    g = A.T @ (A @ w.detach() - y)
    on = w.detach() != 0
    # optimality: -g = lam sign(w) on the support, abs(g) <= lam off it
    torch.testing.assert_close(-g[on], lam * w.detach().sign()[on], atol=1e-8, rtol=0)
    assert g.abs().max() <= lam * (1 + 1e-9)
    assert optimizer.sparsity() > 0.5
    assert float(optimizer.regularizer()) == pytest.approx(lam * float(w.detach().abs().sum()))


@pytest.mark.slow
def test_proximal_gradient_trains_sparse_and_low_rank_layers():
    torch.manual_seed(0)
    problem = tame.problems.load("digits-mlp")
    inputs, target = problem.batches.whole
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = ProximalGradient(
        [
            {"params": [model[0].weight], "prox": "l2", "strength": 1.5e-2},
            {"params": [model[2].weight], "prox": "nuclear", "strength": 5e-2},
            {"params": [model[0].bias, model[2].bias], "prox": None},
        ],
        lr=0.3,
        momentum=0.5,
    )
    for _ in range(120):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs.float()), target)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1.3
    dead = (model[0].weight == 0).all(1).sum()
    assert dead >= 1  # whole units are off, not single weights
    assert torch.linalg.matrix_rank(model[2].weight) < 10


def test_palm_on_rank_one_nmf_reaches_the_known_value():
    """With a positive start the limit is the best rank-one fit: (norm_F(A)^2 - s_1^2) / 2."""
    g = torch.Generator().manual_seed(3)
    A = torch.rand(8, 6, dtype=torch.float64, generator=g) + 0.1
    expected = float((A.square().sum() - torch.linalg.svdvals(A)[0] ** 2) / 2)
    assert factorise(A, 1, passes=2000, tolerance=1e-12, generator=g).value == pytest.approx(expected, rel=1e-9)
    x, y = (nn.Parameter(torch.rand(shape, dtype=torch.float64, generator=g)) for shape in ((8, 1), (1, 6)))
    blocks = [
        {"params": [x], "prox": "nonnegative", "lipschitz": lambda: float((y @ y.T).detach()[0, 0])},
        {"params": [y], "prox": "nonnegative", "lipschitz": lambda: float((x.T @ x).detach()[0, 0])},
    ]
    optimizer = PALM(blocks)
    for _ in range(300):
        optimizer.step(lambda: (A - x @ y).square().sum() / 2)
    assert float((A - x @ y).detach().square().sum() / 2) == pytest.approx(expected, rel=1e-9)
    assert optimizer.report().step_hypothesis_holds


@pytest.mark.parametrize("inertia", [0.0, 0.4])
def test_palm_finds_its_own_steps_and_checks_them(inertia):
    """No formula for L: the step is halved until the descent inequality holds; the objective decreases."""
    g = torch.Generator().manual_seed(5)
    A = torch.randn(10, 8, dtype=torch.float64, generator=g)
    X, Y = (nn.Parameter(torch.randn(s, dtype=torch.float64, generator=g)) for s in ((10, 3), (3, 8)))
    optimizer = PALM(
        [{"params": [X], "prox": "l1", "strength": 0.05}, {"params": [Y], "prox": "l2_squared"}], inertia=inertia
    )

    def smooth():
        return (A - X @ Y).square().sum() / 2

    values = []
    for _ in range(300):
        optimizer.step(smooth)
        values.append(float(smooth().detach() + optimizer.regularizer()))
    if not inertia:
        assert all(b <= a + 1e-10 for a, b in itertools.pairwise(values))
    assert values[-1] < 0.9 * values[0]
    report = optimizer.report()
    assert report.violations == 0
    assert report.recent_ratio < 1
    assert 0 < report.least_modulus <= report.largest_modulus
    # the moduli it used are at least the curvature met along the steps, and not wildly more than the true constant
    assert report.largest_modulus < 40 * float(torch.linalg.svdvals(torch.cat([X.T, Y], 1).detach()).max() ** 2)


@pytest.mark.slow
def test_palm_on_a_two_block_network():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.randn(50, 6, dtype=torch.float64)
    y = torch.sin(x[:, :1])
    groups = [
        {"params": list(model[0].parameters()), "prox": "l1", "strength": 1e-3},
        {"params": list(model[2].parameters())},
    ]
    optimizer = PALM(groups)
    before = float(nn.functional.mse_loss(model(x), y).detach())
    for _ in range(100):
        optimizer.step(lambda: nn.functional.mse_loss(model(x), y))
    assert float(nn.functional.mse_loss(model(x), y).detach()) < 0.5 * before
    assert optimizer.report().step_hypothesis_holds


def test_nmf_on_real_digits_against_scikit_learn():
    from sklearn.decomposition import NMF

    inputs, _ = tame.problems.load("digits-mlp").batches.whole
    A = inputs.double()
    reference = NMF(10, max_iter=400).fit(A.numpy())
    ours = nmf(A, 10)
    assert ours.value <= 1.01 * reference.reconstruction_err_**2 / 2
    assert (ours.X >= 0).all() and (ours.Y >= 0).all()
    assert ours.decreased


def test_sparse_dictionary():
    g = torch.Generator().manual_seed(0)
    A = torch.randn(30, 12, dtype=torch.float64, generator=g)
    found = factorise(A, 4, prox=("s_sparse", "ball_l2"), passes=200, generator=g)
    assert ((found.X != 0).sum(1) <= 1).all()
    assert (found.Y.norm(dim=0) <= 1 + 1e-9).all()
    assert found.decreased


def test_gauss_seidel_meets_in_the_middle():
    """abs(x - y) + (x - 1)^2 / 2: block minimisers in closed form, a Clarke critical point in the limit."""

    def of_x(now, x, lam):
        centre = (1 + x / lam) / (1 + 1 / lam)
        return now[1] + prox.l1(centre - now[1], 1 / (1 + 1 / lam))

    def of_y(now, y, lam):
        return now[0] + prox.l1(y - now[0], lam)

    start = [torch.tensor([-2.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)]
    (x, y), path = gauss_seidel([of_x, of_y], start, 0.5, 60)
    assert float((x - y).abs()) < 1e-9
    assert path.length < 10


def test_stochastic_subgradient_reaches_the_kink():
    g = torch.Generator().manual_seed(0)
    path = stochastic_subgradient(
        torch.sign, torch.tensor([3.0, -2.0]), lambda k: 1 / (k + 1) ** 0.7, 4000,
        noise=lambda k, x: torch.randn(2, generator=g),
    )  # fmt: skip
    assert path.points[-1].abs().max() < 0.15


def test_bad_settings():
    w = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="lr must be > 0"):
        ProximalGradient([w], lr=0.0)
    with pytest.raises(ValueError, match="strength must be > 0"):
        ProximalGradient([w], prox="l1", strength=0.0)
    with pytest.raises(ValueError, match="Did you mean"):
        ProximalGradient([w], prox="nuclera")
    with pytest.raises(TypeError, match="prox must be a name"):
        ProximalGradient([w], prox=3)
    with pytest.raises(ValueError, match="momentum must be in"):
        ProximalGradient([w], momentum=1.0)
    with pytest.raises(TypeError, match="needs a closure"):
        PALM([w]).step()
    with pytest.raises(ValueError, match="gamma must be >= 1"):
        PALM([w], gamma=0.5)
    with pytest.raises(ValueError, match="inertia must be in"):
        PALM([w], inertia=1.0)
    with pytest.raises(ValueError, match="rank must be in"):
        factorise(torch.rand(3, 2), 5)
    with pytest.raises(ValueError, match="must be >= 0 for a nonnegative"):
        nmf(-torch.rand(3, 3), 1)
    with pytest.raises(ValueError, match="A must be finite"):
        factorise(torch.full((2, 2), float("nan")), 1)
    with pytest.raises(ValueError, match="lam must be > 0"):
        proximal_point(prox.l1, torch.ones(1), 0.0, 3)
    with pytest.raises(ValueError, match="each block needs a start"):
        gauss_seidel([], [torch.ones(1)], 1.0, 1)
    with pytest.raises(ValueError, match="every step must be > 0"):
        stochastic_subgradient(torch.sign, torch.ones(1), lambda k: 0.0, 1)
