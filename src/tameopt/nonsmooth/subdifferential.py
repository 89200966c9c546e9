"""The four subdifferentials of the lecture at a point: convex, Frechet, limiting and Clarke, as exact sets.

F is traced, its kinks at x are enumerated (`fan`), and the sets are written down:
Clarke is the hull of the gradients of the cells; Frechet the intersection over cells C of (g_C + polar of C); the
limiting one the union of the Frechet ones over the faces of the fan; the convex one is Clarke's where F is convex.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch.utils._pytree import tree_flatten

from tameopt.batches import size_of
from tameopt.nonsmooth.fan import Cone, Fan, faces, fan_of, generators, independent, refined, split
from tameopt.nonsmooth.germ import Circuit, Entry
from tameopt.nonsmooth.germ_operators import germ
from tameopt.nonsmooth.graph import Graph, trace_function
from tameopt.nonsmooth.kinks import form_of
from tameopt.nonsmooth.min_norm import MinNorm
from tameopt.nonsmooth.polytope import Point, Polytope, rational_point
from tameopt.nonsmooth.zonotope import Zonotope
from tameopt.picture import Picture, Series
from tameopt.problem import Problem

Kind = Literal["convex", "frechet", "limiting", "clarke"]
KINDS: tuple[Kind, ...] = ("convex", "frechet", "limiting", "clarke")
_ENUMERATED = 12  # independent kinks up to which the 2^m vertices are written out: our choice


@dataclass(frozen=True)
class Local:
    """F near x to first order: its germ, and the fan once it is asked for."""

    circuit: Circuit
    entry: Entry
    x: Point

    @property
    def kinks(self) -> int:
        """The number of active kinks."""
        return len(self.circuit.forms)

    @property
    def exact_kinks(self) -> bool:
        """Every kink is exactly piecewise linear near x, so that the cells of the first-order form are F's own."""
        return not any(self.circuit.curved)

    @property
    def piecewise_linear(self) -> bool:
        """F itself is exactly piecewise linear near x."""
        return self.exact_kinks and not self.entry.curved

    @property
    def flat(self) -> bool:
        """No kink lies inside another."""
        m = self.kinks
        return not any(any(split(form, self.circuit.dim, m)[1]) for form in self.circuit.forms)

    @property
    def weights(self) -> list[Fraction]:
        """The coefficients of abs(z_k) in F."""
        return split(self.entry.form, self.circuit.dim, self.kinks)[1]

    @property
    def regular(self) -> int:
        """+1 when F is smooth + sum c_k abs(z_k) with all c_k >= 0 (Clarke regular), -1 when -F is, else 0."""
        if not self.flat:
            return 0
        return 1 if all(c >= 0 for c in self.weights) else -1 if all(c <= 0 for c in self.weights) else 0


def local_form(F: Callable[[torch.Tensor], torch.Tensor], x: Any) -> Local:
    """The exact first-order form of F: (d,) tensor -> scalar at x: (d,), numbers, Fractions or a tensor.

    Raises TraceError when F branches on values, GermError for an operator or a point outside the calculus.
    """
    point = rational_point(x)
    if not point:
        raise ValueError("x must have at least one entry, got none.")
    sample = torch.tensor([float(entry) for entry in point], dtype=torch.float64)
    graph = trace_function(F, sample)
    circuit = Circuit(len(point))
    theta = np.empty(len(point), dtype=object)
    theta[:] = [circuit.variable(j, value) for j, value in enumerate(point)]
    return Local(circuit, germ(graph, {"theta": theta}, [], circuit), point)


def local_form_of_problem(problem: Problem, theta: torch.Tensor, graphs: Mapping[Any, Graph]) -> Local:
    """The exact first-order form of F = scale * sum over batches at theta: (d,); for small problems.

    Cost: one exact forward pass, some microseconds for each multiplication. Raises GermError as `local_form`.
    """
    point = rational_point(theta)
    circuit = Circuit(len(point))
    flat = np.empty(len(point), dtype=object)
    flat[:] = [circuit.variable(j, value) for j, value in enumerate(point)]
    parameters, start = {}, 0
    for key, shape in problem.shapes.items():
        size = math.prod(shape)
        parameters[key] = flat[start : start + size].reshape(shape)
        start += size
    total = circuit.constant(0)
    for batch in problem.batches if not problem.is_function else [()]:
        leaves = tree_flatten(batch)[0]
        loss = germ(graphs[form_of(batch)], parameters, leaves, circuit)
        count = 1 if problem.is_function or problem.reduction == "sum" else size_of(batch)
        total = total + loss.scaled(Fraction(count))
    return Local(circuit, total.scaled(1 / Fraction(1 if problem.reduction == "sum" else problem.n)), point)


