"""Data as people have it, turned into batches in a fixed order.

Tensors, datasets, loaders and dict batches become a `Batches`: a tree of tensors with a common leading
dimension where that is possible (then samples can be picked by index), else a re-iterable of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler

Batch = Any  # a tensor, or a tuple, list or dict of tensors, with one leading dimension

_IN_MEMORY_BYTES = 4 << 30  # our choice: past 4 GiB a loader is streamed, not held


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    """The tensors in a batch, in order."""
    return [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, torch.Tensor)]


def size_of(batch: Batch) -> int:
    """The number of samples in a batch: the common leading dimension of its tensors.

    Raises ValueError when there is none or it is not common.
    """
    sizes = {tensor.shape[0] for tensor in tensors_of(batch) if tensor.ndim > 0}
    if len(sizes) != 1:
        shapes = [tuple(tensor.shape) for tensor in tensors_of(batch)]
        raise ValueError(
            "the tensors of a batch must have one leading dimension, the samples; "
            f"got shapes {shapes}: index every tensor by sample along dimension 0."
        )
    return int(sizes.pop())


def require_input_and_target(batch: Batch) -> None:
    """Raises ValueError unless a batch is (*inputs, target)."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        keys = f" with keys {sorted(batch)}" if isinstance(batch, dict) else ""
        raise ValueError(
            f"a batch must be (*inputs, target), got {type(batch).__name__}{keys}: pass "
            "forward=lambda model, batch: loss for any other form."
        )


def doubled(batch: Batch) -> Batch:
    """The batch with every sample twice."""
    return tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf, batch
    )


def rows(batch: Batch, index: torch.Tensor | slice) -> Batch:
    """The samples `index` of a batch."""
    return tree_map(lambda leaf: leaf[index] if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf, batch)


def _concatenated(batches: Sequence[Batch]) -> Batch | None:
    """All batches as one tree of tensors, or None where their samples differ in shape."""
    flat = [tree_flatten(batch) for batch in batches]
    spec = flat[0][1]
    if any(other_spec != spec for _, other_spec in flat):
        return None
    leaves = []
    for column in zip(*(leaves_of for leaves_of, _ in flat), strict=True):
        if not isinstance(column[0], torch.Tensor):
            if any(other is not column[0] and other != column[0] for other in column):
                return None
            leaves.append(column[0])
            continue
        if any(leaf.ndim == 0 or leaf.shape[1:] != column[0].shape[1:] for leaf in column):
            return None
        leaves.append(torch.cat(list(column)))
    return tree_unflatten(leaves, spec)


