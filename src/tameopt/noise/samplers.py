"""Samplers whose batch gradient is unbiased by construction, with the certificate of it.

Each yields (indices, weights): the gradient estimate is sum_j weights_j grad l_{indices_j}(theta), whose mean is
grad F(theta) = 1/n sum_i grad l_i(theta); `finding` proves it from the weights, in exact rationals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tameopt.evidence import Certificate, Finding, Scope, proved

Draw = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Sampler(ABC):
    """A way to draw batches of independent samples; a subclass says how."""

    n: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.n < 1 or self.batch_size < 1:
            raise ValueError(f"n and batch_size must be at least 1, got {self.n} and {self.batch_size}.")

    @abstractmethod
    def draws(self, generator: torch.Generator) -> Iterator[Draw]:
        """Endless ((b,) int64 indices, (b,) float64 weights)."""

    @abstractmethod
    def strata(self) -> list[dict[str, Any]]:
        """Rows {"samples", "draws", "probability", "weight"}: samples that are drawn alike, in exact rationals."""

    def finding(self) -> Finding:
        """That the estimate is unbiased, proved by the replayed identity draws * probability * weight = 1/n."""
        facts = {
            "sampling": "independent draws",
            "n": self.n,
            "batch_size": self.batch_size,
            "reduction": "mean",
            "strata": self.strata(),
        }
        return proved(
            "noise.unbiased",
            f"{self}: every sample enters the mean of the estimate with weight 1/{self.n}.",
            Certificate("tameopt.noise.record_checker:check_unbiased", facts),
            method="each sample's weight in the mean, in exact rationals; the generator stands for independent draws",
            scope=Scope.RUN,
        )

    def variance(self, square_norms: torch.Tensor, gradient_square: float) -> float:
        """E norm(estimate - grad F)^2 from (n,) norm(grad l_i)^2 and norm(grad F)^2.

        Exact when all draws have one law; for strata an upper bound, by Cauchy-Schwarz over the classes.
        """
        probability, weight = self.probabilities()
        second = float((self.batch_size * probability * weight**2 * square_norms.to(probability)).sum())
        return second - gradient_square / self.batch_size

    @abstractmethod
    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        """((n,) probability of one average draw, (n,) weight) as float64."""


@dataclass(frozen=True)
class Uniform(Sampler):
    """b independent uniform draws, weight 1/b: the lecture's stochastic gradient.

    >>> sampler = Uniform(n=10, batch_size=4)
    >>> indices, weights = next(sampler.draws(torch.Generator().manual_seed(0)))
    >>> weights.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    def draws(self, generator: torch.Generator) -> Iterator[Draw]:
        weights = torch.full((self.batch_size,), 1.0 / self.batch_size, dtype=torch.float64)
        while True:
            yield torch.randint(self.n, (self.batch_size,), generator=generator), weights

    def strata(self) -> list[dict[str, Any]]:
        row = {"samples": self.n, "draws": self.batch_size}
        return [{**row, "probability": f"1/{self.n}", "weight": f"1/{self.batch_size}"}]

    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        ones = torch.ones(self.n, dtype=torch.float64)
        return ones / self.n, ones / self.batch_size

    def __str__(self) -> str:
        return f"{self.batch_size} of {self.n} uniformly, with replacement"


