"""Laws over the operator tables."""

from __future__ import annotations

import math

import pytest
import torch

from tameopt.structure.aten._table import row_named, rows
from tameopt.structure.aten.elementwise import FUNCTIONS
from tameopt.structure.checker._elementwise import apply_scalar
from tameopt.structure.checker._fact import Bounds, Fact
from tameopt.structure.checker._rows import SCALARS
from tameopt.structure.ranges import Interval
from tameopt.structure.rules.elementwise import apply
from tameopt.structure.tame import CLASSES, class_name, is_o_minimal
from tameopt.structure.value import parameter


def _core_operators():
    names = set()
    for full in torch._C._dispatch_get_all_op_names():
        space, _, name = full.partition("::")
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if space == "aten" and operator is not None and torch.Tag.core in operator.tags:
            names.add(packet)
    return sorted(names)


def test_every_core_operator_has_a_row():
    core = _core_operators()
    assert len(core) > 150
    assert [name for name in core if row_named(name) is None] == []


def test_every_row_names_an_operator_of_torch_and_says_everything():
    for name, row in rows().items():
        assert hasattr(torch.ops.aten, name), name
        assert all((row.definable, row.smoothness, row.lipschitz, row.autodiff, row.reference)), name


_TORCH = {"log_sigmoid": torch.nn.functional.logsigmoid, "digamma": torch.digamma, "relu6": torch.nn.functional.relu6}
_BOXES = [(-4.0, 4.0), (0.0, 3.0), (0.25, 0.75), (-0.75, -0.25), (-2.0, 0.0), (1.5, 20.0), (1e-3, 1e3)]


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("low, high", _BOXES)
def test_images_hold_the_values_in_both_tables(name, low, high):
    operator = _TORCH.get(name) or getattr(torch, name, None) or getattr(torch.nn.functional, name)
    f = FUNCTIONS[name]
    x = torch.linspace(low, high, 201, dtype=torch.float64)
    inside = torch.tensor([float(value) in f.domain for value in x])
    if not bool(inside.any()):
        return
    y = operator(x[inside])
    image = apply(f, parameter().but(range=Interval(low, high))).range
    checked = apply_scalar(SCALARS[name], Fact(Bounds(low, high))).bounds
    for bounds in (image, checked):
        assert float(y.min()) >= bounds.lo - 1e-12 * abs(bounds.lo)
        assert float(y.max()) <= bounds.hi + 1e-12 * abs(bounds.hi)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_shape_and_slope_are_what_the_functions_have(name):
    operator = _TORCH.get(name) or getattr(torch, name, None) or getattr(torch.nn.functional, name)
    f, row = FUNCTIONS[name], SCALARS[name]
    assert (f.shape, f.monotone, f.homogeneous, f.kinks) == (row.shape, row.slope, row.ray, row.kinks)
    x = torch.linspace(-3, 3, 121, dtype=torch.float64)
    x = x[torch.tensor([float(value) in f.domain for value in x])]
    y = operator(x)
    steps, bends = y.diff(), y.diff().diff()
    if f.monotone:
        assert bool((f.monotone * steps >= -1e-12).all())
    if f.shape in ("convex", "affine"):
        assert bool((bends >= -1e-12).all())
    if f.shape in ("concave", "affine"):
        assert bool((bends <= 1e-12).all())
    if f.homogeneous:
        torch.testing.assert_close(operator(2 * x), 2 * y)


def test_every_class_is_o_minimal_but_two():
    assert [name for name in CLASSES if not is_o_minimal(name)] == ["not definable", "unknown"]
    assert class_name({"exp", "analytic"}, None, True) == "R_an,exp"
    with pytest.raises(ValueError, match="generators must be among"):
        class_name({"magic"}, None, False)


def test_an_interval_prints_no_negative_zero() -> None:
    assert str(Interval(-0.0, math.inf)) == "[0, inf)"
    assert str(Interval(-1.0, -0.0)) == "[-1, 0]"
