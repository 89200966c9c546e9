"""Why the Jacobian of the outputs has no full rank, or hardly: too few parameters, or samples that are near twins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tameopt.kl.kantorovich import Numbers
from tameopt.kl.network import Network
from tameopt.kl.shallow import Shallow

_NEAR = 0.02  # our choice: a distance below that share of the inputs' spread is named; digits are 0.3 apart and more
_NAMED = 3
_MOST = 8192  # samples whose distances are looked at: 512 MiB

# f(-x) = -f(x), or f(c x) = c f(x) for c > 0, or for all c, whatever the weights: then so are the Jacobian's rows
Symmetry = Literal["", "odd", "homogeneous", "linear"]


@dataclass(frozen=True)
class Twins:
    """Two samples, their inputs `distance` apart; differ: with different targets.

    factor: what the second sample (its input and its target) was divided by before; 1 for nothing.
    """

    first: int
    second: int
    distance: float
    differ: bool = True
    factor: float = 1.0

    def __str__(self) -> str:
        both = f"samples {self.first} and {self.second}"
        if self.factor != 1.0:
            return self._scaled()
        targets = "different targets" if self.differ else "the same target"
        if self.distance == 0.0:
            return f"{both} have the same input and {targets}"
        return f"the inputs of {both} are {self.distance:.2g} apart, with {targets}"

    def _scaled(self) -> str:
        near = "" if self.distance <= 1e-12 else f"within {self.distance:.2g} "
        if self.factor == -1.0:
            targets = "targets that are not" if self.differ else "opposite targets"
            return (
                f"the inputs of samples {self.first} and {self.second} are {near}opposite, with {targets}, and a "
                "bias-free network of odd activations gives opposite outputs there"
            )
        targets = "targets that are not" if self.differ else "targets that are too"
        return (
            f"the input of sample {self.second} is {near}{self.factor:.4g} times that of sample {self.first}, with "
            f"{targets}, and a bias-free network of such activations scales its output likewise"
        )


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
    return _words(twins(X.reshape(len(X), -1), Y.reshape(len(Y), -1), conflicting))


def _words(pairs: list[Twins]) -> str:
    if not pairs:
        return ""
    more = f" (and {len(pairs) - _NAMED} more pairs)" if len(pairs) > _NAMED else ""
    return "; ".join(map(str, pairs[:_NAMED])) + more


def why_singular(X: np.ndarray, Y: np.ndarray, symmetry: Symmetry, conflicting: bool = False) -> str:
    """Samples whose rows of J are 0, the same, parallel, or nearly so, in words, or "".

    Those whose targets conflict come first; conflicting: they alone.
    """
    X, Y = X.reshape(len(X), -1), Y.reshape(len(Y), -1)
    empty = np.flatnonzero(~X.any(axis=1)) if symmetry else np.array([], dtype=int)
    if empty.size:
        i = int(empty[0])
        return f"the input of sample {i} is 0, where this bias-free network gives 0 whatever its weights"
    pairs = aligned(X, Y, symmetry)
    found = named(X, Y) or _words([pair for pair in pairs if pair.differ])
    return found if found or conflicting else named(X, Y, conflicting=False) or _words(pairs)


def aligned(X: np.ndarray, Y: np.ndarray, symmetry: Symmetry) -> list[Twins]:
    """Pairs of samples that the network's symmetry makes twins, the nearest first.

    The network divides them by a factor that it passes through: -1, or the inputs' norms. Distances are relative to
    the inputs' spread where factors are norms. X: (n, d), Y: (n, k). At twins with factor c, rows J_j = c J_i.
    """
    n = len(X)
    if not symmetry or not 2 <= 2 * n <= _MOST:
        return []
    norms = np.linalg.norm(X, axis=1)
    kept = np.flatnonzero(norms > 0)
    sizes = norms[kept] if symmetry != "odd" else np.ones(kept.size)
    signs = (1.0,) if symmetry == "homogeneous" else (1.0, -1.0)
    factors = np.concatenate([sign * sizes for sign in signs])
    places = np.concatenate([kept] * len(signs))
    # a quotient is rounded, and equal targets may differ by that
    rounded = np.round(Y[places] / factors[:, None], 12)
    found = []
    for pair in twins(X[places] / factors[:, None], rounded, conflicting=False):
        i, j = int(places[pair.first]), int(places[pair.second])
        factor = float(factors[pair.second] / factors[pair.first])
        if i < j and pair.first < kept.size and factor != 1.0:  # each pair once, and plain twins are named as such
            found.append(replace(pair, first=i, second=j, factor=factor))
    return found


def rank_deficient(net: Shallow | Network, numbers: Numbers, p: int) -> str:
    """Why sigma_min(J) is 0 as far as float64 can tell, or ""."""
    rows = net.X.shape[0] * net.Y.shape[1]
    if rows > p:
        return f"J is {rows} x {p}: more outputs than trained parameters, so sigma_min(J) = 0"
    if numbers.s0**2 > numbers.noise:
        return ""
    reason = f"sigma_min(J) is {numbers.s0:.2g}, 0 within rounding"
    pairs = why_singular(net.X, net.Y, net.symmetry)
    if pairs:
        return f"{reason}: {pairs}"
    condition = numbers.J0 / max(math.sqrt(numbers.noise), 1e-300)
    return f"{reason} (norm(J) is {numbers.J0:.3g}; float64 resolves condition numbers up to {condition:.1g})"
