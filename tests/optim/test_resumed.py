"""Law: a run resumed from a copy, a pickle or a checkpoint equals the uninterrupted one bit for bit."""

import copy
import io
import pickle

import pytest
import torch

from tameopt import optim
from tameopt.optim import keras

CASES = [
    pytest.param(entry, arguments, id=f"{label}{entry.name}-{variant}")
    for label, library in (("", optim), ("keras.", keras))
    for entry in map(library.entry, library.names())
    for variant, arguments in {"defaults": {}, **entry.variants}.items()
]
SHAPES = [(7, 3), (5,), (), (0, 4), (2, 3, 2, 2)]


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def train(optimizer, params, steps, kind):
    """kind: "dense" or "sparse" random gradients, of which the second comes late; "closure": a convex loss."""
    generator = torch.Generator().manual_seed(len(steps) + steps[0])
    for k in steps:
        if kind == "closure":
            optimizer.step(closure_of(optimizer, params))
            continue
        for index, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator) * (1 + k)
            if kind == "sparse":
                g = g.to_sparse()
            p.grad = None if index == 1 and k < 2 else g
        optimizer.step()


def closure_of(optimizer, params):
    def closure():
        optimizer.zero_grad()
        loss = sum(((p - 1) ** 2).sum() + (p**4).sum() / 4 for p in params)
        loss.backward()
        return loss

    return closure


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("middle", [1, 3])
@pytest.mark.parametrize(("entry", "arguments"), CASES)
def test_resumed_equals_uninterrupted(entry, arguments, middle):
    if entry.gradients == "closure":
        arguments = {**arguments, "max_iter": 2}  # more would be at the minimum before the middle
    straight = parameters()[: 1 if entry.gradients == "sparse" else None]
    optimizer = entry.optimizer(straight, **arguments)
    train(optimizer, straight, range(middle), entry.gradients)
    copied = copy.deepcopy((straight, optimizer))
    pickled = pickle.loads(pickle.dumps((straight, optimizer)))
    params = copy.deepcopy(straight)
    loaded = entry.optimizer(params, **arguments)
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    train(optimizer, straight, range(middle, 6), entry.gradients)
    for others, one in (copied, pickled, (params, loaded)):
        assert any((p != q).any() for p, q in zip(others, straight, strict=True))
        train(one, others, range(middle, 6), entry.gradients)
        for p, q in zip(others, straight, strict=True):
            assert torch.equal(p, q)
            assert set(one.state.get(p, {})) == set(optimizer.state.get(q, {}))
        assert one.extras == optimizer.extras


def test_a_schedule_of_keras_goes_on_where_it_was():
    rates = {"learning_rate": _halving, "use_ema": True, "ema_overwrite_frequency": 2}
    straight = parameters()
    optimizer = keras.Nadam(straight, **rates)
    train(optimizer, straight, range(3), "dense")
    params = copy.deepcopy(straight)
    loaded = keras.Nadam(params, **rates)
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    assert loaded.iterations == 3
    for others, one in ((straight, optimizer), (params, loaded)):
        train(one, others, range(3, 6), "dense")
    assert all(torch.equal(p, q) for p, q in zip(params, straight, strict=True))
    assert loaded.param_groups[0]["lr"] == _halving(5)


def _halving(k):
    return 0.1 * 0.5**k
