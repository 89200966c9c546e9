"""The Triton engine through Triton's interpreter: the same kernels, run on the CPU."""

import pytest
import torch

from tameopt import optim
from tameopt.optim import keras
from tameopt.optim.engines import triton as engine

pytest.importorskip("triton")
# numpy, on which the interpreter runs, warns where masked or infinite elements are divided
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CASES = [
    pytest.param(entry, arguments, id=f"{label}{entry.name}-{variant}")
    for label, library in (("", optim), ("keras.", keras))
    for entry in map(library.entry, library.names())
    if entry.gradients == "dense"
    for variant, arguments in {"defaults": {}, **entry.variants}.items()
    if arguments.get("lr_power", arguments.get("learning_rate_power", -0.5)) == -0.5
]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")


def steps(entry, arguments, name, dtype, count=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(5,), (3, 7), (4200,), (0, 2), ()]
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]
    params.append(torch.nn.Parameter(torch.randn(2, 3, 4, 4, generator=generator).to(dtype)))
    params[-1].data = params[-1].data.to(memory_format=torch.channels_last)
    optimizer = entry.optimizer(params, engine=name, **arguments)
    for k in range(count):
        for index, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator).to(dtype)
            p.grad = None if index == 1 and k == 0 else g
        optimizer.step()
    return params, optimizer


def assert_equals_eager(entry, arguments, dtype):
    ours, optimizer = steps(entry, arguments, "triton", dtype)
    reference, eager = steps(entry, arguments, "eager", dtype)
    assert {choice.engine for choice in optimizer.explain().choices} == {"triton"}
    for p, q in zip(ours, reference, strict=True):
        pairs = [(p.detach(), q.detach())]
        pairs += [(optimizer.state[p][name], eager.state[q][name]) for name in eager.state[q]]
        for one, other in pairs:
            if dtype == torch.bfloat16:
                # the interpreter cuts where the device rounds: up to a unit of the last place (2^-7) a store
                assert torch.allclose(one.float(), other.float(), rtol=4 * 2**-7, atol=4 * 2**-7)
            else:
                assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("library", "name", "dtype"),
    [
        (optim, "Adam", torch.float32),
        (optim, "Rprop", torch.float16),
        (optim, "RAdam", torch.float64),
        (optim, "SGD", torch.bfloat16),
        (keras, "Ftrl", torch.float32),
    ],
    ids=str,
)
def test_equals_eager(library, name, dtype):
    assert_equals_eager(library.entry(name), {}, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "arguments"), CASES)
def test_every_rule_equals_eager(entry, arguments):
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        assert_equals_eager(entry, arguments, dtype)


def test_non_finite_gradients():
    for name in ("Adamax", "Rprop"):
        results = []
        for engine_name in ("triton", "eager"):
            p = torch.nn.Parameter(torch.linspace(-1, 1, 40))
            optimizer = optim.entry(name).optimizer([p], engine=engine_name)
            for k in range(3):
                p.grad = torch.linspace(-2, 3, 40)
                if k == 1:
                    p.grad[3], p.grad[4] = float("nan"), float("inf")
                optimizer.step()
            results.append(p.detach())
        assert torch.equal(results[0].nan_to_num(7.0), results[1].nan_to_num(7.0))


def test_power_is_refused_with_the_reason():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="engine='triton' cannot run this step of Ftrl: it has no correctly"):
        optim.Ftrl([p], lr_power=-0.7, engine="triton").step()


def test_a_new_learning_rate_generates_nothing():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.SGD([p], lr=1.0, engine="triton")
    made = []
    for lr in (1.0, 0.5, 0.25):
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.ones(3)
        optimizer.step()
        made.append(engine.generated.cache_info().misses)
    assert p[0].item() == 1 - 1.75
    assert len(set(made)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize(("entry", "arguments"), CASES)
def test_equals_eager_on_the_gpu(entry, arguments, monkeypatch):
    """Compiled, on the device: the numbers of the CPU's eager engine to two units of the largest operand a step."""
    monkeypatch.delenv("TRITON_INTERPRET")
    engine.generated.cache_clear()
    results = []
    for device, name in (("cuda", "triton"), ("cpu", "eager")):
        generator = torch.Generator().manual_seed(0)
        params = [
            torch.nn.Parameter(torch.randn(s, generator=generator).to(device)) for s in [(5,), (3, 7), (42_000,), ()]
        ]
        optimizer = entry.optimizer(params, engine=name, **arguments)
        for _ in range(4):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(device)
            optimizer.step()
        results.append([p.detach().cpu() for p in params])
    for one, other in zip(*results, strict=True):
        tolerance = 4 * 2 * torch.finfo(torch.float32).eps * (1 + other.abs())
        assert ((one - other).abs() <= tolerance).all()
