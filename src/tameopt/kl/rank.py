"""Why the Jacobian of the outputs has no full rank, or hardly: too few parameters, or samples that are near twins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tameopt.kl.kantorovich import Numbers
from tameopt.kl.network import Network
from tameopt.kl.shallow import Shallow

_NEAR = 0.02  # our choice: a distance below that share of the inputs' spread is named; digits are 0.3 apart and more
_NAMED = 3
_MOST = 8192  # samples whose distances are looked at: 512 MiB


@dataclass(frozen=True)
class Twins:
    """Two samples, their inputs `distance` apart; differ: with different targets."""

    first: int
    second: int
    distance: float
    differ: bool = True

    def __str__(self) -> str:
        both = f"samples {self.first} and {self.second}"
        targets = "different targets" if self.differ else "the same target"
        if self.distance == 0.0:
            return f"{both} have the same input and {targets}"
        return f"the inputs of {both} are {self.distance:.2g} apart, with {targets}"


def twins(X: np.ndarray, Y: np.ndarray, conflicting: bool = True) -> list[Twins]:
    """Pairs of samples whose inputs are the same or nearly so, the nearest first; conflicting: and targets differ.

    Nearly: below 2% of the root mean square distance to the mean input. X: (n, d), Y: (n, k). The Jacobian's rows of
    near inputs are near, and sigma_min(J) <= norm(J_i - J_j)/sqrt(2).
    """
    n = len(X)
    if not 2 <= n <= _MOST:
        return []
    centred = X - X.mean(axis=0)
    squares = np.einsum("nd,nd->n", centred, centred)
    spread = math.sqrt(float(squares.mean()))
    reach = _NEAR * spread
    # candidates by the Gram matrix, whose rounding is some 1e-8 of the spread; then the differences themselves
    apart = squares[:, None] + squares[None, :] - 2 * (centred @ centred.T)
    left, right = np.nonzero(np.triu(apart <= (reach + 1e-6 * spread) ** 2, k=1))
    distances = np.linalg.norm(X[left] - X[right], axis=1)
    order = np.argsort(distances, kind="stable")
    found = []
    for i, j, distance in zip(left[order], right[order], distances[order], strict=True):
        differ = not np.array_equal(Y[i], Y[j])
        if distance <= reach and (differ or not conflicting):
            found.append(Twins(int(i), int(j), float(distance), differ))
    return found


def named(X: np.ndarray, Y: np.ndarray, conflicting: bool = True) -> str:
    """The nearest of those pairs in words, or ""."""
    pairs = twins(X.reshape(len(X), -1), Y.reshape(len(Y), -1), conflicting)
    if not pairs:
        return ""
    more = f" (and {len(pairs) - _NAMED} more pairs)" if len(pairs) > _NAMED else ""
    return "; ".join(map(str, pairs[:_NAMED])) + more


def rank_deficient(net: Shallow | Network, numbers: Numbers, p: int) -> str:
    """Why sigma_min(J) is 0 as far as float64 can tell, or ""."""
    rows = net.X.shape[0] * net.Y.shape[1]
    if rows > p:
        return f"J is {rows} x {p}: more outputs than trained parameters, so sigma_min(J) = 0"
    if numbers.s0**2 > numbers.noise:
        return ""
    reason = f"sigma_min(J) is {numbers.s0:.2g}, 0 within rounding"
    pairs = named(net.X, net.Y) or named(net.X, net.Y, conflicting=False)
    if pairs:
        return f"{reason}: {pairs}"
    condition = numbers.J0 / max(math.sqrt(numbers.noise), 1e-300)
    return f"{reason} (norm(J) is {numbers.J0:.3g}; float64 resolves condition numbers up to {condition:.1g})"
