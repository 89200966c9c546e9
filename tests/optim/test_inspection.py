"""One compiled call notices what moved, and what it cannot tell is asked in Python."""

from __future__ import annotations

import copy

import pytest
import torch

from tameopt import optim
from tameopt.optim import inspection
from tameopt.optim.engines import threads

needs_llvm = pytest.mark.skipif(bool(inspection.why_not()), reason=f"no compiled questions: {inspection.why_not()}")
COUNT = 2 * inspection.FEWEST


def test_this_torch_is_one_whose_answers_were_checked():
    """Where the compiled questions cannot be had steps are slower, no more; this test says so."""
    assert inspection.why_not() == ""


def parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(3, 1 + k % 4, generator=generator)) for k in range(COUNT)]
    for k, p in enumerate(made):
        p.grad = torch.randn(p.shape, generator=generator) * (1 + k)
    return made


# what happens between two steps; each must lead to the numbers of an optimizer that asks in Python
def nothing(params, optimizer):
    del params, optimizer


def new_gradients(params, optimizer):
    optimizer.zero_grad()
    for p in params:
        p.grad = torch.ones_like(p)


def missing(params, optimizer):
    del optimizer
    params[3].grad = params[7].grad = None


def transposed(params, optimizer):
    del optimizer
    params[2].grad = torch.arange(9.0).view(3, 3).t()


def sliced(params, optimizer):
    del optimizer
    params[2].grad = torch.arange(40.0)[5:14].view(3, 3)


def swapped_data(params, optimizer):
    del optimizer
    params[5].data = torch.full_like(params[5], 2.0)


def swapped_tensors(params, optimizer):
    """swap_tensors exchanges what two objects are; the optimizer's object stays."""
    state = optimizer.state
    gradient, params[5].grad = params[5].grad, None
    optimizer.state.pop(params[5])
    optimizer._layout, kept = None, optimizer._layout  # a layout's detached views forbid the swap
    del kept
    torch.utils.swap_tensors(params[5], torch.nn.Parameter(torch.full_like(params[5], 2.0)))
    params[5].grad = gradient
    assert optimizer.state is state


def replaced_state(params, optimizer):
    optimizer.state[params[9]]["exp_avg"] = torch.ones_like(params[9])


def replaced_step(params, optimizer):
    optimizer.state[params[9]]["step"] = torch.tensor(7.0)


def written_step(params, optimizer):
    optimizer.state[params[9]]["step"].fill_(7.0)


def written_steps_by_data(params, optimizer):
    for p in params:
        optimizer.state[p]["step"].data.fill_(7.0)


def replaced_entry(params, optimizer):
    old = optimizer.state[params[9]]
    optimizer.state[params[9]] = {name: value.clone() + 1 for name, value in old.items()}


def forgotten_entry(params, optimizer):
    del optimizer.state[params[9]]


def forgotten_state(params, optimizer):
    del params
    optimizer.state.clear()


def another_dtype(params, optimizer):
    del optimizer
    params[4].grad = None
    params[4].grad_dtype = None
    params[4].grad = torch.ones_like(params[4], dtype=torch.float64)


def reordered(params, optimizer):
    del params
    optimizer.param_groups[0]["params"].reverse()


def more(params, optimizer):
    params.append(torch.nn.Parameter(torch.ones(2)))
    params[-1].grad = torch.ones(2)
    optimizer.add_param_group({"params": [params[-1]], "lr": 0.5})


def loaded(params, optimizer):
    del params
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


EVENTS = [
    nothing, new_gradients, missing, transposed, sliced, swapped_data, swapped_tensors, replaced_state, replaced_step,
    written_step, written_steps_by_data, replaced_entry, forgotten_entry, forgotten_state, another_dtype, reordered,
    more, loaded,
]  # fmt: skip


def run(event, kind) -> list[torch.Tensor]:
    params = parameters()
    optimizer = kind(params, lr=0.1)
    for _ in range(2):
        optimizer.step()
    event(params, optimizer)
    for _ in range(2):
        optimizer.step()
    return [p.detach() for p in params]


@needs_llvm
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_what_happens_between_steps_is_noticed(event, monkeypatch):
    asked = run(event, optim.NAdam if event is written_steps_by_data else optim.Adam)
    monkeypatch.setattr(inspection, "inspector", lambda: None)
    in_python = run(event, optim.NAdam if event is written_steps_by_data else optim.Adam)
    assert all(torch.equal(a, b) for a, b in zip(asked, in_python, strict=True))
    if event not in (another_dtype, swapped_tensors):  # torch refuses the one; the other is of no use to it
        torchs = run(event, torch.optim.NAdam if event is written_steps_by_data else torch.optim.Adam)
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(asked, torchs, strict=True))


@needs_llvm
@pytest.mark.parametrize("name", [n for n in optim.names() if optim.entry(n).gradients == "dense"])
def test_nothing_is_laid_out_again_without_reason(name):
    """New gradients at new places, a gradient that comes and goes, a new learning rate: the layout stays."""
    params = parameters()
    optimizer = optim.entry(name).optimizer(params)
    optimizer.step()
    layout = optimizer._layout
    for k in range(4):
        for p in params:
            p.grad = torch.randn(p.shape)
        if k == 2:
            params[1].grad = None
        optimizer.param_groups[0]["lr"] = 0.1 / (k + 1)
        optimizer.step()
    assert optimizer._layout is layout
    assert layout.watch is not None


@needs_llvm
def test_no_tensor_outlives_its_optimizer():
    """A watch knows addresses; what they belong to is held by it, and let go with it."""
    import gc
    import weakref

    params = parameters()
    optimizer = optim.Adam(params)
    optimizer.step()
    optimizer.step()
    kept = [weakref.ref(p) for p in params]
    del params, optimizer
    gc.collect()
    assert all(each() is None for each in kept)


def test_declarations_that_differ_are_noticed(monkeypatch):
    by_value = "at::Tensor grad() const;"  # another way of calling it
    monkeypatch.setattr(inspection, "_DECLARED", {"c10/core/TensorImpl.h": (by_value,)})
    assert inspection._undeclared() == by_value
    monkeypatch.setattr(inspection, "_DECLARED", {"no/such/header.h": ("void f();",)})
    assert inspection._undeclared() == "no/such/header.h"
    monkeypatch.setattr(threads, "_DECLARATION", "void torch_parallel_for(int64_t begin);")
    threads._torchs.cache_clear()
    assert threads._torchs(True) is None
    threads._torchs.cache_clear()
