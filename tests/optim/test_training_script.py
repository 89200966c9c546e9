"""One training script, whose only change is `torch.optim.X` to `tame.optim.X`, ends in the same numbers."""

import copy
import inspect
import io
import pickle

import pytest
import torch

from tameopt import optim

IN_TORCH = [name for name in optim.names() if hasattr(torch.optim, name)]
# Each script makes at most ten steps in float64. A step rounds a few times and its result is read through a network
# of two small layers, whose gradient turns an error into one of its own size; the averages' subtractions amplify it.
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


class Words(torch.nn.Module):
    """A small network with what optimizers meet: an embedding (sparse for SparseAdam), matrix, vector, scalar."""

    def __init__(self, sparse):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = torch.nn.Embedding(7, 4, sparse=sparse, dtype=torch.float64)
        self.layer = torch.nn.Linear(4, 3, dtype=torch.float64)
        self.scale = torch.nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))  # never gets a gradient
        with torch.no_grad():
            for p in (self.embedding.weight, *self.layer.parameters(), self.scale):
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def loss(self, k):
        generator = torch.Generator().manual_seed(100 + k)
        words = torch.randint(7, (6,), generator=generator)
        target = torch.randn(6, 3, generator=generator, dtype=torch.float64)
        return ((self.layer(torch.tanh(self.embedding(words))) * self.scale - target) ** 2).mean()


def trained(module, name):
    """The parameters that an optimizer of this name takes."""
    return [module.embedding.weight] if name == "SparseAdam" else list(module.parameters())


def make(library, name, module):
    return getattr(library, name)(trained(module, name), lr=0.02, **({"max_iter": 4} if name == "LBFGS" else {}))


def closure_of(optimizer, module, k):
    def closure():
        optimizer.zero_grad()
        loss = module.loss(k)
        loss.backward()
        return loss

    return closure


def plain_loop(library, name, module):
    optimizer = make(library, name, module)
    for k in range(6):
        if name == "LBFGS":
            optimizer.step(closure_of(optimizer, module, 0))
            continue
        optimizer.zero_grad()
        module.loss(k).backward()
        optimizer.step()
    yield optimizer


def closure(library, name, module):
    optimizer = make(library, name, module)
    for k in range(4):
        yield optimizer.step(closure_of(optimizer, module, k))


def scheduler(library, name, module):
    optimizer = make(library, name, module)
    rates = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4),
        ],
        milestones=[2],
    )
    for k in range(6):
        optimizer.step(closure_of(optimizer, module, k))
        rates.step()
        yield rates.get_last_lr()


def one_cycle(library, name, module):
    """A scheduler that also writes momentum, or betas, at each step."""
    optimizer = make(library, name, module)
    cycles = {"momentum", "betas"} & set(optimizer.defaults)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=8, cycle_momentum=bool(cycles))
    for k in range(6):
        optimizer.step(closure_of(optimizer, module, k))
        rates.step()
        yield optimizer.param_groups[0].get("betas"), optimizer.param_groups[0].get("momentum")


def grad_scaler(library, name, module):
    """The second loss overflows: the scaler skips that step and halves its scale."""
    if name == "LBFGS":  # scalers take no closure
        return
    optimizer = make(library, name, module)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for k in range(4):
        optimizer.zero_grad()
        scaler.scale(module.loss(k) * (float("inf") if k == 1 else 1.0)).backward()
        if name != "SparseAdam":  # clip_grad_norm_ takes no sparse gradients
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(trained(module, name), 0.5)
        scaler.step(optimizer)
        scaler.update()
        yield scaler.get_scale()


def groups_and_freezing(library, name, module):
    """Two groups with rates of their own; one added later; a parameter frozen and thawed on the way."""
    if name in ("LBFGS", "SparseAdam"):  # one group; one parameter
        return
    optimizer = getattr(library, name)(
        [
            {"params": module.layer.named_parameters(), "lr": 0.05},
            {"params": [("scale", module.scale)]},
        ],
        lr=0.01,
    )
    for k in range(7):
        if k == 2:
            optimizer.add_param_group({"params": [("embedding", module.embedding.weight)], "lr": 0.03})
        module.layer.bias.requires_grad_(k not in (3, 4))
        optimizer.step(closure_of(optimizer, module, k))
    yield [group["lr"] for group in optimizer.param_groups], optimizer.param_groups[2]["param_names"]


