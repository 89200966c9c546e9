"""Laws of every entry of the prox catalogue, and Moreau's identity against duals coded separately."""

import math

import numpy as np
import pytest
import torch

from tameopt.nonsmooth import prox

PARAMETERS = {
    "mcp": [{}, {"lam": 0.7, "gamma": 0.9}], "scad": [{}, {"lam": 0.5, "a": 2.2}], "log_sum": [{}, {"eps": 0.1}],
    "elastic_net": [{}, {"l1": 0.3, "l2": 2.0}], "group_lasso": [{"size": 3}], "simplex": [{}, {"radius": 2.5}],
    "box": [{}, {"low": -0.5, "high": 0.2}], "s_sparse": [{"s": 1}, {"s": 3}], "power": [{}, {"p": 1.2}, {"p": 3.0}],
}  # fmt: skip
CASES = [(name, given) for name in prox.names() for given in PARAMETERS.get(name, [{}])]
SHAPES = {"entries": (40,), "vectors": (5, 6), "matrices": (3, 4, 5)}


def _v(name, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*SHAPES[prox.entry(name).acts_on], dtype=dtype, generator=generator)


def _objective(entry, x, v, t, given):
    inside = entry.evaluate(x, **given)
    return float(0 if entry.kind == "set" and inside == 0 else inside) + float((x - v).square().sum()) / (2 * t)


@pytest.mark.parametrize("t", [0.3, 1.7])
@pytest.mark.parametrize("name,given", CASES)
def test_no_candidate_is_better(name, given, t):
    """Brute force: perturbations of every size, the other entries' answers, rows swapped in, 0 and v."""
    entry, v = prox.entry(name), _v(name)
    x = entry(v, t, **given)
    assert x.shape == v.shape and x.dtype == v.dtype
    rng = torch.Generator().manual_seed(1)
    rows = v.ndim - {"entries": 0, "vectors": 1, "matrices": 2}[entry.acts_on]
    best = _objective(entry, x, v, t, given)
    assert math.isfinite(best)
    candidates = [torch.zeros_like(v), v.clone(), v.clamp(min=0), v / 2, prox.l1(v, t), prox.l0(v, t)]
    for size in (1e-6, 1e-3, 1e-1, 1.0):
        candidates += [x + size * torch.randn(v.shape, generator=rng, dtype=v.dtype) for _ in range(10)]
        candidates += [entry(x + size * torch.randn(v.shape, generator=rng, dtype=v.dtype), 1e-9, **given)]
    candidates += [x * (torch.rand(v.shape, generator=rng) > 0.2) for _ in range(10)]
    for candidate in candidates:
        assert _objective(entry, candidate, v, t, given) >= best - 1e-9 * max(1, abs(best)), rows


