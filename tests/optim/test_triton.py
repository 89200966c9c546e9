"""The Triton engine through Triton's interpreter: the same kernels, run on the CPU."""

import pytest
import torch

from tameopt import optim
from tameopt.optim import keras
from tameopt.optim.engines import triton as engine
from tameopt.optim.engines import triton_tables

pytest.importorskip("triton")
# numpy, on which the interpreter runs, warns where masked or infinite elements are divided
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

CASES = [
    pytest.param(entry, arguments, id=f"{label}{entry.name}-{variant}")
    for label, library in (("", optim), ("keras.", keras))
    for entry in map(library.entry, library.names())
    if entry.gradients == "dense"
    for variant, arguments in {"defaults": {}, **entry.variants}.items()
]


@pytest.fixture(autouse=True)
def _interpreted(interpreted):
    """Every test here, unless it says otherwise."""


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
    """Bit for bit in float32 and below; the coefficients are folded in double with powers of another rounding, which
    double parameters see: (k + 2) units of 2^-53 in beta^k, a thousand times that in 1 - beta2^k."""
    ours, optimizer = steps(entry, arguments, "triton", dtype)
    reference, eager = steps(entry, arguments, "eager", dtype)
    assert {choice.engine for choice in optimizer.explain().choices} == {"triton"}
    for p, q in zip(ours, reference, strict=True):
        pairs = [(p.detach(), q.detach())]
        pairs += [(optimizer.state[p][name], eager.state[q][name]) for name in eager.state[q]]
        for one, other in pairs:
            if dtype == torch.float64:
                assert torch.allclose(one, other, rtol=4e3 * 2**-53, atol=4e3 * 2**-53)
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


def test_power_equals_eager():
    """Ftrl's general power, in double and rounded once."""
    assert_equals_eager(optim.entry("Ftrl"), {"lr": 0.1, "lr_power": -0.7}, torch.float32)


@pytest.mark.slow
@pytest.mark.timeout(600)
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


@pytest.fixture
def short_blocks(monkeypatch):
    """Several chunks and partial sums even of short tensors: the interpreter adds one number at a time."""
    monkeypatch.setattr(triton_tables, "BLOCK", 64)
    monkeypatch.setattr(engine, "PARTIAL_SUMS", 2)


@pytest.fixture
def unread(monkeypatch):
    """Makes it an error to read a tensor as a number, which on a GPU waits for the device."""

    def refuse(tensor, *arguments):
        raise AssertionError("the host waited for the device")

    def start():
        for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
            monkeypatch.setattr(torch.Tensor, name, refuse)

    yield start
    monkeypatch.undo()


def test_numbers_that_live_on_the_device_are_not_read(unread, monkeypatch, short_blocks):
    """A learning rate as a tensor, a norm to clip by, GradScaler's scale and found_inf: the host sees none."""
    lr, scale, found_inf = torch.tensor(0.1), torch.tensor(4.0), torch.zeros(1)
    p, q = (torch.nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    optimizer = optim.Adam([p], lr=lr, clip_norm=0.5, fused=True, engine="triton")
    reference = optim.Adam([q], lr=0.1, clip_norm=0.5, engine="eager")
    optimizer.grad_scale, optimizer.found_inf = scale, found_inf
    p.grad, q.grad = torch.full((7,), 4.0), torch.ones(7)
    optimizer.step()
    reference.step()
    unread()
    lr.fill_(0.02)
    optimizer.step()  # made
    found_inf.fill_(1.0)
    p.grad.fill_(float("inf"))
    optimizer.step()  # held back
    found_inf.fill_(0.0)
    p.grad.fill_(4.0)
    optimizer.step()  # made
    monkeypatch.undo()
    reference.param_groups[0]["lr"] = torch.tensor(0.02).item()
    reference.step()
    reference.step()
    assert torch.equal(p, q)
    assert float(optimizer.state[p]["step"]) == 3.0


def test_a_first_step_that_a_scaler_holds_back_is_still_the_first():
    """SGD's velocity begins with the whole gradient, whatever the dampening."""
    p, late = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    optimizer = optim.SGD([p, late], lr=1.0, momentum=0.5, dampening=0.5, fused=True, engine="triton")
    optimizer.found_inf = torch.ones(1)
    p.grad = torch.full((3,), float("inf"))
    optimizer.step()
    optimizer.found_inf = torch.zeros(1)
    p.grad, late.grad = torch.ones(3), torch.ones(3)  # a gradient more: the step is laid out anew
    optimizer.step()
    assert p.tolist() == late.tolist() == [-1.0] * 3


def test_each_norm_and_groups_of_their_own(short_blocks):
    results = []
    for name in ("triton", "eager"):
        params = [torch.nn.Parameter(torch.linspace(-1, 1, n)) for n in (5, 150, 0)]
        groups = [{"params": params[:1], "lr": 0.5}, {"params": params[1:]}]
        optimizer = optim.RMSprop(groups, clip_each=0.3, engine=name)
        for k in range(3):
            for p in params:
                p.grad = None if k == 1 and p is params[1] else torch.linspace(-2, 1 + k, p.numel())
            optimizer.step()
        results.append(params)
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=2e-7, atol=2e-7)  # norms are summed in another order


def test_counts_come_home_in_a_state_dict():
    """torch's optimizers keep `step` on the host unless capturable; state goes there and back."""
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = optim.NAdam([p], engine="triton")
    p.grad = torch.ones(3)
    optimizer.step()
    other = optim.NAdam([p], engine="triton")
    other.load_state_dict(optimizer.state_dict())
    other.step()
    assert float(other.state[p]["step"]) == 2.0
    assert float(optimizer.state[p]["step"]) == 1.0


