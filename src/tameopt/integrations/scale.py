"""What watching costs past one machine: arithmetic, communication and memory of each probe, from a model.

A dense decoder of d parameters in L layers of width h, trained on T tokens a step in sequences of s, sharded over W
GPUs (FSDP2). Counts are those of the code (`_ranks.Sharded`): a sample is one all-reduce of six numbers; a gather of
theta is one all-gather a parameter tensor; F over all data is a gather, each rank's share of the data, and two
all-reduces. Times come from the latency and bandwidth model of ring collectives (R. Thakur, R. Rabenseifner,
W. Gropp, 2005) and a sustained rate of arithmetic: they plan, they do not measure. The counts are checked against
runs on meta tensors (arithmetic) and on fake process groups (communication) in the tests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tameopt.integrations._ranks import GATHERED_BYTES

_TENSORS_A_LAYER = 12  # weights and biases of attention, of the two linear maps, of two norms
_SAMPLE_BYTES = 6 * 8


@dataclass(frozen=True)
class Transformer:
    """A dense decoder. d: parameters outside the embeddings, 12 L h^2 (J. Kaplan et al., 2020); tokens: a step."""

    layers: int
    width: int
    sequence: int = 4096
    tokens: int = 4 << 20
    bytes_a_parameter: int = 4

    @property
    def d(self) -> int:
        """12 L h^2."""
        return 12 * self.layers * self.width**2

    @property
    def tensors(self) -> int:
        """Parameter tensors."""
        return _TENSORS_A_LAYER * self.layers

    @property
    def theta_bytes(self) -> int:
        """Bytes of theta."""
        return self.d * self.bytes_a_parameter

    def flops(self, tokens: int, passes: int) -> float:
        """Arithmetic of `passes` passes over tokens: a forward pass is one, a gradient three, a
        Hessian product nine (reverse over reverse).

        2 d a token for the weights and 4 s h a layer for the attention, unmasked as it is commonly computed.
        """
        return passes * tokens * (2.0 * self.d + 4.0 * self.layers * self.sequence * self.width)

    @staticmethod
    def of_size(d: float, **options: int) -> Transformer:
        """About d parameters, with a width of 128 a layer, as large models have it.

        >>> f"{Transformer.of_size(7e9).d:.1e}"
        '7.0e+09'
        """
        layers = max(1, round((d / (12 * 128**2)) ** (1 / 3)))
        return Transformer(layers, max(1, round((d / (12 * layers)) ** 0.5)), **options)


@dataclass(frozen=True)
class Cluster:
    """gpus: W. flops: sustained a GPU, 1/s. bandwidth: of collectives a GPU, bytes/s. latency: of one message, s.

    The defaults are our choice for one 80 GB GPU of 2023 and a 400 Gbit/s network port each: 40% of 1e15 flop/s.
    """

    gpus: int
    flops: float = 4e14
    bandwidth: float = 4e10
    latency: float = 2e-5
    memory: float = 8e10


@dataclass(frozen=True)
class ProbeCost:
    """Of one rank. flops; collectives: how many; bytes: received through them; memory: held above training's own;
    disk: written by rank 0. possible: "" or why tameopt does not do it at this size."""

    name: str
    flops: float = 0.0
    collectives: int = 0
    bytes: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    possible: str = ""

    def seconds(self, cluster: Cluster) -> float:
        """Arithmetic and communication one after the other."""
        hops = math.ceil(math.log2(max(cluster.gpus, 2)))
        return self.flops / cluster.flops + self.bytes / cluster.bandwidth + self.collectives * hops * cluster.latency


def all_gather_bytes(size: float, ranks: int) -> float:
    """Received by each rank of a ring."""
    return size * (ranks - 1) / ranks


def all_reduce_bytes(size: float, ranks: int) -> float:
    """Received by each rank of a ring: a reduce-scatter and an all-gather."""
    return 2 * all_gather_bytes(size, ranks)


def training_step(model: Transformer, cluster: Cluster) -> ProbeCost:
    """One step without watching: two gathers of the parameters and one reduction of the gradients."""
    moved = 3 * all_gather_bytes(model.theta_bytes / 2, cluster.gpus)  # in bfloat16
    # communication overlaps with arithmetic in FSDP: the longer of the two counts
    arithmetic = model.flops(model.tokens, 3) / cluster.gpus
    if arithmetic / cluster.flops >= moved / cluster.bandwidth:
        return ProbeCost("training step", flops=arithmetic)
    return ProbeCost("training step", bytes=moved)


def sample(model: Transformer, cluster: Cluster) -> ProbeCost:
    """Loss, step and gradient norms of one step."""
    return ProbeCost(
        "loss and gradient norms",
        flops=4.0 * model.d / cluster.gpus,
        collectives=1,
        bytes=all_reduce_bytes(_SAMPLE_BYTES, cluster.gpus),
    )


def gather(model: Transformer, cluster: Cluster) -> ProbeCost:
    """theta whole on every rank, saved by rank 0."""
    return ProbeCost(
        "a copy of theta",
        collectives=model.tensors,
        bytes=all_gather_bytes(model.theta_bytes, cluster.gpus),
        memory=float(model.theta_bytes),
        disk=float(model.theta_bytes),
        possible=_refusal(model),
    )


def full_value(model: Transformer, cluster: Cluster, tokens: int) -> ProbeCost:
    """F and its gradient over `tokens` tokens of data: theta, the problem's copy and the gradient are whole."""
    moved = gather(model, cluster)
    return ProbeCost(
        "F and its gradient",
        flops=model.flops(tokens, 3) / cluster.gpus,
        collectives=moved.collectives + 2,
        bytes=moved.bytes + all_reduce_bytes(model.theta_bytes + 16, cluster.gpus),
        memory=3.0 * model.theta_bytes,
        disk=moved.disk,
        possible=_refusal(model),
    )