@dataclass(frozen=True)
class Importance(Sampler):
    """b independent draws with probability proportional to positive whole `scores`, weight 1/(b n p_i).

    scores: (n,) positive ints, such as rounded norms of grad l_i: proportional to those norms the variance is least
    (Zhao and Zhang 2015). Whole numbers make every probability an exact rational.

    >>> Importance(n=2, batch_size=1, scores=(1, 3)).strata()[1]["weight"]
    '2/3'
    """

    scores: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.scores) != self.n or any(not isinstance(score, int) or score < 1 for score in self.scores):
            raise ValueError(
                f"scores must be {self.n} whole numbers >= 1, one a sample, got {len(self.scores)} with least "
                f"{min(self.scores, default=None)}: a sample that is never drawn makes the gradient biased."
            )

    @staticmethod
    def of_norms(norms: torch.Tensor, batch_size: int, floor: float = 0.1) -> Importance:
        """Scores from norms of grad l_i, mixed with a share `floor` of uniform: no weight exceeds 1/(floor b)."""
        if not 0 < floor <= 1:
            raise ValueError(f"floor must be in (0, 1], got {floor}: it bounds the weights.")
        mean = float(norms.double().mean())
        share = (1 - floor) * norms.double() / mean + floor if mean > 0 else torch.ones_like(norms.double())
        scores = tuple(max(1, int(score)) for score in (share * 10**6).round().tolist())
        return Importance(norms.numel(), batch_size, scores)

    def draws(self, generator: torch.Generator) -> Iterator[Draw]:
        probability, weight = self.probabilities()
        while True:
            chosen = torch.multinomial(probability, self.batch_size, replacement=True, generator=generator)
            yield chosen, weight[chosen]

    def strata(self) -> list[dict[str, Any]]:
        total = sum(self.scores)
        rows = []
        for score in sorted(set(self.scores)):
            p = Fraction(score, total)
            weight = 1 / (self.batch_size * self.n * p)
            count = self.scores.count(score)
            rows.append({"samples": count, "draws": self.batch_size, "probability": str(p), "weight": str(weight)})
        return rows

    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        scores = torch.tensor(self.scores, dtype=torch.float64)
        p = scores / scores.sum()
        return p, 1.0 / (self.batch_size * self.n * p)

    def __str__(self) -> str:
        return f"{self.batch_size} of {self.n} by importance, with replacement"


@dataclass(frozen=True)
class Stratified(Sampler):
    """From each class c of n_c samples, b_c independent uniform draws of weight n_c/(n b_c).

    labels: (n,) whole numbers, the class of each sample; the batch is shared in proportion to the classes, at
    least one draw each (so batch_size >= number of classes). The variance is at most that of uniform draws
    when b_c = b n_c/n.

    >>> Stratified.of((0, 0, 0, 1), batch_size=4).strata()[1]["weight"]
    '1/4'
    """

    labels: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) != self.n:
            raise ValueError(f"labels must be {self.n} numbers, one a sample, got {len(self.labels)}.")
        classes = len(set(self.labels))
        if self.batch_size < classes:
            raise ValueError(
                f"batch_size must be at least the number of classes, {classes}, got {self.batch_size}: every class "
                "is drawn from at every step."
            )

    @staticmethod
    def of(labels: Sequence[int] | torch.Tensor, batch_size: int) -> Stratified:
        """A stratified sampler of these labels."""
        numbers = tuple(int(label) for label in labels)
        return Stratified(len(numbers), batch_size, numbers)

    def _shares(self) -> list[tuple[int, int, int]]:
        """(class, n_c, b_c): largest remainders, at least one each."""
        classes, counts = np.unique(np.array(self.labels), return_counts=True)
        ideal = self.batch_size * counts / self.n
        shares = np.maximum(1, np.floor(ideal).astype(int))
        while shares.sum() > self.batch_size:
            shares[np.argmax(np.where(shares > 1, shares - ideal, -np.inf))] -= 1
        while shares.sum() < self.batch_size:
            shares[np.argmax(ideal - shares)] += 1
        return [(int(c), int(m), int(b)) for c, m, b in zip(classes, counts, shares, strict=True)]

    def draws(self, generator: torch.Generator) -> Iterator[Draw]:
        labels = torch.tensor(self.labels)
        groups = [(torch.nonzero(labels == c)[:, 0], m, b) for c, m, b in self._shares()]
        weights = torch.cat([torch.full((b,), m / (self.n * b), dtype=torch.float64) for _, m, b in groups])
        while True:
            picked = [group[torch.randint(m, (b,), generator=generator)] for group, m, b in groups]
            yield torch.cat(picked), weights

    def strata(self) -> list[dict[str, Any]]:
        return [
            {"samples": m, "draws": b, "probability": f"1/{m}", "weight": str(Fraction(m, self.n * b))}
            for _, m, b in self._shares()
        ]

    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.tensor(self.labels)
        p, weight = torch.zeros(self.n, dtype=torch.float64), torch.zeros(self.n, dtype=torch.float64)
        for c, m, b in self._shares():
            p[labels == c], weight[labels == c] = b / (m * self.batch_size), m / (self.n * b)
        return p, weight

    def __str__(self) -> str:
        return f"{self.batch_size} of {self.n} from {len(set(self.labels))} classes, with replacement"
