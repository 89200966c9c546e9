"""Tests that recorded noise M_1, M_2, … is a martingale difference, with a check of their own power.

Under the null with a conditionally symmetric law, flipping the signs of the M_k independently changes nothing, so the
flipped statistics are the exact null distribution, and the level is exact (a wild bootstrap: without symmetry it is
right asymptotically).
All statistics are judged together by their largest standardised size (Westfall and Young 1993), so that the chance
of any false alarm is the level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tameopt.noise._display import HtmlText

_FLIPS = 399  # our choice: p-values in steps of 1/400
_DIMENSIONS = 32  # our choice: random directions kept of a long vector; inner products err by 1/sqrt(32)
_POWER_TRIALS = 60
_CACHED_NUMBERS = 1 << 15  # our choice: a quarter of a megabyte of float64


@dataclass(frozen=True)
class NoiseTests(HtmlText):
    """The tests of one stretch of noise.

    names, statistics, p_values: one entry a test; p_values are corrected for testing all of them.
    p_value: of the null as a whole, the least of them. power: share of rejections at `level` when a known departure
    is put into the same data: a bias of a fifth of the noise, a correlation of a fifth with the step before, and
    reshuffling (the noise of each epoch sums to 0).
    """

    names: tuple[str, ...]
    statistics: tuple[float, ...]
    p_values: tuple[float, ...]
    power: dict[str, float]
    level: float
    sample_size: int

    @property
    def p_value(self) -> float:
        return min(self.p_values)

    @property
    def rejected(self) -> bool:
        """Whether the noise is no martingale difference, at the level."""
        return self.p_value <= self.level

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "names": list(self.names), "statistics": list(self.statistics), "p_values": list(self.p_values),
            "power": self.power, "level": self.level, "sample_size": self.sample_size,
        }  # fmt: skip

    def __repr__(self) -> str:
        worst = self.names[int(np.argmin(self.p_values))]
        seen = ", ".join(f"{name} {share:.0%}" for name, share in self.power.items())
        word = "rejected" if self.rejected else "not rejected"
        return f"NoiseTests({word}: p = {self.p_value:.3g} ({worst}), {self.sample_size} steps; power: {seen})"


def noise_tests(
    noise: np.ndarray,
    *,
    epoch: int | None = None,
    phase: int = 0,
    level: float = 0.05,
    seed: int = 0,
    power: bool = True,
) -> NoiseTests:
    """Test that consecutive noise vectors are a martingale difference.

    noise: (m, d) float, M_1, …, M_m in their order, m >= 30 (scaled to comparable size where the steps shrink).
    epoch: batches an epoch, where known, and phase, the place of M_1 within its epoch: adds the test that catches
    reshuffling, whose batches sum to a constant over an epoch.
    level: chance of a false alarm over all tests together. Costs about 400 (m + blocks) products of dimension 32.

    Raises ValueError for fewer than 30 steps or values that are not finite.

    >>> rng = np.random.default_rng(0)
    >>> noise_tests(rng.normal(size=(200, 3)), power=False).rejected
    False
    """
    rows = np.asarray(noise, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 30:
        raise ValueError(f"noise must be (m, d) with m >= 30 consecutive steps, got shape {rows.shape}: record more.")
    if not np.isfinite(rows).all():
        raise ValueError("noise must be finite, got infinities or NaN: the run diverged there.")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}.")
    rng = np.random.default_rng(seed)
    z = _compressed(rows, rng)
    m = z.shape[0]
    blocks = _block_tests(m, epoch, phase)
    names = ("mean", "lag 1", "lag 2", *(name for name, _ in blocks))
    edges = [edge for _, edge in blocks]
    flips = _signs(rng, _FLIPS, m)
    # the observed row among the flipped ones, so that under the null all rows are alike and the level is exact
    every = np.concatenate([_statistics(z, part, edges) for part in (np.ones((1, m)), *_cut(flips))])
    centre, spread = every.mean(0), np.maximum(every.std(0), 1e-300)
    scores = np.abs((every - centre) / spread)
    observed, largest = (every[0] - centre) / spread, scores[1:].max(1)
    p_values = [(1 + int((largest >= abs(size) - 1e-12).sum())) / (_FLIPS + 1) for size in observed]
    found: dict[str, float] = {}
    if power:
        critical = float(np.quantile(largest, 1 - level))
        found = _power(z, edges, centre, spread, critical, epoch or max(4, m // 8), rng)
    return NoiseTests(names, tuple(map(float, observed)), tuple(p_values), found, level, m)


def _signs(rng: np.random.Generator, count: int, m: int) -> np.ndarray:
    """(count, m) independent signs, +-1.0, a random bit each."""
    bits = np.frombuffer(rng.bytes(count * m // 8 + 1), dtype=np.uint8)
    return np.unpackbits(bits, count=count * m).reshape(count, m) * 2.0 - 1.0


def _cut(flips: np.ndarray) -> list[np.ndarray]:
    """The rows in parts that a processor's cache holds."""
    together = max(1, _CACHED_NUMBERS // flips.shape[1])
    return [flips[i : i + together] for i in range(0, flips.shape[0], together)]


def _compressed(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(m, p) the rows in at most `_DIMENSIONS` random directions, which keep their inner products about right."""
    if rows.shape[1] <= _DIMENSIONS:
        return rows
    directions = rng.normal(size=(rows.shape[1], _DIMENSIONS)) / np.sqrt(_DIMENSIONS)
    return rows @ directions


def _block_tests(m: int, epoch: int | None, phase: int) -> list[tuple[str, np.ndarray]]:
    """(name, (blocks + 1,) edges): sums over blocks are too large or too small where steps depend on each other."""
    tests = []
    q = 4
    while q <= m // 8:
        tests.append((f"blocks of {q}", np.arange(0, m + 1, q)))
        q *= 4
    if epoch is not None and 2 <= epoch <= m:
        first = -phase % epoch
        edges = np.arange(first, m + 1, epoch)
        if edges.size >= 2:
            tests.append((f"epochs of {epoch}", edges))
    return tests


def _statistics(z: np.ndarray, flips: np.ndarray, edges: list[np.ndarray]) -> np.ndarray:
    """(B, tests): the statistics of the noise with its signs flipped, flips: (B, m).

    mean: norm(sum M)^2; lag j: sum <M_t, M_{t-j}>; blocks: sum of norm(block sum)^2.
    """
    columns = [np.square(flips @ z).sum(1)]
    for lag in (1, 2):
        products = (z[lag:] * z[:-lag]).sum(1)
        columns.append((flips[:, lag:] * flips[:, :-lag]) @ products)
    # one direction at a time keeps memory at B m numbers
    totals = [np.zeros(flips.shape[0]) for _ in edges]
    for direction in z.T if edges else ():
        for total, sums in zip(totals, _block_sums(flips * direction, edges), strict=True):
            total += np.einsum("ij,ij->i", sums, sums)
    columns.extend(totals)
    return np.stack(columns, axis=1)


def _block_sums(signed: np.ndarray, edges: list[np.ndarray]) -> Iterator[np.ndarray]:
    """(B, blocks) sums of (B, m) numbers between each list of evenly spaced edges; blocks of blocks reuse sums."""
    finer, size, begun = signed, 1, 0
    for edge in edges:
        first, length, count = int(edge[0]), int(edge[1] - edge[0]), edge.size - 1
        if first != begun or length % size:
            finer, size, begun = signed[:, first:], 1, first
        share = length // size
        # strided sums: numpy is slow at reducing a short last axis
        finer = sum(finer[:, part : share * count : share] for part in range(share))  # type: ignore[assignment]
        size = length
        yield finer


def _power(
    z: np.ndarray,
    edges: list[np.ndarray],
    centre: np.ndarray,
    spread: np.ndarray,
    critical: float,
    epoch: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Share of rejections when a known departure is put into sign-flipped copies of the data."""
    m = z.shape[0]
    strength = np.sqrt(np.square(z).sum(1).mean())
    direction = rng.normal(size=z.shape[1])
    direction *= 0.2 * strength / np.linalg.norm(direction)
    hits = {"bias of 0.2 noise": 0, "correlation 0.2": 0, "reshuffling": 0}
    for _ in range(_POWER_TRIALS):
        flipped = z * (rng.integers(0, 2, size=(m, 1)) * 2 - 1)
        delayed = np.concatenate([np.zeros_like(flipped[:1]), flipped[:-1]])
        reshuffled = flipped.copy()
        for start in range(0, m, epoch):
            part = reshuffled[start : start + epoch]
            part -= part.mean(0)
        for name, copy in zip(hits, (flipped + direction, flipped + 0.2 * delayed, reshuffled), strict=True):
            observed = (_statistics(copy, np.ones((1, m)), edges)[0] - centre) / spread
            hits[name] += bool(np.abs(observed).max() > critical)
    return {name: count / _POWER_TRIALS for name, count in hits.items()}
