"""Backprop at kinks: the lemma, the margins, and every way we know to make either claim something false."""

import copy

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.evidence import Verdict
from tameopt.nonsmooth import check_backprop, safe_gradient
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
        assert result.verdict is Verdict.PROVED
        assert result.how == "membership"
        assert result.certificate.replay()
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


TWO_SIDED = [nn.ReLU6(), nn.Hardtanh(), nn.Hardtanh(-0.5, 2.0), nn.Softshrink(), nn.Hardswish(), nn.Hardsigmoid()]


@pytest.mark.parametrize("activation", TWO_SIDED, ids=str)
def test_two_sided_kinks_are_proved_where_weights_and_bias_are_their_own(activation):
    certificate, reason = _lemma(_problem(nn.Sequential(nn.Linear(4, 4), activation, nn.Linear(4, 3))))
    assert certificate is not None and certificate.replay(), reason


class _Layer(nn.Module):
    """activation(x W + b), W or b trainable or not, and a head."""

    def __init__(self, activation, weight=True, bias=True):
        super().__init__()
        self.W = nn.Parameter(torch.randn(4, 4, dtype=torch.float64), requires_grad=weight)
        self.b = nn.Parameter(torch.randn(4, dtype=torch.float64), requires_grad=bias)
        self.activation, self.head = activation, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.activation(torch.addmm(self.b, x, self.W)))


def test_two_sided_kinks_need_a_move_that_serves_both():
    """hardtanh is differentiated on its outer sides: a shift moves both kinks one way, a scaling both outward."""
    hardtanh = nn.functional.hardtanh
    assert "own bias cannot give" in _lemma(_problem(_Layer(hardtanh, weight=False)))[1]
    assert "not from a trainable parameter" in _lemma(_problem(_Layer(hardtanh, bias=False)))[1]
    bare = lambda low, high: nn.Sequential(  # noqa: E731
        nn.Linear(4, 4, bias=False), nn.Hardtanh(low, high), nn.Linear(4, 3)
    )
    assert _lemma(_problem(bare(-1.0, 2.0)))[0] is not None
    assert _lemma(_problem(bare(0.0, 6.0)))[0] is None  # a scaling leaves 0 where it is
    assert _lemma(_problem(bare(1.0, 2.0)))[0] is None  # both would have to move outward, one inward
    both_zero = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    assert _lemma(_problem(both_zero))[0] is None


@pytest.mark.parametrize("name", ["hardtanh", "relu6", "abs", "maximum", "hardswish"])
def test_the_lemma_is_true_where_every_kink_is_active(name):
    """Inputs on both kinks at once: backprop's output is in the exact Clarke set, or a limit of nearby gradients."""
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [-2.0], [3.0]], dtype=torch.float64)
    function, W, b = {
        "hardtanh": (nn.functional.hardtanh, [[1.0, -1.0], [0.0, 1.0]], [0.0, 0.0]),
        "relu6": (nn.functional.relu6, [[6.0, 0.0], [0.0, -6.0]], [0.0, 6.0]),
        "abs": (torch.abs, [[0.0, 0.0], [1.0, -1.0]], [0.0, 0.0]),
        "maximum": (lambda z: torch.maximum(z, torch.zeros_like(z)), [[0.0, 0.0], [1.0, -1.0]], [0.0, 0.0]),
        "hardswish": (nn.functional.hardswish, [[3.0, -3.0], [0.0, 3.0]], [0.0, 0.0]),
    }[name]

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 1)

        def forward(self, x):
            return self.last(function(self.first(x)))

    model = Net().double()
    with torch.no_grad():
        model.first.weight.copy_(torch.tensor(W))
        model.first.bias.copy_(torch.tensor(b))
        model.last.weight.copy_(torch.tensor([[1.0, -2.0]]))
    problem = tame.Problem(model, nn.functional.mse_loss, (x, y))
    assert census(problem).active >= 3
    result = check_backprop(problem)
    assert (result.verdict, result.how) == (Verdict.PROVED, "lemma")
    if name != "hardswish":
        from tameopt.nonsmooth.local_form import local_form_of_problem
        from tameopt.nonsmooth.subdifferential import clarke_of_local

        clarke = clarke_of_local(local_form_of_problem(problem, problem.theta, graphs_of(problem, problem.theta)))
        assert clarke.distance(result.gradient) < 1e-12
        return
    for t in (1e-4, 1e-6):  # hardswish: outer sides, along the scaling of the layer
        parts = {key: part.clone() for key, part in problem.unflatten(problem.theta).items()}
        for key in ("first.weight", "first.bias"):
            parts[key] *= 1 + t
        torch.testing.assert_close(problem.gradient(problem.flatten(parts)), result.gradient, rtol=0, atol=100 * t)


