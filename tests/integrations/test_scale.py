"""The cost model counts what the code does: arithmetic on meta tensors, collectives on fake process groups."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tameopt.integrations import scale
from tameopt.integrations.scale import Cluster, Transformer


class Decoder(nn.Module):
    """Layers with 12 h^2 weights each, and unmasked attention over whole sequences."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, max(1, width // 128), 4 * width, dropout=0.0, batch_first=True)
        self.layers = nn.ModuleList(
            [layer, *(nn.TransformerEncoderLayer(width, max(1, width // 128), 4 * width, dropout=0.0,
                                                 batch_first=True) for _ in range(layers - 1))]
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().sum()


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "width"), [(17, 2176), (80, 10_240), (172, 22_016)])
def test_parameters_and_arithmetic_at_1_to_1000_billion(layers: int, width: int) -> None:
    plan = Transformer(layers, width, sequence=2048)
    with torch.device("meta"):
        model = Decoder(layers, width)
        x = torch.zeros(1, 2048, width)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted == pytest.approx(plan.d, rel=0.01)  # biases and norms are the rest
    assert len(list(model.parameters())) == plan.tensors
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.train()(x)
    assert forward.get_total_flops() == pytest.approx(plan.flops(2048, 1), rel=0.01)


def test_a_gradient_is_three_passes_and_a_hessian_product_nine() -> None:
    plan = Transformer(4, 512, sequence=1024)
    with torch.device("meta"):
        model = Decoder(4, 512)
        x = torch.zeros(2, 1024, 512)
    parameters = list(model.parameters())
    # attention as the analyses run it: the only backend with second derivatives
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as gradient:
            torch.autograd.grad(model(x), parameters)
        with FlopCounterMode(display=False) as product:
            first = torch.autograd.grad(model(x), parameters, create_graph=True)
            torch.autograd.grad(first, parameters, grad_outputs=[torch.empty_like(p) for p in parameters])
    # the gradient with respect to the data is not needed: the first layer's share of it is missing
    assert gradient.get_total_flops() == pytest.approx(plan.flops(2048, 3), rel=0.08)
    assert product.get_total_flops() == pytest.approx(plan.flops(2048, 9), rel=0.08)


FAKE = """
import sys, torch, torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
import tameopt as tame
from tameopt.integrations._ranks import Sharded, plain_copy

world = int(sys.argv[1])
dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (world,))


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name = str(function)
        if "all_gather_into_tensor" in name:
            self.calls.append(("all_gather", out.nbytes))
        elif "allreduce" in name or "broadcast_" in name:
            self.calls.append((name.split(".")[1].rstrip("_"), sum(tensor.nbytes for tensor in args[0])))
        return out


model = nn.Sequential(nn.Linear(world, 64), nn.BatchNorm1d(64), nn.Tanh(), nn.Linear(64, world))
X = torch.randn(8, world)
tensors, d = len(list(model.parameters())), sum(p.numel() for p in model.parameters())
fully_shard(model, mesh=mesh)
ranks = Sharded(torch.device("cpu"))
zero = torch.zeros(())
with Count() as one_sample:
    ranks.join(zero, zero, zero, 8, (3, 1))
with Count() as one_gather:
    theta = ranks.flat(list(model.parameters()))
problem = tame.Problem(plain_copy(model), nn.MSELoss(), (X, X), mode="eval")
with Count() as one_value:
    ranks.full_value(problem, torch.zeros(problem.dim))
print(repr((tensors, d, theta.numel(), one_sample.calls, one_gather.calls, one_value.calls)))
dist.destroy_process_group()
"""


@pytest.mark.parametrize("world", [64, 4096])
def test_the_collectives_of_a_probe_on_fake_ranks(world: int) -> None:
    done = subprocess.run([sys.executable, "-c", FAKE, str(world)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    tensors, d, gathered, samples, gathers, values = eval(done.stdout.strip().splitlines()[-1])
    assert gathered == d
    assert samples == [("allreduce", scale._SAMPLE_BYTES)]
    assert [kind for kind, _ in gathers] == ["all_gather"] * tensors
    padded = sum(count for _, count in gathers)
    # shards are padded to one size: a short first dimension costs whole rows
    assert 4 * d <= padded
    plan = Transformer(1, 1)
    assert scale.gather(plan, Cluster(world)).collectives == plan.tensors
    reduced = [count for kind, count in values if kind == "allreduce"]
    assert reduced == [16, 4 * d]
    assert [kind for kind, _ in values if kind == "broadcast"] == ["broadcast"] * 3  # BatchNorm's buffers


def test_costs_grow_as_they_must() -> None:
    small, large = Transformer.of_size(1e9), Transformer.of_size(1e12)
    cluster = Cluster(4096)
    assert small.d == pytest.approx(1e9, rel=0.01) and large.d == pytest.approx(1e12, rel=0.01)
    assert scale.full_value(large, cluster, 10**6).bytes == pytest.approx(3 * large.theta_bytes, rel=0.01)
    assert scale.gather(small, cluster).possible == "theta takes more than 2 GiB"
    assert scale.gather(Transformer.of_size(4e8), cluster).possible == ""
    # sharding alone: 10^12 parameters wait for their gathers, 10^9 for their arithmetic
    assert scale.training_step(large, cluster).seconds(cluster) == pytest.approx(3 * 2 * large.d / 4e10, rel=0.01)
    few = Cluster(64)
    step = scale.training_step(small, few).seconds(few)
    assert step == pytest.approx(small.flops(small.tokens, 3) / 64 / 4e14, rel=1e-6)
    probe = scale.full_value(small, cluster, 10**6)
    between = scale.steps_between(probe, small, cluster)
    share = probe.seconds(cluster) / (between * scale.training_step(small, cluster).seconds(cluster))
    assert share <= 0.02 < share * between / max(1, between - 1)
