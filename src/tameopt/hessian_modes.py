"""Hessian products of a batch in three ways, which of them is fastest on this problem, and graphs kept for reuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from tameopt.batches import Batch, size_of
from tameopt.parameter_vector import shapes_of, split

Parameters = dict[str, torch.Tensor]
BatchSum = Callable[[Parameters, Batch], torch.Tensor]  # the sum of l_i over a batch, differentiable

FORWARD, REVERSE, DIFFERENCES = "forward over reverse", "reverse over reverse", "differences of gradients"
MODES = (FORWARD, REVERSE)

# Our choice: two ways whose products lie within 1000 ulp of the largest entry agree; on networks it is some 3 ulp.
_AGREEMENT = 1e3
_APART = 0.2  # our choice: of its norm; kinks within a step of 1e-5 make a few percent
_LEFT = "its product is far from differences of gradients: a backward pass leaves the graph (a custom Function?)"
_WIDE = 8  # columns from which a block counts as wide; our choice
_GRAPH_BYTES = 2 << 30  # our choice: past the first batch, graphs of gradients are kept up to 2 GiB


@contextmanager
def exact_attention() -> Iterator[None]:
    """Attention on the math backend within this context: the only one with second derivatives.

    The fused layer that torch.nn.TransformerEncoderLayer takes in eval mode is off as well: it has no forward
    derivative.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@dataclass(frozen=True)
class HessianMode:
    """How products are computed: `narrow` for blocks below 8 columns, `wide` from there on.

    graph_bytes: size of the kept graph of one sample's gradient. seconds: of one column on the batch it was timed
    on, by mode. reason: why differences of gradients had to be taken, "" otherwise.
    """

    narrow: str
    wide: str
    graph_bytes: int = 0
    seconds: tuple[tuple[str, float], ...] = ()
    reason: str = ""

    def of(self, columns: int) -> str:
        return self.wide if columns >= _WIDE else self.narrow

    @staticmethod
    def always(mode: str) -> HessianMode:
        return HessianMode(mode, mode)


class NoDerivativeError(RuntimeError, ValueError):
    """The loss does not depend on theta as far as autograd sees: an error of torch and of the input."""


def require_graph(value: torch.Tensor) -> torch.Tensor:
    """The loss as it is. Raises NoDerivativeError when it does not depend on theta by such operations."""
    if not value.requires_grad:
        raise NoDerivativeError(
            "the loss must depend on the parameters by operations that have derivatives, it does not: a comparison, "
            "argmax, detach() or no_grad() lies between, or the parameters are not used."
        )
    return value


class GradientGraph:
    """The gradient of the sum over a batch with its graph: each column of a product is one more backward pass.

    Building it costs a gradient; a product then costs about two thirds of one that begins afresh.
    """

    def __init__(self, batch_sum: BatchSum, parameters: Parameters, batch: Batch) -> None:
        self._leaves = {key: view.detach().requires_grad_() for key, view in parameters.items()}
        self._shapes = shapes_of(parameters)
        self.samples = size_of(batch) if batch else 1
        with torch.enable_grad(), exact_attention():
            value = require_graph(batch_sum(self._leaves, batch))
            self._parts = torch.autograd.grad(
                value, list(self._leaves.values()), create_graph=True, materialize_grads=True
            )

    @property
    def moving(self) -> list[int]:
        """The parameters whose gradient depends on theta."""
        return [j for j, part in enumerate(self._parts) if part.requires_grad]

    @property
    def severed(self) -> bool:
        """Whether an operator on the way is marked as differentiable once: its part of a product would be 0."""
        seen: set[object] = set()
        waiting = [part.grad_fn for part in self._parts]
        while waiting:
            node = waiting.pop()
            if node is None or node in seen:
                continue
            if type(node).__name__ == "Error":  # what torch puts there, to raise only when a backward pass comes by
                return True
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
        return False

    @property
    def still(self) -> torch.Tensor:
        """(d,) bool: the coordinates whose gradient has no graph."""
        return torch.cat(
            [torch.full_like(part, not part.requires_grad, dtype=torch.bool).reshape(-1) for part in self._parts]
        )

    def product(self, block: torch.Tensor, last: bool = False) -> torch.Tensor:
        """(d, m) the Hessian times a block: (d, m); with `last` the graph is freed on the way."""
        moving = self.moving
        if not moving:
            return torch.zeros_like(block)  # F is linear on this batch
        # a column is one stretch of memory: for millions of parameters that is quicker
        columns = torch.empty(block.shape[1], block.shape[0], dtype=block.dtype, device=block.device)
        for j in range(block.shape[1]):
            vectors = list(split(block[:, j].contiguous(), self._shapes).values())
            products = torch.autograd.grad(
                [self._parts[i] for i in moving],
                list(self._leaves.values()),
                [vectors[i] for i in moving],
                retain_graph=not last or j + 1 < block.shape[1],
                materialize_grads=True,
            )
            torch.cat([one.detach().reshape(-1) for one in products], out=columns[j])
        return columns.T


