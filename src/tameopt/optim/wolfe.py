"""The strong Wolfe line search (Nocedal and Wright 2006, algorithms 3.5 and 3.6), with torch's safeguards.

A step length t along d is accepted when F(theta + t d) <= F(theta) + c1 t slope and |slope at t| <= c2 |slope|:
the first makes F decrease, the second makes the curvature pair of L-BFGS positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

SUFFICIENT_DECREASE = 1e-4  # c1 of Nocedal and Wright
CURVATURE = 0.9  # c2 for quasi-Newton directions


@dataclass(frozen=True)
class Trial:
    """A step length with what was found there: the loss, the gradient and the slope along d."""

    t: float
    value: float
    gradient: torch.Tensor
    slope: float


def cubic_minimum(one: Trial, other: Trial, low: float | None = None, high: float | None = None) -> float:
    """Minimiser of the cubic through two trials' values and slopes, moved into [low, high] (default: between them).

    The middle of the interval when the cubic has no minimum.
    """
    low = min(one.t, other.t) if low is None else low
    high = max(one.t, other.t) if high is None else high
    left, right = (one, other) if one.t <= other.t else (other, one)
    if left.t == right.t:
        return (low + high) / 2
    d1 = left.slope + right.slope - 3 * (left.value - right.value) / (left.t - right.t)
    square = d1 * d1 - left.slope * right.slope
    if not square >= 0:
        return (low + high) / 2
    d2 = math.sqrt(square)
    divisor = right.slope - left.slope + 2 * d2
    if divisor == 0:
        return (low + high) / 2
    best = right.t - (right.t - left.t) * ((right.slope + d2 - d1) / divisor)
    return min(max(best, low), high)


def strong_wolfe(
    evaluate: Callable[[float], tuple[float, torch.Tensor]],
    direction: torch.Tensor,
    t: float,
    value: float,
    gradient: torch.Tensor,
    slope: float,
    tolerance_change: float,
    budget: int,
) -> tuple[float, torch.Tensor, float, int]:
    """A step length along `direction` that satisfies the strong Wolfe conditions, if found within the budget.

    As in torch, a first trial so long that F has flattened may leave a bracket whose better end decreases F too
    little.

    evaluate: step length -> (loss, flat gradient); t: first length tried; value, gradient, slope: at length 0;
    budget: iterations. Returns (loss, gradient, length, evaluations); without success the best bracket end.
    """
    start = Trial(0.0, value, gradient.clone(), slope)

    def decreases(trial: Trial) -> bool:
        return trial.value <= start.value + SUFFICIENT_DECREASE * trial.t * start.slope

    def flat(trial: Trial) -> bool:
        return abs(trial.slope) <= -CURVATURE * start.slope

    def at(length: float) -> Trial:
        loss, g = evaluate(length)
        return Trial(length, loss, g, float(g.dot(direction)))

    previous, trial = start, at(t)
    used, iteration = 1, 0
    bracket = [start, trial]
    while iteration < budget:
        if not decreases(trial) or (iteration > 1 and trial.value >= previous.value) or trial.slope >= 0:
            if decreases(trial) and flat(trial) and not (iteration > 1 and trial.value >= previous.value):
                return trial.value, trial.gradient, trial.t, used
            bracket = [previous, trial]
            break
        if flat(trial):
            return trial.value, trial.gradient, trial.t, used
        length = cubic_minimum(previous, trial, trial.t + 0.01 * (trial.t - previous.t), trial.t * 10)
        previous, trial = trial, at(length)
        used += 1
        iteration += 1
    else:
        bracket = [start, trial]
    size = float(direction.abs().max())
    stalled = False
    low, high = (0, 1) if bracket[0].value <= bracket[1].value else (1, 0)
    while iteration < budget and abs(bracket[1].t - bracket[0].t) * size >= tolerance_change:
        trial_t, stalled = _inside(cubic_minimum(bracket[0], bracket[1]), bracket, stalled)
        trial = at(trial_t)
        used += 1
        iteration += 1
        if not decreases(trial) or trial.value >= bracket[low].value:
            bracket[high] = trial
            low, high = (0, 1) if bracket[0].value <= bracket[1].value else (1, 0)
            continue
        done = flat(trial)
        if not done and trial.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = trial
        if done:
            break
    best = bracket[low]
    return best.value, best.gradient, best.t, used


def _inside(t: float, bracket: list[Trial], stalled: bool) -> tuple[float, bool]:
    """The trial length, kept a tenth of the bracket away from its ends when it has been too close to them twice."""
    low, high = sorted(trial.t for trial in bracket)
    margin = 0.1 * (high - low)
    if min(high - t, t - low) >= margin:
        return t, False
    if stalled or t >= high or t <= low:
        return (high - margin if abs(t - high) < abs(t - low) else low + margin), False
    return t, True
