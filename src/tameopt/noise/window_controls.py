"""The controls of a window of the ODE method: what discretisation alone, and noise alone, would do there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tameopt.dynamics.batched_rk import Field
from tameopt.noise.windows import Window

_GRADIENTS_TOGETHER = 16  # our choice: iterates whose gradients are taken in one call
_COARSE_STEPS = 8  # our choice: Euler steps a window in the first estimate of its discretisation error
_PAIRS = 32  # our choice: pairs of steps that the strength of the noise is read from
_NEGLIGIBLE = 0.1  # our choice: share of the noise below which the discretisation is not computed exactly


@dataclass(frozen=True)
class Controls:
    """One entry a window.

    free: D_T of gradient descent with the same step sizes, of order alpha. Exact where it is above a tenth of
    `level`; below, to first order in alpha, from descent with steps that are a few times longer.
    level: the size of the walk that uncorrelated noise of the run's strength makes, root of half the sum of
    norm(alpha_{k+1} M_{k+2} - alpha_k M_{k+1})^2, where M_{k+1} is what the recorded step has beside -grad F; a
    drift, as momentum makes, cancels in the differences. In a long window the sum is taken over at least 32 pairs of
    steps and scaled up.
    walk: sup of norm(sum alpha_k M_{k+1}), the walk that the run's noise made; in a long window grad F is
    interpolated between the iterates at which it is known.
    evaluations: full gradients used.
    """

    free: np.ndarray
    level: np.ndarray
    walk: np.ndarray
    evaluations: np.ndarray


def measure_controls(field: Field, chosen: list[Window], reference: torch.Tensor) -> Controls:
    """The controls of windows whose flow is `reference`: (m, k, d) float64 at the nodes, row i for window i.

    field: (r, d) -> (r, d), -grad F of each row.
    """
    used = np.zeros(len(chosen))
    level, walk = _noise(field, chosen, reference, used)
    strides = np.array([_power_of_two(window.alphas.size // _COARSE_STEPS) for window in chosen])
    free = _descent_distance(field, chosen, reference, strides, used) / strides
    # a longer step may diverge where the run's does not: then the estimate is large, and the exact one is taken
    rows = np.flatnonzero((strides > 1) & ~(free <= _NEGLIGIBLE * level))
    if rows.size:
        ones, spent = np.ones(rows.size, dtype=int), np.zeros(rows.size)
        free[rows] = _descent_distance(field, [chosen[i] for i in rows], reference[rows], ones, spent)
        used[rows] += spent
    return Controls(free, level, walk, used)


def _power_of_two(number: int) -> int:
    """The largest power of two that is at most max(1, number)."""
    return 1 << (max(1, number).bit_length() - 1)


def _descent_distance(
    field: Field, chosen: list[Window], reference: torch.Tensor, strides: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """(m,) the largest distance from the flow of descent whose steps are sums of `strides` step sizes of the run."""
    descent = torch.stack([window.thetas[0].to(reference) for window in chosen])
    free = np.zeros(len(chosen))
    starts = [np.arange(0, window.alphas.size, stride) for window, stride in zip(chosen, strides, strict=True)]
    sums = [np.add.reduceat(window.alphas, start) for window, start in zip(chosen, starts, strict=True)]
    for k in range(max(part.size for part in sums)):
        live = np.array([i for i, part in enumerate(sums) if k < part.size])
        alpha = torch.as_tensor(np.array([sums[i][k] for i in live])).to(reference)[:, None]
        node = torch.as_tensor([min((k + 1) * int(strides[i]), chosen[i].alphas.size) for i in live])
        descent[live] += alpha * field(descent[live])
        used[live] += 1
        away = (descent[live] - reference[live, node]).norm(dim=1).nan_to_num(nan=np.inf)
        free[live] = np.fmax(free[live], away.cpu().numpy())
    return free


def _noise(
    field: Field, chosen: list[Window], reference: torch.Tensor, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(level, walk) of each window; adds the gradients it uses to `used`."""
    descents: dict[int, torch.Tensor] = {}
    level, walk = np.zeros(len(chosen)), np.zeros(len(chosen))
    for i, window in enumerate(chosen):
        m = window.alphas.size
        stride = max(2, _power_of_two(m // _PAIRS))
        # counted from step 0 of the run, so that windows that overlap share gradients
        at = np.flatnonzero((window.steps[:-1] % stride <= 1) | (np.arange(m) == 0) | (np.arange(m) == m - 1))
        new = at[[int(step) not in descents for step in window.steps[at]]]
        for part in np.array_split(new, -(-new.size // _GRADIENTS_TOGETHER)) if new.size else ():
            found = field(window.thetas[part].to(reference))
            descents.update(zip(window.steps[part].tolist(), found, strict=True))
        used[i] += new.size
        level[i], walk[i] = _strength(window, at, torch.stack([descents[int(step)] for step in window.steps[at]]))
    return level, walk


def _strength(window: Window, at: np.ndarray, descents: torch.Tensor) -> tuple[float, float]:
    """(level, walk) of a window from -grad F at its steps `at`: (p,), descents: (p, d)."""
    m = window.alphas.size
    thetas = window.thetas.to(descents)
    alphas = torch.as_tensor(window.alphas).to(descents)[:, None]
    pairs = np.flatnonzero(np.diff(at) == 1)
    noise = thetas[at + 1] - thetas[at] - alphas[at] * descents
    squares = (noise[pairs + 1] - noise[pairs]).square().sum()
    level = float((0.5 * squares * m / pairs.size).sqrt())
    # sum alpha_k M_{k+1} = theta_k - theta_0 + sum alpha_j grad F(theta_j)
    total, worst = torch.zeros_like(descents[0]), 0.0
    place = 0
    for k in range(m):
        while place + 1 < at.size and at[place + 1] <= k:
            place += 1
        after = min(place + 1, at.size - 1)
        share = (k - at[place]) / (at[after] - at[place]) if after > place else 0.0
        total = total + alphas[k] * torch.lerp(descents[place], descents[after], share)
        worst = max(worst, float((thetas[k + 1] - thetas[0] - total).norm()))
    return level, worst
