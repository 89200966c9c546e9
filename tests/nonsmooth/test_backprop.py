"""Backprop at kinks: the lemma, the margins, and every way we know to make either claim something false."""

import copy

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.evidence import Verdict
from tameopt.nonsmooth import check_backprop
from tameopt.nonsmooth.backprop import lemma_certificate, margin_certificate
from tameopt.nonsmooth.kinks import census, graphs_of


def _problem(model, samples=12, width=4, shape=None):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, *(shape or (width,)), dtype=torch.float64, generator=generator)
    y = torch.randint(3, (samples,), generator=generator)
    return tame.Problem(model.double(), nn.functional.cross_entropy, (x, y))


def _lemma(problem):
    return lemma_certificate(graphs_of(problem, problem.theta))


def test_lemma_holds_for_biased_networks():
    for model in (
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 5), nn.LeakyReLU(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 3), nn.ELU(alpha=0.5)),
        nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).eval(),
        nn.Sequential(nn.Linear(4, 5, bias=False), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3)),
    ):
        problem = _problem(model)
        assert check_backprop(problem).how == "lemma", model
        assert check_backprop(problem).certificate.replay()


def test_lemma_holds_for_a_convolution():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    assert _lemma(_problem(model, shape=(1, 4, 4)))[0] is not None