def accumulation(library, name, module):
    if name == "LBFGS":
        return
    optimizer = make(library, name, module)
    for k in range(9):
        (module.loss(k) / 3).backward()
        if k % 3 == 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=k == 5)
            yield [p.grad is None for p in trained(module, name)]


def hooks(library, name, module):
    """A hook before the step that shrinks the gradients, one after it that keeps an average, and tensor hooks."""
    optimizer = make(library, name, module)
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )

    def shrink(optimizer, arguments, keywords):
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad = p.grad * 0.5

    if name != "LBFGS":  # its gradients are made inside the step
        optimizer.register_step_pre_hook(shrink)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(module))

    def limit(p):
        p.grad.clamp_(-0.2, 0.2)

    module.layer.weight.register_post_accumulate_grad_hook(limit)
    for k in range(4):
        if name == "LBFGS":
            optimizer.step(closure_of(optimizer, module, 0))
        else:
            closure_of(optimizer, module, k)()
            optimizer.step()
    yield [p.detach().clone() for p in average.module.parameters()]


def copied(library, name, module):
    """Train, copy network and optimizer together, throw the first away, pickle the copy, go on."""
    optimizer = make(library, name, module)
    for k in range(3):
        optimizer.step(closure_of(optimizer, module, k))
    other, again = module, optimizer
    if (library, name) != (torch.optim, "LBFGS"):  # torch loses `_params` of its own when it is copied
        other, again = pickle.loads(pickle.dumps(copy.deepcopy((module, optimizer))))
    for k in range(3, 5):
        yield again.step(closure_of(again, other, k))
    module.load_state_dict(other.state_dict())


def checkpoint(library, name, module):
    """state_dict of network, optimizer and scheduler through a file into new ones."""
    optimizer = make(library, name, module)
    rates = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    for k in range(3):
        optimizer.step(closure_of(optimizer, module, k))
        rates.step()
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (module, optimizer, rates)], file)
    file.seek(0)
    fresh = Words(sparse=name == "SparseAdam")
    optimizer = make(library, name, fresh)
    rates = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    for each, saved in zip((fresh, optimizer, rates), torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(saved)
    for k in range(3, 6):
        yield optimizer.step(closure_of(optimizer, fresh, k))
        rates.step()
    yield rates.get_last_lr()


SCRIPTS = [
    plain_loop,
    closure,
    scheduler,
    one_cycle,
    grad_scaler,
    groups_and_freezing,
    accumulation,
    hooks,
    copied,
    checkpoint,
]


def assert_same(ours, theirs):
    """Nested lists of numbers and tensors are equal to rounding; all else is equal."""
    if isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.allclose(ours, theirs, **TOLERANCE)
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=1e-12)
    elif not isinstance(ours, torch.optim.Optimizer):
        assert ours == theirs


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
@pytest.mark.parametrize("name", IN_TORCH)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # raised inside torch
def test_the_same_script(name, script):
    results = []
    for library in (optim, torch.optim):
        module = Words(sparse=name == "SparseAdam")
        start = [p.detach().clone() for p in module.parameters()]
        said = list(script(library, name, module))
        end = [p.detach() for p in module.parameters()]
        results.append([said, end])
        assert not said or any((p != q).any() for p, q in zip(start, end, strict=True))
    assert_same(*results)


@pytest.mark.parametrize("name", IN_TORCH)
def test_the_same_arguments(name):
    """Every argument of torch's, in its order, with its default; what comes on top is keyword-only."""
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    assert [n for n in ours if n in theirs] == list(theirs)
    for argument, theirs_is in theirs.items():
        assert (ours[argument].default, ours[argument].kind) == (theirs_is.default, theirs_is.kind), argument
    assert all(p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for argument, p in ours.items() if argument not in theirs)


def test_a_whole_graph_of_a_step_is_refused():
    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    step = torch.compile(optim.Adam([p]).step, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match=r"is a compiled kernel already.*leave out fullgraph=True, or compile the"):
        step()
    assert p[0] == 1.0


def test_a_compiled_step():
    """torch.compile leaves the step as it is. Traced, the engine's writes through addresses were lost: no step."""
    p, q = (torch.nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    ours, theirs = optim.Adam([p], lr=0.1), torch.optim.Adam([q], lr=0.1)
    step = torch.compile(ours.step, backend="eager")
    for k in range(3):
        p.grad = torch.full_like(p, k)
        q.grad = p.grad.clone()
        step()
        theirs.step()
    assert torch.allclose(p, q, **TOLERANCE)
