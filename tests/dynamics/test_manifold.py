"""Invariant manifolds against closed forms: exact parabolas for maps and for gradient descent, and a surface."""

import math

import pytest
import torch

import tameopt as tame
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.manifold import NotHyperbolicError
from tameopt.dynamics.series import Series

F64 = torch.float64


def zeros(d):
    return torch.zeros(d, dtype=F64)


def parabola_map(x, lam=0.5, mu=2.0):
    """Known: W^s is y = x^2, W^u is x = 0."""
    return torch.stack([lam * x[0], mu * x[1] + (lam**2 - mu) * x[0] ** 2])


def parabola_objective(t, a=1.0, b=1.0, k=0.7, alpha=0.3):
    """Gradient descent with step alpha leaves y = k x^2 invariant and acts on it as x -> (1 - alpha a) x."""
    c = k * (1 - (1 - alpha * a) ** 2) / alpha
    return a * t[0] ** 2 / 2 - k * c * t[0] ** 4 / 2 + c * t[0] ** 2 * t[1] - b * (t[1] - k * t[0] ** 2) ** 2 / 2


def himmelblau(t):
    return (t[0] ** 2 + t[1] - 11) ** 2 + (t[0] + t[1] ** 2 - 7) ** 2


@pytest.mark.parametrize("order", [2, 5, 12])
def test_the_parabola_of_a_map(order):
    W = tame.dynamics.stable_manifold(parabola_map, zeros(2), order)
    x, y = W(torch.linspace(-1, 1, 21, dtype=F64)[:, None]).T
    assert float((y - x**2).abs().max()) < 1e-13
    U = tame.dynamics.unstable_manifold(parabola_map, zeros(2), order)
    assert float(U(torch.tensor([0.5], dtype=F64))[0].abs()) < 1e-14


@pytest.mark.parametrize("order", [2, 8])
def test_the_parabola_of_gradient_descent(order):
    T = GradientMap(parabola_objective, 0.3)
    W = tame.dynamics.stable_manifold(T, zeros(2), order)
    x, y = W(torch.linspace(-1, 1, 21, dtype=F64)[:, None]).T
    assert float((y - 0.7 * x**2).abs().max()) < 1e-12
    assert float(W.eigenvalues[0]) == pytest.approx(0.7)
    assert W.radius > 1 and W.residual < 1e-10


def test_points_on_the_stable_manifold_converge_to_the_saddle_until_rounding_takes_them():
    T = GradientMap(himmelblau, 0.002)
    saddle = tame.curvature.find_critical_points(
        tame.Problem.from_function(himmelblau, zeros(2)), torch.tensor([[3.3, 0.1]], dtype=F64)
    )[0].theta
    for order, shrink in ((4, None), (14, None)):
        W = tame.dynamics.stable_manifold(T, saddle, order)
        x = W(torch.tensor([0.9 * W.radius], dtype=F64))
        for _ in range(60):
            x = T(x)
        assert float((x - saddle).norm()) < 1e-3, (order, shrink)
    assert (
        tame.dynamics.stable_manifold(T, saddle, 14).radius > 2 * tame.dynamics.stable_manifold(T, saddle, 4).radius
    )


def test_the_invariance_error_falls_with_the_order():
    """Slope: on a fixed box the error of order q behaves like C r^(q + 1)."""
    T = GradientMap(lambda t: torch.exp(t[0]) - t[0] + torch.cos(t[1]) + t[0] * t[1] ** 2, 0.3)
    sizes = torch.tensor([0.1, 0.2], dtype=F64)
    for order in (2, 4):
        W = tame.dynamics.stable_manifold(T, zeros(2), order)
        errors = [float((T(W(s[None])) - W(W.dynamics(s[None]))).norm()) for s in sizes]
        slope = math.log(errors[1] / errors[0]) / math.log(2)
        assert slope > order + 0.5


def test_a_two_dimensional_stable_manifold():
    def T(x):
        # conjugate to diag(0.5, 0.25, 2) by z = u + a^2 + a b: the stable manifold is that graph
        a, b = 0.5 * x[0], 0.25 * x[1]
        u = 2.0 * (x[2] - x[0] ** 2 - x[0] * x[1])
        return torch.stack([a, b, u + a**2 + a * b])

    W = tame.dynamics.stable_manifold(T, zeros(3), 4)
    assert W.dimension == 2 and sorted(W.eigenvalues.tolist()) == pytest.approx([0.25, 0.5])
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 5, dtype=F64)] * 2)
    x, y, z = W(grid).T
    assert float((z - x**2 - x * y).abs().max()) < 1e-12


