"""The known answers of the chapter, K1 to K25, one entry each: rational in, rational out where the answer is."""

import itertools
import math
from fractions import Fraction as Q

import numpy as np
import pytest
import torch

import tameopt as tame
from tameopt.noise.averaging import stationary_variance
from tameopt.nonsmooth import chain_rule, prox, safe_gradient, subdifferential
from tameopt.nonsmooth.factorise import factorise
from tameopt.nonsmooth.proximal_point import proximal_point
from tameopt.nonsmooth.subgradient_flow import inclusion
from tameopt.structure import certify

KINDS = ("convex", "frechet", "limiting", "clarke")
CUBE = [[-1, -1], [-1, 1], [1, -1], [1, 1]]


def sets(F, x, *answers):
    """Each of the four, as sorted corners of its pieces: equal as rationals, and said to be exact."""
    for kind, answer in zip(KINDS, answers, strict=True):
        found = subdifferential(F, x, kind)
        assert found.status == "exact", (kind, found.reason)
        assert all(isinstance(entry, Q) for piece in found.pieces for corner in piece.corners for entry in corner)
        assert sorted([list(corner) for corner in piece.corners] for piece in found.pieces) == sorted(answer), kind


def backprop(F, x):
    point = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(F(point), point)[0].tolist()


def k1():
    sets(lambda x: -x.abs().sum(), [0], [], [], [[[-1]], [[1]]], [[[-1], [1]]])


def k2():
    limiting = [[[-1, -1], [1, -1]], [[-1, 1], [1, 1]]]
    sets(lambda x: x[0].abs() - x[1].abs(), [0, 0], [], [], limiting, [CUBE])


def k3():
    sets(lambda x: x.max(), [0, 0], *[[[[0, 1], [1, 0]]]] * 4)
    assert subdifferential(lambda x: x.max(), [0, 0]).min_norm().point == [Q(1, 2), Q(1, 2)]


def k4():
    norm = torch.linalg.vector_norm
    sets(lambda x: x.abs().sum(), [0, 0], *[[CUBE]] * 4)
    sets(lambda x: norm(x, math.inf), [0, 0], *[[[[-1, 0], [0, -1], [0, 1], [1, 0]]]] * 4)
    ball = subdifferential(norm, [0, 0])
    assert ball.status == "exact" and ball.support([3, 4]) == 5 and ball.support([-5, 12]) == 13
    assert ball.contains([0.6, 0.8]) and not ball.contains([0.601, 0.8])


def k5():
    F = lambda x: x.topk(2).values.sum()  # noqa: E731
    sets(F, [1, 1, 1], *[[[[0, 1, 1], [1, 0, 1], [1, 1, 0]]]] * 4)
    assert subdifferential(F, [1, 1, 1]).min_norm().point == [Q(2, 3)] * 3


def k6():
    for function, value in (
        (torch.relu, 0.0),
        (lambda z: z.clamp(min=0), 2.0),
        (lambda z: torch.maximum(z, torch.zeros_like(z)), 1.0),
    ):
        F = lambda x, f=function: (f(x) - f(-x)).sum()  # noqa: E731
        sets(F, [0], *[[[[1]]]] * 4)
        assert backprop(F, [0.0]) == [value]
        assert safe_gradient(F, torch.zeros(1)).tolist() == [1.0]


def k7():
    relu = lambda z: torch.maximum(z, torch.zeros_like(z))  # noqa: E731
    F = lambda x: (relu(x) - relu(relu(x))).sum()  # noqa: E731
    sets(F, [0], *[[[[0]]]] * 4)
    assert backprop(F, [0.0]) == [0.25]


def k8():
    found = subdifferential(lambda x: x[1].abs() - (x[1] - x[0] ** 2).abs(), [0, 0])
    assert found.status == "exact" and found.vertices.tolist() == [[0, 0], [0, 2]]


def k10():
    limiting = [[[-1, 1], [0, 0]], [[0, 0], [1, 1]]]
    F = lambda x: torch.relu(x[1] - x[0].abs())  # noqa: E731
    sets(F, [0, 0], [[[0, 0]]], [[[0, 0]]], limiting, [[[-1, 1], [0, 0], [1, 1]]])


