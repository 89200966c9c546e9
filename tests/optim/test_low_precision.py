"""16-bit parameters: what rounding loses, and the three ways to keep it."""

import copy

import pytest
import torch

from tameopt import optim

KEEPING = ["kahan", "master", "stochastic"]


def walk(low_precision, engine="auto", steps=60, dtype=torch.bfloat16, name="AdamW", **arguments):
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter((1 + torch.rand(500, generator=generator)).to(dtype))
    q = torch.nn.Parameter(torch.ones(3, 40, dtype=dtype).t())
    optimizer = optim.entry(name).optimizer([p, q], lr=1e-4, engine=engine, low_precision=low_precision, **arguments)
    for _ in range(steps):
        for each in (p, q):
            each.grad = (1 + torch.rand(each.shape, generator=generator)).to(dtype)
        optimizer.step()
    return p, q, optimizer


def reference(steps=60):
    """The same steps in float32."""
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter((1 + torch.rand(500, generator=generator)).bfloat16().float())
    q = torch.nn.Parameter(torch.ones(40, 3))
    optimizer = optim.AdamW([p, q], lr=1e-4)
    for _ in range(steps):
        for each in (p, q):
            each.grad = (1 + torch.rand(each.shape, generator=generator)).bfloat16().float()
        optimizer.step()
    return p.detach()


def test_rounding_to_nearest_loses_small_steps():
    """The defect: a bfloat16 weight near 1 does not feel steps of 1e-4, half of its spacing being 0.004."""
    p, _, _ = walk("nearest")
    start, _, _ = walk("nearest", steps=0)
    assert torch.equal(p, start)


@pytest.mark.parametrize("low_precision", KEEPING)
def test_small_steps_are_kept(low_precision):
    p, _, optimizer = walk(low_precision, state_dtype=torch.float32)
    wide, start = reference(), reference(0)
    moved, expected = (p.float() - start).mean().item(), (wide - start).mean().item()
    # 60 steps move theta by 0.006, less than its spacing of 2^-7; what is read is within half of that. Stochastic
    # rounding is right in the mean: its error a step has deviation below half a spacing, so over 500 weights and 60
    # steps below 0.0039 sqrt(60 / 500) = 0.0014.
    tolerance = {"kahan": 2**-8, "master": 2**-8, "stochastic": 3 * 1.4e-3}[low_precision]
    assert moved == pytest.approx(expected, abs=tolerance)
    if low_precision == "master":
        # the only difference to float32 is the rounding of the averages' inputs, which are the same here
        assert torch.equal(optimizer.state[p]["master"], wide)
        assert torch.equal(p.detach(), wide.bfloat16())
    if low_precision == "kahan":
        both = p.detach().float() + optimizer.state[p]["compensation"].float()
        assert torch.allclose(both, wide, rtol=60 * 2**-17, atol=0)  # 16 bits of mantissa, one rounding a step


def test_a_rule_that_counts_no_steps_still_dithers_anew_at_each():
    """SGD keeps no step count for torch; stochastic rounding needs one, or every step would round alike."""
    p = torch.nn.Parameter(torch.ones(2000, dtype=torch.bfloat16))
    optimizer = optim.SGD([p], lr=2**-12, low_precision="stochastic")
    moved = []
    for _ in range(3):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        optimizer.step()
        moved.append(before != p.detach())
    # each step moves a sixteenth (below 1 the spacing is 2^-8); two steps move the same places by chance only
    assert all(0.03 < each.float().mean() < 0.1 for each in moved)
    assert (moved[0] & moved[1]).float().mean() < 0.02
    assert float(optimizer.state[p]["step"]) == 3.0


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # masked elements, in Triton's interpreter
@pytest.mark.parametrize("engine", ["cpu", "triton"])
@pytest.mark.parametrize("low_precision", KEEPING)
def test_engines_agree_bit_for_bit(low_precision, engine, request):
    if engine == "triton":
        request.getfixturevalue("interpreted")
    steps = 3 if engine == "triton" else 20
    ours = walk(low_precision, engine, steps, state_dtype=torch.float32)
    eager = walk(low_precision, "eager", steps, state_dtype=torch.float32)
    for p, q in zip(ours[:2], eager[:2], strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(ours[2].state[p][name], eager[2].state[q][name]) for name in eager[2].state[q])


@pytest.mark.parametrize("low_precision", ["kahan", "master"])
def test_float16_too(low_precision):
    ours, eager = (walk(low_precision, engine, 5, torch.float16)[0] for engine in ("cpu", "eager"))
    assert torch.equal(ours, eager)


def test_dithering_is_unbiased_and_keeps_non_finite_values():
    from tameopt.optim.functions import dithered

    x = torch.full((100_000,), 1 + 2**-10)  # an eighth of the way from 1 to the next bfloat16, 1 + 2^-7
    for seed in (1, 2):
        up = (dithered(x, seed) > 1).double().mean().item()
        assert up == pytest.approx(1 / 8, abs=4 * (7 / 64 / 100_000) ** 0.5)
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), -1.0, 0.0])
    assert torch.equal(dithered(odd, 3).nan_to_num(9.0), odd.nan_to_num(9.0))


def test_who_writes_to_a_parameter_with_a_master_copy_means_it():
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = optim.SGD([p], lr=2**-10, low_precision="master")
    p.grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[p]["master"][0].item() == 1 - 2**-10
    with torch.no_grad():
        p[0] = 3.0
    optimizer.step()
    assert optimizer.state[p]["master"].tolist() == [3 - 2**-10, *[1 - 2**-9] * 3]


@pytest.mark.parametrize("low_precision", KEEPING)
def test_states_survive_a_checkpoint_in_their_dtype(low_precision):
    p, q, optimizer = walk(low_precision, steps=3, state_dtype=torch.float32)
    others = [torch.nn.Parameter(each.detach().clone()) for each in (p, q)]
    loaded = optim.AdamW(others, low_precision=low_precision, state_dtype=torch.float32)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for params, one in (((p, q), optimizer), (others, loaded)):
        for each in params:
            each.grad = torch.full_like(each, 0.5)
        one.step()
    assert torch.equal(p, others[0]) and torch.equal(q, others[1])
    assert loaded.state[others[0]]["exp_avg"].dtype == torch.float32


def test_bad_input():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with pytest.raises(
        ValueError, match="low_precision must be one of nearest, kahan, master, stochastic, got 'fp8'"
    ):
        optim.SGD([p], low_precision="fp8")
    with pytest.raises(TypeError, match=r"state_dtype must be a floating-point torch\.dtype, got torch\.int32"):
        optim.SGD([p], state_dtype=torch.int32)
    with pytest.raises(
        RuntimeError, match="low_precision='stochastic' is for bfloat16 parameters, number 0 is float32"
    ):
        optim.SGD([p], low_precision="stochastic").step()
