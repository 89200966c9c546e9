"""Do random starts end at saddles? A Monte-Carlo count with exact intervals.

The theorem (Lee, Simchowitz, Jordan and Recht 2016; the lecture's Morse case) says that gradient descent with
alpha < 1/L from a random start converges to a *strict* saddle with probability 0. It says nothing of non-strict
ones: x^2/2 + y^3/3 draws half of the square to its saddle. So the two are counted apart, and nothing is called
avoided that was only not looked for.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tameopt.curvature.classification import Classification, classify
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.intervals import proportion_interval
from tameopt.dynamics.iterate import Map, batched, settle, values_at
from tameopt.problem import Problem

# our choice: after so many ends that go to no critical point the rest are not examined, and count as unsettled
_MAX_FAILURES = 20
_VALLEY_STEPS = 12  # our choice: steps of half of 1/L into a valley that bends away from its tangent

ENDS = ("minimum", "strict saddle", "non-strict saddle", "maximum", "degenerate", "left", "unsettled")


@dataclass(frozen=True)
class Avoidance:
    """Where random starts ended.

    counts: starts by end, a name of ENDS. "non-strict saddle": a degenerate critical point next to which lower
        values of F were found; "degenerate": one where none was found. "unsettled": still moving, and approaching
        nothing that could be classified, or next to a strict saddle and already on its way from it.
    limits: the distinct limit points met, classified, with their counts. starts: how many. confidence: of the
    intervals.
    """

    counts: dict[str, int]
    limits: tuple[tuple[Classification, int], ...]
    starts: int
    confidence: float

    def interval(self, end: str) -> tuple[float, float]:
        """The exact (Clopper-Pearson) interval of an end's probability; a start that is unsettled may go there."""
        count, still_open = self.counts.get(end, 0), self.counts.get("unsettled", 0) if end != "unsettled" else 0
        return (
            proportion_interval(count, self.starts, self.confidence)[0],
            proportion_interval(count + still_open, self.starts, self.confidence)[1],
        )

    @property
    def statement(self) -> str:
        """One honest sentence."""
        strict, other = self.counts.get("strict saddle", 0), self.counts.get("non-strict saddle", 0)
        open_ends = self.counts.get("unsettled", 0)
        percent = f"{100 * self.confidence:g}%"
        if other:
            low, high = self.interval("non-strict saddle")
            return (
                f"{other:,} of {self.starts:,} starts went to a non-strict saddle (probability {low:.3f} to "
                f"{high:.3f}, {percent}): saddles are not avoided here, and no theorem says they are."
            )
        if strict:
            low, high = self.interval("strict saddle")
            return (
                f"{strict:,} of {self.starts:,} starts went to a strict saddle (probability {low:.2g} to {high:.2g}, "
                f"{percent}): with a random start that should not happen; is the start on its stable manifold?"
            )
        # what is open may be anything: it counts against avoidance
        high = proportion_interval(open_ends, self.starts, self.confidence)[1]
        rest = f", {open_ends:,} did not settle" if open_ends else ""
        left = self.counts.get("left", 0)
        if left:
            rest += f", {left:,} went to infinity or out of where F is a number"
        flat = self.counts.get("degenerate", 0)
        if flat:
            # a saddle may hide its lower values in a cusp: what was not found is no proof of a minimum
            rest += f", {flat:,} went to degenerate points next to which no lower value was found (of no proven kind)"
        kind = "a strict saddle" if flat else "a saddle"
        return (
            f"None of {self.starts:,} starts went to {kind}{rest}: its probability is below {high:.2g} ({percent})."
        )

    def __repr__(self) -> str:
        return f"Avoidance({self.statement})"

    def _repr_html_(self) -> str:
        intervals = {end: self.interval(end) for end in self.counts}
        rows = "".join(
            f"<tr><td>{end}</td><td>{self.counts[end]}</td><td>{low:.4g} to {high:.4g}</td></tr>"
            for end, (low, high) in intervals.items()
        )
        return f"<p>{html.escape(self.statement)}</p><table><tr><th>end<th>starts<th>probability</tr>{rows}</table>"