def test_an_inner_resonance_goes_into_the_dynamics():
    """0.25 = 0.5^2: x' = 0.5 x, y' = 0.25 y + x^2 cannot be linearised, and W stays the plane."""
    W = tame.dynamics.stable_manifold(
        lambda x: torch.stack([0.5 * x[0], 0.25 * x[1] + x[0] ** 2, 2 * x[2]]), zeros(3), 3
    )
    s = torch.tensor([0.3, 0.2], dtype=F64)
    assert float(W(s)[2].abs()) < 1e-14
    assert W.residual < 1e-10 and W.radius > 1


def test_the_unstable_curve_joins_the_minima():
    T = GradientMap(himmelblau, 0.002)
    saddle = torch.tensor([3.385154183607021, 0.07385187983774928], dtype=F64)
    U = tame.dynamics.unstable_manifold(T, saddle, 12)
    curve = tame.dynamics.globalised_curve(U, T, num_steps=150)
    ends = sorted(curve[[0, -1]].tolist())
    assert ends[0] == pytest.approx([3.0, 2.0], abs=0.02) and ends[1] == pytest.approx([3.5844, -1.8481], abs=0.02)


def test_the_stable_curve_is_carried_on_by_the_inverse():
    T = GradientMap(parabola_objective, 0.3)
    W = tame.dynamics.stable_manifold(T, zeros(2), 6, residual=1e-14)
    curve = tame.dynamics.globalised_curve(W, T, num_steps=3, points=60)
    reach = (curve[:, 1] - 0.7 * curve[:, 0] ** 2).abs()
    assert float(reach.max()) < 1e-9 and float(curve[:, 0].abs().max()) > 1.5 * W.radius


def bowl_map(x):
    """Known: W^u is z = x^2 + y^2."""
    return torch.stack([2 * x[0], 1.5 * x[1], 0.5 * x[2] + 3.5 * x[0] ** 2 + 1.75 * x[1] ** 2])


def test_an_unstable_surface_is_carried_on_by_the_map():
    U = tame.dynamics.unstable_manifold(bowl_map, zeros(3), 3)
    mesh = tame.dynamics.globalised_surface(U, bowl_map, num_steps=4, angles=12, extent=1e3)
    nodes = mesh[torch.isfinite(mesh).all(dim=2)]
    bowl = nodes[:, 0] ** 2 + nodes[:, 1] ** 2
    assert float(((nodes[:, 2] - bowl).abs() / (1 + bowl)).max()) < 1e-12
    assert mesh.shape[1:] == (13, 3) and float(nodes[:, :2].abs().max()) > 4 * U.radius
    assert float((nodes.norm(dim=1)).max()) <= 1e3 and bool(mesh.isnan().any())


def test_a_stable_surface_is_carried_on_by_the_inverse():
    def F(t):
        return t[0] ** 2 / 2 + 0.4 * t[1] ** 2 - t[2] ** 2 / 2 + 0.3 * t[2] * (t[0] ** 2 + t[1] ** 2)

    T = GradientMap(F, 0.2)
    W = tame.dynamics.stable_manifold(T, zeros(3), 8, residual=1e-13)
    mesh = tame.dynamics.globalised_surface(W, T, num_steps=3, angles=8, rings_per_step=2)
    assert bool(mesh.isfinite().all()) and float(mesh.norm(dim=2).max()) > 1.2 * W.radius
    # each ring is the image of the one that was carried out of it, two rings later
    outer = mesh[-1]
    assert float((torch.stack([T(node) for node in outer]) - mesh[-3]).abs().max()) < 1e-9
    for _ in range(20):
        outer = torch.stack([T(node) for node in outer])
    assert float(outer.norm(dim=1).max()) < 0.2 * float(mesh[-1].norm(dim=1).max())


def test_surfaces_and_curves_want_their_dimension():
    U = tame.dynamics.unstable_manifold(parabola_map, zeros(2), 3)
    with pytest.raises(ValueError, match="a surface needs a manifold of dimension 2, got 1"):
        tame.dynamics.globalised_surface(U, parabola_map)
    W = tame.dynamics.stable_manifold(parabola_map, zeros(2), 3)
    with pytest.raises(ValueError, match="a stable curve is carried on by the inverse of T"):
        tame.dynamics.globalised_curve(W, parabola_map)


