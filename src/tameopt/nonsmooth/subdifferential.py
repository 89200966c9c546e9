"""The four subdifferentials of the lecture at a point: convex, Frechet, limiting and Clarke, as exact sets.

F is traced, its kinks at x are enumerated (`fan`), and the sets are written down:
Clarke is the hull of the gradients of the cells; Frechet the intersection over cells C of (g_C + polar of C); the
limiting one the union of the Frechet ones over the faces of the fan; the convex one is Clarke's where F is convex.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch

from tameopt.nonsmooth.ball_sum import BallSum
from tameopt.nonsmooth.fan import Cone, Fan, faces, fan_of, generators, independent, refined, split
from tameopt.nonsmooth.germ import GermError
from tameopt.nonsmooth.local_form import Local, local_form
from tameopt.nonsmooth.min_norm import MinNorm
from tameopt.nonsmooth.polytope import Point, Polytope
from tameopt.nonsmooth.thin_cells import patterns
from tameopt.nonsmooth.zonotope import Zonotope
from tameopt.picture import Picture, Series

Kind = Literal["convex", "frechet", "limiting", "clarke"]
KINDS: tuple[Kind, ...] = ("convex", "frechet", "limiting", "clarke")
_ENUMERATED = 12  # independent kinks up to which the 2^m vertices are written out: our choice
_THIN = 8  # curved kinks up to which all 2^m sign patterns are decided: our choice


def clarke_of_local(local: Local, *, most_cells: int = 2_000) -> Subdifferential:
    """The Clarke subdifferential of a first-order form."""
    return _of_local(local, "clarke", False, most_cells)


@dataclass(frozen=True)
class Subdifferential:
    """One of the four sets at x.

    pieces: convex polytopes whose union it is (one for convex, Frechet and Clarke; none when it is empty).
    zonotope: the set where it is not written out by vertices: a `Zonotope` of many independent kinks, or a `BallSum`
        for a 2-norm at 0.
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
    zonotope: Zonotope | BallSum | None = None

    @property
    def empty(self) -> bool:
        """Whether the set is empty."""
        return not self.pieces and self.zonotope is None

    @property
    def vertices(self) -> np.ndarray:
        """(m, d) the vertices: exact Fractions when x was rational, else float64.

        Raises ValueError for a zonotope of too many kinks to write out, and for a round set.
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
        outlines = self._outlines()
        series = [
            Series.of(self.kind, loop[:, 0].tolist(), loop[:, 1].tolist(), "line" if len(loop) > 1 else "points")
            for loop in outlines
        ]
        origin = Series.of("0", [0.0], [0.0], "points")
        title = f"{self.kind} subdifferential" + (" (empty)" if self.empty else "")
        return Picture(f"subdifferential-{self.kind}", title, "v_1", "v_2", (*series, origin))

    def _outlines(self) -> list[np.ndarray]:
        if isinstance(self.zonotope, BallSum):
            return [_outline(self.zonotope.outline())]
        if self.zonotope is not None:
            return [_outline(self.zonotope.vertices())]
        return [_outline(piece.vertices) for piece in self.pieces]

    def plot(self, ax: Any = None) -> Any:
        """Draw the set in the plane on matplotlib axes; returns the axes. d = 2."""
        if self.dim != 2:
            raise ValueError(f"a plot needs d = 2, got d = {self.dim}.")
        if ax is None:
            from tameopt.extras import require

            ax = require("matplotlib.figure", "a plot").Figure(figsize=(4, 4)).add_subplot()
        for loop in self._outlines():
            ax.plot(loop[:, 0], loop[:, 1], "-" if self.zonotope is not None else "o-", color="C0")
            if len(loop) > 3:
                ax.fill(loop[:, 0], loop[:, 1], alpha=0.2, color="C0")
        ax.plot([0], [0], "k+")
        ax.set_title(f"{self.kind}" + (": empty" if self.empty else ""))
        return ax

    def __repr__(self) -> str:
        if self.empty:
            return f"Subdifferential({self.kind}, empty, {self.status})"
        if self.zonotope is not None:
            words = f"zonotope of {self.kinks} kinks" if isinstance(self.zonotope, Zonotope) else "sum of balls"
            return f"Subdifferential({self.kind}, {words} in R^{self.dim}, {self.status})"
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
    if any(key < 0 for key in local.entry.form):
        return _with_norms(local, kind)

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
        if status != "exact" and local.flat and local.kinks <= _THIN and local.circuit.second_order:
            occurring, undecided = patterns(local.circuit)
            inner = Polytope.hull([_pattern_gradient(local, signs) for signs in occurring], d)
            if all(inner.contains(_pattern_gradient(local, signs)) for signs in undecided):
                status, reason = "exact", ""
            return result([inner.corners], status, reason)
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


def _pattern_gradient(local: Local, signs: Sequence[int]) -> Point:
    """The limit of gradients over points where kink k has sign signs[k]; kinks not inside one another."""
    m, d = local.kinks, local.circuit.dim
    g, weights = split(local.entry.form, d, m)
    for c, sign, form in zip(weights, signs, local.circuit.forms, strict=True):
        g = [p + c * sign * q for p, q in zip(g, split(form, d, m)[0], strict=True)]
    return tuple(g)


def _with_norms(local: Local, kind: Kind) -> Subdifferential:
    """F = smooth + sum b_i norm(A_i h) + sum c_k abs(z_k) near x.

    With b, c >= 0 it is Clarke regular, and three sets are one; a single -norm has the ball as its Clarke set too.
    """
    d, form = local.circuit.dim, local.entry.form
    factors = {-1 - key: value for key, value in form.items() if key < 0}
    weights = local.weights
    regular = local.flat and all(b > 0 for b in factors.values()) and all(c >= 0 for c in weights)
    alone = len(factors) == 1 and not any(weights)
    if not (regular or (alone and kind == "clarke")):
        raise GermError(
            f"2-norms at 0 together with kinks of other signs: the {kind} set is neither a polytope nor a sum of "
            "balls. Ask for goldstein(...), which samples."
        )
    balls = tuple(
        abs(float(b)) * np.array([[float(row.get(j, 0)) for j in range(d)] for row in local.circuit.norms[i]])
        for i, b in factors.items()
    )
    flat = _zonotope(local)
    found = BallSum(flat.centre, balls, flat.generators)
    convex = kind != "convex" or local.entry.shape in ("affine", "convex")
    why = "" if convex else "F is not known to be convex: a global lower tangent is a local one, not conversely"
    status = "exact" if convex else "outer_bound"
    return Subdifferential(kind, (), status, why, local.kinks + len(balls), d, False, found)


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