def test_lemma_is_true_at_a_point_where_every_kink_is_active():
    """All zeros but the inputs: backprop is the limit of gradients as the biases are lowered, as the proof says."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    problem = _problem(model)
    torch.manual_seed(0)
    parts = problem.unflatten(problem.theta.clone())
    for name in ("0.weight", "0.bias", "2.bias"):
        parts[name].zero_()
    theta = problem.flatten(parts)
    assert census(problem, theta).active == 2 * 12 * 5
    gradient = problem.gradient(theta)
    for t in (1e-3, 1e-6, 1e-9):
        lowered = {name: part.clone() for name, part in problem.unflatten(theta).items()}
        lowered["0.bias"] -= t
        lowered["2.bias"] -= 100 * t
        at = problem.flatten(lowered)
        assert census(problem, at).active == 0
        torch.testing.assert_close(problem.gradient(at), gradient, rtol=0, atol=10 * t)


@pytest.mark.parametrize(
    "function", [torch.relu, lambda z: torch.clamp(z, min=0.0), lambda z: torch.maximum(z, 0 * z)]
)
def test_without_biases_the_difference_of_relus_is_never_proved(function):
    """relu(x) - relu(-x) = x: its only Clarke subgradient is 1, backprop says 0, 2 or 1."""
    result = check_backprop(lambda x: (function(x) - function(-x)).sum(), torch.zeros(1))
    if float(result.gradient) == 1.0:
        assert result.verdict is Verdict.MEASURED
        assert result.how == "membership"
    else:
        assert result.verdict is Verdict.REFUTED
        assert result.distance == pytest.approx(1.0)


def test_a_bias_read_twice_is_refused():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            x = torch.relu(self.first(x) + self.bias)
            return self.last(torch.relu(self.second(x) + self.bias))

    certificate, reason = _lemma(_problem(Shared()))
    assert certificate is None
    assert "2 places" in reason


def test_a_tied_layer_is_refused():
    layer = nn.Linear(4, 4)
    certificate, reason = _lemma(_problem(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 3))))
    assert certificate is None
    assert "places" in reason


def test_a_frozen_bias_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    certificate, reason = _lemma(_problem(model))
    assert certificate is None
    assert "not from a trainable parameter" in reason


def test_both_signs_of_one_preactivation_are_refused():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(8, 3)

        def forward(self, x):
            z = self.first(x)
            return self.last(torch.cat([torch.relu(z), torch.relu(-z)], dim=1))

    certificate, reason = _lemma(_problem(Both()))
    assert certificate is None
    assert "no additive bias of its own" in reason


def test_opposite_sides_on_one_bias_are_refused():
    class Sides(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            z = self.first(x)
            return self.last(torch.relu(z) - torch.clamp(z, min=0.0))

    certificate, reason = _lemma(_problem(Sides()))
    assert certificate is None
    assert "opposite directions" in reason


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(), nn.Softshrink(), nn.Hardswish()])
def test_two_sided_kinks_are_refused(activation):
    certificate, reason = _lemma(_problem(nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 3))))
    assert certificate is None
    assert "not in the table" in reason


def test_a_weight_penalty_on_the_biases_does_not_matter():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    x, y = torch.randn(8, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.long)

    def loss(net, batch):
        penalty = sum(p.square().sum() for p in net.parameters())
        return nn.functional.cross_entropy(net(batch[0]), batch[1]) + 1e-3 * penalty

    problem = tame.Problem(model, None, (x, y), forward=loss)
    assert _lemma(problem)[0] is not None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clamp(min=0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_a_custom_backward_is_never_proved():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(_StraightThrough.apply(self.first(x)))

    assert check_backprop(_problem(Model())).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("how", ["no_grad", "detach"])
def test_a_detached_branch_is_never_proved(how):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            h = self.first(x)
            if how == "detach":
                return self.last(torch.relu(h) + h.detach())
            with torch.no_grad():
                scale = h.square()
            return self.last(torch.relu(h) * scale)

    assert check_backprop(_problem(Model())).verdict is Verdict.UNKNOWN


def test_a_branch_on_values_is_unknown():
    def branching(x):
        return x.sum() if bool(x[0] > 0) else -x.sum()

    result = check_backprop(branching, torch.ones(2))
    assert result.verdict is Verdict.UNKNOWN
    assert "one list of operators" in result.reason


def test_margins_prove_a_point_without_biases_and_refuse_the_kink():
    F = lambda x: torch.relu(x).sum() - torch.relu(-x).sum()  # noqa: E731
    assert check_backprop(F, torch.tensor([0.5, -2.0])).how == "margins"
    assert check_backprop(F, torch.tensor([0.5, 0.0])).verdict is Verdict.REFUTED


def test_thin_cells_leave_it_open_rather_than_refuted():
    """abs(y) - abs(y - x^2) at 0: an inner bound can confirm membership but never refute it."""
    result = check_backprop(lambda x: 2 * torch.relu(x[1]) - (x[1] - x[0] ** 2).abs(), torch.zeros(2))
    assert result.verdict is not Verdict.REFUTED


def test_margins_refuse_what_rounding_could_move():
    """0.1 + 0.2 - 0.3 is 5.6e-17 in floating point: away from 0, but not by more than its rounding bound."""

    def F(x):
        return (x[0] + x[1] - x[2]).abs()

    point = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    result = check_backprop(F, point)
    assert result.census.active == 0
    assert result.verdict is Verdict.MEASURED
    assert "rounding bound" in result.reason


def test_margins_on_a_convolution_with_pooling():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    problem = _problem(model, shape=(1, 6, 6))
    result = check_backprop(problem)
    assert result.how == "margins"
    # the same image twice in one window position: two equal positive entries in a pooling window
    x, y = problem.batches.whole
    tied = tame.Problem(model, nn.functional.cross_entropy, (torch.ones_like(x), y))
    result = check_backprop(tied)
    assert result.verdict is Verdict.UNKNOWN or census(tied).active == 0


def test_a_tampered_certificate_does_not_replay():
    problem = _problem(nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)))
    certificate, _ = margin_certificate(problem, problem.theta, graphs_of(problem, problem.theta))
    assert certificate.replay()
    data = copy.deepcopy(dict(certificate.data))
    weight = next(step["name"] for step in data["parts"][0]["steps"] if step["op"] == "parameter")
    from tameopt.nonsmooth._replay import packed, unpacked

    array = unpacked(data["parts"][0]["arrays"][weight]) * 0
    data["parts"][0]["arrays"][weight] = packed(array)
    assert not type(certificate)(certificate.checker, data).replay()
    with pytest.raises(ValueError, match="must hold its parts"):
        type(certificate)(certificate.checker, {}).replay()
    with pytest.raises(ValueError, match="must hold the forms"):
        type(certificate)("tameopt.nonsmooth._lemma_checker:check", {}).replay()


def test_an_unknown_operator_is_not_trusted():
    problem = tame.Problem.from_function(lambda x: torch.special.bessel_j0(x).sum(), torch.ones(2))
    certificate, reason = _lemma(problem)
    assert certificate is None
    assert "not in the table" in reason
    certificate, _ = margin_certificate(problem, problem.theta, graphs_of(problem, problem.theta))
    assert certificate is None


def test_a_point_is_required():
    with pytest.raises(ValueError, match="needs the point x"):
        check_backprop(lambda x: x.sum())