def clarke_of_local(local: Local, *, most_cells: int = 2_000) -> Subdifferential:
    """The Clarke subdifferential of a first-order form."""
    return _of_local(local, "clarke", False, most_cells)


@dataclass(frozen=True)
class Subdifferential:
    """One of the four sets at x.

    pieces: convex polytopes whose union it is (one for convex, Frechet and Clarke; none when it is empty).
    zonotope: the Clarke set of many independent kinks, which is not written out by vertices.
    status: "exact"; "inner_bound" (every element is one, some may be missing); "outer_bound" (convex kind only:
        every element of the set is in it, not all of it need be); reason: why it is not exact.
    kinks: the number of active kinks at x.
    """

    kind: Kind
    pieces: tuple[Polytope, ...]
    status: str
    reason: str
    kinks: int
    dim: int
    rational: bool
    zonotope: Zonotope | None = None

    @property
    def empty(self) -> bool:
        """Whether the set is empty."""
        return not self.pieces and self.zonotope is None

    @property
    def vertices(self) -> np.ndarray:
        """(m, d) the vertices: exact Fractions when x was rational, else float64.

        Raises ValueError for a zonotope of too many kinks to write out.
        """
        if self.zonotope is not None:
            return self.zonotope.vertices()
        corners = sorted({corner for piece in self.pieces for corner in piece.corners})
        if self.rational:
            array = np.empty((len(corners), self.dim), dtype=object)
            for i, corner in enumerate(corners):
                array[i] = corner
            return array
        return np.array([[float(entry) for entry in corner] for corner in corners]).reshape(-1, self.dim)

    def contains(self, g: Any, tolerance: float = 0.0) -> bool:
        """Whether g: (d,) is in the set; exactly with tolerance 0 (for a zonotope up to 1e-9 of its size)."""
        if self.zonotope is not None:
            return self.zonotope.distance(g) <= max(tolerance, 1e-9 * self.zonotope.size)
        return any(piece.contains(g, tolerance) for piece in self.pieces)

    def distance(self, g: Any) -> float:
        """The Euclidean distance from g: (d,) to the set; inf when it is empty."""
        if self.zonotope is not None:
            return self.zonotope.distance(g)
        return min((piece.distance(g) for piece in self.pieces), default=math.inf)

    def support(self, direction: Any) -> float:
        """max <v, direction> over the set; -inf when it is empty."""
        if self.zonotope is not None:
            return self.zonotope.support(direction)
        return float(max((piece.support(direction) for piece in self.pieces), default=-math.inf))

    def min_norm(self) -> MinNorm:
        """The least-norm element. Raises ValueError when the set is empty."""
        if self.zonotope is not None:
            return self.zonotope.min_norm()
        if not self.pieces:
            raise ValueError(f"the {self.kind} subdifferential is empty here: it has no least-norm element.")
        return min((piece.min_norm() for piece in self.pieces), key=lambda solution: solution.distance)

    def hausdorff(self, other: Subdifferential) -> float:
        """The Hausdorff distance to another one; both must be single polytopes or empty."""
        if len(self.pieces) > 1 or len(other.pieces) > 1 or self.zonotope or other.zonotope:
            raise ValueError("the Hausdorff distance is computed between convex polytopes only.")
        if self.empty or other.empty:
            return 0.0 if self.empty and other.empty else math.inf
        return self.pieces[0].hausdorff(other.pieces[0])

    def picture(self) -> Picture:
        """The set in the plane, d = 2. Raises ValueError in other dimensions."""
        if self.dim != 2:
            raise ValueError(f"a picture needs d = 2, got d = {self.dim}.")
        outlines = [_outline(piece.vertices) for piece in self.pieces]
        series = [
            Series.of(self.kind, loop[:, 0].tolist(), loop[:, 1].tolist(), "line" if len(loop) > 1 else "points")
            for loop in outlines
        ]
        origin = Series.of("0", [0.0], [0.0], "points")
        title = f"{self.kind} subdifferential" + (" (empty)" if self.empty else "")
        return Picture(f"subdifferential-{self.kind}", title, "v_1", "v_2", (*series, origin))

    def plot(self, ax: Any = None) -> Any:
        """Draw the set in the plane on matplotlib axes; returns the axes. d = 2."""
        if self.dim != 2:
            raise ValueError(f"a plot needs d = 2, got d = {self.dim}.")
        if ax is None:
            from tameopt.extras import require

            ax = require("matplotlib.figure", "a plot").Figure(figsize=(4, 4)).add_subplot()
        for piece in self.pieces:
            loop = _outline(piece.vertices)
            ax.plot(loop[:, 0], loop[:, 1], "o-", color="C0")
            if len(loop) > 3:
                ax.fill(loop[:, 0], loop[:, 1], alpha=0.2, color="C0")
        ax.plot([0], [0], "k+")
        ax.set_title(f"{self.kind}" + (": empty" if self.empty else ""))
        return ax

    def __repr__(self) -> str:
        if self.empty:
            return f"Subdifferential({self.kind}, empty, {self.status})"
        if self.zonotope is not None:
            return f"Subdifferential({self.kind}, zonotope of {self.kinks} kinks in R^{self.dim}, {self.status})"
        count = len({corner for piece in self.pieces for corner in piece.corners})
        return f"Subdifferential({self.kind}, {count} vertices in R^{self.dim}, {self.kinks} kinks, {self.status})"