class HessianProducts:
    """V -> grad^2 (sum of l_i) V at one theta, batch by batch.

    In reverse mode the graphs of the batches' gradients are kept from the first product on: that of the first
    batch, and more while they stay below 2 GiB; the others are rebuilt at each product.
    """

    def __init__(
        self,
        batch_sum: BatchSum,
        parameters: Parameters,
        batches: Iterable[Batch],
        mode: HessianMode,
        keep: bool = True,
    ) -> None:
        self._batch_sum = batch_sum
        self._parameters = parameters
        self._batches = batches
        self._mode = mode
        self._keep = keep
        self._kept: list[GradientGraph] = []
        self._kept_bytes = 0
        self._all_kept = False

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        """(d, m), which belongs to the caller."""
        total: torch.Tensor | None = None
        for part in self._parts(block):
            # in place: past some megabytes a fresh tensor costs as much as the sum, in pages that are touched anew
            total = part if total is None else total.add_(part)
        return torch.zeros_like(block) if total is None else total

    def _parts(self, block: torch.Tensor) -> Iterator[torch.Tensor]:
        """The product of each batch's sum, a fresh tensor each."""
        mode = self._mode.of(block.shape[1])
        if mode != REVERSE:
            for batch in self._batches:
                yield hessian_product(self._batch_sum, self._parameters, batch, block, mode)
            return
        for graph in self._kept:
            yield graph.product(block)
        if self._all_kept:
            return
        known = len(self._kept)
        skipped = False
        for position, batch in enumerate(self._batches):
            if position < known:
                continue
            graph = GradientGraph(self._batch_sum, self._parameters, batch)
            keep = self._keep and not skipped and self._fits(graph)
            yield graph.product(block, last=not keep)
            if keep:
                self._kept.append(graph)
            skipped = skipped or not keep
        self._all_kept = not skipped

    def _fits(self, graph: GradientGraph) -> bool:
        self._kept_bytes += graph.samples * self._mode.graph_bytes
        # the first one had to be held for its own product anyway
        return not self._kept or self._kept_bytes <= _GRAPH_BYTES


def hessian_product(
    batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor, mode: str
) -> torch.Tensor:
    """(d, m) the Hessian of the sum over a batch, at `parameters`, times a block: (d, m)."""
    if mode == FORWARD:
        return _forward_over_reverse(batch_sum, parameters, batch, block)
    if mode == REVERSE:
        return GradientGraph(batch_sum, parameters, batch).product(block, last=True)
    return _differences(batch_sum, parameters, batch, block)


def _forward_over_reverse(
    batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor
) -> torch.Tensor:
    shapes = shapes_of(parameters)

    def gradient(at: Parameters) -> Parameters:
        return grad(lambda inner: batch_sum(inner, batch))(at)

    def product(vector: torch.Tensor) -> torch.Tensor:
        tangent = jvp(gradient, (parameters,), (split(vector, shapes),))[1]
        return torch.cat([tangent[key].reshape(-1) for key in parameters])

    with exact_attention():
        if block.shape[1] == 1:
            return product(block[:, 0].contiguous())[:, None]
        # 32 columns at a time (our choice): tangents of a batch are held for all columns at once
        parts = [vmap(product, in_dims=1, out_dims=1)(part.contiguous()) for part in block.split(32, dim=1)]
    return torch.cat(parts, dim=1)


def _differences(batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor) -> torch.Tensor:
    """Central differences of the gradient, with the step that balances truncation against rounding."""

    shapes = shapes_of(parameters)

    def gradient(at: torch.Tensor) -> torch.Tensor:
        leaves = {key: view.detach().requires_grad_() for key, view in split(at, shapes).items()}
        with torch.enable_grad():
            value = require_graph(batch_sum(leaves, batch))
            parts = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return torch.cat([part.reshape(-1) for part in parts])

    theta = torch.cat([parameter.detach().reshape(-1) for parameter in parameters.values()])
    # rounding of g is about eps, truncation about h^2: eps^(1/3) in units of theta's own size
    reach = torch.finfo(theta.dtype).eps ** (1 / 3) * max(1.0, float(theta.norm()))
    columns = []
    for vector in block.unbind(dim=1):
        norm = float(vector.norm())
        if norm == 0:
            columns.append(torch.zeros_like(vector))
            continue
        step = reach / norm
        columns.append((gradient(theta + step * vector) - gradient(theta - step * vector)) / (2 * step))
    return torch.stack(columns, dim=1)