def k11():
    """Nesterov's second function: the 2^(n-1) points on x_{i+1} = 2 abs(x_i) - 1 that the literature counts.

    Every stratum of the arrangement is looked at in a rational point. For n = 3 there is one more, off the curve:
    (0, 0, -1), where the four gradients (-1/4 - 2 a, 1 - 2 s r, r), a, s, r = +-1, balance as written out below.
    """

    def F(x):
        return (x[0] - 1).abs() / 4 + (x[1:] - 2 * x[:-1].abs() + 1).abs().sum()

    assert _critical_strata(F, 2) == {(0, -1), (1, 1)}
    on_curve = {(0, -1, 1), (Q(1, 2), 0, -1), (Q(-1, 2), 0, -1), (1, 1, 1)}
    assert all(subdifferential(F, list(x)).contains([0] * 3) for x in on_curve)
    gradients = [(-Q(1, 4) - 2 * a, 1 - 2 * s * r, r) for a in (1, -1) for s in (1, -1) for r in (1, -1)]
    assert {tuple(v) for v in subdifferential(F, [0, 0, -1]).vertices} == set(gradients)
    weights = [w * v for w in (Q(7, 16), Q(9, 16)) for v in (Q(3, 8), Q(1, 8), Q(1, 8), Q(3, 8))]
    assert sum(weights) == 1
    assert [sum(w * g[j] for w, g in zip(weights, gradients, strict=True)) for j in range(3)] == [0, 0, 0]


def _critical_strata(F, n):
    points = [()]
    for place in range(n):
        longer = []
        for point in points:
            cuts = {Q(0)} | ({Q(1)} if place == 0 else {2 * abs(point[-1]) - 1})
            cuts |= {Q(1, 2), Q(-1, 2)} if place < n - 1 else set()  # where the next one's cut passes 0
            grid = sorted(cuts)
            between = [(a + b) / 2 for a, b in itertools.pairwise(grid)]
            longer += [(*point, v) for v in (grid[0] - 1, *grid, *between, grid[-1] + 1)]
        points = longer
    # off the last kink the derivative along x_n is +-1
    return {x for x in points if x[-1] == 2 * abs(x[-2]) - 1 and subdifferential(F, list(x)).contains([0] * n)}


@pytest.mark.slow
def test_k11_in_three_dimensions_has_five_critical_strata():
    F = lambda x: (x[0] - 1).abs() / 4 + (x[1:] - 2 * x[:-1].abs() + 1).abs().sum()  # noqa: E731
    expected = {(0, -1, 1), (Q(1, 2), 0, -1), (Q(-1, 2), 0, -1), (1, 1, 1), (0, 0, -1)}
    assert _critical_strata(F, 3) == expected


def k12():
    path = inclusion(lambda x: x.abs().sum(), [Q(5, 2), -1], [0.5, 2.0, 4.0])
    assert path.points.tolist() == [[2.0, -0.5], [0.5, 0.0], [0.0, 0.0]]
    assert [event.t for event in path.events] == [0, 1, Q(5, 2)]
    ball = inclusion(lambda x: x.norm(), [3.0, 4.0], [2.0, 6.0], prox=prox.l2, steps=600)
    np.testing.assert_allclose(ball.points, [[1.8, 2.4], [0, 0]], atol=1e-12)


def k14():
    for a, b, y0 in ((2, 1, 3), (3, -1, 2), (2, 1, -3)):
        path = inclusion(lambda z, a=a, b=b: a * z[1].abs() + b * z[1] + z[0], [0, y0], [10.0])
        assert path.events[1].t == Q(abs(y0), a + b * (1 if y0 > 0 else -1))
        assert path.events[1].velocity == (-1, 0) and path.unique


def k15():
    F = lambda x: -x.abs().sum()  # noqa: E731
    paths = [inclusion(F, [0], [2.0], branch=branch) for branch in range(3)]
    assert {float(path.points[0, 0]) for path in paths} == {-2.0, 0.0, 2.0}
    assert all(path.energy_defect == path.chain_rule_defect == 0 and not path.unique for path in paths)


def k16():
    """p = 1 in rationals, p = 2 (no extinction) and between in closed form; proximal steps within their bound."""
    assert inclusion(lambda x: x.abs().sum(), [Q(7, 3)], [9.0]).events[1].t == Q(7, 3)
    never = inclusion(lambda x: x.abs().square().sum(), [2], [3.0])
    assert never.points[0, 0] == pytest.approx(2 * math.exp(-6), rel=1e-14) and len(never.events) == 1
    for p in (1.2, 1.5, 1.8):
        T = 1 / (p * (2 - p))
        times = [share * T for share in (0.3, 0.7, 1.0, 1.3)]
        F = lambda x, p=p: (x.abs() ** p).sum()  # noqa: E731
        flow = inclusion(F, [1.0], times, prox=lambda x, h, p=p: prox.power(x, h, p=p), steps=300)
        truth = [max(0.0, 1 - t / T) ** (1 / (2 - p)) for t in times]
        assert np.abs(flow.points[:, 0] - truth).max() <= flow.error < 0.02
        exact = inclusion(F, [1.0], times)
        assert np.abs(exact.points[:, 0] - truth).max() <= 1e-12 and exact.points[-1, 0] == 0
        assert float(exact.events[1].t) == pytest.approx(T, rel=1e-14)