def _outline(vertices: np.ndarray) -> np.ndarray:
    """The vertices of a polygon in order, closed."""
    if len(vertices) < 3:
        return vertices
    around = vertices - vertices.mean(0)
    order = np.argsort(np.arctan2(around[:, 1], around[:, 0]))
    return vertices[np.append(order, order[0])]


def subdifferential(
    F: Callable[[torch.Tensor], torch.Tensor], x: Any, kind: Kind = "clarke", *, most_cells: int = 20_000
) -> Subdifferential:
    """The subdifferential of F: (d,) tensor -> scalar at x: (d,).

    F is built from piecewise-smooth operators (abs, relu and its family, max, min, sort, top-k, max-pool, norms,
    clamp, where, and smooth ones). Exact for piecewise linear F; for others exact or a stated bound. Rational x
    (ints, Fractions) gives rational vertices.

    Cost: one small feasibility problem for each cell and kink. Raises TraceError, GermError (an operator or point
    outside the calculus, such as sqrt at 0) or TooManyKinks, each saying what to do.

    >>> subdifferential(lambda x: -x.abs().sum(), [0], "limiting").vertices.tolist()
    [[Fraction(-1, 1)], [Fraction(1, 1)]]
    >>> subdifferential(lambda x: -x.abs().sum(), [0], "frechet").empty
    True
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    local = local_form(F, x)
    rational = not isinstance(x, torch.Tensor) and all(isinstance(entry, (int, Fraction)) for entry in x)
    return _of_local(local, kind, rational, most_cells)


def all_subdifferentials(
    F: Callable[[torch.Tensor], torch.Tensor], x: Any, *, most_cells: int = 20_000
) -> dict[str, Subdifferential]:
    """The four sets side by side, by kind."""
    return {kind: subdifferential(F, x, kind, most_cells=most_cells) for kind in KINDS}


def _of_local(local: Local, kind: Kind, rational: bool, most_cells: int) -> Subdifferential:
    d = len(local.x)

    def result(pieces: Sequence[Sequence[Point]], status: str, reason: str) -> Subdifferential:
        polytopes = tuple(Polytope.hull(piece, d) for piece in pieces if piece)
        return Subdifferential(kind, polytopes, status, reason, local.kinks, d, rational)

    if kind == "clarke":
        status, reason = _clarke_status(local)
        if local.kinks > _ENUMERATED and local.flat and (independent(local.circuit) or local.regular):
            zonotope = _zonotope(local)
            return Subdifferential(kind, (), status, reason, local.kinks, d, rational, zonotope)
        fan = fan_of(local.circuit, local.entry, most_cells=most_cells)
        if status != "exact" and _outer_is_inner(local, fan):
            status, reason = "exact", ""
        if local.regular and status == "exact" and not independent(local.circuit):
            return result([_zonotope(local).corners()], status, reason)
        return result([fan.gradients], status, reason)
    fan = fan_of(local.circuit, local.entry, most_cells=most_cells)
    if kind == "limiting":
        if not local.piecewise_linear:
            why = "F is not piecewise linear near x: only the limits of gradients are listed"
            smooth = local.kinks == 0
            return result([[g] for g in fan.gradients], "exact" if smooth else "inner_bound", "" if smooth else why)
        return result(_limiting(fan), "exact", "")
    frechet = _frechet(fan)
    if kind == "frechet":
        return result([frechet], "exact", "")
    if not frechet:
        return result([], "exact", "")
    if local.entry.shape in ("affine", "convex") or (not local.circuit.resolved and local.piecewise_linear):
        # convex: local and global lower tangents agree; homogeneous around x: every scale looks the same
        return result([frechet], "exact", "")
    why = "F is not known to be convex: a global lower tangent is a local one, the converse is not decided"
    return result([frechet], "outer_bound", why)


def _clarke_status(local: Local) -> tuple[str, str]:
    if local.exact_kinks or independent(local.circuit) or local.regular:
        return "exact", ""
    return "inner_bound", "kinks are curved and their gradients dependent: thin cells may be missed"


def _zonotope(local: Local) -> Zonotope:
    m, d = local.kinks, local.circuit.dim
    centre, weights = split(local.entry.form, d, m)
    rows = [split(form, d, m)[0] for form in local.circuit.forms]
    generators_ = [[abs(c) * entry for entry in row] for c, row in zip(weights, rows, strict=True) if c]
    return Zonotope.of(centre, generators_)


def _outer_is_inner(local: Local, fan: Fan) -> bool:
    """Whether even the hull over all sign patterns is the hull of the cells found: then nothing is missing."""
    m, d = local.kinks, local.circuit.dim
    if m > 10:
        return False
    linear, nested = zip(*(split(form, d, m) for form in local.circuit.forms), strict=True)
    smooth, outer = split(local.entry.form, d, m)
    inner = Polytope.hull(fan.gradients, d)
    for pattern in range(2**m):
        signs = [1 if pattern >> k & 1 else -1 for k in range(m)]
        slopes: list[list[Fraction]] = []
        for k in range(m):
            a = list(linear[k])
            for j in range(k):
                weight = nested[k][j] * signs[j]
                a = [p + weight * q for p, q in zip(a, slopes[j], strict=True)]
            slopes.append(a)
        g = list(smooth)
        for c, sign, a in zip(outer, signs, slopes, strict=True):
            g = [p + c * sign * q for p, q in zip(g, a, strict=True)]
        if not inner.contains(g):
            return False
    return True


def _inequalities(cones: Sequence[tuple[Sequence[Any], Sequence[Fraction]]]) -> tuple[list[Any], list[Fraction]]:
    """<u, r> <= <u_C, r> for every generator r of every cone C."""
    rows, bounds = [], []
    seen = set()
    for rays, u in cones:
        for ray in rays:
            bound = sum((Fraction(a) * b for a, b in zip(ray, u, strict=True)), Fraction(0))
            if (ray, bound) not in seen:
                seen.add((ray, bound))
                rows.append([Fraction(entry) for entry in ray])
                bounds.append(bound)
    return rows, bounds


def _vertices(fan: Fan, cones: Sequence[tuple[Sequence[Any], Sequence[Fraction]]]) -> list[Point]:
    from tameopt.nonsmooth.cones import polyhedron_vertices

    if fan.dim == 0:
        return [fan.lifted(())]
    return [fan.lifted(u) for u in polyhedron_vertices(*_inequalities(cones))]


def _frechet(fan: Fan) -> list[Point]:
    return _vertices(fan, [(generators(cell.rows, fan.dim), cell.u) for cell in fan.cells])


def _limiting(fan: Fan) -> list[list[Point]]:
    """The Frechet sets at a point of every face, without those inside another."""
    if fan.dim == 0:
        return [[fan.lifted(())]]
    planes, cones = refined(fan)
    pieces: list[Polytope] = []
    for signs, point in faces(planes, cones, fan.dim):
        around: list[Cone] = [
            cone for cone in cones if all(s in (0, t) for s, t in zip(signs, cone.signs, strict=True))
        ]
        back = tuple(-entry for entry in point)
        local = [((*cone.rays, back) if any(point) else cone.rays, cone.u) for cone in around]
        corners = _vertices(fan, local)
        if corners:
            pieces.append(Polytope.hull(corners, len(corners[0])))
    kept: list[Polytope] = []
    for piece in sorted(set(pieces), key=lambda piece: -len(piece.corners)):
        if not any(all(other.contains(corner) for corner in piece.corners) for other in kept):
            kept.append(piece)
    return [list(piece.corners) for piece in kept]
