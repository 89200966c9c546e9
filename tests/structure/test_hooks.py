"""Hooks on the nodes of autodiff's graph, on parameters' accumulators and on saved tensors change the level."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import get_gradient_edge, save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from tameopt.structure import certify
from tameopt.structure.hooks import hooked_nodes, hooked_parameters
from tameopt.structure.lint import lint

_T = torch.tensor([0.5, 0.7, -0.2], dtype=torch.float64)


class _Of(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _level(function):
    return certify(_Of(function), inputs=_T, wrt="inputs").autodiff


def _node_hook(t):
    y = t.square()
    if y.grad_fn is not None:  # the lint also evaluates without a graph
        y.grad_fn.register_hook(lambda inner, outer: tuple(2 * g for g in inner))
    return y.sum()


def _node_prehook(t):
    y = t.square()
    y.grad_fn.register_prehook(lambda outer: tuple(-g for g in outer))
    return y.sum()


def _late_hook_deep_down(t):
    y = t.square()
    value = (y.exp() + y).sum()
    y.grad_fn.register_prehook(lambda outer: tuple(0 * g for g in outer))
    return value


def _accumulator_prehook(t):
    node = get_gradient_edge(t).node  # gone with its hooks if nothing holds it
    node.register_prehook(lambda outer: tuple(3 * g for g in outer))
    return t.square().sum()


def _doubled_when_saved(t):
    with saved_tensors_hooks(lambda saved: 2 * saved, lambda saved: saved):
        return t.square().sum()


@pytest.mark.parametrize(
    "function", [_node_hook, _node_prehook, _late_hook_deep_down, _accumulator_prehook, _doubled_when_saved]
)
def test_a_hook_off_the_tensors_is_found_and_does_change_the_gradient(function):
    leaf = _T.clone().requires_grad_()
    function(leaf).backward()
    step = 1e-6 * torch.ones_like(_T)
    ahead, behind = (function((_T + sign * step).requires_grad_()).detach() for sign in (1, -1))
    slope = float(ahead - behind) / 2e-6
    assert abs(float(leaf.grad.sum()) - slope) > 0.1
    assert _level(function) == "wrong"


def test_the_lint_names_it():
    found = lint(_Of(_node_hook), inputs=_T, wrt="inputs")
    (hook,) = [item for item in found if item.code == "TAME202"]
    assert "PowBackward0" in hook.message


def test_hooks_that_are_not_behind_the_result_or_were_removed_do_not_matter():
    def function(t):
        t.exp().grad_fn.register_hook(lambda inner, outer: None)
        y = t.square()
        y.grad_fn.register_hook(lambda inner, outer: None).remove()
        return y.sum()

    assert _level(function) == "classical"


def test_looking_for_hooks_leaves_none_behind():
    y = _T.clone().requires_grad_().square().sum()
    assert hooked_nodes([y]) == hooked_nodes([y]) == ()
    y.backward()


def test_torchs_own_saving_is_exact():
    def stored(t):
        with save_on_cpu():
            return t.square().sum()

    for function in (stored, lambda t: checkpoint(lambda s: s.square().sum(), t, use_reentrant=False)):
        assert _level(function) == "classical"


def test_a_hook_on_a_parameters_accumulator_is_found():
    model = torch.nn.Linear(3, 2)
    node = get_gradient_edge(model.weight).node
    assert hooked_parameters(model) == ()
    node.register_prehook(lambda outer: tuple(2 * g for g in outer))
    assert hooked_parameters(model) == ("weight",)
    assert certify(model, inputs=torch.ones(4, 3)).autodiff == "wrong"