def faster_mode(batch_sum: BatchSum, parameters: Parameters, batch: Batch) -> HessianMode:
    """The faster of the two exact modes on this batch, for narrow blocks and for wide ones.

    Forward mode is passed over where its product is not that of reverse mode up to rounding: it is inexact then.

    Reverse mode is timed without its gradient, whose graph is kept. Each is timed once, a second time where that
    is cheap: a factor of two is what is at stake, not percents. A mode that an operator lacks is passed over; where
    both are lacking (a fused kernel, a custom function differentiable once) differences of gradients take over.

    Raises RuntimeError with the causes when not even those run.
    """
    first = next(iter(parameters.values()))
    d = sum(parameter.numel() for parameter in parameters.values())

    def seconds(run: Callable[[torch.Tensor], torch.Tensor], width: int) -> tuple[float, torch.Tensor]:
        block = direction.expand(d, width).contiguous()
        for _ in range(2):
            start = time.perf_counter()
            images = run(block)
            if first.device.type == "cuda":
                torch.cuda.synchronize(first.device)
            spent = time.perf_counter() - start
            if spent > 0.1:
                break
        return spent / width, images[:, 0]

    # a random direction: some that come to mind, such as ones, lie in the kernel of a softmax's Hessian
    drawn = torch.randn(d, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = drawn.to(first.device, first.dtype)

    def forward(block: torch.Tensor) -> torch.Tensor:
        return hessian_product(batch_sum, parameters, batch, block, FORWARD)

    failures: list[str] = []
    narrow: dict[str, float] = {}
    wide: dict[str, float] = {}
    bytes_held, exact = 0, None
    try:
        graph, bytes_held = _measured_graph(batch_sum, parameters, batch)
        # a function marked once_differentiable gives a gradient without a graph: not linear, though it looks so
        still = graph.still
        if bool(still.any()) and bool(_differences(batch_sum, parameters, batch, direction)[still].any()):
            raise RuntimeError("the gradient varies, but has no graph")
        if graph.severed:
            raise RuntimeError("an operator on the way is marked as differentiable once")
        narrow[REVERSE], exact = seconds(graph.product, 1)
        if narrow[REVERSE] < 0.02:
            wide[REVERSE] = seconds(graph.product, _WIDE)[0]
        samples = graph.samples
        del graph
    except NoDerivativeError:
        raise
    except (RuntimeError, NotImplementedError) as error:  # an operator without that derivative; told in the reason
        failures.append(f"{REVERSE}: {str(error).splitlines()[0]}")
        samples = 1
    try:
        narrow[FORWARD], image = seconds(forward, 1)
        if exact is not None and not _agree(image, exact):
            raise RuntimeError("its product is not that of reverse mode up to rounding")
        if exact is None and not _near(image, batch_sum, parameters, batch, direction):
            raise RuntimeError(_LEFT)
        if narrow[FORWARD] < 0.02:
            wide[FORWARD], image = seconds(forward, _WIDE)
            if exact is not None and not _agree(image, exact):
                raise RuntimeError("its product of a block is not that of reverse mode up to rounding")
    except (RuntimeError, NotImplementedError) as error:
        narrow.pop(FORWARD, None)
        wide.pop(FORWARD, None)
        failures.append(f"{FORWARD}: {str(error).splitlines()[0]}")
    # a backward pass of a person's own may leave the graph half way, and no error says so
    only = exact is not None and list(narrow) == [REVERSE]
    if only and exact is not None and not _near(exact, batch_sum, parameters, batch, direction):
        failures.append(f"{REVERSE}: {_LEFT}")
        narrow.clear()
    if not narrow:
        return _only_differences(batch_sum, parameters, batch, direction, failures)
    best = min(narrow, key=lambda mode: narrow[mode])
    # where a column takes longer than 20 ms, the arithmetic decides and blocks change little
    best_wide = min(wide, key=lambda mode: wide[mode]) if wide.keys() == narrow.keys() else best
    return HessianMode(best, best_wide, bytes_held // samples, tuple(narrow.items()))


def _near(
    product: torch.Tensor, batch_sum: BatchSum, parameters: Parameters, batch: Batch, direction: torch.Tensor
) -> bool:
    """Whether a product is roughly the difference of gradients; True where kinks and rounding leave that open."""
    if product.dtype is not torch.float64 or not bool(torch.isfinite(product).all()):
        return True
    difference = _differences(batch_sum, parameters, batch, direction)[:, 0]
    if not bool(torch.isfinite(difference).all()):
        return True
    return float((product - difference).norm()) <= _APART * float(difference.norm()) + 1e-6


def _agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two products of the same block are the same up to rounding; where they are not finite nobody knows."""
    if not bool(torch.isfinite(other).all()):
        return False
    limit = _AGREEMENT * torch.finfo(other.dtype).eps * other.nan_to_num().abs().max()
    return bool(((one - other).abs() <= limit).all())


def _measured_graph(batch_sum: BatchSum, parameters: Parameters, batch: Batch) -> tuple[GradientGraph, int]:
    """The graph of a batch's gradient, and the bytes that it holds."""
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = GradientGraph(batch_sum, parameters, batch)
    return graph, sum(held.values())


def _only_differences(
    batch_sum: BatchSum, parameters: Parameters, batch: Batch, block: torch.Tensor, failures: list[str]
) -> HessianMode:
    try:
        hessian_product(batch_sum, parameters, batch, block, DIFFERENCES)
    except (RuntimeError, NotImplementedError) as error:
        failures.append(f"{DIFFERENCES}: {str(error).splitlines()[0]}")
        raise RuntimeError(f"no Hessian product of this loss runs: {'; '.join(failures)}") from error
    return HessianMode(DIFFERENCES, DIFFERENCES, reason="; ".join(failures))
