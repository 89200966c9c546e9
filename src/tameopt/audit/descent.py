"""The descent inequality, measured where the proofs use it: between consecutive iterates of the run.

F(y) <= F(x) + <g, y - x> + L/2 norm(y - x)^2 holds everywhere when grad F is L-Lipschitz. Proofs of convergence use
it only for x = theta_k, y = theta_{k+1}; there it can be measured, also for a network with kinks. The same constants
are held against the step: a kink crossed in one step can need an L that the Hessian at the iterates does not show.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np
import torch

from tameopt.analysis import Answer, Context
from tameopt.audit.symptoms.history import History
from tameopt.evidence import Cost, Finding, Scope, measured, refuted, unknown
from tameopt.training_mode import only_in_training

CLAIM = "descent.inequality"
STEP = "step.below_1_over_L"
STABLE = "step.stable"
_PAIRS = 45  # our choice: a few in each recorded window, half a second on digits


def analyse(context: Context) -> Answer:
    """descent.inequality: the least L that serves the recorded pairs looked at."""
    begun = time.perf_counter()
    assert context.run is not None
    pairs = _pairs(context.run.vector_steps())
    if not pairs:
        finding = unknown(
            CLAIM,
            "No two consecutive iterates were recorded.",
            missing="theta at consecutive steps",
            remedy="tameopt train records windows of them",
            scope=Scope.PATH,
        )
        return Answer((finding,))
    found = [_constant(context, *pair) for pair in pairs]
    measured_pairs = [one for one in found if one is not None]
    findings = (_inequality(measured_pairs), *_steps(context, measured_pairs))
    facts = {"steps": [one.step for one in measured_pairs], "constants": [one.L for one in measured_pairs]}
    return Answer(findings, facts=facts, cost=Cost(1.5 * len(pairs), seconds=time.perf_counter() - begun))


@dataclass(frozen=True)
class _Pair:
    """The constant that the step from theta_k to theta_{k+1} needs, and the rounding error of it."""

    step: int
    L: float
    error: float


def _pairs(steps: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of consecutive recorded steps, evenly chosen among all."""
    starts = [int(k) for k, after in itertools.pairwise(steps) if after == k + 1]
    if len(starts) > _PAIRS:
        starts = [starts[i] for i in np.linspace(0, len(starts) - 1, _PAIRS).astype(int)]
    return [(k, k + 1) for k in starts]


def _constant(context: Context, before: int, after: int) -> _Pair | None:
    problem, run = context.problem, context.run
    assert run is not None
    x, y = (run.vector(step).to(problem.device, problem.dtype) for step in (before, after))
    d = y - x
    square = float(d @ d)
    if not square > 0.0:
        return None
    F_x, g = problem.value_and_gradient(x)
    F_y = float(problem.value(y))
    L = 2.0 * (F_y - float(F_x) - float(g @ d)) / square
    # each of the three numbers carries the rounding of a sum; 8 ulps are ample for pairwise sums of any n
    size = abs(float(F_x)) + abs(F_y) + float(g.norm()) * square**0.5
    error = 2.0 * 8.0 * float(torch.finfo(problem.dtype).eps) * size / square
    return _Pair(before, L, error) if np.isfinite(L) else None


def _clear(pairs: list[_Pair]) -> list[_Pair]:
    """The pairs whose constant is not drowned in rounding (steps of a run that has settled are tiny)."""
    return [one for one in pairs if one.error <= 0.1 * abs(one.L)]


def _inequality(pairs: list[_Pair]) -> Finding:
    if not pairs:
        return unknown(
            CLAIM,
            "The iterates looked at do not move, or F is not finite there.",
            missing="two different consecutive iterates with finite F",
            scope=Scope.PATH,
        )
    clear = _clear(pairs) or pairs
    worst = max(clear, key=lambda one: one.L)
    L = max(worst.L, 0.0)
    return measured(
        CLAIM,
        f"Between consecutive iterates F(y) <= F(x) + <g, y - x> + L/2 norm(y - x)^2 holds with L = {L:.4g} at the "
        f"{len(pairs)} steps looked at.",
        L,
        method=f"F and its gradient at {len(pairs)} pairs of consecutive recorded iterates",
        error_kind="rounding; other steps may need a larger L",
        interval=(L, max(L, max(one.L + one.error for one in clear))),
        scope=Scope.PATH,
        sample_size=len(pairs),
        witness={"worst_step": worst.step},
    )


def _steps(context: Context, pairs: list[_Pair]) -> tuple[Finding, ...]:
    """step.below_1_over_L, and step.stable where gradient descent rose, with the constants the steps needed."""
    assert context.run is not None
    steps, alphas = context.run.series("lr")
    by_step = dict(zip(steps.tolist(), alphas.tolist(), strict=True))
    known = [(one, by_step[one.step]) for one in _clear(pairs) if one.step in by_step]
    if not known:
        missing = "step sizes at recorded pairs of iterates whose distance is above rounding"
        return (unknown(STEP, "Whether the step is below 1/L between iterates is not known.", missing=missing),)
    how = f"the step times the constant of the descent inequality at {len(known)} steps"
    worst, alpha = max(known, key=lambda pair: (pair[0].L - pair[0].error) * pair[1])
    least = alpha * (worst.L - worst.error)
    found = []
    if least >= 1.0:
        words = (
            f"At step {worst.step:,} the descent inequality needs L = {worst.L:.4g}: alpha L = {alpha * worst.L:.3g}"
        )
        witness = {"step": worst.step, "alpha": alpha, "L": worst.L, "alpha_L": alpha * worst.L}
        text = f"{words}, not below 1 (a kink crossed in one step needs more than the Hessian shows)."
        found.append(refuted(STEP, text, witness, method=how, scope=Scope.PATH, estimate=alpha * worst.L))
        if least >= 2.0 and _is_gradient_descent(context):
            text = f"{words}, not below 2: F rose there."
            ratio = alpha * worst.L / 2.0
            found.append(refuted(STABLE, text, witness, method=how, scope=Scope.PATH, estimate=ratio))
        return tuple(found)
    product = max(size * max(one.L, 0.0) for one, size in known)
    return (
        measured(
            STEP,
            f"Between consecutive iterates alpha L is at most {product:.3g} at the {len(known)} steps looked at.",
            product,
            method=how,
            error_kind="lower bound of alpha L: other steps may need more",
            sample_size=len(known),
            scope=Scope.PATH,
        ),
    )


def _is_gradient_descent(context: Context) -> bool:
    """Plain SGD on F and on all data: then F rises over a step exactly when alpha L >= 2 in the inequality."""
    assert context.run is not None
    if any(only_in_training(context.problem)):
        return False
    history = History(context.run)
    optimizer = history.meta.get("optimizer") or {}
    arguments = optimizer.get("arguments") or {}
    plain = not any(arguments.get(name) for name in ("momentum", "weight_decay", "nesterov", "maximize"))
    return history.deterministic and optimizer.get("name") == "SGD" and plain