def compiled(source, function, signature, constants):
    """A kernel compiled for an H100, which needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    made = ASTSource(engine.generated(source).functions[function], signature=signature, constexprs=constants)
    options = {"num_warps": engine.WARPS, "enable_fp_fusion": False}
    return triton.compile(made, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


def ptx(entry, arguments, dtype=torch.float32):
    """The PTX of an optimizer's two kernels (step, fold)."""
    p = torch.nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = entry.optimizer([p], engine="eager", **arguments)
    p.grad = torch.ones(3, dtype=dtype)
    optimizer.step()
    bucket = optimizer._layout.buckets[0]
    from tameopt.optim.plan import Inputs, Numbered

    graph, text = engine.step_source(bucket.signature)
    inputs = Inputs([Numbered(group) for group in optimizer.param_groups], {})
    _, fold_text = engine.fold_source(bucket, inputs, graph.coefficients)
    engine.generated.cache_clear()
    compute = "*fp64" if dtype == torch.float64 else "*fp32"
    table = {"table": "*i64", "count": "i32"}
    chunks = {"tensors": "*i32", "starts": "*i64", "lengths": "*i32"}
    constant = {"BLOCK": "constexpr"}
    step = compiled(
        text,
        "step",
        {**table, **chunks, "coefficients": compute, "skip": "*fp32", **constant, "ALIGNED": "constexpr"},
        {"BLOCK": triton_tables.BLOCK, "ALIGNED": True},
    )
    names = {"groups": "*i32", "options": "*fp64", "counts": "*fp32", "first": "*fp32", "given": "*fp64"}
    folded = compiled(
        fold_text,
        "fold",
        {**table, **names, "skip": "*fp32", "coefficients": compute, **constant, "SHARED": "constexpr"},
        {"BLOCK": engine.UNITS, "SHARED": False},
    )
    return step, folded


@pytest.fixture
def for_a_device(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    engine.generated.cache_clear()
    yield
    engine.generated.cache_clear()


def test_what_is_compiled_for_a_gpu(for_a_device):
    """Wide loads and stores, correctly rounded division and root, no contraction."""
    step, folded = ptx(optim.entry("Adam"), {})
    assert "ld.global.v4.b32" in step and "st.global.v4.b32" in step
    assert "div.rn.f32" in step and "sqrt.rn.f32" in step
    assert "fma.rn.f32" not in step
    assert "f64" in folded and "div.rn.f64" in folded
    step, _ = ptx(optim.entry("SGD"), {}, torch.bfloat16)
    assert "cvt.rn.bf16" in step  # to nearest


def test_norms_compile_for_a_gpu(for_a_device):
    from tameopt.optim.engines import triton_source

    source = triton_source.squares("bfloat16")
    signature = {"table": "*i64", "count": "i32", "tensors": "*i32", "starts": "*i64", "lengths": "*i32"}
    compiled(source, "squares", {**signature, "found": "*fp64", "BLOCK": "constexpr"}, {"BLOCK": triton_tables.BLOCK})
    sums = {"found": "*fp64", "begins": "*i32", "sums": "*fp64", "BLOCK": "constexpr"}
    assert "add" in compiled(source, "total", sums, {"BLOCK": engine.PARTIAL_SUMS})


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "arguments"), CASES)
def test_every_rule_compiles_for_a_gpu(entry, arguments, for_a_device):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        step, folded = ptx(entry, arguments, dtype)
        assert ".entry step" in step and ".entry fold" in folded


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


def trained(steps, graph, **arguments):
    """Parameters on the GPU after some steps, of which all but the first three are replays of a graph."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=generator).cuda()) for s in [(5,), (33, 70), (9000,)]]
    lr = torch.tensor(0.1, device="cuda")
    optimizer = optim.Adam(params, lr=lr, engine="triton", **arguments)
    for p in params:
        p.grad = torch.ones_like(p)

    def body():
        for p in params:
            p.grad.copy_(p.detach() * 3)
        optimizer.step()

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(stream)
    if graph:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            body()
    for k in range(steps - 3):
        lr.fill_(0.1 / (k + 1))
        if graph:
            captured.replay()
        else:
            body()
    return [p.detach().cpu() for p in params], float(optimizer.state[params[0]]["step"])


@pytest.mark.gpu
@pytest.mark.parametrize("arguments", [{}, {"clip_norm": 0.5}], ids=str)
def test_a_captured_step_goes_on_counting(arguments, monkeypatch):
    """Replays of a graph make the steps that calls make: k and the learning rate are on the device."""
    monkeypatch.delenv("TRITON_INTERPRET")
    engine.generated.cache_clear()
    (ours, count), (called, called_count) = trained(10, True, **arguments), trained(10, False, **arguments)
    assert count == called_count == 10.0
    assert all(torch.equal(p, q) for p, q in zip(ours, called, strict=True))


@pytest.mark.gpu
def test_nobody_waits_for_the_gpu(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    engine.generated.cache_clear()
    p = torch.nn.Parameter(torch.ones(5000, device="cuda"))
    optimizer = optim.AdamW([p], lr=torch.tensor(0.1, device="cuda"), clip_norm=1.0, fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0, device="cuda"), torch.zeros(1, device="cuda")
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert {choice.engine for choice in optimizer.explain().choices} == {"triton"}