@dataclass(frozen=True)
class Batches:
    """Samples in a fixed order, cut into batches.

    n: number of samples. whole: all of them as one tree of tensors, or None when they are ragged or streamed.
    batch_size: samples in a batch (the last may be smaller).
    """

    n: int
    batch_size: int
    whole: Batch | None
    stream: Callable[[], Iterator[Batch]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self.whole is None:
            assert self.stream is not None
            yield from self.stream()
            return
        for start in range(0, self.n, self.batch_size):
            yield self.whole if self.batch_size >= self.n else rows(self.whole, slice(start, start + self.batch_size))

    @property
    def indexable(self) -> bool:
        """Whether samples can be picked by number."""
        return self.whole is not None

    def pick(self, indices: torch.Tensor) -> Batch:
        """The samples with these numbers, (m,) int64, repetitions allowed.

        Raises ValueError when the samples are ragged or streamed.
        """
        if self.whole is None:
            raise ValueError(
                "samples of different shapes (or too large to hold) cannot be picked by number; "
                "got a loader of such: pad them to one shape, or use the full-batch calls."
            )
        return rows(self.whole, indices.to(tensors_of(self.whole)[0].device))

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Batches:
        """The same samples with floating tensors as `dtype`, all on `device`."""

        def cast(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

        if self.whole is not None:
            return Batches(self.n, self.batch_size, tree_map(cast, self.whole))
        stream = self.stream
        assert stream is not None
        return Batches(self.n, self.batch_size, None, lambda: (tree_map(cast, batch) for batch in stream()))


def _sequential(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same samples in their order, none dropped; a custom batch sampler is kept as it is."""
    if loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return loader
    if isinstance(loader.sampler, RandomSampler) or loader.drop_last:
        return DataLoader(loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn)
    return loader


def _check_finite(batch: Batch, first_sample: int) -> None:
    for tensor in tensors_of(batch):
        if not tensor.is_floating_point():
            continue
        finite = torch.isfinite(tensor)
        if not bool(finite.all()):
            where = (~finite).nonzero()[0].tolist()
            sample = first_sample + (where[0] if where else 0)
            raise ValueError(
                f"data must be finite, got {tensor[tuple(where)].item()} in sample {sample}, "
                f"position {where[1:]}: remove or impute it."
            )


def _iterated(source: Iterable[Batch], batch_size: int | None) -> Batches:
    """Batches from anything that yields batches, held in memory while it fits."""
    held: list[Batch] = []
    n = bytes_held = largest = 0
    fits = True
    for batch in source:
        _check_finite(batch, n)
        size = size_of(batch)
        n, largest = n + size, max(largest, size)
        if fits:
            held.append(batch)
            bytes_held += sum(tensor.nbytes for tensor in tensors_of(batch))
            if bytes_held > _IN_MEMORY_BYTES and isinstance(source, DataLoader):
                fits, held = False, []
    if n == 0:
        raise ValueError("data must hold at least one sample, got none: the data set is empty.")
    if not fits:
        return Batches(n, largest, None, lambda: iter(source))
    whole = _concatenated(held)
    if whole is not None:
        return Batches(n, batch_size or largest, whole)
    return Batches(n, largest, None, lambda: iter(held))


def batches_of(data: Any, batch_size: int | None = None) -> Batches:
    """Batches of anything people call data.

    data: a tensor, a tuple, list or dict of tensors with one leading dimension; a Dataset; a DataLoader
        (a shuffling or dropping one is re-read in order and whole); or an iterable of batches.
    batch_size: samples evaluated at once; by default all tensors at once, or a loader's own size.

    Raises ValueError for empty, non-finite or inconsistent data, TypeError for anything else.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    if isinstance(data, DataLoader):
        return _iterated(_sequential(data), batch_size)
    if isinstance(data, IterableDataset):
        return _iterated(DataLoader(data, batch_size=batch_size or 256), batch_size)
    if isinstance(data, Dataset):
        return _iterated(DataLoader(data, batch_size=batch_size or 256), batch_size)
    tree = data
    if isinstance(data, torch.Tensor):
        tree = (data,)
    if isinstance(tree, Mapping):
        tree = dict(tree)
    if isinstance(tree, (tuple, dict)) or (
        isinstance(tree, list) and all(isinstance(leaf, torch.Tensor) for leaf in tree)
    ):
        if isinstance(tree, list):
            tree = tuple(tree)
        if not tensors_of(tree):
            raise TypeError(
                f"data must hold tensors, got {type(data).__name__} with none: convert arrays by torch.as_tensor."
            )
        n = size_of(tree)
        if n == 0:
            raise ValueError("data must hold at least one sample, got none: the tensors are empty.")
        _check_finite(tree, 0)
        return Batches(n, min(batch_size or n, n), tree)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return _iterated(list(data), batch_size)
    raise TypeError(
        f"data must be tensors, a Dataset, a DataLoader or an iterable of batches, got {type(data).__name__}."
    )


def index_batches(
    n: int, batch_size: int, generator: torch.Generator, replacement: bool = True
) -> Iterator[torch.Tensor]:
    """Endless index batches (batch_size,) int64 of n samples: uniform with replacement (the lecture's noise), or
    epochs of random reshuffling without."""
    while True:
        if replacement:
            yield torch.randint(n, (batch_size,), generator=generator)
            continue
        order = torch.randperm(n, generator=generator)
        yield from order.split(batch_size)
