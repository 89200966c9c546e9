"""The interpolated process w of a run: affine between the iterates, on the time axis tau_k = sum of the steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tameopt.noise._display import HtmlText
from tameopt.noise.windows import Window, read_window, recorded_alphas, spans
from tameopt.run import Run


@dataclass(frozen=True)
class Interpolated(HtmlText):
    """w(t) over the recorded stretches of consecutive iterates.

    starts: (s,) the time tau at which each stretch begins; windows: the stretches.
    """

    starts: tuple[float, ...]
    windows: tuple[Window, ...]

    @property
    def intervals(self) -> tuple[tuple[float, float], ...]:
        """The times covered, one interval a stretch."""
        return tuple(
            (start, start + float(window.times[-1])) for start, window in zip(self.starts, self.windows, strict=True)
        )

    def __repr__(self) -> str:
        covered = ", ".join(f"[{low:.4g}, {high:.4g}]" for low, high in self.intervals)
        return f"Interpolated(t in {covered})"

    def __call__(self, t: float) -> torch.Tensor:
        """(d,) w(t), exact up to rounding.

        Raises ValueError for a time that no recorded stretch covers.
        """
        for (first, last), window in zip(self.intervals, self.windows, strict=True):
            if first <= t <= last:
                times = window.times
                k = int(np.clip(np.searchsorted(times, t - first, side="right") - 1, 0, window.alphas.size - 1))
                share = float((t - first - times[k]) / window.alphas[k])
                return torch.lerp(window.thetas[k], window.thetas[k + 1], share)
        covered = ", ".join(f"[{first:.6g}, {last:.6g}]" for first, last in self.intervals)
        raise ValueError(f"t must be in a recorded stretch, {covered}, got {t:.6g}: record theta at more steps.")


def interpolate(run: Run) -> Interpolated:
    """The interpolated process of a run, from its consecutive recorded iterates.

    Raises ValueError when none, or their step sizes, were recorded, saying what to record.
    """
    stretches = spans(run, least=2)
    if not stretches:
        raise ValueError(
            f"{run.path.name} has no consecutive iterates: record theta at windows of consecutive steps "
            "(run.save_block('theta', steps, rows)); tame.audit(problem) does."
        )
    starts, windows = [], []
    for first, last in stretches:
        window = read_window(run, first, last)
        before = recorded_alphas(run, np.arange(first)) if first else np.zeros(0)
        if window is None or before is None:
            raise ValueError(
                f"the step sizes of {run.path.name} must be recorded from step 0 on, they are not: record 'lr' at "
                "every step, or the schedule."
            )
        starts.append(float(before.sum()))
        windows.append(window)
    return Interpolated(tuple(starts), tuple(windows))
