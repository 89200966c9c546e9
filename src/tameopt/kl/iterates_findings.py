"""What the record of a run says about its iterates: bounded, of finite length, convergent."""

from __future__ import annotations

import numpy as np
import torch

from tameopt.evidence import Finding, Scope, measured, unknown
from tameopt.kl.fit import Fit
from tameopt.kl.gradient_law import GradientLaw
from tameopt.kl.path import PathLength, doubling_ratios, saved_thetas
from tameopt.run import Run


def iterates_findings(run: Run, fit: Fit, law: GradientLaw | None, length: PathLength | None) -> list[Finding]:
    """iterates.bounded, iterates.finite_length, iterates.converge."""
    grid, thetas = saved_thetas(run)
    if grid.size < 8 or not bool(torch.isfinite(thetas).all()):
        what = "saved thetas are not finite" if grid.size >= 8 else f"theta was saved {grid.size} times"
        return [
            unknown(claim, f"The iterates' path cannot be judged: {what}.", missing="8 or more finite saved thetas")
            for claim in ("iterates.bounded", "iterates.finite_length", "iterates.converge")
        ]
    return [_bounded(grid, thetas), _finite_length(length), _converge(grid, thetas, fit, law, length)]


def _bounded(grid: np.ndarray, thetas: torch.Tensor) -> Finding:
    norms = torch.linalg.vector_norm(thetas, dim=1).numpy()
    largest = np.maximum.accumulate(norms)
    ratios = doubling_ratios(grid.astype(np.float64), largest, int(grid[0]))
    text = f"largest norm so far {largest[-1]:.4g} (at the start {norms[0]:.4g})"
    if len(ratios) >= 2 and max(ratios[:2]) < 0.8:
        return measured(
            "iterates.bounded",
            f"The iterates look bounded: {text}, and each doubling of time adds less than the one before.",
            float(largest[-1]),
            method="growth of the largest norm over the last two doublings of time",
            error_kind="largest recorded; no bound beyond the record",
            scope=Scope.RUN,
            sample_size=int(grid.size),
        )
    return unknown(
        "iterates.bounded",
        f"The iterates' norm still grows: {text}; the last doublings of time added {_words(ratios)} of the one "
        "before.",
        missing="a norm whose growth slows down (a creep like log k is not bounded)",
        remedy="train longer, or add weight decay, which bounds the sublevel sets",
        scope=Scope.RUN,
    )


def _finite_length(length: PathLength | None) -> Finding:
    claim = "iterates.finite_length"
    if length is None or len(length.ratios) < 2:
        return unknown(
            claim, "The path is too short a record to judge its length.", missing="at least 16 saved thetas"
        )
    kind = "exact" if length.exact else "chords between saved thetas, a lower bound"
    if length.looks_finite:
        return measured(
            claim,
            f"The path is {length.total:.4g} long so far ({kind}) and looks finite: the last doublings of time added "
            f"{_words(length.ratios)} of the one before.",
            length.total,
            method=f"length by doublings of time; {kind}",
            error_kind="length of the record; the rest is extrapolated",
            scope=Scope.RUN,
            sample_size=int(length.steps.size),
        )
    return unknown(
        claim,
        f"The path is {length.total:.4g} long so far ({kind}) and does not slow down enough to end: the last "
        f"doublings of time added {_words(length.ratios)} of the one before.",
        missing="a length whose increments over doublings of time shrink (ratio below 0.8)",
        remedy="train longer; with noise, let the steps go to 0",
        scope=Scope.RUN,
    )


def _words(ratios: tuple[float, ...]) -> str:
    return " and ".join(f"{ratio:.2g}x" for ratio in ratios[:2]) or "an unknown share"


def _converge(
    grid: np.ndarray, thetas: torch.Tensor, fit: Fit, law: GradientLaw | None, length: PathLength | None
) -> Finding:
    claim = "iterates.converge"
    last_tenth = thetas[np.searchsorted(grid, grid[-1] - 0.1 * (grid[-1] - grid[0])) :]
    moved = float(torch.linalg.vector_norm(last_tenth[-1] - last_tenth[0]))
    slows = length is not None and length.looks_finite
    # An exponent of 1 or more has no desingularising power, and finite length does not follow.
    flat = law is not None and law.usable and law.theta_interval[1] >= 1.0
    if slows and not flat and fit.regime in ("linear", "sublinear", "at rest"):
        return measured(
            claim,
            f"The iterates settle: they moved {moved:.3g} in the last tenth of the run, and less with each doubling "
            "of time.",
            moved,
            method=f"length by doublings of time, with a {fit.regime} decay of F",
            error_kind="distance within the record; the rest is extrapolated",
            scope=Scope.RUN,
            sample_size=int(grid.size),
        )
    if flat:
        why = f"the gradient vanishes like (F - F*)^{law.theta:.2f}, too fast for a path of finite length"  # type: ignore[union-attr]
    elif not slows:
        why = "their path does not slow down enough to end"
    else:
        why = f"the loss shows no decided decay ({fit.regime}: {fit.reason})"
    return unknown(
        claim,
        f"The iterates moved {moved:.3g} in the last tenth of the run; whether they converge is open: {why}.",
        missing=why,
        remedy="train longer, at a step that goes to 0 if there is noise",
        scope=Scope.RUN,
    )
