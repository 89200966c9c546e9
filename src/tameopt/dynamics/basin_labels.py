"""Basins of attraction of a map: which start goes where, on a grid or a sample, and what lies between basins."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tameopt.dynamics.attractors import attractors_among, polished
from tameopt.dynamics.follow import ELSEWHERE, LEFT, NONE, SLOW, follow
from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.intervals import proportion_interval
from tameopt.dynamics.iterate import Attractor, Map, batched, batched_jacobians, values_at
from tameopt.picture import Image, Picture, Series

_MOVING_SCOUTS = 20  # our choice

_REST = {"none": NONE, "left": LEFT, "elsewhere": ELSEWHERE, "still moving": SLOW}


@dataclass(frozen=True)
class Basins:
    """Where starts go.

    labels: int16, the shape of the grid (first axis first) or (m,) for a sample: the number of an attractor, -1
        for none within the steps, -2 for starts that left, -3 for starts that stand still (to `tolerance` a step) at
        no attractor: a saddle, a family of minima, -4 for starts that would still move after num_steps, ever slower
        (towards x^4, say): they were not waited for.
    attractors: fixed points with the radius in which the map contracts. axes: of the grid, () for a sample.
    """

    labels: torch.Tensor
    attractors: tuple[Attractor, ...]
    axes: tuple[torch.Tensor, ...]
    num_steps: int

    def share(self, number: int) -> float:
        """The share of starts with this label."""
        return float((self.labels == number).double().mean())

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of each attractor, in their order."""
        return tuple(self.share(number) for number in range(len(self.attractors)))

    def interval(self, number: int, confidence: float = 0.95) -> tuple[float, float]:
        """The exact (Clopper-Pearson) interval of a basin's probability, for labels of a random sample.

        Raises ValueError for a grid, whose points are no sample: see `boundary_share` for its resolution.
        """
        if self.axes:
            raise ValueError("an interval needs a random sample, this is a grid: see boundary_share.")
        return proportion_interval(int((self.labels == number).sum()), self.labels.numel(), confidence)

    @property
    def boundary_share(self) -> float:
        """The share of grid cells with a neighbour of another label: how far a share may be off by resolution."""
        if not self.axes:
            raise ValueError("a boundary share needs a grid, this is a sample: see interval.")
        edge = torch.zeros(self.labels.shape, dtype=torch.bool)
        for axis in range(self.labels.ndim):
            n = self.labels.shape[axis]
            differs = self.labels.narrow(axis, 0, n - 1) != self.labels.narrow(axis, 1, n - 1)
            edge.narrow(axis, 0, n - 1).logical_or_(differs)
            edge.narrow(axis, 1, n - 1).logical_or_(differs)
        return float(edge.double().mean())

    def __repr__(self) -> str:
        shares = " ".join(f"{share:.4f}" for share in self.fractions)
        others = "".join(
            f", {name} {self.share(number):.4f}" for name, number in _REST.items() if self.share(number) > 0
        )
        return f"Basins({len(self.attractors)} attractors: {shares or 'none'}{others})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{number}</td><td>{share:.4f}</td><td>{html.escape(str(attractor.point.tolist()))}</td></tr>"
            for number, (share, attractor) in enumerate(zip(self.fractions, self.attractors, strict=True))
        )
        return f"<p>{html.escape(repr(self))}</p><table><tr><th>basin<th>share<th>attractor</tr>{rows}</table>"

    def _counted(self, words: str, number: int) -> str:
        """A label of no basin as a legend names it: one start on a saddle is one dot among thousands."""
        count = int((self.labels == number).sum())
        return f"{words} ({count:,} start{'s' * (count != 1)})" if count else words

    def picture(self, title: str = "Basins of attraction") -> Picture:
        """The basins of a two-dimensional grid, thinned to at most 250 points an axis.

        Raises ValueError unless the grid has two axes.
        """
        if len(self.axes) != 2:
            raise ValueError(f"a picture needs a grid with two axes, this has {len(self.axes)}.")
        strides = [max(1, -(-axis.numel() // 250)) for axis in self.axes]
        thin = self.labels[:: strides[0], :: strides[1]]
        names = (
            *(f"to ({a.point[0]:.3g}, {a.point[1]:.3g})" for a in self.attractors),
            *(self._counted(words, number) for words, number in _REST.items()),
        )
        count = len(self.attractors)
        codes = torch.where(thin >= 0, thin, count - 1 - thin).double()
        image = Image(
            x=tuple(self.axes[0][:: strides[0]].tolist()),
            y=tuple(self.axes[1][:: strides[1]].tolist()),
            z=tuple(tuple(row) for row in codes.T.tolist()),
            label="goes to",
            categorical=names,
        )
        points = Series.of(
            "attractors",
            [float(a.point[0]) for a in self.attractors],
            [float(a.point[1]) for a in self.attractors],
            "points",
        )
        return Picture(
            name="basins",
            title=title,
            x_label="theta_1",
            y_label="theta_2",
            series=(points,) if self.attractors else (),
            image=image,
            caption="Each start is coloured by where the iterates go.",
        )


def basins(
    T: GradientMap | Map,
    grid: Sequence[Sequence[float] | torch.Tensor] | torch.Tensor,
    *,
    attractors: Sequence[Attractor] | None = None,
    num_steps: int = 20_000,
    tolerance: float = 1e-10,
    escape: float = 1e6,
    scouts: int = 100,
    generator: torch.Generator | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> Basins:
    """Which attractor each start goes to under x -> T(x).

    T: a GradientMap, or any map of a (d,) tensor to a (d,) tensor that torch.func can batch. grid: d axes, the
    starts being their product; or a tensor (m, d) of starts. attractors: found from `scouts` starts when None.
    A start is labelled when it comes within an attractor's radius of contraction; num_steps is how long to wait. Not
    waited for is one that would be moving at no attractor even then: its steps shrink steadily like a power of k
    towards a place where T does not contract, or (up to 8 parameters) T brings no two points farther apart wherever
    steps of the present length could lead.

    Accuracy: contraction was sampled, not proved. Cost: a gradient of F a start and step, until it is labelled.
    Raises ValueError on a bad grid, num_steps < 1 or tolerance < 0.

    >>> F = lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2
    >>> axis = torch.linspace(-1, 1, 40, dtype=torch.float64)
    >>> basins(GradientMap(F, 0.2), (axis, axis))
    Basins(2 attractors: 0.5000 0.5000)
    """
    if num_steps < 1 or not tolerance >= 0:
        raise ValueError(f"num_steps must be at least 1 and tolerance >= 0, got {num_steps} and {tolerance}.")
    starts, axes, shape = _starts(grid)
    generator = generator or torch.Generator().manual_seed(0)
    if isinstance(T, GradientMap):
        starts = starts.to(T.problem(starts[0]).device, T.problem(starts[0]).dtype)
    probe = starts[torch.linspace(0, starts.shape[0] - 1, min(16, starts.shape[0])).long()]
    step, slopes = batched(T, probe), batched_jacobians(T, probe) if probe.shape[1] <= 8 else None
    inside = _has_values(T, starts)
    if attractors is None:
        drawn = torch.randperm(int(inside.sum()), generator=generator)[:scouts]
        where, ends = follow(
            step,
            starts[inside][drawn],
            (),
            num_steps=num_steps,
            tolerance=tolerance,
            escape=escape,
            slopes=slopes,
        )
        still, moving = where == ELSEWHERE, (where == NONE) | (where == SLOW)
        # Newton's method from all scouts takes d Hessian products each: for a handful of those on their way
        candidates = ends[moving.to(ends.device)][:_MOVING_SCOUTS]
        attractors = _ordered(attractors_among(T, step, ends[still.to(ends.device)], candidates, generator))
        notify(f"{len(attractors)} attractors found from {drawn.numel()} starts")
    labels = torch.full((starts.shape[0],), LEFT, dtype=torch.int16)
    where, ends = follow(
        step,
        starts[inside],
        attractors,
        num_steps=num_steps,
        tolerance=tolerance,
        escape=escape,
        slopes=slopes,
        notify=notify,
    )
    labels[inside.cpu()] = torch.where((where >= 0) | _has_values(T, ends).cpu(), where, LEFT)
    return Basins(labels.reshape(shape), tuple(attractors), axes, num_steps)


def _has_values(T: GradientMap | Map, points: torch.Tensor) -> torch.Tensor:
    """(m,) bool: where F is a number; the gradient of a logarithm is one also where the logarithm is not."""
    if not isinstance(T, GradientMap) or not len(points):
        return torch.isfinite(points).all(dim=1)
    return torch.isfinite(values_at(T.F, points))


def _ordered(found: list[Attractor]) -> list[Attractor]:
    """By coordinates, so that numbers do not depend on which scout came first."""
    return sorted(found, key=lambda attractor: [round(number, 6) for number in attractor.point.tolist()])


def _starts(
    grid: Sequence[Sequence[float] | torch.Tensor] | torch.Tensor,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...], tuple[int, ...]]:
    if isinstance(grid, torch.Tensor):
        if grid.ndim != 2 or grid.shape[0] == 0:
            raise ValueError(f"starts must have shape (m, d) with m > 0, got {tuple(grid.shape)}.")
        return grid, (), (grid.shape[0],)
    axes = tuple(torch.as_tensor(axis, dtype=torch.float64) for axis in grid)
    if not axes or any(axis.ndim != 1 or axis.numel() == 0 for axis in axes):
        raise ValueError("a grid must be one non-empty sequence of numbers for each coordinate.")
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), axes, tuple(axis.numel() for axis in axes)


@dataclass(frozen=True)
class Edge:
    """The state on the boundary between two basins that edge tracking approaches.

    point: (d,), the last point, where the map stands still to `residual`; converged when a fixed point (a saddle,
    whose stable manifold is the boundary) is within 1e-3 of it, by Newton's method. gap: how far apart the two
    tracked points, of different basins, were. path: (m, d).
    """

    point: torch.Tensor
    residual: float
    gap: float
    converged: bool
    path: torch.Tensor


def track_edge(
    T: GradientMap | Map,
    first: torch.Tensor,
    second: torch.Tensor,
    attractors: Sequence[Attractor],
    *,
    num_steps: int = 2000,
    gap: float = 1e-7,
    tolerance: float = 1e-6,
) -> Edge:
    """Follow the boundary between the basins of two starts, which go to different attractors.

    The segment between two points is bisected to `gap`, both ends take steps until they are 100 gaps apart, and so
    on: what is left is motion along the boundary (Skufca, Yorke and Eckhardt 2006).

    Raises ValueError when the two starts do not go to two different attractors.
    """
    step = batched(T, torch.stack([first, second]))

    def goes_to(points: torch.Tensor) -> torch.Tensor:
        return follow(step, points, attractors, num_steps=20_000, tolerance=1e-14, escape=1e6)[0]

    pair = torch.stack([first, second])
    ends = goes_to(pair)
    if ends[0] == ends[1] or int(ends.min()) < 0:
        raise ValueError(f"the starts must go to two different attractors, they go to {ends.tolist()}.")
    path = []
    residual, converged = float("inf"), False
    for _ in range(num_steps):
        while float((pair[1] - pair[0]).norm()) > gap:
            middle = (pair[0] + pair[1]) / 2
            where = goes_to(middle[None])[0]
            # a middle of a third basin, or on the edge itself, replaces the second end: some edge stays between
            pair = torch.stack([middle, pair[1]]) if where == ends[0] else torch.stack([pair[0], middle])
            ends = ends if where in (ends[0], ends[1]) else torch.stack([ends[0], where])
        for _ in range(500):
            pair = step(pair)
            if float((pair[1] - pair[0]).norm()) > 100 * gap:
                break
        path.append(pair[0])
        # at a saddle the pair separates at once: it stands still along the boundary
        previous, residual = residual, float((step(pair[:1]) - pair[:1]).norm())
        if residual <= tolerance or (
            len(path) > 5 and abs(previous - residual) <= 1e-3 * residual and residual < 1e-4
        ):
            # with a tiny step any point nearly stands still
            converged = _is_near_fixed(T, pair[0])
            if converged:
                break
    return Edge(pair[0], residual, float((pair[1] - pair[0]).norm()), converged, torch.stack(path))


def _is_near_fixed(T: GradientMap | Map, point: torch.Tensor) -> bool:
    found = polished(T, point)
    return found is not None and float((found - point).norm()) <= 1e-3 * max(1.0, float(point.norm()))
