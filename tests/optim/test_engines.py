"""Law: every engine makes the eager engine's steps, for every optimizer, dtype, layout and pattern of gradients."""

import os
import platform
import signal
import time

import pytest
import torch

from tameopt import optim
from tameopt.optim import keras

CASES = [
    pytest.param(entry, arguments, id=f"{label}{entry.name}-{variant}")
    for label, library in (("", optim), ("keras.", keras))
    for entry in map(library.entry, library.names())
    if entry.gradients == "dense"
    for variant, arguments in {"defaults": {}, **entry.variants}.items()
]
# every variant in float32; the defaults in every dtype, since storage and arithmetic are generated independently
DTYPE_CASES = [
    pytest.param(*case.values, dtype, id=f"{case.id}-{str(dtype)[6:]}")
    for case in CASES
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    if dtype == torch.float32 or not case.values[1]
]


def layouts(dtype):
    """Parameters of every kind of layout: rows, columns, channels_last, gaps, empty, 0-d, more than a chunk."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return [
        torch.nn.Parameter(p)
        for p in (
            randn(7, 33),
            randn(9, 5).t(),
            randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            randn(6, 8)[:, ::2],
            randn(0, 4),
            randn(),
            randn(1, 17, 1),
            randn(20_000),
        )
    ]


def gradients(params, k, dtype, generator):
    """Contiguous gradients whatever the parameter's layout; the third comes late, the last is missing once."""
    for index, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype)
        absent = (index == 2 and k < 2) or (index == 7 and k == 1)
        p.grad_dtype = None
        p.grad = None if absent else g


def steps(entry, arguments, engine, dtype, g_dtype, count=4):
    params = layouts(dtype)
    optimizer = entry.optimizer(params, engine=engine, **arguments)
    generator = torch.Generator().manual_seed(1)
    for k in range(count):
        gradients(params, k, g_dtype, generator)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize(("entry", "arguments", "dtype"), DTYPE_CASES)
def test_cpu_engine_equals_eager(entry, arguments, dtype):
    ours, optimizer = steps(entry, arguments, "auto", dtype, dtype)
    reference, eager = steps(entry, arguments, "eager", dtype, dtype)
    assert {"cpu", "eager"} == {choice.engine for choice in optimizer.explain().choices}  # the one with gaps is eager
    for p, q in zip(ours, reference, strict=True):
        pairs = [(p.detach(), q.detach())]
        pairs += [(optimizer.state[p][name], eager.state[q][name]) for name in eager.state[q]]
        for one, other in pairs:
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("dtype", "g_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float64, torch.float16)],
    ids=str,
)
@pytest.mark.parametrize("name", ["SGD", "Adam", "Rprop"])
def test_gradient_of_another_dtype(name, dtype, g_dtype):
    ours, _ = steps(optim.entry(name), {}, "auto", dtype, g_dtype)
    reference, _ = steps(optim.entry(name), {}, "eager", dtype, g_dtype)
    assert all(torch.equal(p, q) for p, q in zip(ours, reference, strict=True))
    start = layouts(dtype)
    assert any((p != q).any() for p, q in zip(ours, start, strict=True))


@pytest.mark.parametrize("engine", ["eager", "cpu"])
@pytest.mark.parametrize(("entry", "arguments"), CASES)
def test_permuting_coordinates_commutes(entry, arguments, engine):
    """Elementwise rules: stepping and permuting is permuting and stepping, bit for bit."""
    generator = torch.Generator().manual_seed(2)
    order = torch.randperm(1000, generator=generator)
    theta = torch.randn(1000, generator=generator)
    one, other = torch.nn.Parameter(theta.clone()), torch.nn.Parameter(theta[order])
    optimizers = [entry.optimizer([p], engine=engine, **arguments) for p in (one, other)]
    for _ in range(3):
        g = torch.randn(1000, generator=generator)
        one.grad, other.grad = g, g[order]
        for optimizer in optimizers:
            optimizer.step()
    if "clipnorm" in arguments or "global_clipnorm" in arguments:
        # a norm is summed in the order of memory, in double: it may round to the next float, once a step
        assert torch.allclose(one.detach()[order], other.detach(), rtol=3 * 2**-23, atol=3 * 2**-23)
    else:
        assert torch.equal(one.detach()[order], other.detach())


@pytest.mark.parametrize(("entry", "arguments"), CASES)
def test_non_finite_gradients(entry, arguments):
    """Engines agree on NaN and infinities, and torch's optimizers with them."""
    results = []
    kinds = [(entry.optimizer, {"engine": "cpu"}), (entry.optimizer, {"engine": "eager"})]
    if not entry.optimizer.rule.name.startswith("keras.") and hasattr(torch.optim, entry.name):
        kinds.append((getattr(torch.optim, entry.name), {}))
    for kind, extra in kinds:
        p = torch.nn.Parameter(torch.linspace(-1, 1, 40))
        optimizer = kind([p], **arguments, **extra)
        for k in range(4):
            p.grad = torch.linspace(-2, 3, 40)
            if k == 1:
                p.grad[3], p.grad[20], p.grad[35] = float("nan"), float("inf"), -float("inf")
            optimizer.step()
        results.append(p.detach())
    for other in results[1:]:
        assert torch.equal(results[0].isfinite(), other.isfinite())
        assert torch.allclose(results[0], other, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_channels_last_parameter_with_contiguous_gradient():
    """torch's fused CPU optimizers are silently wrong here (differences of 0.2 to 0.5 after one step)."""
    theta, g = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)
    results = []
    for library, arguments in ((optim, {"engine": "cpu"}), (torch.optim, {"foreach": True})):
        p = torch.nn.Parameter(theta.to(memory_format=torch.channels_last))
        p.grad = g.clone()
        library.AdamW([p], lr=0.1, **arguments).step()
        results.append(p.detach())
    assert torch.allclose(results[0], results[1], rtol=1e-6, atol=1e-7)


