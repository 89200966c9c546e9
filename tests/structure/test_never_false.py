"""Attempts to make a certificate say something false about a function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from tameopt.evidence import Verdict
from tameopt.problem import Problem
from tameopt.structure import certify

_T = torch.tensor([0.5, 0.7, -0.2], dtype=torch.float64)


class _RoundWithStraightGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class _TanhByHand(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 7 * gradient * x


def _obstruction(function, inputs=_T):
    found = certify(function, inputs=inputs)
    assert found.verdict is Verdict.UNKNOWN
    assert not found.tame
    return found


@pytest.mark.parametrize(
    "function",
    [
        lambda t: t.sum() * t.sum().item(),
        lambda t: t.sum() * float(t.detach().numpy().sum()),
        lambda t: t.sum() * torch.from_numpy(np.sin(t.detach().numpy())).sum(),
        lambda t: t.sum() * t.tolist()[0],
        lambda t: t.sum() * float(t.detach().cpu().numpy().max()),
    ],
)
def test_a_value_that_leaves_torch_is_not_certified(function):
    found = _obstruction(function)
    assert found.definable == "unknown"
    assert found.obstructions[0].kind in ("value leaves torch", "differs between runs")


def test_a_branch_hidden_in_numpy_is_seen_by_the_second_run():
    found = _obstruction(lambda t: t.sum() if t.detach().numpy()[0] > 0.52 else t.sum() ** 2)
    assert found.obstructions[0].kind in ("value leaves torch", "differs between runs")


def test_a_value_handed_to_numpy_is_seen_even_if_two_runs_agree():
    found = _obstruction(lambda t: t.sum() if t.detach().numpy()[0] < 1e6 else t.sum() ** 2)
    assert found.obstructions[0].kind == "value leaves torch"
    assert "test_never_false.py:" in str(found.obstructions[0].place)


def test_noise_is_named():
    torch.manual_seed(0)
    found = certify(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5)), inputs=torch.ones(4, 3))
    assert found.verdict is Verdict.PROVED
    assert "given the noise" in found.notes[0]


def test_a_shape_that_depends_on_theta_is_refused():
    assert _obstruction(lambda t: t[t > 0].sum()).definable == "unknown"
    assert _obstruction(lambda t: torch.nonzero(t).double().sum() * t.sum()).definable == "unknown"


@pytest.mark.parametrize(
    "function",
    [
        lambda t: (t + (t.round() - t).detach()).sum(),
        lambda t: (t * t.detach()).sum(),
        lambda t: (t * t.data).sum(),
        lambda t: _RoundWithStraightGradient.apply(t).sum(),
        lambda t: _TanhByHand.apply(t).sum(),
        lambda t: t.sum().detach() ** 2 + t.sum(),
    ],
)
def test_a_cut_gradient_is_called_wrong(function):
    found = certify(function, inputs=_T)
    assert found.autodiff == "wrong"


def test_no_grad_inside_the_function_is_found():
    def function(t):
        with torch.no_grad():
            scale = t.norm()
        return (t / (1 + scale)).sum()

    assert certify(function, inputs=_T).autodiff == "wrong"


def test_a_hook_that_changes_the_gradient_is_found():
    def function(t):
        y = t.square()
        if y.requires_grad:
            y.register_hook(lambda gradient: 2 * gradient)
        return y.sum()

    assert certify(function, inputs=_T).autodiff == "wrong"


def test_writing_in_place_keeps_the_dependence():
    def view_then_write(t):
        buffer = torch.zeros(3, dtype=t.dtype)
        buffer[0] = t[0].sin()
        return buffer.sum() + t.sum()

    def write_through_a_view(t):
        y = t * 1.0
        row = y.view(-1)
        row.exp_()
        return y.sum()

    def overwrite(t):
        y = t.sin()
        y.copy_(t * t)
        return y.sum()

    def strided(t):
        y = torch.cat([t, t.sin()])
        head = y[:3]
        return head.as_strided((3,), (1,), 3).sum()

    assert certify(view_then_write, inputs=_T).definable == "not definable"
    assert certify(write_through_a_view, inputs=_T).definable == "R_exp"
    assert certify(overwrite, inputs=_T).definable == "polynomial"
    assert certify(strided, inputs=_T).definable == "not definable"


def test_an_operator_without_a_row_is_named_with_its_line():
    found = _obstruction(lambda t: torch.special.bessel_j0(t).sum())
    assert found.obstructions[0].operator == "special_bessel_j0"
    assert "test_never_false.py:" in str(found.obstructions[0].place)
    assert "no row" in str(found.obstructions[0])


def test_sparse_complex_and_quantised_tensors_are_refused_by_name():
    assert "complex" in str(_obstruction(lambda t: torch.fft.fft(t).abs().sum()).obstructions)
    assert "layout" in str(_obstruction(lambda t: t.to_sparse().sum()).obstructions)


def test_a_value_that_is_not_finite_is_not_certified():
    assert "not finite" in str(_obstruction(lambda t: (t * 0).log().sum()).obstructions)


def test_softplus_with_a_visible_jump_is_refused():
    assert "visibly" in str(_obstruction(lambda t: functional.softplus(t, threshold=2).sum()).obstructions)


def test_a_negative_zero_denominator_and_powers_of_negative_bases_are_not_total():
    for function in (lambda t: (1 / t).sum(), lambda t: (t**0.5).sum(), lambda t: t.rsqrt().sum()):
        found = certify(function, inputs=torch.tensor([0.5, 0.7]))
        assert not found.total
        assert not found.locally_lipschitz


@pytest.mark.parametrize(
    "function",
    [
        # the known winner of a maximum does not make the loser's NaN go away
        lambda t: torch.maximum(t.square(), -t.reciprocal().square() - 1).sum(),
        lambda t: (1 / t).clamp(-1, 1).clamp(min=2.0).sum() + t.sum(),
        lambda t: (t.reciprocal() ** 0).sum() + t.sum(),
    ],
)
def test_what_is_undefined_stays_undefined_where_it_cannot_win(function):
    found = certify(function, inputs=_T)
    assert not found.total
    assert found.autodiff == "almost everywhere"


def test_an_infinite_derivative_counts_even_where_it_is_multiplied_by_zero():
    def function(t):
        return torch.minimum(t.abs().sqrt(), -1 - t.square()).sum()

    assert certify(function, inputs=_T).autodiff == "almost everywhere"
    leaf = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    assert bool(gradient.isnan().all())


@pytest.mark.parametrize(
    "function",
    [
        lambda t: functional.threshold(t, 0.5, 0.0).sum(),
        lambda t: torch.where(t > 0.5, t, 0.0).sum(),
        lambda t: functional.hardshrink(t).sum(),
        lambda t: t[(t - 1).argmax()],
    ],
)
def test_a_choice_at_a_limit_other_than_zero_is_not_homogeneous(function):
    assert certify(function, inputs=_T).homogeneous is None


def test_a_hook_is_found_wherever_it_was_registered():
    def late(t):
        y = t.square()
        value = y.sum()
        if y.requires_grad:
            y.register_hook(lambda gradient: 3 * gradient)
        return value

    assert certify(late, inputs=_T).autodiff == "wrong"
    model = torch.nn.Linear(3, 2)
    model.weight.register_hook(lambda gradient: 2 * gradient)
    assert certify(model, inputs=torch.ones(4, 3)).autodiff == "wrong"
    assert certify(model, inputs=torch.ones(4, 3), wrt="inputs").autodiff == "classical"
    assert certify(Problem(model, functional.mse_loss, (torch.ones(4, 3), torch.ones(4, 2)))).autodiff == "wrong"


class _GrowingWeight(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        with torch.no_grad():
            self.w.mul_(2)
        return self.w * x


def test_a_parameter_that_the_model_overwrites_is_refused():
    # autodiff would give the gradient at the new value, x, where that of 2 w x is 2 x
    found = certify(_GrowingWeight(), inputs=torch.ones(3))
    assert found.definable == "unknown"
    assert "written in place: compute a new tensor" in str(found.obstructions[0])
    assert "test_never_false.py:" in str(found.obstructions[0].place)


def test_a_model_that_does_not_run_names_the_line():
    def function(t):
        return (t @ torch.ones(5, dtype=t.dtype)) if t.requires_grad else t.sum()

    with pytest.raises(ValueError, match=r"raised RuntimeError at .*test_never_false.py:\d+: "):
        certify(function, inputs=_T)


def test_a_write_under_no_grad_is_not_seen_by_autodiff():
    def clamped(t):
        norm = t.norm().clone()
        with torch.no_grad():
            norm.clamp_min_(0.5)
        return t.sum() / norm

    def similar(t):
        return functional.cosine_similarity(t, torch.ones_like(t), dim=0, eps=0.5)

    for function in (clamped, similar):
        assert certify(function, inputs=_T).autodiff == "wrong"
        # within eps of 0 the function is linear, and backprop says something else
        leaf = torch.tensor([0.1, 0.1, 0.05], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(function(leaf), leaf)
        theta = leaf.detach()
        along = float(function(1.01 * theta) - function(0.99 * theta)) / 0.02
        assert along == pytest.approx(float(function(theta)), rel=1e-9)
        assert float(gradient @ theta) < 0.8 * along


def _overwritten_in(way):
    def function(t):
        y = t * 1.0
        if way == "detached entry":
            y.detach()[0] = 5.0
        elif way == "detached whole":
            y.detach().fill_(5.0)
        elif way == "data":
            y.data.mul_(2.0)
        elif way == "no_grad entry":
            with torch.no_grad():
                y[0] = 5.0
        elif way == "data swapped":
            y.data = t.detach().sin()
        return y.sum()

    return function


@pytest.mark.parametrize("way", ["detached entry", "detached whole", "data", "no_grad entry", "data swapped"])
def test_values_changed_behind_autodiffs_back_are_found(way):
    function = _overwritten_in(way)
    leaf = _T.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    assert gradient.tolist() == [1.0, 1.0, 1.0]  # that of sum(t), which is not what is computed
    found = certify(function, inputs=_T)
    assert found.autodiff in ("wrong", "unknown")


def test_a_buffer_filled_entry_by_entry_is_differentiated():
    def function(t):
        buffer = torch.zeros(3, dtype=t.dtype)
        for k in range(3):
            buffer[k] = t[k] * t[0]
        return buffer.sum()

    found = certify(function, inputs=_T)
    assert (found.autodiff, found.verdict) == ("classical", Verdict.PROVED)


_SIGNS = (torch.tensor([1.0, -1.0, 1.0]).double(), torch.tensor([-1.0, 1.0, 1.0]).double())
_ORDERS = (torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1]))


def _stale_views(t):
    y = t * 1.0
    left, right = y[:1], y[2:]
    y.add_(0.1)
    return (left * right).sum()


def _constant_changed_behind_its_version(t):
    signs = torch.ones(3, dtype=t.dtype)
    signs[0] = -1
    first = t * signs
    signs.data.neg_()
    signs.data[1] = 1
    return (first * (t * signs)).sum()


@pytest.mark.parametrize(
    "function",
    [
        # calls that differ in a constant tensor alone are not one call, even where both constants lie in one range
        lambda t: ((t * _SIGNS[0]) * (t * _SIGNS[1])).sum(),
        lambda t: (t[_ORDERS[0]] * t[_ORDERS[1]]).sum(),
        _stale_views,
        _constant_changed_behind_its_version,
    ],
)
def test_two_tensors_that_look_alike_are_not_taken_for_one(function):
    found = certify(function, inputs=_T)
    assert min(float(function(t)) for t in (_T, _T - 1, _T.flip(0) - 0.6)) < 0
    assert found.lower_bound is None
    assert found.shape == ""


def test_one_tensor_times_itself_is_a_square():
    def function(t):
        y = t * _SIGNS[0]
        return (y * y).sum() + (t.exp() * t.exp()).sum()

    assert certify(function, inputs=_T).lower_bound == 0


def test_bits_read_as_numbers_are_refused():
    assert "bits" in str(_obstruction(lambda t: t.view(torch.int64).double().sum() + t.sum()).obstructions)
