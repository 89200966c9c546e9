"""The single step that lowers the local quadratic most in expectation, along the gradient of a mini-batch."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch

from tameopt.batches import index_batches
from tameopt.curvature.trained import TrainedLoss
from tameopt.linear_operator import SymmetricOperator
from tameopt.noise.covariance import batch_factor
from tameopt.problem import Problem
from tameopt.student import student_quantile
from tameopt.training_mode import as_trained

_SAMPLES = 48  # our choice: the standard error of tr(H Sigma) is then about a tenth of it on the digits network
_SAMPLES_AT_ONCE = 16
_ENOUGH = 0.05  # our choice: no more samples are drawn once the best step is known to 5%


@dataclass(frozen=True)
class BestStep:
    """The step that lowers the expected quadratic model most, along the mini-batch gradient.

    alpha*: norm(g)^2 / (g.H g + tr(H Sigma_b)); interval: 95%, from the error of the sampled trace; alpha is NaN
    when the model has no minimum along the gradient. without_noise: the same with Sigma = 0. samples: gradients of
    samples, or of mini-batches for a loss as trained, behind the trace; 0 without noise.
    """

    alpha: float
    interval: tuple[float, float]
    without_noise: float
    batch_size: int
    samples: int
    reason: str = ""


def best_step(
    trained: TrainedLoss,
    problem: Problem,
    theta: torch.Tensor,
    hessian: SymmetricOperator,
    decay: float,
    replacement: bool,
    generator: torch.Generator,
) -> tuple[BestStep | None, int]:
    """minimise over alpha: -alpha norm(g)^2 + alpha^2/2 (g.H g + tr(H Sigma_b)), S. McCandlish et al. (2018), 2.2.

    hessian: of `trained` at theta, without weight decay, which is added to it and to the gradients. None where the
    loss is a sum over samples, or the samples cannot be picked. Also returns the Hessian products spent.
    """
    curve = hessian.shift(decay) if decay else hessian
    if trained.fresh:
        return _as_trained(trained, problem, theta, curve, decay, replacement, generator)
    g = trained.draws[0].gradient(theta) + decay * theta
    square, curved = float(g @ g), float(g @ (curve @ g))
    if square == 0:
        return _none(math.nan, "the gradient is 0"), 1
    plain = square / curved if curved > 0 else math.inf
    if problem.is_function or trained.batch_size is None:
        reason = "" if curved > 0 else "F curves down along the gradient: the quadratic model has no lowest point"
        alpha = plain if curved > 0 else math.nan
        return BestStep(alpha, (alpha, alpha), plain, problem.n, 0, reason), 1
    if problem.reduction == "sum" or not problem.batches.indexable:
        return None, 1
    scale = batch_factor(problem.n, trained.batch_size, replacement)
    order = torch.randperm(problem.n, generator=generator)[:_SAMPLES]
    forms = torch.empty(0, dtype=torch.float64)
    trace, error = 0.0, math.inf
    for chosen in order.split(_SAMPLES_AT_ONCE):
        deviations = problem.sample_gradients(theta, chosen).to(g.dtype) + decay * theta - g
        forms = torch.cat([forms, (deviations * (curve @ deviations.T).T).sum(1).double().cpu()])
        trace = scale * float(forms.mean())
        error = 1.96 * scale * float(forms.std()) / math.sqrt(len(forms)) if len(forms) > 1 else math.inf
        if error < _ENOUGH * (curved + trace):
            break
    found = _ratio((square, 0.0), (curved + trace, error), plain, trained.batch_size, len(forms))
    return found, 1 + len(forms)


def _as_trained(
    trained: TrainedLoss,
    problem: Problem,
    theta: torch.Tensor,
    curve: SymmetricOperator,
    decay: float,
    replacement: bool,
    generator: torch.Generator,
) -> tuple[BestStep | None, int]:
    """The same from gradients of mini-batches as training draws them: E[g_b.H g_b] = g.H g + tr(H Sigma_b)."""
    if problem.reduction == "sum" or not problem.batches.indexable:
        return None, 0
    size = trained.batch_size or problem.n
    every = torch.stack([one.gradient(theta) + decay * theta for one in (*trained.draws, *trained.fresh)]).double()
    count = len(every)
    # products of different draws, and the Hessian of draws with gradients of fresh ones: squares of noise would count
    pairs = every @ every.T
    others = (pairs.sum(1) - pairs.diagonal()) / (count - 1)
    square, square_error = (
        float(others.mean()),
        2 * student_quantile(count - 1) * float(others.std()) / math.sqrt(count),
    )
    g = every.mean(0).to(theta.dtype)
    curved = float(g @ (curve @ g))
    plain = square / curved if curved > 0 and square > 0 else math.inf
    spent = len(trained.draws)
    drawn = index_batches(problem.n, size, generator, replacement)
    forms = torch.empty(0, dtype=torch.float64)
    mean, error = 0.0, math.inf
    for _ in range(_SAMPLES // _SAMPLES_AT_ONCE):
        chosen = list(itertools.islice(drawn, _SAMPLES_AT_ONCE))
        if size == problem.n:  # all samples at every step: only the masks differ
            chosen = [torch.arange(problem.n)] * _SAMPLES_AT_ONCE
        seeds = torch.randint(2**31, (len(chosen),), generator=generator).tolist()
        gradients = torch.stack(
            [
                as_trained(problem, None, seed).batch_gradient(theta, problem.batches.pick(indices))[1]
                for seed, indices in zip(seeds, chosen, strict=True)
            ]
        )
        gradients = gradients + decay * theta
        forms = torch.cat([forms, (gradients * (curve @ gradients.T).T).sum(1).double().cpu()])
        spent += len(trained.draws) * len(chosen)
        mean, error = float(forms.mean()), 1.96 * float(forms.std()) / math.sqrt(len(forms))
        if error < _ENOUGH * mean:
            break
    return _ratio((square, square_error), (mean, error), plain, size, len(forms)), spent


def _ratio(
    square: tuple[float, float], curved: tuple[float, float], plain: float, batch_size: int, samples: int
) -> BestStep:
    """norm(g)^2 over the expected curvature along the gradient, each with its error."""
    top, bottom = square[0] - square[1], curved[0] + curved[1]
    if top <= 0:
        return _none(plain, f"the gradient is not clear of its noise in {samples} mini-batches", batch_size, samples)
    if curved[0] <= 0:
        why = "the expected quadratic model has no lowest point along the gradient"
        return _none(plain, why, batch_size, samples)
    least = curved[0] - curved[1]
    interval = (top / bottom, (square[0] + square[1]) / least if least > 0 else math.inf)
    return BestStep(square[0] / curved[0], interval, plain, batch_size, samples)


def _none(plain: float, reason: str, batch_size: int = 0, samples: int = 0) -> BestStep:
    return BestStep(math.nan, (math.nan, math.nan), plain, batch_size, samples, reason)
