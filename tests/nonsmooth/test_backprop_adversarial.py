"""Programs that try to make check_backprop claim what is false, judged by gradients sampled around the point."""

import itertools

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.evidence import Verdict
from tameopt.nonsmooth import check_backprop, min_norm, safe_gradient, subdifferential
from tameopt.nonsmooth.subgradient_flow import inclusion

TIE = torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64)
ZERO = torch.zeros(3, dtype=torch.float64)


def _sampled(F, x, size=1e-4, samples=150):
    """Gradients at random points near x: those of all cells of a small piecewise-linear F."""
    generator = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(samples):
        at = (x + size * torch.randn(len(x), dtype=x.dtype, generator=generator)).requires_grad_()
        seen.append(torch.autograd.grad(F(at), at)[0])
    return torch.stack(seen)


def _sampled_distance(F, x, gradient):
    """From a vector to the hull of the sampled gradients."""
    return min_norm(_sampled(F, x) - gradient).distance


def _in_place(x):
    y = x * 1
    y[0] = y[1]
    y.relu_()
    return y.sum() - torch.relu(x).sum()


def _copied(x):
    y = torch.empty_like(x)
    y.copy_(x)
    z = torch.zeros(2, 3, dtype=x.dtype)
    z[:] = y
    return torch.relu(z).sum() - torch.relu(-x).sum()


def _equal_branches(x):
    return torch.where(x > 0, 2 * x, 2 * x).sum() + torch.where(x >= x, x, -x).sum()


def _one_function(x):
    y = x.flip(0).flip(0)
    kinks = torch.where(x < y, 5 * x, x) + torch.where(x <= y, x, 7 * x) + torch.where(x > y, 9 * x, -x)
    return kinks.sum() + torch.where(x.abs() >= y.abs(), x, -x).sum()


def _where_is_abs(x):
    return torch.where(x > 0, x, -x).sum() - x.abs().sum()


def _shared(x):
    W = torch.stack([x, -x, x.flip(0)])
    return torch.relu(W @ torch.relu(W @ x)).sum() - torch.relu(W[0]).sum()


def _deep_abs(x):
    y = x
    for _ in range(4):
        y = (y.abs() - y).abs() - y.flip(0).abs()
    return y.sum()


def _clamps(x):
    y = x.clamp_(-1, 1) if not x.requires_grad else x.clamp(-1, 1)
    return y.clamp(min=0).sum() - x.clamp(max=1).clamp(min=0).sum()


def _swapped_windows(x):
    window = torch.stack([x[0], x[1], x[0] - 9, x[1] - 9]).view(1, 1, 2, 2)
    other = torch.stack([x[1], x[0], x[0] - 9, x[1] - 9]).view(1, 1, 2, 2)
    return (nn.functional.max_pool2d(window, 2) - nn.functional.max_pool2d(other, 2)).sum()


def _cummax(x):
    return x.cummax(0).values.sum() - x.max() - x.max(0).values


def _sorted_difference(x):
    return x.sort().values[0] + x.sort().values[2] - x.amax() - x.amin()


def _views(x):
    y = x.clone()
    z = y.view(-1)[:2]
    z.abs_()
    return y.sum() - x[:2].abs().sum()


PROGRAMS = [
    _in_place,
    _copied,
    _equal_branches,
    _where_is_abs,
    _shared,
    _deep_abs,
    _clamps,
    _swapped_windows,
    _cummax,
]
PROGRAMS += [_sorted_difference, _views]


