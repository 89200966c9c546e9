"""Whatever a training script does with a torch optimizer: hooks, scalers, clipping, complex, sparse."""

import pytest
import torch

from tameopt import optim

ELEMENTWISE = [name for name in optim.names() if optim.entry(name).gradients == "dense"]
IN_TORCH = [name for name in ELEMENTWISE if hasattr(torch.optim, name)]


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("engine", ["cpu", "eager"])
@pytest.mark.parametrize("name", IN_TORCH)
def test_complex_parameters(name, engine):
    """A complex parameter is its pair of reals, in torch as here."""
    results = []
    for library, extra in ((optim, {"engine": engine}), (torch.optim, {})):
        p = torch.nn.Parameter(randn(6, 3, dtype=torch.complex128))
        optimizer = getattr(library, name)([p], **extra)
        for k in range(3):
            p.grad = randn(6, 3, seed=k + 1, dtype=torch.complex128)
            optimizer.step()
        results.append((p.detach(), optimizer.state_dict()["state"].get(0, {})))
    (ours, our_state), (theirs, their_state) = results
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    for key, value in their_state.items():
        assert our_state[key].dtype == value.dtype or key in ("step", "mu_product", "eta", "mu")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
        ("SparseAdam", {"lr": 0.1}),
        ("SparseAdam", {"lr": 0.1, "betas": (0.5, 0.9), "maximize": True}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # raised inside torch's Adagrad
def test_sparse_gradients(name, arguments):
    """Rows named twice, rows never named, a batch without rows: as torch."""
    results = []
    for library in (optim, torch.optim):
        embedding = torch.nn.Embedding(10, 3, sparse=True, dtype=torch.float64)
        with torch.no_grad():
            embedding.weight.copy_(randn(10, 3))
        optimizer = getattr(library, name)(embedding.parameters(), **arguments)
        for rows in ([1, 1, 4], [], [4, 7], [1, 9, 9]):
            optimizer.zero_grad()
            (embedding(torch.tensor(rows, dtype=torch.long)) ** 2).sum().backward()
            optimizer.step()
        results.append(embedding.weight.detach())
    assert torch.allclose(results[0], results[1], rtol=1e-12, atol=1e-14)


def test_sparse_adam_refuses_dense_gradients_and_odd_parameters():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.SparseAdam([p])
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="SparseAdam needs sparse gradients, parameter number 0 has a dense one"):
        optimizer.step()
    with pytest.raises(ValueError, match="SparseAdam needs real parameters, number 0 is complex"):
        optim.SparseAdam([torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    embedding = torch.nn.Embedding(3, 2, sparse=True)
    optimizer = optim.Adagrad(embedding.parameters(), weight_decay=0.1)
    embedding(torch.tensor([0])).sum().backward()
    with pytest.raises(RuntimeError, match="Adagrad with weight_decay needs dense gradients"):
        optimizer.step()


def test_hooks_are_called_around_the_step():
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([p], lr=1.0)
    seen = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("before", p[0].item())))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("after", p[0].item())))
    optimizer.register_state_dict_post_hook(lambda o, state: seen.append(("saved", len(state["param_groups"]))))
    p.grad = torch.ones(2)
    optimizer.step()
    optimizer.state_dict()
    assert seen == [("before", 1.0), ("after", 0.0), ("saved", 1)]


