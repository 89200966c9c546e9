"""The four subdifferentials: the known answers exactly, independent channels, and points outside the calculus."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tameopt.nonsmooth import all_subdifferentials, safe_gradient, subdifferential
from tameopt.nonsmooth.fan import TooManyKinks, generic_count
from tameopt.nonsmooth.germ import GermError
from tameopt.nonsmooth.graph import TraceError


def _pieces(F, x, kind):
    found = subdifferential(F, x, kind)
    assert found.status == "exact", found
    return [[[int(e) if e.denominator == 1 else e for e in corner] for corner in p.corners] for p in found.pieces]


def minus_abs(x):
    return -x.abs().sum()


def saddle(x):
    return x[0].abs() - x[1].abs()


def tent(x):
    return torch.relu(x[1] - x[0].abs())


def rosenbrock(x):
    return (x[0] - 1).abs() / 4 + (x[1:] - 2 * x[:-1].abs() + 1).abs().sum()


KNOWN = {
    "-abs": (minus_abs, [0], [], [], [[[-1]], [[1]]], [[[-1], [1]]]),
    "abs - abs": (
        saddle, [0, 0], [], [], [[[-1, 1], [1, 1]], [[-1, -1], [1, -1]]], [[[-1, -1], [-1, 1], [1, -1], [1, 1]]],
    ),
    "max": (lambda x: x.max(), [0, 0], *[[[[0, 1], [1, 0]]]] * 4),
    "norm1": (lambda x: x.abs().sum(), [0, 0], *[[[[-1, -1], [-1, 1], [1, -1], [1, 1]]]] * 4),
    "norm-inf": (
        lambda x: torch.linalg.vector_norm(x, float("inf")), [0, 0], *[[[[-1, 0], [0, -1], [0, 1], [1, 0]]]] * 4,
    ),
    "top 2 of 3": (lambda x: x.topk(2).values.sum(), [1, 1, 1], *[[[[0, 1, 1], [1, 0, 1], [1, 1, 0]]]] * 4),
    "relu(x) - relu(-x)": (lambda x: (torch.relu(x) - torch.relu(-x)).sum(), [0], *[[[[1]]]] * 4),
    "relu(x) - relu(relu(x))": (lambda x: (torch.relu(x) - torch.relu(torch.relu(x))).sum(), [0], *[[[[0]]]] * 4),
    "tent": (
        tent, [0, 0], [[[0, 0]]], [[[0, 0]]], [[[-1, 1], [0, 0]], [[0, 0], [1, 1]]], [[[-1, 1], [0, 0], [1, 1]]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers_exactly(name):
    F, x, *answers = KNOWN[name]
    for kind, answer in zip(("convex", "frechet", "limiting", "clarke"), answers, strict=True):
        assert sorted(_pieces(F, x, kind)) == sorted(answer), kind


def test_least_norms_exactly():
    assert subdifferential(lambda x: x.max(), [0, 0]).min_norm().point == [Fraction(1, 2)] * 2
    assert subdifferential(lambda x: x.topk(2).values.sum(), [1, 1, 1]).min_norm().point == [Fraction(2, 3)] * 3


@pytest.mark.parametrize("n", [2, 3])
def test_nesterov_chebyshev_rosenbrock_has_its_clarke_points(n):
    """2^(n-1) Clarke critical points, one of them the minimum: where every term but the first is on its kink."""
    points = set()
    for first in (1, 0, -1):
        x = [Fraction(first)]
        for _ in range(n - 1):
            x.append(2 * abs(x[-1]) - 1)
        points.add(tuple(x))
    critical = {x for x in points if subdifferential(rosenbrock, list(x)).contains([0] * n)}
    assert (1,) * n in critical
    assert (0, *((-1, 1, 1)[: n - 1])) in critical
    assert not subdifferential(rosenbrock, [0, *((-1, 1, 1)[: n - 1])], "frechet").contains([0] * n)


def test_thin_cells_are_found_to_second_order():
    """K8: abs(y) - abs(y - x^2) at 0 is {0} x [0, 2]; the linearisation alone sees {0}."""
    found = subdifferential(lambda x: x[1].abs() - (x[1] - x[0] ** 2).abs(), [0, 0])
    assert found.status == "exact"
    assert found.vertices.tolist() == [[0, 0], [0, 2]]
    # an indefinite bend opens cusps on both sides; a double one is one and the same kink
    saddle_bend = subdifferential(lambda x: x[1].abs() - (x[1] - x[0] ** 2 + x[2] ** 2).abs(), [0, 0, 0])
    assert saddle_bend.vertices.tolist() == [[0, -2, 0], [0, 2, 0]]
    same = subdifferential(lambda x: (x[1] - x[0] ** 2).abs() - (x[1] - x[0] ** 2).abs(), [0, 0])
    assert (same.status, same.vertices.tolist()) == ("exact", [[0, 0]])


def test_thin_cells_of_higher_order_are_never_called_exact():
    """abs(y) - abs(y - x^3): the truth is {0} x [-2, 2], which a second order cannot see."""
    found = subdifferential(lambda x: x[1].abs() - (x[1] - x[0] ** 3).abs(), [0, 0])
    assert found.status == "inner_bound"
    assert "thin cells" in found.reason
    assert all(-2 <= corner[1] <= 2 and corner[0] == 0 for corner in found.vertices)


@pytest.mark.parametrize("seed", range(6))
def test_patterns_of_curved_kinks_agree_with_sampling(seed):
    """Every sign pattern seen near 0 must have been found; none found may contradict an undecided or refused one."""
    rng = np.random.default_rng(seed)
    bends = rng.integers(-2, 3, (3, 3))

    def kinks(x):
        square = x * x
        return [x[1] + (torch.as_tensor(row) * square).sum() + 0 * x[0] for row in bends]

    found = subdifferential(lambda x: sum((-1) ** k * (k + 1) * z.abs() for k, z in enumerate(kinks(x))), [0] * 3)
    seen = set()
    for scale in (1e-2, 1e-3):
        for _ in range(400):
            h = rng.standard_normal(3) * scale
            h[1] = rng.standard_normal() * 4 * scale**2
            z = [float(value) for value in kinks(torch.as_tensor(h))]
            seen.add(sum((-1) ** k * (k + 1) * np.sign(value) for k, value in enumerate(z)))
    low, high = found.vertices[0][1], found.vertices[-1][1]
    assert {low, high} <= seen  # what is claimed occurs
    if found.status == "exact":  # one of the six is left as an inner bound, honestly
        assert all(low <= slope <= high for slope in seen)


def test_a_norm_at_zero_is_a_ball():
    """K4: the unit ball, with its support function; plus an l1 norm it is a sum of a ball and segments."""
    F = torch.linalg.vector_norm
    for kind in ("convex", "frechet", "limiting", "clarke"):
        ball = subdifferential(F, [0, 0], kind)
        assert ball.status in ("exact", "outer_bound") and not ball.empty
        assert ball.support([3, 4]) == 5
        assert ball.contains([0.6, 0.8]) and not ball.contains([0.8, 0.8])
        assert ball.distance([3, 4]) == pytest.approx(4, abs=1e-12)
        assert ball.min_norm().distance == 0
    tilted = subdifferential(lambda x: F(x) + 2 * x[0] + x[1].abs(), [0, 0]).min_norm()
    np.testing.assert_allclose(tilted.point, [1, 0], atol=1e-7)
    assert tilted.lower_bound == pytest.approx(1, abs=1e-9)
    stretched = subdifferential(lambda x: F(torch.stack([2 * x[0], x[1]])) - 3 * x[0] - x[1], [0, 0])
    assert stretched.min_norm().gap < 1e-9  # an ellipse: no closed form, its gap certifies it
    assert subdifferential(lambda x: -F(x), [0, 0]).support([3, 4]) == 5
    with pytest.raises(GermError, match="neither a polytope nor a sum of balls"):
        subdifferential(lambda x: -F(x), [0, 0], "limiting")
    with pytest.raises(ValueError, match="has no vertices"):
        _ = subdifferential(F, [0, 0]).vertices


def test_curved_kinks_with_independent_gradients_are_exact():
    found = subdifferential(lambda x: (x[0] + x[1] ** 2).abs() - (x[1] + x[0] * x[1]).abs(), [0, 0])
    assert found.status == "exact"
    assert len(found.vertices) == 4


def test_a_convex_curved_sum_is_exact_even_when_dependent():
    found = subdifferential(lambda x: (x[0] + x[1] ** 2).abs() + 2 * (x[0] - x[1] ** 2).abs(), [0, 0])
    assert found.status == "exact"
    assert found.vertices.tolist() == [[-3, 0], [3, 0]]


def test_ties_from_shared_weights_are_one_kink():
    found = subdifferential(lambda x: torch.relu(x[0] + x[1]) - torch.relu(2 * x[0] + 2 * x[1]) / 2, [0, 0])
    assert found.kinks == 1
    assert found.vertices.tolist() == [[0, 0]]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 3))
def test_clarke_is_the_hull_of_nearby_gradients(seed, d, m):
    """An independent channel: a nested random piecewise linear F, its gradients by autograd at random near points."""
    rng = np.random.default_rng(seed)
    A, B = torch.tensor(rng.integers(-3, 4, (m, d))).double(), torch.tensor(rng.integers(-2, 3, (2, m))).double()
    c = torch.tensor(rng.integers(-3, 4, 2)).double()

    def F(x):
        return (c * torch.relu(B @ (A @ x).abs())).sum() + (A @ x).max()

    clarke = subdifferential(F, [0] * d)
    limiting = subdifferential(F, [0] * d, "limiting")
    frechet = subdifferential(F, [0] * d, "frechet")
    assert clarke.status == limiting.status == frechet.status == "exact"
    seen = []
    for _ in range(200):
        x = torch.tensor(rng.standard_normal(d) * 1e-3, requires_grad=True)
        (g,) = torch.autograd.grad(F(x), x)
        seen.append(tuple(round(entry) for entry in g.tolist()))
    for g in set(seen):
        assert clarke.contains(g)
        assert limiting.contains(g)
    support = rng.integers(-5, 6, d)
    assert clarke.support(support) >= max(np.dot(support, g) for g in seen)
    if d == 1:  # both directions are seen, so the hull is reached
        assert clarke.support([1]) == max(g[0] for g in seen)
        assert clarke.support([-1]) == max(-g[0] for g in seen)
    # Frechet: lower tangents, so below F along every direction, which homogeneity makes exact
    for corner in frechet.vertices:
        for _ in range(20):
            h = torch.tensor(rng.integers(-5, 6, d)).double()
            assert float(F(h)) >= sum(float(a) * b for a, b in zip(corner, h.tolist(), strict=True)) - 1e-9
        assert limiting.contains(corner)
        assert clarke.contains(corner)
    assert clarke.contains(safe_gradient(F, torch.zeros(d, dtype=torch.float64), seed=seed))


def test_support_distance_and_hausdorff():
    cube = subdifferential(lambda x: x.abs().sum(), [0, 0])
    ball = subdifferential(lambda x: torch.linalg.vector_norm(x, float("inf")), [0, 0])
    assert cube.support([1, 2]) == 3
    assert cube.distance([2, 0]) == 1
    assert cube.hausdorff(ball) == pytest.approx(2**-0.5)
    assert cube.contains([Fraction(1), Fraction(-1)])
    assert not cube.contains([Fraction(1), Fraction(-1) - Fraction(1, 10**30)])


def test_many_independent_kinks_are_a_zonotope():
    rng = np.random.default_rng(1)
    A = torch.tensor(rng.integers(-3, 4, (40, 60))).double()
    found = subdifferential(lambda x: (A @ x).abs().sum() - 2 * x[0], [0] * 60)
    assert found.zonotope is not None
    assert found.status == "exact"
    direction = rng.standard_normal(60)
    assert found.support(direction) == pytest.approx(np.abs(A.numpy() @ direction).sum() - 2 * direction[0])
    solution = found.min_norm()
    assert 0 <= solution.gap < 1e-8
    assert solution.lower_bound == pytest.approx(solution.distance, rel=1e-6)
    assert found.contains(A.sum(0).numpy() - 2 * np.eye(60)[0])
    assert not found.contains(A.sum(0).numpy() - 2.1 * np.eye(60)[0])


def test_counts_of_generic_hyperplanes():
    A = torch.tensor([[1, 2, 3], [1, -1, 1], [2, 1, -3], [0, 1, 1], [5, -2, 2]]).double()
    from tameopt.nonsmooth.fan import fan_of
    from tameopt.nonsmooth.subdifferential import local_form

    local = local_form(lambda x: ((A @ x).abs() * torch.tensor([1.0, -1, 1, -1, 1]).double()).sum(), [0, 0, 0])
    assert len(fan_of(local.circuit, local.entry).cells) == generic_count(5, 3) == 22
    with pytest.raises(TooManyKinks, match="5 kinks are active"):
        fan_of(local.circuit, local.entry, most_cells=10)


def test_too_many_kinks_are_counted_at_once_and_sampling_is_offered():
    """60 hyperplanes in 4 dimensions: 68,560 cells, refused after a few hundred."""
    A = torch.tensor(np.random.default_rng(0).integers(-50, 51, (60, 4))).double()
    signs = torch.tensor([1.0, -1.0] * 30).double()
    with pytest.raises(TooManyKinks, match=r"60 kinks are active, in 4 dimensions: about 68,560 cells.*goldstein"):
        subdifferential(lambda x: ((A @ x).abs() * signs).sum(), [0] * 4)


def test_four_side_by_side_and_their_pictures():
    sets = all_subdifferentials(saddle, [0, 0])
    assert [found.empty for found in sets.values()] == [True, True, False, False]
    assert sets["clarke"].picture().series[0].x
    assert sets["limiting"].plot() is not None
    assert "empty" in repr(sets["frechet"])
    with pytest.raises(ValueError, match="empty here"):
        sets["frechet"].min_norm()


@pytest.mark.parametrize(
    "F,x,error,words",
    [
        (lambda x: x.sqrt().sum(), [0], GermError, "need not be Lipschitz"),
        (lambda x: (x.norm() - x[0]).abs(), [0, 0], GermError, "a kink of a 2-norm at 0"),
        (lambda x: x.sign().sum(), [0], GermError, "no exact calculus"),
        (lambda x: torch.where(x > 0, x + 1, x).sum(), [0], GermError, "not seen to agree"),
        (lambda x: (x.exp() - 2.718281828459045).abs().sum(), [1], GermError, "cannot be decided"),
        (lambda x: (1 / x).sum(), [0], GermError, "division by 0"),
        (lambda x: x.sum() if bool(x[0] > 0) else -x.sum(), [0], TraceError, "one list of operators"),
        (lambda x: x.sum(), [float("nan")], ValueError, "must be finite"),
        (lambda x: x.sum(), [], ValueError, "at least one entry"),
    ],
)
def test_points_outside_the_calculus(F, x, error, words):
    with pytest.raises(error, match=words):
        subdifferential(F, x)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="kind must be one of"):
        subdifferential(minus_abs, [0], "proximal")
