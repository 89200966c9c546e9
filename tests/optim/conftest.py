"""Triton's interpreter for the tests of optimizers."""

import numpy as np
import pytest
import torch


def round_to_bfloat16(found, source, target, rounding):
    """What the device's cvt.rn.bf16.f32 does. The interpreter's own conversion cuts the lower bits off instead."""
    import triton.language as tl

    if (source, target) == (tl.float32, tl.bfloat16):
        values = torch.from_numpy(np.ascontiguousarray(found).view(np.float32).copy()).to(torch.bfloat16)
        return values.view(torch.int16).numpy().view(np.uint16)
    if (source, target) == (tl.bfloat16, tl.float32):
        return found.view(np.uint16).astype(np.uint32) << 16
    raise AssertionError(f"a conversion that no kernel makes: {source} to {target}, {rounding}")


@pytest.fixture
def interpreted(monkeypatch):
    """Triton kernels run on the CPU, by its interpreter."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("triton.runtime.interpreter._convert_float", round_to_bfloat16)