@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler(fused):
    """Scaled losses, one of which overflows: the same steps as torch, which skips that one."""
    results = []
    for library in (optim, torch.optim):
        p = torch.nn.Parameter(randn(50, dtype=torch.float32))
        optimizer = library.AdamW([p], lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for k in range(4):
            optimizer.zero_grad()
            loss = ((p - 1) ** 2).sum() * (float("inf") if k == 1 else 1.0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append((p.detach(), scaler.get_scale(), float(optimizer.state[p]["step"])))
    (ours, our_scale, our_steps), (theirs, their_scale, their_steps) = results
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert (our_scale, our_steps) == (their_scale, their_steps) == (512.0, 3.0)


@pytest.mark.parametrize("engine", ["cpu", "eager"])
def test_clipping_in_the_step_is_torchs_clipping_before_it(engine):
    ours = [torch.nn.Parameter(randn(40, 7)), torch.nn.Parameter(randn(5))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    optimizer, reference = optim.Adam(ours, clip_norm=0.5, engine=engine), torch.optim.Adam(theirs)
    for k in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = (randn(p.shape, seed=k) * 10**-k for _ in range(2))
        before = [p.grad.clone() for p in ours]
        torch.nn.utils.clip_grad_norm_(theirs, 0.5)
        optimizer.step()
        reference.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(ours, before, strict=True))  # .grad is not written to
    for p, q in zip(ours, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-10, atol=1e-12)


def test_clip_each_and_clip_value():
    a, b = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(9))
    optimizer = optim.SGD([a, b], lr=1.0, clip_each=1.0)
    a.grad, b.grad = torch.full((4,), 5.0), torch.full((9,), 0.1)
    optimizer.step()
    assert torch.allclose(a, torch.full((4,), -0.5)) and torch.allclose(b, torch.full((9,), -0.1))
    optimizer = optim.SGD([a], lr=1.0, clip_value=2.0)
    optimizer.step()
    assert torch.allclose(a, torch.full((4,), -2.5))
    with pytest.raises(ValueError, match=r"clip_norm must be > 0, got -1\.0"):
        optim.SGD([a], clip_norm=-1.0)
    with pytest.raises(ValueError, match="only one of clip_norm and clip_each can be set"):
        optim.SGD([a], clip_norm=1.0, clip_each=1.0)


@pytest.mark.parametrize("name", [n for n in IN_TORCH if n != "ASGD"])
def test_differentiable_step(name):
    """The gradient of the parameters after two steps with respect to the loss' coefficient, against differences."""

    def after(c):
        p = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True).clone()
        p.retain_grad()
        optimizer = getattr(optim, name)([p], lr=0.1, differentiable=True)
        for k in range(2):
            p.grad = c * (k + 1) * torch.tensor([1.0, 0.3], dtype=torch.float64)
            optimizer.step()
        return p.sum()

    c = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(after(c), c, allow_unused=True)
    h = 1e-6
    above, below = (after(torch.tensor(0.7 + d, dtype=torch.float64)).item() for d in (h, -h))
    assert float(found) == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_tensor_learning_rate(name):
    results = []
    for lr in (0.05, torch.tensor(0.05)):
        p = torch.nn.Parameter(torch.ones(10))
        optimizer = getattr(optim, name)([p], lr=lr)
        for _ in range(2):
            p.grad = torch.ones(10)
            optimizer.step()
        results.append(p.detach())
    assert torch.allclose(results[0], results[1], rtol=1e-6)


def test_amsgrad_switched_on_in_a_loaded_state_begins_at_zero():
    """torch fails with KeyError here; a state that is missing starts as at the first step."""
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    plain = optim.Adam([p])
    plain.step()
    p.grad = torch.ones(3)
    optimizer = optim.Adam([p])
    optimizer.load_state_dict(plain.state_dict())
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 2.0
    assert (optimizer.state[p]["max_exp_avg_sq"] > 0).all()


def test_state_of_another_model():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    saved = optim.Adam([p])
    saved.step()
    q = torch.nn.Parameter(torch.ones(5))
    q.grad = torch.ones(5)
    optimizer = optim.Adam([("weight", q)])
    with pytest.raises(
        ValueError, match=r"state 'exp_avg' of parameter 'weight' must have .* shape \(5,\), got \(3,\)"
    ):
        optimizer.load_state_dict(saved.state_dict())
    other = optim.RMSprop([q])
    with pytest.raises(
        ValueError, match=r"state of parameter number 0 has exp_avg, exp_avg_sq.*RMSprop keeps square_avg"
    ):
        other.load_state_dict(optim_state_of_adam(q))


def optim_state_of_adam(q):
    optimizer = optim.Adam([q])
    optimizer.step()
    return optimizer.state_dict()


def test_non_leaf_and_duplicate_parameters():
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        optim.Adam([torch.ones(2, requires_grad=True) * 2])
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="parameter number 1 is parameter number 0 again: list each once"):
        optim.Adam([p, p])
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        optim.Adam([{"params": [p]}, {"params": [p]}])
