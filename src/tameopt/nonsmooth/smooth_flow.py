"""The subgradient flow between kinks by numerical integration: smooth pieces that are neither linear nor quadratic.

On a piece every kink is replaced by the side it is on, so that the field is smooth beyond the kink as well: no stage
of a step sees a jump. A leg ends at the zero of a kink's input z, found on the dense output of DOP853. With n = grad
z and g+, g- the gradients of F on both sides there, the field on each side either leaves z = 0 or runs into it: it is
crossed when the other side goes on, and slid along, v = -(least-norm element of the hull of g+ and g-), when both run
into it; a slide ends when one side turns. Nothing else is claimed: a start on a kink, two kinks at once, a touch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.nonsmooth._lemma_checker import MOVES, SMOOTH
from tameopt.nonsmooth.graph import Graph, Step
from tameopt.nonsmooth.operators import KINKS
from tameopt.nonsmooth.polytope import Point
from tameopt.nonsmooth.trajectory import Event, Inclusion

Array = np.ndarray
Site = tuple[str, int]  # a step, and an entry of it

_TOLERANCES = (1e-11, 1e-13)  # of the two integrations, relative and absolute: our choice
_AGREE = 1e-8  # they and the energy identity must hold this well, relative to the numbers: our choice
_SLANT = 1e-6  # a kink met at a smaller slant, relative to the gradients, is a touch: our choice
_LOOKS = 4  # a step between its ends, for a kink that is met twice within one step: our choice
_NEAR = 1e-8  # at an event every other kink's input must be larger: our choice, two kinks at once are not covered
_MOST_KINKS = 64  # our choice
_MOST_GRADIENTS = 5_000  # of one leg: our choice, beyond it the flow is stiff or long
_MOST_SPEED = 1e50  # beyond it the curve leaves every bound, or the field is not a number
_PAIRS = ("aten.maximum.default", "aten.minimum.default")
_KINKED = ("aten.abs.default", "aten.relu.default", *_PAIRS)


class _Unknown(Exception):
    """Not covered here."""


def _input(step: Step, args: Sequence[Any]) -> torch.Tensor:
    difference = args[0] - args[1] if step.op in _PAIRS else args[0]
    return torch.as_tensor(difference)


def _on_side(step: Step, args: Sequence[Any], sides: torch.Tensor) -> torch.Tensor:
    """The result of a kink with its sides kept: smooth."""
    if step.op in _PAIRS:
        a, b = torch.broadcast_tensors(*args)
        return torch.where((sides > 0) == (step.op == _PAIRS[0]), a, b)
    return args[0] * (sides if step.op == _KINKED[0] else (sides > 0))


@dataclass
class _Pieces:
    """F with every kink on a given side."""

    graph: Graph
    sides: dict[str, torch.Tensor]

    @staticmethod
    def at(graph: Graph, x: Array) -> _Pieces:
        for step in graph:
            whole = step.op == "aten.pow.Tensor_Scalar" and step.args[1] in range(1, 1000)
            scaled = step.op == "aten.div.Tensor" and not _reads_theta(graph, step.args[1])
            smooth = (step.op in SMOOTH or step.op in MOVES or whole or scaled) and step.op not in (
                *KINKS,
                "aten._to_copy.default",
            )
            if step.depends and not (smooth or step.op in (*_KINKED, "parameter")):
                raise _Unknown
        found: dict[str, torch.Tensor] = {}

        def visit(step: Step, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
            if step.op in _KINKED:
                found[step.name] = torch.sign(_input(step, args).detach())

        graph.run({"theta": torch.from_numpy(x)}, [], visit)
        if sum(sides.numel() for sides in found.values()) > _MOST_KINKS:
            raise _Unknown
        if any(bool((sides == 0).any()) for sides in found.values()):
            raise _Unknown
        return _Pieces(graph, found)

    def evaluate(self, x: Array) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """x, F and the inputs of all kinks at x."""
        inputs: dict[str, torch.Tensor] = {}

        def replace(step: Step, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if step.op not in _KINKED:
                return NotImplemented
            inputs[step.name] = _input(step, args)
            return _on_side(step, args, self.sides[step.name])

        theta = torch.from_numpy(np.array(x, dtype=float)).requires_grad_()
        return theta, self.graph.run({"theta": theta}, [], replace=replace).sum(), inputs

    def gradient(self, x: Array) -> Array:
        theta, value, _ = self.evaluate(x)
        return _derivative(value, theta)

    def margins(self, x: Array) -> Array:
        """side * input of every kink: > 0 where the piece is F."""
        with torch.no_grad():
            _, _, inputs = self.evaluate(x)
        parts = [(self.sides[name] * z.detach()).reshape(-1).numpy() for name, z in inputs.items()]
        return np.concatenate(parts) if parts else np.empty(0)

    def normal(self, x: Array, site: Site) -> Array:
        theta, _, inputs = self.evaluate(x)
        return _derivative(inputs[site[0]].reshape(-1)[site[1]], theta)

    def sites(self) -> list[Site]:
        return [(name, k) for name, sides in self.sides.items() for k in range(sides.numel())]

    def turned(self, site: Site, side: float) -> _Pieces:
        """The pieces with one kink on that side."""
        changed = self.sides[site[0]].clone()
        changed.reshape(-1)[site[1]] = side
        return _Pieces(self.graph, {**self.sides, site[0]: changed})


def _derivative(value: torch.Tensor, theta: torch.Tensor) -> Array:
    try:
        return np.asarray(torch.autograd.grad(value, theta)[0].numpy())
    except RuntimeError as error:  # it does not depend on theta after all
        raise _Unknown from error


def _reads_theta(graph: Graph, argument: Any) -> bool:
    return hasattr(argument, "name") and graph.step(argument.name).depends


@dataclass
class _Leg:
    """The law between two events: a piece, or a slide along one kink with its two pieces."""

    pieces: _Pieces
    slide: Site | None = None

    def both(self) -> tuple[_Pieces, _Pieces]:
        assert self.slide is not None
        return self.pieces.turned(self.slide, 1.0), self.pieces.turned(self.slide, -1.0)

    def velocity(self, x: Array) -> Array:
        if self.slide is None:
            return -self.pieces.gradient(x)
        n = self.pieces.normal(x, self.slide)
        g = self.pieces.gradient(x)
        return -(g - n * float(n @ g) / float(n @ n))

    def margins(self, x: Array) -> Array:
        """All > 0 while the law holds: of the other kinks, and for a slide of its two sides, that run into it."""
        margins = self.pieces.margins(x)
        if self.slide is None:
            return margins
        n = self.pieces.normal(x, self.slide)
        own = [float(n @ side.gradient(x)) * sign for side, sign in zip(self.both(), (1, -1), strict=True)]
        margins = np.delete(margins, self.pieces.sites().index(self.slide))
        return np.concatenate([margins, own])

    def next(self, x: Array, which: int) -> _Leg:
        """The law after margin `which` has come to 0 at x."""
        sites = self.pieces.sites()
        met = self.slide if self.slide is not None else sites[which]
        others = np.delete(self.pieces.margins(x), sites.index(met))
        if float(others.min(initial=np.inf)) <= _NEAR:
            raise _Unknown
        if self.slide is not None:
            plus, minus = self.both()
            return _Leg(plus if which == len(sites) - 1 else minus)
        site = met
        side = float(self.pieces.sides[site[0]].reshape(-1)[site[1]])
        n, g = self.pieces.normal(x, site), self.pieces.gradient(x)
        other = self.pieces.turned(site, -side)
        beyond = other.gradient(x)
        speed, ahead = -side * float(n @ g), -side * float(n @ beyond)  # of side * z on the two pieces
        least = _SLANT * float(np.linalg.norm(n)) * max(float(np.linalg.norm(g)), float(np.linalg.norm(beyond)))
        if not (speed < -least and abs(ahead) > least):
            raise _Unknown
        return _Leg(other) if ahead < 0 else _Leg(self.pieces, site)


@dataclass
class _Run:
    points: Array
    events: list[Event]
    slides: list[Site | None]
    energy_defect: float
    chain_rule_defect: float


def smooth_flow(graph: Graph, x0: Point, wanted: Sequence[float], most_events: int) -> Inclusion | None:
    """The solution from x0 at increasing times, integrated twice; None where it is not covered, or they disagree.

    `error` is an estimate: the largest difference of the two, not a bound. Cost: a thousand gradients a leg.
    """
    try:
        start = np.array([float(entry) for entry in x0])
        coarse, fine = (_run(graph, start, [float(t) for t in wanted], tol, most_events) for tol in _TOLERANCES)
    except (_Unknown, ImportError):
        return None
    if coarse.slides != fine.slides:
        return None
    difference = float(np.abs(coarse.points - fine.points).max())
    size = 1 + float(np.abs(fine.points).max()) + abs(float(fine.events[0].value))
    if not max(difference, abs(fine.energy_defect), fine.chain_rule_defect) <= _AGREE * size:
        return None
    return Inclusion(
        np.array([float(t) for t in wanted]),
        fine.points,
        tuple(fine.events),
        "integrated",
        True,
        fine.energy_defect,
        max(difference, _TOLERANCES[1]),
        fine.chain_rule_defect,
    )


def _run(graph: Graph, x: Array, wanted: Sequence[float], tolerance: float, most_events: int) -> _Run:
    leg, now, end = _Leg(_Pieces.at(graph, x)), 0.0, wanted[-1]
    points = np.empty((len(wanted), len(x)))
    run = _Run(points, [], [], 0.0, 0.0)
    spent = 0.0
    first = float(graph.run({"theta": torch.from_numpy(x)}, []).sum())
    while True:
        if len(run.events) >= most_events:
            raise _Unknown
        value = float(graph.run({"theta": torch.from_numpy(x)}, []).sum())
        run.events.append(Event(now, tuple(x.tolist()), tuple(leg.velocity(x).tolist()), value, ()))
        run.slides.append(leg.slide)
        until, after, moved, which, dense = _integrate(leg, now, x, end, tolerance)
        for k, t in enumerate(wanted):
            if now <= t <= until:
                points[k] = x if t == now else dense(t)[:-1]
        spent += moved
        run.chain_rule_defect = max(run.chain_rule_defect, _defect(leg, x), _defect(leg, after))
        now, x = until, after
        if which is None:
            break
        leg = leg.next(x, which)
    run.energy_defect = float(graph.run({"theta": torch.from_numpy(x)}, []).sum()) - first + spent
    return run


def _defect(leg: _Leg, x: Array) -> float:
    v = leg.velocity(x)
    around = [leg.pieces] if leg.slide is None else list(leg.both())
    return max(abs(float(one.gradient(x) @ v) + float(v @ v)) for one in around)


def _integrate(
    leg: _Leg, now: float, x: Array, end: float, tolerance: float
) -> tuple[float, Array, float, int | None, Callable[[float], Array]]:
    """(time, point, integral of the squared velocity, margin that came to 0 or None, the curve) of one leg."""
    from scipy.integrate import solve_ivp

    if now >= end:
        return now, x, 0.0, None, lambda t: np.append(x, 0.0)

    looked = itertools.count(1)

    def field(t: float, state: Array) -> Array:
        if next(looked) > _MOST_GRADIENTS:
            raise _Unknown
        v = leg.velocity(state[:-1])
        if not float(np.abs(v).max()) < _MOST_SPEED:
            raise _Unknown
        return np.append(v, v @ v)

    events = []
    for k in range(len(leg.margins(x))):

        def event(t: float, state: Array, k: int = k) -> float:
            return float(leg.margins(state[:-1])[k])

        event.terminal, event.direction = True, -1  # type: ignore[attr-defined]
        events.append(event)
    found = solve_ivp(
        field, (now, end), np.append(x, 0.0), method="DOP853", rtol=tolerance, atol=tolerance,
        dense_output=True, events=events,
    )  # fmt: skip
    if not found.success or not np.isfinite(found.y).all():
        raise _Unknown
    hit = [k for k, times in enumerate(found.t_events) if len(times)]
    if len(hit) > 1:
        raise _Unknown
    ends = found.t
    looks = [t for a, b in itertools.pairwise(ends) for t in np.linspace(a, b, _LOOKS, endpoint=False)[1:]]
    size = 1e-9 * (1 + float(np.abs(found.y[:-1]).max()))
    if events and any(float(leg.margins(found.sol(t)[:-1]).min(initial=0.0)) < -size for t in looks):
        raise _Unknown
    last = found.y[:, -1]
    return float(ends[-1]), last[:-1].copy(), float(last[-1]), hit[0] if hit else None, found.sol
