"""Explicit Runge-Kutta in float64 for many trajectories at once, each with its own step size.

The tableaux are Hairer, Norsett and Wanner's (Dormand-Prince 8(5,3) and 5(4)), read from scipy's public solver
classes; what scipy and torchdiffeq lack is a batch in which a stiff trajectory does not slow the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from tameopt.extras import require

Method = Literal["dop853", "dopri5"]
Field = Callable[[torch.Tensor], torch.Tensor]

_SHRINK, _GROW = 0.2, 10.0  # Hairer, Norsett and Wanner (1993), II.4


@dataclass(frozen=True)
class Tableau:
    """An explicit method with an embedded error estimate and a continuous extension.

    a: (s, s); b: (s,); error: rows of (s+1,) weights; extra: rows of further stages, for the continuous extension
    only; dense: for dop853 (4, s+1+extra) weights of the last coefficients, for dopri5 (s+1, 4).
    safety: what multiplies the step that the error allows. Hairer, Norsett and Wanner take 0.9. Nothing controls the
    error of dop853's continuous extension, so 0.85 costs fewer gradients at equal error in the worst case
    (`benchmarks/flow.py starts`).
    """

    order: int
    a: torch.Tensor
    b: torch.Tensor
    error: torch.Tensor
    extra: torch.Tensor
    dense: torch.Tensor
    is_dop853: bool
    safety: float

    def to(self, device: torch.device) -> Tableau:
        """The same tableau on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("a", "b", "error", "extra", "dense")}
        return replace(self, **moved)


def tableau(method: Method) -> Tableau:
    """The tableau of a method.

    Raises ValueError for another name, MissingExtraError without scipy.
    """
    if method not in ("dop853", "dopri5"):
        raise ValueError(f"method must be 'dop853' or 'dopri5', got {method!r}.")
    integrate = require("scipy.integrate", "the gradient flow")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float64).copy())

    if method == "dop853":
        rk = integrate.DOP853
        error = np.stack([rk.E5, rk.E3])
        return Tableau(8, tensor(rk.A), tensor(rk.B), tensor(error), tensor(rk.A_EXTRA), tensor(rk.D), True, 0.85)
    rk = integrate.RK45
    extra = torch.empty(0, 7, dtype=torch.float64)
    return Tableau(5, tensor(rk.A), tensor(rk.B), tensor(rk.E[None]), extra, tensor(rk.P), False, 0.9)


@dataclass(frozen=True)
class Solution:
    """Trajectories at the asked times.

    states: (m, k, d) float64, NaN after a trajectory stopped. evaluations: (m,) int64, calls of the field a
    trajectory. stopped: (m,) float64, the time up to which it was solved (the last asked time when all is well).
    """

    states: torch.Tensor
    evaluations: torch.Tensor
    stopped: torch.Tensor
    crossings: tuple[Crossing, ...] = ()


@dataclass(frozen=True)
class Crossing:
    """Where an event function changed its sign: trajectory, event, time and (d,) state."""

    trajectory: int
    event: int
    time: float
    state: torch.Tensor


@dataclass(frozen=True)
class Watch:
    """Event functions of a solve.

    values: (m', d) -> (m', E). terminal: (E,) whether a trajectory stops at the event. directions: (E,) +1 counts
    changes from below 0 to above, -1 the converse, 0 both. found: what was crossed, in no order.
    """

    values: Field
    terminal: tuple[bool, ...]
    directions: tuple[int, ...]
    found: list[Crossing]


@dataclass
class _March:
    """The trajectories that are still on their way, compacted: row i is trajectory index[i]."""

    index: torch.Tensor
    t: torch.Tensor
    y: torch.Tensor
    f: torch.Tensor
    h: torch.Tensor
    rejected: torch.Tensor

    def keep(self, mask: torch.Tensor) -> _March:
        if bool(mask.all()):
            return self
        return _March(*(getattr(self, name)[mask] for name in ("index", "t", "y", "f", "h", "rejected")))