def fat_pieces(depth=7):
    """(left ends, right ends, signs): s = +-1, both signs of positive measure in every interval as depth grows.

    Each interval is halved by a middle share 2 / 8^k that takes the other sign: what is left of it stays fat.
    """
    pieces = [(0.0, 1.0, 1.0)]
    for k in range(1, depth + 1):
        finer = []
        for a, b, sign in pieces:
            width, middle = (b - a) * 8.0**-k, (a + b) / 2
            finer += [(a, middle - width, sign), (middle - width, middle + width, -sign), (middle + width, b, sign)]
        pieces = finer
    return np.array(pieces).T


LEFT, RIGHT, SIGN = fat_pieces()


def saturated(x):
    """int_0^x s."""
    return (np.clip(x[:, None] - LEFT, 0, RIGHT - LEFT) @ SIGN) if x.size else x


class Saturated(torch.autograd.Function):
    """It with derivative 0: an element of its Clarke subdifferential [-1, 1], everywhere."""

    @staticmethod
    def forward(ctx, x):
        return torch.as_tensor(saturated(x.detach().numpy()))

    @staticmethod
    def backward(ctx, g):
        return 0 * g


def k18():
    """No certificate calls it path differentiable, and the check along a curve refuses a Clarke selection."""
    F = lambda x: Saturated.apply(x).sum()  # noqa: E731
    point = torch.tensor([0.3], dtype=torch.float64)
    problem = tame.Problem.from_function(F, point)
    certificate = certify(problem)
    assert str(certificate.verdict) != "PROVED"
    curve = [torch.tensor([0.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)]
    found = chain_rule(problem.value_and_gradient, curve)
    assert not found.holds and abs(found.worst.change) > 0.1 and found.worst.integral == 0
    with pytest.raises(ValueError):
        subdifferential(F, [Q(3, 10)])


def k21():
    v = torch.tensor([0.9, 1.1, -3.0], dtype=torch.float64)
    assert prox.l0(v, 0.5).tolist() == [0.0, 1.1, -3.0]  # the threshold is sqrt(2 t) = 1
    t = 0.7
    for value in (1.2, 1.5, -4.0):
        formula = (2 * value / 3) * (
            1 + math.cos(2 * math.pi / 3 - 2 / 3 * math.acos(t / 4 * (abs(value) / 3) ** -1.5))
        )
        expected = 0.0 if abs(value) <= 1.5 * t ** (2 / 3) else formula
        assert float(prox.l_half(torch.tensor([value], dtype=torch.float64), t)) == pytest.approx(expected, rel=1e-14)


def k23():
    """x <- x - a (lam x + s xi): V = (1 - a lam)^2 V + a^2 s^2, in rationals."""
    a, lam, s = Q(1, 5), Q(2), Q(3, 2)
    V = a * s**2 / (lam * (2 - a * lam))
    assert (1 - a * lam) ** 2 * V + a**2 * s**2 == V
    assert stationary_variance(0.2, 2.0, 2.25) == pytest.approx(float(V), rel=1e-15)


def k24():
    x0 = torch.tensor([1.25], dtype=torch.float64)
    assert proximal_point(prox.l1, x0, 0.25, 10).finite == 5
    assert proximal_point(lambda x, lam: prox.l2_squared(x, 2 * lam), x0, 0.5, 20).ratio == 0.5


def k25():
    g = torch.Generator().manual_seed(3)
    A = torch.rand(8, 6, dtype=torch.float64, generator=g) + 0.1
    expected = float((A.square().sum() - torch.linalg.svdvals(A)[0] ** 2) / 2)
    assert factorise(A, 1, passes=2000, tolerance=1e-12, generator=g).value == pytest.approx(expected, rel=1e-9)


KNOWN = (k1, k2, k3, k4, k5, k6, k7, k8, k10, k11, k12, k14, k15, k16, k18, k21, k23, k24, k25)


@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.__name__.upper())
def test_known_answer(entry):
    entry()