def window(model: Transformer, cluster: Cluster, steps: int = 101) -> ProbeCost:
    """Consecutive iterates for the ODE method."""
    one = gather(model, cluster)
    return ProbeCost(
        f"{steps} consecutive iterates",
        collectives=steps * one.collectives,
        bytes=steps * one.bytes,
        memory=float(steps * model.theta_bytes),
        disk=float(steps * model.theta_bytes),
        possible="more than 64 MiB of iterates" if steps * model.theta_bytes > 64 << 20 else "",
    )


def smallest_eigenvalue(model: Transformer, cluster: Cluster, tokens: int, products: int = 60) -> ProbeCost:
    """lambda_min by Lanczos in the audit, on one GPU: products over `tokens` tokens, as many vectors kept."""
    needed = (products + 3.0) * model.theta_bytes
    return ProbeCost(
        f"lambda_min, {products} Hessian products",
        flops=products * model.flops(tokens, 9),
        memory=needed,
        possible="needs more than one GPU's memory; the audit runs on one" if needed > cluster.memory else "",
    )


def probes(model: Transformer, cluster: Cluster, tokens: int) -> tuple[ProbeCost, ...]:
    """Everything that a watch does, and the eigenvalue of the audit afterwards; F over `tokens` tokens of data."""
    return (
        sample(model, cluster),
        gather(model, cluster),
        full_value(model, cluster, tokens),
        window(model, cluster),
        smallest_eigenvalue(model, cluster, tokens),
    )


def steps_between(probe: ProbeCost, model: Transformer, cluster: Cluster, share: float = 0.02) -> int:
    """How many training steps pay for one such probe inside the budget."""
    return max(1, math.ceil(probe.seconds(cluster) / (share * training_step(model, cluster).seconds(cluster))))


def _refusal(model: Transformer) -> str:
    return f"theta takes more than {GATHERED_BYTES >> 30} GiB" if model.theta_bytes > GATHERED_BYTES else ""