def solve(
    field: Field,
    y0: torch.Tensor,
    times: torch.Tensor,
    tolerance: float,
    method: Method,
    max_evaluations: int,
    watch: Watch | None = None,
) -> Solution:
    """Solve y' = field(y) from y0: (m, d) at times: (m, k) increasing, times[:, 0] being the start.

    field: (m', d) -> (m', d) for any number of rows. tolerance: on the norm of the local error, relative to
    max(1, norm(y)). A trajectory stops where its values are not finite, its step underflows, or it has used
    `max_evaluations`, or at a terminal event; the others go on. Events are located on the continuous extension to
    1e-14 of a step; two sign changes within one step are not seen.
    """
    scheme = tableau(method).to(y0.device)
    m, k = times.shape
    states = torch.full((m, k, y0.shape[1]), torch.nan, dtype=torch.float64, device=y0.device)
    states[:, 0] = y0
    evaluations = torch.zeros(m, dtype=torch.int64)
    stopped = times[:, 0].clone()
    end = times[:, -1]
    f0 = field(y0)
    evaluations += 1
    march = _March(
        torch.arange(m, device=y0.device), times[:, 0].clone(), y0.clone(), f0,
        _first_step(field, y0, f0, end - times[:, 0], scheme.order, tolerance, evaluations),
        torch.zeros(m, dtype=torch.bool, device=y0.device),
    )  # fmt: skip
    march = march.keep(torch.isfinite(f0).all(1) & (end > times[:, 0]))
    while march.index.numel():
        march = _advance(field, march, times, states, evaluations, stopped, scheme, tolerance, max_evaluations, watch)
    return Solution(states, evaluations, stopped, tuple(watch.found) if watch is not None else ())