def test_what_moves_is_noticed():
    """Swapped `.data`, replaced state, changed options and gradients of a new dtype: the next step sees them."""
    for engine in ("cpu", "eager"):
        p = torch.nn.Parameter(torch.ones(100))
        optimizer = optim.SGD([p], lr=1.0, momentum=0.5, engine=engine)

        def step(g, p=p, optimizer=optimizer):
            p.grad = g
            optimizer.step()
            return p[0].item()

        assert step(torch.ones(100)) == 0.0  # v = 1
        p.data = torch.full((100,), 5.0)
        assert step(torch.ones(100)) == 3.5  # v = 1.5
        optimizer.state[p]["momentum_buffer"] = torch.zeros(100)
        assert step(torch.ones(100)) == 2.5  # v = 1
        optimizer.param_groups[0]["lr"] = 0.5
        assert step(torch.ones(100)) == 1.75  # v = 1.5
        optimizer.param_groups[0]["nesterov"] = True
        assert step(torch.zeros(100)) == 1.75 - 0.5 * 0.375  # v = 0.75, looks ahead 0.375
        optimizer.state.clear()
        p.grad_dtype = None
        assert step(torch.full((100,), 2.0, dtype=torch.float64)) == 1.5625 - 0.5 * 3.0
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))]})
        optimizer.param_groups[1]["params"][0].grad = torch.ones(3)
        step(torch.zeros(100))
        assert optimizer.param_groups[1]["params"][0][0].item() == 0.0  # the defaults: lr 1


def test_explain_says_who_runs_what_and_why():
    p, q = torch.nn.Parameter(torch.ones(4, 4)), torch.nn.Parameter(torch.ones(4, 4)[:, ::2])
    optimizer = optim.Adam([p, q])
    assert "no step yet" in str(optimizer.explain())
    for each in (p, q):
        each.grad = torch.ones_like(each)
    optimizer.step()
    explained = optimizer.explain()
    assert [choice.engine for choice in explained.choices] == ["cpu", "eager"]
    text = str(explained)
    assert "cpu: 1 parameter, 16 elements of float32" in text
    assert "not cpu: the parameters overlap or have gaps in memory" in text
    with pytest.raises(RuntimeError, match=r"engine='cpu' cannot run this step of Adam: the parameters overlap"):
        optim.Adam([q], engine="cpu").step()


def after_steps(threads, count=3):
    torch.set_num_threads(threads)
    p = torch.nn.Parameter(torch.linspace(-1, 1, 300_000))
    optimizer = optim.Adam([p], engine="cpu")
    for k in range(count):
        p.grad = torch.linspace(-2, 3, 300_000) * (k + 1)
        optimizer.step()
    return p.detach()


def test_threads_share_the_work():
    alone = after_steps(1)
    for threads in (2, 3):
        assert torch.equal(after_steps(threads), alone)


def test_torchs_threads_and_the_pool_do_the_same(monkeypatch):
    """torch lends its threads here; the pool, where it does not, comes to the same numbers."""
    from tameopt.optim.engines import threads

    assert threads._torchs(True) is not None
    lent = after_steps(2)
    monkeypatch.setattr(threads, "_torchs", lambda in_parent: None)
    assert torch.equal(after_steps(2), lent)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python warns of forking with threads, which this is about
def test_a_forked_child_steps_with_threads_of_its_own():
    """OpenMP's threads do not survive a fork: a child that asked for torch's would wait for ever (as torch's own
    operations do there, so the child compares with numpy)."""
    expected = after_steps(2, count=2).numpy()
    torch.set_num_threads(2)
    p = torch.nn.Parameter(torch.linspace(-1, 1, 300_000))
    gradients = [torch.linspace(-2, 3, 300_000) * k for k in (1, 2)]
    optimizer = optim.Adam([p], engine="cpu")
    p.grad = gradients[0]
    optimizer.step()
    child = os.fork()
    if child == 0:
        p.grad = gradients[1]
        optimizer.step()
        os._exit(0 if (p.detach().numpy() == expected).all() else 1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert status == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child's step did not end")


def test_a_step_does_not_wait_for_threads_of_the_pool_that_have_not_woken_up(monkeypatch):
    """On a busy machine the first thread may have done all before the others begin."""
    import threading

    from tameopt.optim.engines import threads

    monkeypatch.setattr(threads, "_torchs", lambda in_parent: None)
    alone, end = after_steps(1), threading.Event()
    busy = [threads.pool(os.getpid()).submit(end.wait) for _ in range(os.cpu_count() or 1)]
    try:
        assert torch.equal(after_steps(2), alone)
    finally:
        end.set()
        for each in busy:
            each.result()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="looks at this processor's instructions")
@pytest.mark.parametrize("name", ["Adam", "NAdam", "RMSprop"])
def test_the_loop_divides_vectors_and_contracts_nothing(name):
    """Division and root of whole registers; a product and a sum fused would round once where eager rounds twice."""
    from tameopt.optim.engines.llvm import assembly

    p = torch.nn.Parameter(torch.ones(4))
    p.grad = torch.ones(4)
    optimizer = optim.entry(name).optimizer([p], engine="cpu")
    optimizer.step()
    kernel, _ = optimizer._layout.buckets[0].cache["cpu"]
    text = assembly(kernel.source)
    divides = sum(instruction.operation == "divide" for instruction in kernel.graph.instructions)
    assert text.count("divps") >= divides
    assert text.count("divss") == divides  # what is left over at a chunk's end, one by one
    assert "sqrtps" in text
    assert "fmadd" not in text