def test_a_maximum_of_two_layers_is_proved_and_a_knot_of_two_is_not():
    class Maxout(nn.Module):
        def __init__(self, knot):
            super().__init__()
            self.a, self.b, self.last, self.knot = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), knot

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            if self.knot:  # max(b, a) moves b, then max(a, 2 b - a) would need to move a, after b
                return self.last(torch.maximum(b, a) - torch.maximum(a, 2 * b - a))
            return self.last(torch.maximum(a, b))

    assert check_backprop(_problem(Maxout(False))).how == "lemma"
    certificate, reason = _lemma(_problem(Maxout(True)))
    assert certificate is None, reason


def test_a_maximum_that_reads_its_own_bias_twice_is_refused():
    """max(z, 2 z) = relu(z) + z: the difference moves against the bias."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            z = self.first(x)
            return self.last(torch.maximum(z, 2 * z))

    assert _lemma(_problem(Own()))[0] is None


@pytest.mark.parametrize("what", ["block", "cancels", "twice"])
def test_a_bias_is_read_through_a_residual_sum_only_when_it_moves_it_by_itself(what):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x):
            y = self.norm(self.first(x))
            if what == "cancels":  # the sum does not move with the bias at all
                return self.last(torch.relu((x - y) + y))
            if what == "twice":
                return self.last(torch.relu((x + y) + y.tanh()))
            return self.last(torch.relu(x + y))

    certificate, reason = _lemma(_problem(Block().eval()))
    assert (certificate is not None) == (what == "block"), reason
    if what == "block":
        assert certificate.replay()
    else:
        assert "bias" in reason


def test_halves_on_one_bias_are_refused():
    """abs(z) and max(z, 0) of one z draw their sides together, not independently."""

    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            z = self.first(x)
            return self.last(z.abs() - torch.maximum(z, torch.zeros_like(z)))

    assert "opposite directions" in _lemma(_problem(Halves()))[1]


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


MEMBERS = {
    "minus abs": (lambda x: -x.abs().sum(), [0.0, 0.0], True),
    "max.dim": (lambda x: x.view(1, -1).max(1).values.sum(), [1.0, 1.0, 1.0], True),
    "pool": (lambda x: nn.functional.max_pool2d(x.view(1, 1, 2, 2), 2).sum() - x[3], [1.0] * 4, True),
    "hardtanh": (lambda x: nn.functional.hardtanh(x).sum(), [1.0, -1.0, 0.0], True),
    "a square inside": (lambda x: torch.relu(x**2).sum() + x[0].abs(), [0.0, 0.0], True),
    "thin cells": (lambda x: x[1].abs() - (x[1] - x[0] ** 2).abs(), [0.0, 0.0], True),
    "quotient": (lambda x: ((x[0] - x[1]) * (1 + x[1] ** 2) / 4).abs() + x.clamp(0, 1).sum(), [1.0, 1.0], True),
    "thirds are rounded": (lambda x: x.amax(), [1.0, 1.0, 1.0], False),
    "one too many": (
        lambda x: torch.maximum(x, 0 * x).sum() - torch.maximum(x, 0 * x).maximum(0 * x).sum(),
        [0.0],
        None,
    ),
    "both sides": (lambda x: x.clamp(min=0).sum() - (-x).clamp(min=0).sum(), [0.0], None),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_membership_is_proved_exactly_or_not_at_all(name):
    """True: proved; False: a member only up to its own rounding; None: none at all."""
    F, x, expected = MEMBERS[name]
    result = check_backprop(F, torch.tensor(x, dtype=torch.float64))
    assert result.how == "membership"
    wanted = {True: Verdict.PROVED, False: Verdict.MEASURED, None: Verdict.REFUTED}[expected]
    assert result.verdict is wanted
    if expected:
        assert result.certificate.replay()


def test_a_tampered_membership_does_not_replay():
    certificate = check_backprop(lambda x: -x.abs().sum(), torch.zeros(2, dtype=torch.float64)).certificate

    def replayed(change):
        data = copy.deepcopy(dict(certificate.data))
        change(data)
        return type(certificate)(certificate.checker, data).replay()

    from tameopt.nonsmooth._replay import packed

    assert replayed(lambda data: None)
    assert not replayed(lambda data: data.update(gradient=packed(torch.tensor([0.5, 0.0]).numpy())))
    assert not replayed(lambda data: data["weights"].__setitem__(0, [1, 3]))
    assert not replayed(lambda data: data["directions"].__setitem__(0, [0, 1]))  # leaves the first kink open
    assert not replayed(lambda data: data["parts"][0]["steps"][1].update(op="aten.sign.default"))
    with pytest.raises(ValueError, match="parameters fill theta"):
        replayed(lambda data: data["offsets"].update(theta=1))
    with pytest.raises(ValueError, match="must hold parts"):
        replayed(lambda data: data.pop("weights"))


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
    assert check_backprop(_problem(model, shape=(1, 6, 6))).how == "margins"


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


@pytest.mark.parametrize("ask", [check_backprop, safe_gradient], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize("entry", [float("nan"), float("inf")])
def test_a_finite_point_is_required(ask, entry):
    with pytest.raises(ValueError, match="x must be finite"):
        ask(lambda x: x.abs().sum(), torch.tensor([1.0, entry]))
