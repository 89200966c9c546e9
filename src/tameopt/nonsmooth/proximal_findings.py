"""What a recorded run of proximal gradient or PALM did, block by block, between consecutive recorded iterates.

The steps of a pass are replayed: block i of theta_k is replaced by that of theta_{k+1}, in the order of the parameter
groups. Each is held against prox_{alpha f}(theta_i - alpha grad_i F), full batch, with the recorded step alpha, and
against the descent inequality that the proof of convergence uses instead of a Lipschitz constant.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.analysis import Analysis, Answer, Context
from tameopt.evidence import Certificate, Cost, Finding, Scope, measured, proved, refuted, unknown
from tameopt.nonsmooth.prox import entry
from tameopt.nonsmooth.proximal_checker import STRUCTURES
from tameopt.nonsmooth.proximal_gradient import as_shape
from tameopt.run import Run

METHOD, STEP, PENALTY = "method.proximal_gradient", "step.below_1_over_block_L", "penalty.tame"
_OPTIMIZERS = ("ProximalGradient", "PALM")
_PAIRS = 20  # pairs of iterates looked at: our choice, a few in each recorded window
_ROUNDING = 100.0  # units in the last place that a step may differ by: our choice, for sums of any order
_CLEAR = 1e-3  # rounding of L up to which a step counts: PALM's default keeps 1/100 away from 1/L
_REMEDY = "tame.watch(model, optimizer, loss, data) with ProximalGradient or PALM"


@dataclass(frozen=True)
class _BlockStep:
    """One block's step.

    excess: how far it is from the proximal step, over what rounding allows. L: the constant that its descent
    inequality needs; error: the rounding of L.
    """

    step: int
    block: int
    alpha: float
    excess: float
    L: float
    error: float


def _groups(run: Run) -> list[dict[str, Any]]:
    optimizer = run.meta.get("optimizer") or {}
    return [dict(group) for group in optimizer.get("groups") or [optimizer.get("arguments") or {}]]


def _name(run: Run) -> str:
    return str((run.meta.get("optimizer") or {}).get("name") or "")


def _open(reason: str, missing: str) -> tuple[Finding, ...]:
    return tuple(unknown(claim, reason, missing=missing, remedy=_REMEDY) for claim in (METHOD, STEP, PENALTY))


def analyse(context: Context) -> Answer:
    """method.proximal_gradient, step.below_1_over_block_L and penalty.tame of a recorded run."""
    begun, run = time.perf_counter(), context.run
    assert run is not None
    name, groups = _name(run), _groups(run)
    if name not in _OPTIMIZERS:
        if not name:
            return Answer(_open("The optimizer was not recorded.", "the optimizer and its groups"))
        words = f"The optimizer is {name}, which makes no proximal step."
        finding = refuted(METHOD, words, {"optimizer": name}, method="recorded optimizer", scope=Scope.RUN)
        return Answer((finding, *_open(words, "a proximal method")[1:]))
    penalty = _penalty(groups)
    inertia = [float(group.get("momentum") or 0.0) for group in groups]
    blocks = _blocks(context, groups)
    if any(inertia):
        words = f"The steps are inertial, beta = {max(inertia):g}: another theorem's (Pock & Sabach 2016)."
        method = refuted(METHOD, words, {"momentum": max(inertia)}, method="recorded optimizer", scope=Scope.RUN)
        return Answer((method, unknown(STEP, words, missing="a run without inertia"), penalty))
    if blocks is None or any(group.get("penalty") not in STRUCTURES for group in groups):
        words = "Which parameters each group holds, or its penalty, was not recorded."
        return Answer((*_open(words, "groups with names of parameters and penalties of the catalogue")[:2], penalty))
    pairs = _pairs(run.vector_steps())
    steps = [one for pair in pairs for one in _replayed(context, groups, blocks, *pair)]
    cost = Cost(1.5 * len(pairs) * len(blocks), seconds=time.perf_counter() - begun)
    facts = {"steps": [one.step for one in steps], "alpha_L": [one.alpha * one.L for one in steps]}
    return Answer((_method(steps, len(groups)), _below(steps), penalty), facts=facts, cost=cost)


def _penalty(groups: Sequence[Mapping[str, Any]]) -> Finding:
    rows = [[str(group.get("penalty", "")), float(group.get("strength", 1.0))] for group in groups]
    if any(name not in STRUCTURES for name, _ in rows):
        words = "A penalty is none of the prox catalogue's, or was not recorded."
        return unknown(PENALTY, words, missing="penalties by the names of the catalogue", remedy=_REMEDY)
    words = ", ".join(sorted({f"{name}" for name, _ in rows}))
    return proved(
        PENALTY,
        f"The penalties ({words}) are closed, bounded below and definable in R_exp.",
        Certificate("tameopt.nonsmooth.proximal_checker:check", {"penalties": rows}),
        method="the table of penalties",
        scope=Scope.RUN,
    )


def _blocks(context: Context, groups: Sequence[Mapping[str, Any]]) -> list[list[str]] | None:
    """The parameters of each block; one block for proximal gradient, whose groups move together."""
    assert context.run is not None
    every = list(context.problem.unflatten(context.theta))
    if len(groups) == 1 and not groups[0].get("parameters"):
        return [every]
    held = [list(group.get("parameters") or []) for group in groups]
    return held if sorted(itertools.chain(*held)) == sorted(every) else None


def _pairs(steps: np.ndarray) -> list[tuple[int, int]]:
    starts = [int(k) for k, after in itertools.pairwise(steps) if after == k + 1]
    if len(starts) > _PAIRS:
        starts = [starts[i] for i in np.linspace(0, len(starts) - 1, _PAIRS).astype(int)]
    return [(k, k + 1) for k in starts]


def _alphas(run: Run, count: int) -> list[dict[int, float]]:
    """The recorded steps of each group; one that was never different is not recorded apart."""
    recorded = []
    for number in range(count):
        steps, alphas = run.series("lr" if number == 0 else f"lr of group {number}")
        recorded.append(dict(zip(steps.tolist(), alphas.tolist(), strict=True)))
    return [own if own or number == 0 else recorded[0] for number, own in enumerate(recorded)]


def _replayed(
    context: Context, groups: Sequence[Mapping[str, Any]], blocks: list[list[str]], before: int, after: int
) -> list[_BlockStep]:
    problem, run = context.problem, context.run
    assert run is not None
    alphas = [series.get(before) for series in _alphas(run, len(groups))]
    if any(alpha is None or not 0 < alpha < float("inf") for alpha in alphas):
        return []
    x, end = (run.vector(step).to(problem.device, problem.dtype) for step in (before, after))
    eps = float(torch.finfo(getattr(torch, str(run.meta.get("dtype", "float64")))).eps)
    together = _name(run) == "ProximalGradient"
    found = []
    for number, held in enumerate([list(itertools.chain(*blocks))] if together else blocks):
        own = {key: group for group, keys in enumerate(blocks) for key in keys if key in held}
        value, gradient = problem.value_and_gradient(x)
        parts, final = problem.unflatten(x), problem.unflatten(end)
        slopes = problem.unflatten(gradient)
        moved = {key: final[key] if key in own else part for key, part in parts.items()}
        off = size = 0.0
        for key, group in own.items():
            alpha = float(alphas[group] or 0.0)
            wanted = _step(parts[key], slopes[key], alpha, groups[group])
            off += float((wanted - final[key]).square().sum())
            size += float(parts[key].square().sum() + final[key].square().sum())
            size += float((alpha * slopes[key]).square().sum())
        y = torch.cat([part.reshape(-1) for part in moved.values()])
        d = y - x
        square, y_value = float(d @ d), float(problem.value(y))
        if square > 0:
            L = 2.0 * (y_value - float(value) - float(gradient @ d)) / square
            scale = abs(float(value)) + abs(y_value) + float(gradient.norm()) * square**0.5
            unit = float(torch.finfo(problem.dtype).eps)
            alpha = max(float(alphas[group] or 0.0) for group in own.values())
            excess = off**0.5 / max(_ROUNDING * eps * size**0.5, 1e-300)
            found.append(_BlockStep(before, number, alpha, excess, L, 16.0 * unit * scale / square))
        x = y
    return found


def _step(at: torch.Tensor, slope: torch.Tensor, alpha: float, group: Mapping[str, Any]) -> torch.Tensor:
    moved = at - alpha * slope
    if group["penalty"] == "none":
        return moved
    prox = entry(group["penalty"])
    options = {key: value for key, value in dict(group.get("options") or {}).items() if key in prox.parameters}
    return prox(as_shape(moved, prox), alpha * float(group["strength"]), **options).reshape(at.shape)


def _method(steps: Sequence[_BlockStep], blocks: int) -> Finding:
    if not steps:
        return unknown(
            METHOD,
            "No two consecutive iterates with their steps were recorded.",
            missing="theta and the steps at consecutive steps",
            remedy=_REMEDY,
        )
    worst = max(steps, key=lambda one: one.excess)
    how = f"{len(steps)} block steps replayed with full-batch gradients and the recorded steps"
    if worst.excess > 1.0:
        words = (
            f"At step {worst.step:,}, block {worst.block}, theta moved otherwise than by the proximal step of the "
            f"whole data set: the difference is {worst.excess:.3g} times what rounding allows."
        )
        witness = {"step": worst.step, "block": worst.block, "excess": worst.excess}
        return refuted(METHOD, words, witness, method=how, scope=Scope.PATH)
    words = f"All {len(steps)} block steps looked at are proximal steps of the whole data set ({blocks} groups)."
    kind = "residual over what rounding allows; other steps were not looked at"
    return measured(
        METHOD, words, worst.excess, method=how, error_kind=kind, scope=Scope.PATH, sample_size=len(steps)
    )


def _below(steps: Sequence[_BlockStep]) -> Finding:
    clear = [one for one in steps if one.error <= _CLEAR * abs(one.L)]
    if not clear:
        return unknown(
            STEP,
            "Whether the blocks' steps are below 1/L is not known.",
            missing="consecutive iterates further apart than rounding, with their steps",
            remedy=_REMEDY,
        )
    how = f"the step times the constant of the descent inequality at {len(clear)} block steps"
    worst = max(clear, key=lambda one: one.alpha * one.L)
    product, error = worst.alpha * max(worst.L, 0.0), worst.alpha * worst.error
    if worst.alpha * (worst.L - worst.error) >= 1.0:
        words = (
            f"At step {worst.step:,}, block {worst.block}, the descent inequality needs L = {worst.L:.4g}, but the "
            f"step is {worst.alpha:.4g}: alpha L = {product:.3g}, not below 1."
        )
        witness = {"step": worst.step, "block": worst.block, "alpha": worst.alpha, "L": worst.L}
        return refuted(STEP, words, witness, method=how, scope=Scope.PATH, estimate=product)
    return measured(
        STEP,
        f"alpha L is at most {product:.4g} at the {len(clear)} block steps looked at.",
        product,
        method=how,
        error_kind="rounding; other steps may need a larger L",
        interval=(max(product - error, 0.0), product + error),
        scope=Scope.PATH,
        sample_size=len(clear),
    )


ANALYSIS = Analysis(
    "nonsmooth.proximal",
    "Did the run make proximal steps, short enough for each block?",
    (METHOD, STEP, PENALTY),
    lambda context: Cost(gradients=3.0 * _PAIRS if context.run and _name(context.run) in _OPTIMIZERS else 0.0),
    analyse,
    lambda context: "no run was recorded" if context.run is None else "",
)