@pytest.mark.parametrize("t", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("name,given", [case for case in CASES if prox.entry(case[0]).acts_on == "entries"])
def test_entries_against_a_grid(name, given, t):
    """Every scalar problem on a fine grid around the answer and over the whole range."""
    entry = prox.entry(name)
    v = torch.linspace(-6, 6, 61, dtype=torch.float64)
    x = entry(v, t, **given)
    cost = torch.vmap(lambda point: entry.evaluate(point[None], **given))
    grid = torch.cat([torch.linspace(-7, 7, 14_001, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    near = x[:, None] + torch.linspace(-1e-3, 1e-3, 41, dtype=torch.float64)
    far = cost(grid) + (grid - v[:, None]).square() / (2 * t)
    close = cost(near.reshape(-1)).view(near.shape) + (near - v[:, None]).square() / (2 * t)
    own = cost(x) + (x - v).square() / (2 * t)
    least = torch.minimum(far.amin(1), close.amin(1))
    assert (own <= least + 1e-12 * own.clamp(min=1)).all()


def _ball(v, radius):
    return v / (v.norm(dim=-1, keepdim=True) / radius).clamp(min=1)


def _l1_ball_by_bisection(v, radius):
    low, high = torch.zeros(v.shape[:-1], dtype=v.dtype), v.abs().amax(-1)
    for _ in range(200):
        middle = (low + high) / 2
        inside = (v.abs() - middle[..., None]).clamp(min=0).sum(-1) > radius
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    shrunk = (v.abs() - high[..., None]).clamp(min=0) * v.sign()
    return torch.where((v.abs().sum(-1) > radius)[..., None], shrunk, v)


def _spectral_ball(v, radius):
    """Through the eigenvalues of v^T v, not the SVD."""
    values, vectors = torch.linalg.eigh(v.mT @ v)
    factor = (radius / values.clamp(min=1e-300).sqrt()).clamp(max=1)
    return v @ (vectors * factor.unsqueeze(-2)) @ vectors.mT


DUALS = {  # the projection onto {t v: v in the subdifferential of f at 0}, i.e. prox of the conjugate
    "l1": lambda v, t: v.clamp(-t, t),
    "l2": _ball,
    "linf": _l1_ball_by_bisection,
    "nuclear": _spectral_ball,
    "l2_squared": lambda v, t: v * t / (1 + t),
    "group_lasso": lambda v, t: _ball(v.unflatten(-1, (-1, 3)), t).flatten(-2),
}


@pytest.mark.parametrize("name", DUALS)
def test_moreau(name):
    v, t = _v(name, seed=4), 0.8
    given = {"size": 3} if name == "group_lasso" else {}
    torch.testing.assert_close(prox.entry(name)(v, t, **given) + DUALS[name](v, t), v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name,given", [case for case in CASES if prox.entry(case[0]).kind == "set"])
def test_sets_are_projected_onto(name, given):
    entry, v = prox.entry(name), _v(name, seed=5)
    x = entry(v, **given)
    assert entry.evaluate(x, **given) == 0
    torch.testing.assert_close(entry(x, **given), x, rtol=1e-12, atol=1e-12)
    if name != "s_sparse":  # convex: the angle at the projection is obtuse for every point of the set
        others = entry(_v(name, seed=6), **given)
        assert (((v - x) * (others - x)).sum(-1) <= 1e-10).all()


def test_total_variation_by_its_dual():
    """u = cumsum(v - x) is within [-t, t], is 0 at the end, and is t sign(jump) wherever x jumps: exactly KKT."""
    v, t = _v("tv1d", seed=8), 0.6
    x = prox.tv1d(v, t)
    u = (v - x).cumsum(-1)
    assert u.abs().max() <= t + 1e-12
    torch.testing.assert_close(u[:, -1], torch.zeros(5, dtype=v.dtype), atol=1e-12, rtol=0)
    jumps = x.diff(dim=-1)
    moving = jumps.abs() > 1e-12
    torch.testing.assert_close(u[:, :-1][moving], -t * jumps.sign()[moving], atol=1e-12, rtol=0)
    leaf = v.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: prox.tv1d(z, t), leaf, eps=1e-6, atol=1e-5)


def test_entropy_meets_its_equation():
    v = torch.tensor([-300.0, -5.0, 0.0, 1.0, 30.0, 1e4], dtype=torch.float64)
    x = prox.entropy(v, 0.7)
    assert (x > 0).all()
    torch.testing.assert_close(x + 0.7 * (1 + x.log()), v, rtol=1e-12, atol=1e-12)


def test_known_thresholds():
    assert prox.l0(torch.tensor([2.0, 2.1]), 2.0).tolist() == [0.0, pytest.approx(2.1)]
    edge = 1.5 * 2.0 ** (2 / 3)
    below, above = prox.l_half(torch.tensor([edge - 1e-6, edge + 1e-6], dtype=torch.float64), 2.0).tolist()
    assert below == 0
    assert above == pytest.approx(2 * edge / 3, rel=1e-5)  # the jump of half thresholding


def test_all_minimisers_where_they_are_several():
    tie = torch.tensor(2.0, dtype=torch.float64)
    assert [float(x) for x in prox.l0.all_minimisers(tie, 2.0)] == [0.0, 2.0]
    edge = torch.tensor(1.5 * 2.0 ** (2 / 3), dtype=torch.float64)
    zero, large = prox.l_half.all_minimisers(edge, 2.0)
    assert float(zero) == 0 and float(large) > 1
    assert len(prox.l_half.all_minimisers(edge * 1.01, 2.0)) == 1
    assert len(prox.mcp.all_minimisers(torch.tensor(3.0, dtype=torch.float64), 9.0, gamma=1.0)) == 2
    sparse = prox.s_sparse.all_minimisers(torch.tensor([1.0, -1.0, 1.0]), s=2)
    assert len(sparse) == 3
    assert prox.l1.all_minimisers(torch.tensor([3.0]), 1.0)[0].tolist() == [2.0]


JUMPS = [
    ("l0", {}, 1.3), ("l_half", {}, 0.7), ("l_two_thirds", {}, 0.7), ("mcp", {"lam": 0.7, "gamma": 0.9}, 2.0),
    ("scad", {"lam": 0.5, "a": 2.2}, 4.0), ("log_sum", {"eps": 0.1}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("name,given,t", JUMPS)
def test_both_sides_of_a_jump_are_listed(name, given, t):
    """The place of the jump by bisection on the map alone; there both limits are minimisers, elsewhere one is."""
    entry = prox.entry(name)
    low, high = torch.tensor(0.0, dtype=torch.float64), torch.tensor(8.0, dtype=torch.float64)
    for _ in range(80):
        middle = (low + high) / 2
        small = float(entry(middle, t, **given)) < 1e-9
        low, high = (middle, high) if small else (low, middle)
    found = sorted(float(x) for x in entry.all_minimisers(low, t, **given))
    assert len(found) == 2
    assert found[0] == 0
    assert found[1] == pytest.approx(float(entry(high * (1 + 1e-12), t, **given)), rel=1e-6)
    costs = [_objective(entry, torch.tensor(x, dtype=torch.float64), low, t, given) for x in found]
    assert costs[0] == pytest.approx(costs[1], rel=1e-12)
    for factor in (0.9, 1.1):
        assert len(entry.all_minimisers(low * factor, t, **given)) == 1
    negative = sorted(float(x) for x in entry.all_minimisers(-low, t, **given))
    assert negative == [-found[1], 0]


def test_all_minimisers_of_the_rank():
    u = torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    v = 3 * torch.outer(u[:, 0], u[:3, 1]) / u[:3, 1].norm()
    listed = prox.rank.all_minimisers(v, 4.5)
    assert sorted(int(torch.linalg.matrix_rank(x)) for x in listed) == [0, 1]
    assert len(prox.rank.all_minimisers(v, 4.4)) == len(prox.rank.all_minimisers(v, 4.6)) == 1
    for x in listed:
        assert _objective(prox.rank, x, v, 4.5, {}) == pytest.approx(1.0, rel=1e-12)
    with pytest.raises(ValueError, match=r"one number, got shape \(2,\)"):
        prox.l0.all_minimisers(torch.ones(2), 1.0)
    with pytest.raises(ValueError, match="one vector, got shape"):
        prox.s_sparse.all_minimisers(torch.ones(2, 2), 1.0)


@pytest.mark.parametrize("name,given", [case for case in CASES if case[0] not in ("tv1d", "rank", "s_sparse", "l0")])
def test_it_is_differentiable_almost_everywhere(name, given):
    v = _v(name, seed=9).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: prox.entry(name)(z, 0.4, **given), v, eps=1e-7, atol=1e-4)


@pytest.mark.parametrize("name,given", CASES)
def test_single_precision_and_zero(name, given):
    entry = prox.entry(name)
    x = entry(_v(name, dtype=torch.float32), 0.5, **given)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    at_zero = entry(torch.zeros(SHAPES[entry.acts_on]), 0.5, **given)
    assert torch.isfinite(at_zero).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name,given", CASES)
def test_into_a_buffer_and_in_place(name, given, dtype):
    entry, v = prox.entry(name), _v(name, seed=11, dtype=dtype)
    expected, before = entry(v, 0.6, **given), v.clone()
    buffer = torch.full_like(v, torch.nan)
    assert entry(v, 0.6, out=buffer, **given) is buffer
    torch.testing.assert_close(buffer, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert torch.equal(v, before)
    assert entry(v, 0.6, out=v, **given) is v
    assert torch.equal(v, buffer)
    with pytest.raises(ValueError, match="out must be"):
        entry(v, 0.6, out=torch.empty(3, dtype=dtype), **given)


@pytest.mark.parametrize("name,given", [case for case in CASES if prox.entry(case[0]).into is not None])
def test_large_results_in_memory_of_numpys(name, given, monkeypatch):
    """The same numbers; and never where a derivative, a transform or another layout would be lost."""
    entry, v = prox.entry(name), _v(name, seed=12)
    f = lambda x: entry(x, 0.4, **given)  # noqa: E731
    expected, h = f(v), torch.randn_like(v)
    followed = torch.func.jvp(f, (v,), (h,))[1], torch.func.vjp(f, v)[1](h)[0], torch.vmap(f)(torch.stack([v, -v]))
    turned = v.flip(0).transpose(0, -1)
    elsewhere = f(v.bfloat16()), f(turned)
    monkeypatch.setattr("tameopt.nonsmooth.prox._entry._HUGE", 0)
    torch.testing.assert_close(f(v), expected, rtol=1e-15, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(f(v.clone().requires_grad_()), expected, rtol=1e-15, atol=0)
    again = torch.func.jvp(f, (v,), (h,))[1], torch.func.vjp(f, v)[1](h)[0], torch.vmap(f)(torch.stack([v, -v]))
    for before, after in zip(followed, again, strict=True):
        assert torch.equal(before, after)
    assert torch.equal(f(v.bfloat16()), elsewhere[0])
    assert torch.equal(f(turned), elsewhere[1])
    leaf = v.clone().requires_grad_()
    assert f(leaf).requires_grad
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(v, h)
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(f(dual)).tangent, followed[0])


def test_one_vector_under_transforms_and_at_the_ends_of_the_range():
    v = torch.tensor([3.0, 4.0], dtype=torch.float64)
    for scale in (1e-150, 1.0, 1e150):
        torch.testing.assert_close(prox.l2(scale * v, scale), 0.8 * scale * v, rtol=1e-15, atol=0)
    batch = torch.stack([v, -2 * v])
    torch.testing.assert_close(torch.vmap(lambda x: prox.l2(x, 1.0))(batch), prox.l2(batch, 1.0))
    moved = torch.func.jvp(lambda x: prox.l2(x, 1.0), (v,), (v,))[1]
    torch.testing.assert_close(moved, v)


def test_bad_input():
    with pytest.raises(TypeError, match=r"floating tensor, got torch\.int64"):
        prox.l1(torch.tensor([1]), 1.0)
    with pytest.raises(ValueError, match="t must be a number > 0"):
        prox.l1(torch.ones(2), 0.0)
    with pytest.raises(ValueError, match="no parameter 'lamb'"):
        prox.mcp(torch.ones(2), 1.0, lamb=2.0)
    with pytest.raises(ValueError, match="the simplex is empty"):
        prox.simplex(torch.ones(2), radius=0.0)
    with pytest.raises(ValueError, match="the box is empty"):
        prox.box(torch.ones(2), low=1.0, high=0.0)
    with pytest.raises(ValueError, match="the box is empty"):
        prox.box(torch.ones(2), out=torch.ones(2), low=1.0, high=0.0)
    with pytest.raises(ValueError, match="negative weights are not convex"):
        prox.elastic_net(torch.ones(2), out=torch.ones(2), l1=-1.0)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        prox.nuclear(torch.ones(2), 1.0)
    with pytest.raises(ValueError, match="p must be > 1, got 1"):
        prox.power(torch.ones(2), p=1)
    with pytest.raises(ValueError, match="must divide the last dimension"):
        prox.group_lasso(torch.ones(5), 1.0, size=2)
    with pytest.raises(AttributeError, match="Did you mean"):
        prox.nuclera  # noqa: B018


def test_the_catalogue_is_whole():
    wanted = (
        "l1 l2 l2_squared linf l0 l_half l_two_thirds mcp scad log_sum elastic_net group_lasso nuclear rank tv1d "
        "simplex box ball_l1 ball_l2 ball_linf nonnegative s_sparse entropy power"
    )
    assert set(wanted.split()) == set(prox.names())
    assert all(np.isfinite(float(prox.entry(n).evaluate(prox.entry(n)(_v(n), 1.0)))) for n in prox.names())


@pytest.mark.parametrize("size", [1e-145, 1e-3, 1.0, 1e145])
def test_the_norm_of_one_vector_at_every_size(size):
    v = size * torch.tensor([3.0, 4.0], dtype=torch.float64)
    for t in (size, 6 * size):
        expected = v * max(0.0, 1 - t / (5 * size))
        followed = prox.l2(v.clone().requires_grad_(), t)
        assert torch.allclose(prox.l2(v, t), expected, rtol=1e-14, atol=0) and torch.allclose(followed, expected)