@pytest.mark.parametrize("point", [TIE, ZERO], ids=["ties", "zero"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_no_claim_is_false(program, point):
    result = check_backprop(program, point.clone())
    distance = _sampled_distance(program, point, result.gradient)
    if result.verdict in (Verdict.PROVED, Verdict.MEASURED):
        assert distance < 1e-3  # the gradients sampled are of points 1e-4 away
    if result.verdict is Verdict.REFUTED:
        assert distance > 1e-2
        assert result.distance == pytest.approx(distance, abs=1e-2)
    if result.certificate is not None:
        assert result.certificate.replay()


@pytest.mark.parametrize("point", [TIE, ZERO], ids=["ties", "zero"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_safe_gradient_is_one(program, point):
    try:
        found = safe_gradient(program, point.clone())
    except ValueError:  # an operator without a row is refused
        return
    assert _sampled_distance(program, point, found) < 1e-3


@pytest.mark.parametrize("point", [TIE, ZERO], ids=["ties", "zero"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_no_set_is_too_large_or_too_small(program, point):
    """Where the Clarke set is said to be exact, its support function is the sampled gradients'."""
    try:
        clarke = subdifferential(program, point.long().tolist())
    except ValueError:  # an operator without an exact calculus is refused
        return
    seen = _sampled(program, point)
    assert clarke.status == "exact"
    for direction in torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)):
        assert float(clarke.support(direction.tolist())) == pytest.approx(float((seen @ direction).max()), abs=1e-9)
    assert all(clarke.distance(g) < 1e-9 for g in seen[:5])


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_no_flow_gains_height_or_breaks_the_chain_rule(program):
    """A solution of the inclusion loses the integral of its squared speed, and starts and falls as sampled."""
    try:
        flow = inclusion(program, [1, 1, -2], [0.0, 0.05, 0.1, 0.3])
    except ValueError:
        return
    assert abs(flow.energy_defect) <= 1e-12 and abs(flow.chain_rule_defect) <= 1e-12
    values = [float(program(torch.from_numpy(point))) for point in flow.points]
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(values))
    velocity = -torch.tensor([float(entry) for entry in flow.events[0].velocity], dtype=torch.float64)
    assert _sampled_distance(program, TIE, velocity) < 1e-9


def _pooled(images, weight, head, *, bias=0.5):
    """images: (n, 1, h, w), a filter of 1 x 1 and a 2 x 2 pool before a linear head; the problem and its theta."""
    convolution, last = nn.Conv2d(1, len(weight), 1), nn.Linear(head.shape[1], 1, bias=False)
    model = nn.Sequential(convolution, nn.MaxPool2d(2), nn.Flatten(), last).double()
    with torch.no_grad():
        convolution.weight.copy_(weight.view(-1, 1, 1, 1))
        convolution.bias.fill_(bias)
        last.weight.copy_(head)
    return tame.Problem(model, lambda out, y: (out * y).mean(), (images, torch.ones(len(images), 1).double()))


def test_windows_that_tie_on_equal_patches_are_proved():
    images = torch.tensor([[[[0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 3.0, 3.0]]]], dtype=torch.float64)
    result = check_backprop(_pooled(images, torch.tensor([2.0]), torch.tensor([[1.0, -1.0]])))
    assert result.verdict is Verdict.PROVED
    assert result.how == "margins"
    assert result.certificate.replay()
    # max(0 w + b, ..) - max(.., 3 w + b)
    assert result.gradient[:2].tolist() == [-3.0, 0.0]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_windows_that_tie_on_other_patches_are_not(weight):
    """Patches 1 and 2 in two orders at weight 0, where they tie: autodiff returns 1 - 2, the loss is constant."""
    images = torch.tensor([[[[1.0, 2.0, 2.0, 1.0], [-9.0, -9.0, -9.0, -9.0]]]], dtype=torch.float64)
    problem = _pooled(images, torch.tensor([weight]), torch.tensor([[1.0, -1.0]]))
    result = check_backprop(problem)
    if weight == 0:  # no exact set of a convolution: not refuted, but never proved
        assert result.verdict is Verdict.UNKNOWN
        assert "first of equals need not belong to a subgradient" in result.reason
        assert result.gradient[0] == 1.0 - 2.0
    else:
        assert result.verdict is Verdict.PROVED


def test_equal_parameters_are_not_one_function():
    """A pool over channels of equal weights, one by a transposition: equal values, other functions of theta."""

    class AcrossChannels(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(1, 2, 1, bias=False)
            nn.init.ones_(self.first.weight)

        def forward(self, x):
            h = self.first(x).permute(0, 2, 3, 1)  # (n, 1, 1, 2)
            ahead = nn.functional.max_pool2d(h, (1, 2))
            behind = nn.functional.max_pool2d(h.flip(3), (1, 2))
            return (ahead - behind).flatten(1)

    model = AcrossChannels().double()
    data = (torch.ones(1, 1, 1, 1).double(), torch.ones(1, 1).double())
    result = check_backprop(tame.Problem(model, lambda out, y: (out * y).mean(), data))
    assert result.gradient.tolist() == [1.0, -1.0]
    assert result.verdict in (Verdict.REFUTED, Verdict.UNKNOWN)


def test_a_tampered_patch_does_not_replay():
    import copy

    from tameopt.nonsmooth._replay import packed, unpacked

    images = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    certificate = check_backprop(_pooled(images, torch.tensor([0.0]), torch.tensor([[1.0]]))).certificate
    assert certificate.replay()
    data = copy.deepcopy(dict(certificate.data))
    arrays = data["parts"][0]["arrays"]
    name = next(key for key, array in arrays.items() if array["shape"] == [1, 1, 2, 2])
    other = unpacked(arrays[name]).copy()
    other[0, 0, 0, 1] = 1.0  # the values still tie at weight 0, the functions do not
    arrays[name] = packed(other)
    assert not type(certificate)(certificate.checker, data).replay()


def _random_pooled(seed):
    """Filters and pools on images of mostly empty background, weights that often tie; None where nothing is left."""
    g = torch.Generator().manual_seed(seed)
    coin = lambda: bool(torch.rand(1, generator=g) < 0.5)  # noqa: E731
    layers = [nn.Conv2d(1, 2, 2, padding=int(coin()), bias=coin()), *([nn.ReLU()] if coin() else [])]
    layers += [nn.MaxPool2d(2, stride=1 + int(coin()), padding=int(coin()))]
    if coin():
        act = nn.LeakyReLU(0.25) if coin() else nn.ReLU()
        layers += [nn.Conv2d(2, 2, 2, bias=False), act, nn.MaxPool2d(2, stride=1)]
    images = (torch.rand(2, 1, 6, 6, generator=g) < 0.25).double()
    body = nn.Sequential(*layers, nn.Flatten()).double()
    try:
        width = body(images).shape[1]
    except RuntimeError:  # smaller than the window
        return None
    model = nn.Sequential(body, nn.Linear(width, 1, bias=False)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-2, 3, p.shape, generator=g) / (1 if coin() else 3))
            if coin():
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.3)
    return tame.Problem(model, lambda out, y: (out * y)[:, 0], (images, torch.ones(2, 1).double()))


@pytest.mark.parametrize("seeds", [range(15), pytest.param(range(15, 400), marks=pytest.mark.slow)])
def test_random_networks_proved_at_ties_have_one_gradient_nearby(seeds):
    ties = 0
    for problem in filter(None, map(_random_pooled, seeds)):
        result = check_backprop(problem)
        if result.how != "margins":
            continue
        ties += result.census.active > 0
        for seed in range(6):
            h = torch.randn(problem.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            nearby = problem.gradient(problem.theta + 1e-8 * h)
            assert float((nearby - result.gradient).norm()) < 1e-5
    assert ties > len(seeds) / 10