def saddle_avoidance(
    F: Problem | Callable[[torch.Tensor], torch.Tensor],
    alpha: float,
    draw: Callable[[int, torch.Generator], torch.Tensor],
    *,
    starts: int = 1000,
    num_steps: int = 5000,
    tolerance: float = 1e-9,
    escape: float = 1e6,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
) -> Avoidance:
    """Run gradient descent from random starts and count where they end.

    F: a Problem or a function of a (d,) tensor. alpha: step, > 0. draw(m, generator) -> (m, d) starts from a law
    with a density. A start that still moves after num_steps is assigned to the critical point that it approaches,
    if its distance shrank by a quarter or more over the last half of the steps.

    Small d: each distinct limit is classified by its full Hessian. Raises ValueError on bad starts.

    >>> F = lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2
    >>> def uniform(m, generator):
    ...     return 2 * torch.rand(m, 2, generator=generator, dtype=torch.float64) - 1
    >>> saddle_avoidance(F, 0.2, uniform, starts=200).counts
    {'minimum': 200}
    """
    generator = generator or torch.Generator().manual_seed(0)
    points = draw(starts, generator)
    if points.ndim != 2 or points.shape[0] != starts:
        raise ValueError(f"draw(m, generator) must return (m, d) starts, got {tuple(points.shape)} for m={starts}.")
    T = GradientMap(F, alpha)
    problem = T.problem(points[0])
    step = batched(T, points[: min(16, starts)])
    halfway, still, left = settle(step, points, num_steps // 2, tolerance, escape)
    ends, still, left = settle(step, halfway, num_steps - num_steps // 2, tolerance, escape)
    left |= ~torch.isfinite(values_at(problem, ends))  # the gradient of log is a number where log is none
    limits: list[Classification] = []
    tally: Counter[int] = Counter()
    counts: Counter[str] = Counter()
    failures = 0
    for place in range(starts):
        if bool(left[place]):
            counts["left"] += 1
            continue
        number = _known_limit(halfway[place], ends[place], bool(still[place]), limits)
        if number is None and failures < _MAX_FAILURES:
            number = _new_limit(problem, halfway[place], ends[place], bool(still[place]), limits)
            failures += number is None
        if number is None or _is_leaving(T, ends[place], limits[number]):
            counts["unsettled"] += 1
            continue
        tally[number] += 1
    for number, limit in enumerate(limits):
        counts[_end_of(problem, limit, generator)] += tally[number]
    ordered = {end: counts[end] for end in ENDS if counts[end]}
    return Avoidance(
        ordered, tuple((limit, tally[number]) for number, limit in enumerate(limits)), starts, confidence
    )


def _known_limit(halfway: torch.Tensor, end: torch.Tensor, still: bool, limits: list[Classification]) -> int | None:
    """The number of the limit among the known ones that a trajectory goes to."""
    for number, known in enumerate(limits):
        if _approaches(halfway, end, known.theta, still):
            return number
    return None


def _new_limit(
    problem: Problem, halfway: torch.Tensor, end: torch.Tensor, still: bool, limits: list[Classification]
) -> int | None:
    """The critical point next to the end of a trajectory, classified and appended, if the trajectory goes there."""
    theta = _polish(problem, end)
    if not _approaches(halfway, end, theta, still):
        return None
    found = classify(problem, theta, gradient_tolerance=1e-6)
    if found.kind in ("not critical", "undecided"):
        return None
    limits.append(found)
    return len(limits) - 1


def _approaches(halfway: torch.Tensor, end: torch.Tensor, limit: torch.Tensor, still: bool) -> bool:
    size = max(1.0, float(end.norm()))
    now, before = float((end - limit).norm()), float((halfway - limit).norm())
    if now <= 1e-5 * size:
        return True
    # sublinear convergence halves the distance in twice the steps (order 1/k), or shrinks it by 2^-1/2 (1/sqrt k)
    return not still and now <= 0.05 * size and now <= 0.75 * before


def _polish(problem: Problem, theta: torch.Tensor) -> torch.Tensor:
    """Levenberg-Marquardt on the gradient from theta, which also settles at degenerate points."""
    damping = 1e-3
    g = problem.gradient(theta)
    for _ in range(60):
        values, basis = torch.linalg.eigh(problem.hessian(theta).dense())
        size = float(values.abs().max().clamp_min(1e-300))
        if float(g.norm()) <= 1e-14 * size:
            break
        move = basis @ (values * (basis.T @ g) / (values**2 + damping * float(g.norm()) * size))
        trial = theta - move
        trial_g = problem.gradient(trial)
        if float(trial_g.norm()) < float(g.norm()):
            theta, g, damping = trial, trial_g, damping * 0.1
        else:
            damping *= 10
        if damping > 1e12:
            break
    return theta


def _end_of(problem: Problem, limit: Classification, generator: torch.Generator) -> str:
    """The name of an end; at a degenerate point lower values of F nearby show that it is no minimum."""
    if limit.kind != "degenerate":
        return limit.kind
    kernel = limit.spectrum.vectors[:, limit.eigenvalues.abs() <= 1e-5 * max(limit.spectrum.norm, 1e-300)]
    if kernel.shape[1] == 0:
        return "degenerate"
    # more than rounding of F: our choice of a factor
    resolved = 1e-13 * max(1.0, abs(limit.value))
    step = 0.5 / max(limit.spectrum.norm, 1e-300)
    descend = batched(GradientMap(problem, step), limit.theta[None])
    for radius in (1e-3, 1e-2, 1e-1):
        drawn = torch.randn(kernel.shape[1], 32, generator=generator, dtype=torch.float64).to(kernel)
        moves = radius * (kernel @ (drawn / drawn.norm(dim=0))).T
        rise = _least_rise(problem, limit, torch.cat([moves, -moves]), descend)
        if rise < -resolved:
            return "non-strict saddle"
        if rise > resolved:
            return "degenerate"  # F is higher all round: lower values farther off belong to another basin
    return "degenerate"


def _least_rise(problem: Problem, limit: Classification, moves: torch.Tensor, descend: Map) -> float:
    """The least of F at theta + moves: (m, d), less F at theta, also after some gradient steps that stay near.

    The steps find the valley of (y - x^2)^2 + x^5, along which F falls although it rises on every line.
    """
    points, reach = limit.theta + moves, 2 * float(moves.norm(dim=1).max())
    least = math.inf
    for _ in range(_VALLEY_STEPS + 1):
        near = points[(points - limit.theta).norm(dim=1) <= reach]
        if not len(near):
            break
        least = min(least, float(values_at(problem, near).min()) - limit.value)
        points = descend(near)
    return least


def _is_leaving(T: GradientMap, end: torch.Tensor, limit: Classification) -> bool:
    """Whether a trajectory next to a saddle moves away from it in its directions of negative or no curvature.

    It has not left yet, but it will: too few steps were done. On the stable manifold that part shrinks, down to
    rounding. An eigenvalue of -1e-6 passes for none, and shows here.
    """
    if limit.kind not in ("strict saddle", "degenerate"):
        return False
    flat = 1e-5 * max(limit.spectrum.norm, 1e-300) if limit.kind == "degenerate" else 0.0
    down = limit.spectrum.vectors[:, limit.eigenvalues < flat].to(end)
    now = float((down.T @ (end - limit.theta)).norm())
    after = float((down.T @ (T(end) - limit.theta)).norm())
    if limit.kind == "strict saddle":
        return after >= now > 1e-14 * max(1.0, float(end.norm()))
    # at rest in a family of minima nothing moves but by rounding
    return after - now > 8 * torch.finfo(end.dtype).eps * float(end.abs().max())
