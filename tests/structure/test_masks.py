"""-inf among the elements: masks of attention, borders of max pooling, and attempts to lose track of one."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.nn import functional

from tameopt.evidence import Verdict
from tameopt.structure import certify
from tameopt.structure.checker import check
from tameopt.structure.checker._masks import reads_border_only
from tameopt.structure.checker._step import Step
from tameopt.structure.rules._call import Call
from tameopt.structure.rules.extremes import windows_meet

_INF = float("inf")


class _Of(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _certified(function, x):
    return certify(_Of(function), inputs=x, wrt="inputs")


def _image(side=6, device="cpu"):
    return torch.linspace(-1, 1, side * side, dtype=torch.float64, device=device).reshape(1, 1, side, side)


def _after_pooling(pool):
    """sigmoid would hide -inf from the check that outputs are finite; the product needs real factors."""

    def function(x):
        pooled = pool(x)
        return (pooled * torch.ones_like(pooled)).sum()

    return function


def test_a_padding_with_minus_infinity_ends_in_the_max_pooling():
    pool = _after_pooling(lambda x: functional.max_pool2d(functional.pad(x, (0, 1, 1, 0), value=-_INF), 3, 2))
    for device in ("cpu", "meta"):
        found = _certified(pool, _image(device=device))
        assert found.verdict is Verdict.PROVED
        assert found.total
        assert (found.definable, found.degree) == ("piecewise polynomial", 1)


def test_a_padded_row_is_pooled_like_an_image():
    def pool(kernel):
        return _after_pooling(
            lambda x: functional.max_pool1d(functional.pad(x[0, 0], (1, 1), value=-_INF), kernel, 1)
        )

    assert _certified(pool(2), _image()).total
    assert _certified(pool(1), _image()).definable == "unknown"


def test_padding_of_the_pooling_itself_is_no_mask():
    pool = _after_pooling(lambda x: functional.max_pool2d(x, 3, 2, padding=1, ceil_mode=True))
    assert _certified(pool, _image()).total


@pytest.mark.parametrize(
    "pool",
    [
        # the last window of ceil_mode lies in the padding
        lambda x: functional.max_pool2d(functional.pad(x, (0, 3, 0, 0), value=-_INF), 2, 2, ceil_mode=True),
        # a corner wider than the window
        lambda x: functional.max_pool2d(functional.pad(x, (2, 0, 0, 0), value=-_INF), 2, 2),
        # torch allows padding <= kernel / 2, but dilation lets a window step over the only element
        lambda x: functional.max_pool2d(x[..., :1, :1], 2, 1, padding=1, dilation=2),
        # a padding that crops on one side
        lambda x: functional.max_pool2d(functional.pad(x, (-5, 3, 0, 0), value=-_INF), 2, 2),
        # padded twice: only the last padding is looked at
        lambda x: functional.max_pool2d(
            functional.pad(functional.pad(x, (2, 0, 0, 0), value=-_INF), (1, 0, 0, 0), value=-_INF), 2, 1
        ),
    ],
)
def test_a_window_in_the_padding_alone_is_minus_infinity_and_never_certified_as_a_number(pool):
    assert pool(_image()).min() == -_INF
    for device in ("cpu", "meta"):
        found = _certified(_after_pooling(pool), _image(device=device))
        assert found.definable == "unknown"
        assert not _certified(pool, _image(device=device)).total


def test_a_forged_padding_is_rejected():
    found = _certified(
        lambda x: functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=-_INF), 3, 2).sum(), _image()
    )
    data = found.certificate.data
    assert check(data)
    forged = copy.deepcopy(data)
    (pad,) = [node for node in forged["nodes"] if node["op"] == "constant_pad_nd"]
    pad["arguments"]["pad"] = [4, 1, 1, 1]
    assert not check(forged)


def test_windows_agree_with_torch():
    grid = itertools.product((1, 2, 5), (1, 2, 3), (1, 2), (0, 1), (1, 2, 3), (False, True), (0, 2), (0, 3))
    compared = 0
    for size, kernel, stride, padding, dilation, ceil, before, after in grid:
        x = functional.pad(torch.zeros(1, 1, size, 1), (0, 0, before, after), value=-_INF)
        options = {"kernel_size": [kernel, 1], "stride": [stride, 1], "padding": [padding, 0],
                   "dilation": [dilation, 1]}  # fmt: skip
        try:
            y = functional.max_pool2d(x, **options, ceil_mode=ceil)
        except RuntimeError:
            continue
        compared += 1
        filled = bool((y > -_INF).all())
        call = Call("max_pool2d_with_indices", options, {}, (tuple(y.shape),), ("torch.float32",))
        assert windows_meet([size, 1], [before, 0], y.shape[-2:], call, 2) == filled
        border = {"border": [(before, after), (0, 0)]}
        step = Step("max_pool2d_with_indices", options | border, {"self": tuple(x.shape)}, (tuple(y.shape),), (), {})
        assert reads_border_only(step) == (not filled)
    assert compared > 300


_KEEP = torch.tensor([False, True, False])
_T = torch.tensor([0.5, 0.7, -0.2], dtype=torch.float64)


@pytest.mark.parametrize(
    "after",
    [
        lambda m: m * m,
        lambda m: 1 / m,
        lambda m: m**3,
        lambda m: -m,
        lambda m: m * 0.0,
        lambda m: m.sin(),
        lambda m: functional.gelu(m),
        lambda m: functional.silu(m),
        lambda m: functional.layer_norm(m, (3,)),
        lambda m: functional.interpolate(m[None, None], 5, mode="linear", align_corners=True),
        lambda m: m.norm(),
        lambda m: m.abs(),
        lambda m: m.std(),
        lambda m: functional.dropout(m, 0.5),
    ],
)
def test_what_a_rule_does_not_foresee_is_refused(after):
    found = _certified(lambda t: after(t.masked_fill(_KEEP.to(t.device), -_INF)).softmax(-1).sum(), _T.to("meta"))
    assert found.definable == "unknown"
    assert "-inf" in found.obstructions[0].message


def test_limits_at_minus_infinity_are_real_and_in_the_range():
    for after in (torch.exp, torch.sigmoid, torch.tanh, torch.relu):
        found = _certified(lambda t, after=after: after(t.sigmoid().masked_fill(_KEEP.to(t.device), -_INF)).sum(), _T)
        assert found.verdict is Verdict.PROVED
        assert found.total
        value = float(after(_T.sigmoid().masked_fill(_KEEP, -_INF)).sum())
        low = -_INF if found.lower_bound is None else found.lower_bound
        assert low <= value <= (_INF if found.upper_bound is None else found.upper_bound)


def test_the_mask_competes_in_maxima_and_minima():
    found = _certified(lambda t: (t.sigmoid() + 5).masked_fill(_KEEP.to(t.device), -_INF).clamp(min=0.0).sum(), _T)
    assert found.total
    assert found.lower_bound is None or found.lower_bound <= 10.9
    lost = _certified(
        lambda t: (t.sigmoid() + 5).masked_fill(_KEEP.to(t.device), -_INF).clamp(max=9.0).sum(), _T.to("meta")
    )
    assert not lost.total
    assert not _certified(lambda t: t.masked_fill(_KEEP.to(t.device), -_INF).amin(), _T.to("meta")).total


def test_scores_scaled_after_the_mask():
    found = _certified(lambda t: (t.masked_fill(_KEEP.to(t.device), -_INF) / 2.0).softmax(-1)[0], _T)
    assert (found.definable, found.verdict, found.total) == ("R_exp", Verdict.PROVED, True)


def test_a_mask_of_keys_is_added_to_the_scores():
    attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
    x = torch.ones(2, 3, 4)
    hidden = torch.tensor([[False, False, True], [False, False, False]])
    inputs = {"query": x, "key": x, "value": x, "key_padding_mask": hidden}
    found = certify(attention, inputs=inputs)
    assert (found.definable, found.verdict, found.total) == ("R_exp", Verdict.PROVED, True)
