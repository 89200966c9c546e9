"""Law: every optimizer that torch has gives torch's numbers, state and errors."""

import copy

import pytest
import torch

from tameopt import optim

CASES = [
    pytest.param(name, arguments, id=f"{name}-{variant}")
    for name in optim.names()
    if hasattr(torch.optim, name) and optim.entry(name).gradients == "dense"
    for variant, arguments in {"defaults": {}, **optim.entry(name).variants}.items()
]
SHAPES = [(7, 3), (5,), (), (0, 4), (2, 3, 2, 2)]


def parameters(dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def train(optimizer, params, steps, seed=1, late=1):
    """Random gradients of changing scale; parameter `late` has none in the first two steps."""
    generator = torch.Generator().manual_seed(seed)
    for k in range(steps):
        for index, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator, dtype=p.dtype) * (1 + k)
            p.grad = None if index == late and k < 2 else g
        optimizer.step()


def assert_near(params, reference, steps, dtype):
    # A step rounds theta once and its update a few times; the two sides order these roundings differently.
    # 2 roundings of theta a step cover it; rules that subtract near-equal averages amplify theirs (64).
    eps = torch.finfo(dtype).eps
    for p, q in zip(params, reference, strict=True):
        scale = 1.0 + q.detach().abs()
        assert ((p - q).detach().abs() <= steps * 64 * eps * scale).all(), (p - q).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_same_numbers_as_torch(name, arguments, dtype):
    ours, theirs = parameters(dtype), parameters(dtype)
    start = [p.detach().clone() for p in ours]
    train(getattr(optim, name)(ours, engine="eager", **arguments), ours, 8)
    train(getattr(torch.optim, name)(theirs, **arguments), theirs, 8)
    assert_near(ours, theirs, 8, dtype)
    assert all((p != q).any() for p, q in zip(ours, start, strict=True) if p.numel())


@pytest.mark.parametrize(("name", "arguments"), CASES)
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_state_dict_crosses_over(name, arguments, direction):
    """Four steps in one library and four in the other are eight steps in torch."""
    kinds = [getattr(torch.optim, name), getattr(optim, name)]
    if direction == "to torch":
        kinds.reverse()
    ours, reference = parameters(torch.float64), parameters(torch.float64)
    before = kinds[0](ours, **arguments)
    train(before, ours, 4)
    after = kinds[1](ours, **arguments)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    train(after, ours, 4, seed=2, late=-1)
    torchs = getattr(torch.optim, name)(reference, **arguments)
    train(torchs, reference, 4)
    if direction == "to torch":  # torch casts mu_product and eta to the parameter's dtype when it loads them
        saved = copy.deepcopy(torchs.state_dict())
        torchs = getattr(torch.optim, name)(reference, **arguments)
        torchs.load_state_dict(saved)
    train(torchs, reference, 4, seed=2, late=-1)
    assert_near(ours, reference, 8, torch.float64)
    assert set(torchs.state_dict()["param_groups"][0]) == set(after.state_dict()["param_groups"][0])
    for one, other in zip(torchs.state_dict()["state"].values(), after.state_dict()["state"].values(), strict=True):
        assert set(one) == set(other)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_groups_schedulers_and_closures(name):
    """Two groups with their own lr, a scheduler that changes both, and a closure that returns the loss."""
    results = []
    for library in (optim, torch.optim):
        params = parameters(torch.float64)
        optimizer = getattr(library, name)(
            [{"params": params[:2], "lr": 0.1}, {"params": params[2:], "weight_decay": 0.1}], lr=0.01
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)

        def closure(optimizer=optimizer, params=params):
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params)
            loss.backward()
            return loss

        losses = []
        for _ in range(5):
            losses.append(optimizer.step(closure).item())
            scheduler.step()
        results.append((params, losses, scheduler.get_last_lr()))
    (ours, our_losses, our_lr), (theirs, their_losses, their_lr) = results
    assert our_lr == their_lr
    assert our_losses == pytest.approx(their_losses, rel=1e-12)
    assert_near(ours, theirs, 5, torch.float64)
