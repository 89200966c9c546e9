"""Two processes over gloo: replicated (DDP) and sharded (FSDP2) parameters, and checkpoints between world sizes."""

import os
import socket

import pytest
import torch
import torch.multiprocessing

from tameopt import optim

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # every process imports torch anew
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed"),
    # torch's own, raised inside its checkpoint and sharding code
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"),
]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def batch(k, rank, ranks):
    """Rows `rank` of `ranks` of the k-th batch of 8."""
    generator = torch.Generator().manual_seed(k)
    x, y = torch.randn(8, 6, generator=generator), torch.randn(8, 3, generator=generator)
    return x.chunk(ranks)[rank], y.chunk(ranks)[rank]


def train(net, optimizer, steps, rank=0, ranks=1, begin=0):
    for k in range(begin, begin + steps):
        optimizer.zero_grad()
        x, y = batch(k, rank, ranks)
        ((net(x) - y) ** 2).mean().backward()
        optimizer.step()


def make(params, name, engine="auto"):
    return optim.entry(name).optimizer(params, lr=0.05, engine=engine, clip_norm=0.5)


def alone(name, steps):
    net = model()
    optimizer = make(net.parameters(), name)
    train(net, optimizer, steps)
    return [p.detach() for p in net.parameters()]


def launch(worker, *arguments, ranks=2):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_start, (worker, port, ranks, arguments), nprocs=ranks)


def _start(rank, worker, port, ranks, arguments):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        worker(rank, *arguments)
    finally:
        torch.distributed.destroy_process_group()


def _ddp(rank, name, steps):
    net = torch.nn.parallel.DistributedDataParallel(model())
    optimizer = make(net.parameters(), name)
    train(net, optimizer, steps, rank, 2)
    for p, q in zip(net.parameters(), alone(name, steps), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)


def sharded(name, engine="auto"):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    net = model()
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net, make(net.parameters(), name, engine)


def assert_full(net, reference):
    for p, q in zip(net.parameters(), reference, strict=True):
        assert torch.allclose(p.full_tensor(), q, rtol=1e-4, atol=1e-5), (p.full_tensor() - q).abs().max()


def _fsdp(rank, name, steps):
    net, optimizer = sharded(name, "cpu")
    train(net, optimizer, steps, rank, 2)
    assert {choice.engine for choice in optimizer.explain().choices} == {"cpu"}
    first = next(iter(net.parameters()))
    for state in optimizer.state[first].values():
        assert state.dim() == 0 or (state.shape == first.shape and state.to_local().shape == first.to_local().shape)
    assert_full(net, alone(name, steps))


def _save(rank, name, folder, steps):
    from torch.distributed.checkpoint import save
    from torch.distributed.checkpoint.state_dict import get_state_dict

    net, optimizer = sharded(name)
    train(net, optimizer, steps, rank, 2)
    weights, state = get_state_dict(net, optimizer)
    save({"model": weights, "optimizer": state}, checkpoint_id=folder)


def _go_on(rank, name, folder, steps):
    """Every rank sees the whole batch, so that three of them need not divide eight rows."""
    net, optimizer = sharded(name)
    restore(net, optimizer, folder)
    train(net, optimizer, steps, begin=steps)
    assert_full(net, alone(name, 2 * steps))


def restore(net, optimizer, folder, **arguments):
    from torch.distributed.checkpoint import load
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, state = get_state_dict(net, optimizer)
    kept = {"model": weights, "optimizer": state}
    load(kept, checkpoint_id=folder, **arguments)
    set_state_dict(net, optimizer, model_state_dict=kept["model"], optim_state_dict=kept["optimizer"])


@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam"])
def test_ddp_equals_one_process(name):
    launch(_ddp, name, 4)


@pytest.mark.parametrize("name", ["Adam", "Rprop"])
def test_fsdp2_shards_states_and_equals_one_process(name):
    launch(_fsdp, name, 4)


@pytest.mark.parametrize("name", ["AdamW", "NAdam"])
def test_checkpoint_of_two_processes_goes_on_in_one(name, tmp_path):
    launch(_save, name, str(tmp_path), 3)
    net = model()
    optimizer = make(net.parameters(), name)
    restore(net, optimizer, str(tmp_path), no_dist=True)
    train(net, optimizer, 3, begin=3)
    for p, q in zip(net.parameters(), alone(name, 6), strict=True):
        assert torch.allclose(p, q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["AdamW", "RMSprop"])
def test_checkpoint_of_two_processes_goes_on_in_three(name, tmp_path):
    launch(_save, name, str(tmp_path), 3)
    launch(_go_on, name, str(tmp_path), 3, ranks=3)