def test_refusals():
    saddle = GradientMap(lambda t: t[0] ** 2 - t[1] ** 2, 0.1)
    with pytest.raises(NotHyperbolicError, match=r"norm\(T\(x\) - x\) must be 0 at a fixed point"):
        tame.dynamics.stable_manifold(saddle, torch.ones(2, dtype=F64))
    with pytest.raises(NotHyperbolicError, match="on the unit circle"):
        tame.dynamics.stable_manifold(GradientMap(lambda t: t[0] ** 2 / 2 + t[1] ** 3 / 3, 0.1), zeros(2))
    with pytest.raises(ValueError, match="no stable direction"):
        tame.dynamics.stable_manifold(GradientMap(lambda t: -(t**2).sum(), 0.1), zeros(2))
    with pytest.raises(ValueError, match="order must be at least 1"):
        tame.dynamics.stable_manifold(saddle, zeros(2), 0)
    with pytest.raises(ValueError, match="complex eigenvalues"):
        tame.dynamics.stable_manifold(
            lambda x: torch.stack([0.5 * x[0] - 0.5 * x[1], 0.5 * x[0] + 0.5 * x[1]]), zeros(2)
        )
    with pytest.raises(ValueError, match="lgamma"):
        tame.dynamics.stable_manifold(
            GradientMap(lambda t: torch.lgamma(t + 3).sum() - 0.9227843350984671 * t.sum() - t[1] ** 2, 0.1), zeros(2)
        )
    with pytest.raises(ValueError, match="dimension 1"):
        plane = tame.dynamics.stable_manifold(lambda x: x * torch.tensor([0.5, 0.4], dtype=F64), zeros(2), 2)
        tame.dynamics.globalised_curve(plane, saddle)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "sin", "cos", "tanh", "atan", "erf"])
def test_series_of_functions_against_derivatives_by_autograd(name):
    ring = Series(1, 5)
    u = torch.tensor(0.7, dtype=F64)
    series = ring.constant(0.7)
    series[1], series[2] = 1.0, -0.3
    value, slope = ring.function(name, series)
    t = torch.zeros((), dtype=F64, requires_grad=True)
    curve = u + t - 0.3 * t**2
    function = getattr(torch, name)
    current, factorial = function(curve), 1.0
    for n in range(5):
        assert float(value[n]) == pytest.approx(float(current.detach()) / factorial, abs=1e-12)
        (current,) = torch.autograd.grad(current, t, create_graph=True)
        factorial *= n + 1
    inner = torch.tensor(0.7, dtype=F64, requires_grad=True)
    (derivative,) = torch.autograd.grad(function(inner), inner)
    assert float(slope[0]) == pytest.approx(float(derivative.detach()))


def test_a_jordan_block_along_the_manifold_is_refused():
    """Its two computed eigenvectors are parallel: the polynomial would be a curve, and say that it is a surface."""
    for gap in (0.0, 1e-12):

        def block(x, gap=gap):
            return torch.stack([0.5 * x[0] + x[1], (0.5 + gap) * x[1], 2 * x[2] + x[0] ** 2])

        with pytest.raises(ValueError, match="DT must have independent eigenvectors"):
            tame.dynamics.stable_manifold(block, torch.zeros(3, dtype=torch.float64), 4)


def test_a_point_that_is_fixed_to_1e_9_is_polished():
    T = tame.dynamics.GradientMap(lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 0.2)
    found = tame.dynamics.stable_manifold(T, torch.full((2,), 1e-9, dtype=torch.float64), 4)
    assert found.radius > 1 and float(found.fixed_point.norm()) < 1e-15


def test_a_singular_jacobian_is_a_diagnosis():
    """alpha = 1 at curvature 1: T forgets the first coordinate, and no inverse carries the local manifold on."""
    T = tame.dynamics.GradientMap(lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2, 1.0)
    local = tame.dynamics.stable_manifold(T, torch.zeros(2, dtype=torch.float64), 4)
    with pytest.raises(ValueError, match="DT is singular at this fixed point: choose a smaller alpha"):
        tame.dynamics.globalised_curve(local, T)
    with pytest.raises(ValueError, match=r"a fixed point must have shape \(d,\), got \(2, 2\)"):
        tame.dynamics.stable_manifold(T, torch.zeros(2, 2, dtype=torch.float64))