def _part(mask: torch.Tensor, rows: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """The rows of the mask along a dimension; nothing is copied where it holds everywhere."""
    if bool(mask.all()):
        return rows
    return rows[mask] if dim == 0 else rows[:, mask]


def _norm(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _scale(y: torch.Tensor, tolerance: float) -> torch.Tensor:
    return tolerance * _norm(y).clamp(min=1.0)


def _first_step(
    field: Field, y: torch.Tensor, f: torch.Tensor, span: torch.Tensor, order: int, tolerance: float,
    evaluations: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """(m,) a first step per trajectory: Hairer, Norsett and Wanner (1993), II.4, for the norm used here."""
    scale = _scale(y, tolerance)
    d0, d1 = _norm(y) / scale, _norm(f) / scale
    h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), torch.full_like(d0, 1e-6), 0.01 * d0 / d1)
    h0 = torch.minimum(h0, span)
    h0 = torch.where(torch.isfinite(h0), h0, torch.full_like(h0, 1e-6))
    f1 = field(y + h0[:, None] * f)
    evaluations += 1
    d2 = _norm(f1 - f) / scale / h0.clamp(min=1e-300)
    top = torch.maximum(d1, d2)
    h1 = torch.where(top <= 1e-15, (h0 * 1e-3).clamp(min=1e-6), (0.01 / top) ** (1.0 / order))
    h1 = torch.where(torch.isfinite(h1), h1, h0)
    return torch.minimum(torch.minimum(100.0 * h0, h1), span).clamp(min=1e-300)


def _advance(
    field: Field, march: _March, times: torch.Tensor, states: torch.Tensor, evaluations: torch.Tensor,
    stopped: torch.Tensor, scheme: Tableau, tolerance: float, max_evaluations: int, watch: Watch | None,
) -> _March:  # fmt: skip
    """One attempted step of every trajectory on its way; outputs are written into `states`."""
    end = times[march.index, -1]
    remaining = end - march.t
    last = march.h >= remaining * (1 - 1e-12)
    h = torch.where(last, remaining, march.h)
    stages, y_new = _stages(field, march, h, scheme)
    host_index = march.index.cpu()
    evaluations[host_index] += scheme.b.numel()
    error = _error(stages, h, scheme) / torch.maximum(_scale(march.y, tolerance), _scale(y_new, tolerance))
    finite = torch.isfinite(error) & torch.isfinite(y_new).all(1)
    accept = finite & (error <= 1.0)
    factor = torch.where(
        error == 0,
        torch.full_like(error, _GROW),
        (scheme.safety * error ** (-1.0 / scheme.order)).clamp(_SHRINK, _GROW),
    )
    factor = torch.where(finite, factor, torch.full_like(factor, _SHRINK))
    factor = torch.where(march.rejected & accept, factor.clamp(max=1.0), factor)
    t_new = torch.where(last, end, march.t + h)
    if bool(accept.any()):
        _write_outputs(
            field, march.keep(accept), h[accept], t_new[accept], _part(accept, stages, 1), _part(accept, y_new),
            times, states, evaluations, scheme,
        )  # fmt: skip
    ended = torch.zeros_like(accept)
    if watch is not None and bool(accept.any()):
        ended[accept] = _watch(
            field, march.keep(accept), h[accept], _part(accept, stages, 1), _part(accept, y_new), times, states,
            evaluations, stopped, scheme, watch,
        )  # fmt: skip
    where = accept[:, None]
    following = _March(
        march.index,
        torch.where(accept, t_new, march.t),
        torch.where(where, y_new, march.y),
        torch.where(where, stages[-1], march.f),
        h * factor,
        ~accept,
    )
    stopped[march.index] = torch.where(ended, stopped[march.index], following.t)
    done = accept & last
    # below this the step no longer moves t in float64
    underflow = ~accept & (following.h <= 4e-16 * torch.maximum(following.t.abs(), end.abs() * 1e-3))
    spent = (evaluations[host_index] >= max_evaluations).to(done.device)
    return following.keep(~(done | underflow | spent | ended))


def _watch(
    field: Field, march: _March, h: torch.Tensor, stages: torch.Tensor, y_new: torch.Tensor, times: torch.Tensor,
    states: torch.Tensor, evaluations: torch.Tensor, stopped: torch.Tensor, scheme: Tableau, watch: Watch,
) -> torch.Tensor:  # fmt: skip
    """Record the events inside the accepted steps; (m,) bool: trajectories that end at one."""
    before, after = watch.values(march.y), watch.values(y_new)
    directions = torch.tensor(watch.directions, device=h.device)
    rising, falling = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
    crossed = (rising & (directions >= 0)) | (falling & (directions <= 0))
    ended = torch.zeros(h.shape[0], dtype=torch.bool, device=h.device)
    if not bool(crossed.any()):
        return ended
    rows = crossed.any(1).nonzero()[:, 0]
    part = march.keep(crossed.any(1))
    coefficients = _continuous(field, part, h[rows], y_new[rows], stages[:, rows], scheme)
    evaluations[part.index.cpu()] += scheme.extra.shape[0]
    for place, row in enumerate(rows.tolist()):
        located = []
        for event in crossed[row].nonzero()[:, 0].tolist():
            low, high = 0.0, 1.0
            for _ in range(47):  # 2^-47 of the step
                middle = 0.5 * (low + high)
                state = _state_at(part, coefficients, place, middle, scheme)
                same = bool(torch.sign(watch.values(state[None])[0, event]) == torch.sign(before[row, event]))
                low, high = (middle, high) if same else (low, middle)
            located.append((high, event))
        for share, event in sorted(located):
            state = _state_at(part, coefficients, place, share, scheme)
            trajectory, t = int(part.index[place]), float(part.t[place] + share * h[row])
            watch.found.append(Crossing(trajectory, event, t, state))
            if watch.terminal[event]:
                ended[row] = True
                stopped[trajectory] = t
                states[trajectory, times[trajectory] > t] = torch.nan
                break
    return ended


def _state_at(march: _March, coefficients: torch.Tensor, place: int, share: float, scheme: Tableau) -> torch.Tensor:
    x = torch.full((1, 1), share, dtype=torch.float64, device=march.y.device)
    return march.y[place] + _interpolated(coefficients, torch.tensor([place], device=x.device), x, scheme)[0]


def _combined(weights: torch.Tensor, stages: torch.Tensor) -> torch.Tensor:
    """(m, d) the weighted sum of (s, m, d) stages."""
    count = weights.numel()
    return (weights @ stages[:count].view(count, -1)).view(stages.shape[1:])


def _stages(field: Field, march: _March, h: torch.Tensor, scheme: Tableau) -> tuple[torch.Tensor, torch.Tensor]:
    """(s+1, m, d) the stages, the last one at the new point, and (m, d) the new point."""
    s = scheme.b.numel()
    stages = torch.empty(s + 1, *march.y.shape, dtype=torch.float64, device=march.y.device)
    stages[0] = march.f
    step = h[:, None]
    for i in range(1, s):
        stages[i] = field(torch.addcmul(march.y, step, _combined(scheme.a[i, :i], stages)))
    y_new = torch.addcmul(march.y, step, _combined(scheme.b, stages))
    stages[s] = field(y_new)
    return stages, y_new


def _error(stages: torch.Tensor, h: torch.Tensor, scheme: Tableau) -> torch.Tensor:
    """(m,) the norm of the estimated local error."""
    first = _norm(_combined(scheme.error[0], stages))
    if not scheme.is_dop853:
        return h * first
    third = _norm(_combined(scheme.error[1], stages))
    size = torch.sqrt(first**2 + 0.01 * third**2)
    return torch.where(size == 0, size, h * first**2 / size.clamp(min=1e-300))


def _write_outputs(
    field: Field, march: _March, h: torch.Tensor, t_new: torch.Tensor, stages: torch.Tensor, y_new: torch.Tensor,
    times: torch.Tensor, states: torch.Tensor, evaluations: torch.Tensor, scheme: Tableau,
) -> None:  # fmt: skip
    """Write the asked times that lie in (t, t_new] of the accepted steps."""
    asked = times[march.index]
    at_end = asked == t_new[:, None]
    row, column = at_end.nonzero(as_tuple=True)
    states[march.index[row], column] = y_new[row]
    inside = (asked > march.t[:, None]) & (asked < t_new[:, None])
    some = inside.any(1)
    if not bool(some.any()):
        return
    # only the trajectories with an output inside the step pay for the continuous extension
    part, step, end, slopes = march.keep(some), h[some], _part(some, y_new), _part(some, stages, 1)
    coefficients = _continuous(field, part, step, end, slopes, scheme)
    evaluations[part.index.cpu()] += scheme.extra.shape[0]
    row, column = inside[some].nonzero(as_tuple=True)
    x = ((asked[some][row, column] - part.t[row]) / step[row])[:, None]
    states[part.index[row], column] = _interpolated(coefficients, row, x, scheme) + part.y[row]


def _continuous(
    field: Field, march: _March, h: torch.Tensor, y_new: torch.Tensor, stages: torch.Tensor, scheme: Tableau
) -> torch.Tensor:
    """(7, m, d) or (4, m, d): the coefficients of the continuous extension."""
    step = h[:, None]
    if not scheme.is_dop853:
        return step * torch.einsum("ij,imd->jmd", scheme.dense, stages)
    full = torch.cat([stages, torch.empty(scheme.extra.shape[0], *march.y.shape, dtype=torch.float64).to(stages)])
    for number, weights in enumerate(scheme.extra):
        count = stages.shape[0] + number
        full[count] = field(march.y + step * _combined(weights[:count], full))
    change = y_new - march.y
    f_old, f_new = stages[0], stages[-1]
    return torch.cat(
        [
            change[None],
            (step * f_old - change)[None],
            (2 * change - step * (f_new + f_old))[None],
            step * torch.tensordot(scheme.dense, full, dims=1),
        ]
    )


def _interpolated(coefficients: torch.Tensor, row: torch.Tensor, x: torch.Tensor, scheme: Tableau) -> torch.Tensor:
    """(p, d) y(t + x h) - y(t) of the trajectories row: (p,), at x: (p, 1) in (0, 1); (7 or 4, m, d) coefficients."""
    # from the last coefficient to the first; for dop853 Hairer's nested form, alternately times x and times 1 - x
    factors = (x, 1 - x) if scheme.is_dop853 else (x, x)
    total = coefficients[-1, row] * x
    for number in range(1, coefficients.shape[0]):
        total.add_(coefficients[-1 - number, row]).mul_(factors[number % 2])
    return total
