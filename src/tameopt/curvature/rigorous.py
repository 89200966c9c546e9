"""Proofs about critical points of small problems: one point, or all of them in a box.

What is proved is a statement about F as a tape (`tape.py`): the real function that the model's operators define,
with the model's and data's doubles taken exactly. `point_checker` replays every proof.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt.curvature import point_checker
from tameopt.curvature.boxes import box_of, sampled
from tameopt.curvature.index_picture import index_picture, kinds_in_words
from tameopt.curvature.tape import NotOnTapeError, Tape, proof_tape
from tameopt.evidence import Certificate, Verdict
from tameopt.picture import Picture
from tameopt.problem import Problem

_HERE = "tameopt.curvature.point_checker:"
# our choice: d^3 interval operations a Hessian; beyond this a proof takes minutes
MAX_DIM = 30
# our choice: halvings one inside the other; 50 a coordinate reach the precision of doubles
_DEEPEST = 250


@dataclass(frozen=True)
class PointProof:
    """What is proved about one point.

    statement: in words. kind: as in `classify`. index, nullity: of the critical point, None for "not critical".
    center: (d,) the critical point, to within `radius` in each coordinate (0: exactly). distance: from theta to
    the centre. certificate: what the checker replays.
    """

    statement: str
    kind: str
    index: int | None
    nullity: int | None
    center: torch.Tensor
    radius: float
    distance: float
    certificate: Certificate


@dataclass(frozen=True)
class NoProof:
    """Why nothing could be proved."""

    reason: str


def kind_of(index: int, nullity: int, dim: int) -> str:
    """The kind of a critical point with this inertia; a negative direction makes a strict saddle.

    >>> kind_of(0, 1, 3), kind_of(1, 1, 3), kind_of(3, 0, 3)
    ('degenerate', 'strict saddle', 'maximum')
    """
    if index == dim:
        return "maximum"
    if index > 0:
        return "strict saddle"
    return "minimum" if nullity == 0 else "degenerate"


def prove_point(problem: Problem, theta: torch.Tensor | None = None) -> PointProof | NoProof:
    """A proof about theta: the unique critical point near it with its index, or that it is not critical.

    A degenerate critical point is proved only where its coordinates are exact doubles (0, 1, 0.5, …) and F is
    rational there; a non-degenerate one wherever Newton's method settles in double precision.

    Raises nothing: what stands in the way is the reason of `NoProof`. Cost: some interval Hessians on the tape,
    milliseconds for functions of two variables, seconds for networks of some 20 parameters.

    >>> F = lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2
    >>> prove_point(Problem.from_function(F, torch.tensor([1e-9, 1.0], dtype=torch.float64))).kind
    'minimum'
    """
    if problem.dim > MAX_DIM:
        return NoProof(f"d = {problem.dim:,}: proofs are for d up to {MAX_DIM}")
    exact = problem if problem.dtype == torch.float64 else problem.to(torch.float64)
    at = (exact.theta if theta is None else theta).double().cpu()
    if not bool(torch.isfinite(at).all()):
        return NoProof("theta is not finite")
    try:
        tape = proof_tape(exact, at)
    except NotOnTapeError as error:
        return NoProof(str(error))
    return (
        _exact(exact, tape, at)
        or _isolated(exact, tape, at)
        or _not_critical(exact, tape, at)
        or NoProof("neither a critical point near theta nor a gradient component away from 0 could be enclosed")
    )


def _hex(numbers: torch.Tensor) -> list[Any]:
    values = numbers.tolist()
    if numbers.ndim == 1:
        return [float(number).hex() for number in values]
    return [[float(number).hex() for number in row] for row in values]


def _dense(problem: Problem, at: torch.Tensor) -> torch.Tensor:
    return problem.hessian(at.to(problem.device)).dense().cpu()


def _size(at: torch.Tensor) -> float:
    return max(1.0, float(at.abs().max()))


def _exact(problem: Problem, tape: Tape, at: torch.Tensor) -> PointProof | None:
    """theta itself, or its neighbour with few binary digits, as an exactly critical rational point."""
    for digits in (None, 20, 10):
        center = at if digits is None else torch.round(at * 2.0**digits) / 2.0**digits
        distance = float((center - at).norm())
        if distance > 1e-6 * _size(at) or float(problem.gradient(center).abs().max()) > 1e-12 * _size(at):
            continue
        values = torch.linalg.eigvalsh(_dense(problem, center))
        zero = 1e-9 * max(float(values.abs().max()), 1e-300)
        index, nullity = int((values < -zero).sum()), int((values.abs() <= zero).sum())
        data = {"tape": tape, "center": _hex(center), "index": index, "nullity": nullity}
        certificate = Certificate(_HERE + "check_exact", data)
        if not certificate.replay():
            continue
        kind = kind_of(index, nullity, problem.dim)
        where = "theta" if distance == 0 else f"a point {distance:.1e} from theta"
        statement = (
            f"The gradient at {where} is exactly 0, with index {index} and nullity {nullity}: {_article(kind)}."
        )
        return PointProof(statement, kind, index, nullity, center, 0.0, distance, certificate)
    return None


def _article(kind: str) -> str:
    return {
        "minimum": "a non-degenerate local minimum",
        "maximum": "a non-degenerate local maximum",
        "strict saddle": "a strict saddle",
    }.get(kind, "a degenerate critical point")


def newton(problem: Problem, at: torch.Tensor, steps: int = 20) -> torch.Tensor | None:
    """Newton's method on the gradient to double precision, None when it leaves or meets a singular Hessian."""
    center = at
    for _ in range(steps):
        gradient = problem.gradient(center)
        try:
            step = torch.linalg.solve(_dense(problem, center), gradient)
        except RuntimeError:
            return None
        if not bool(torch.isfinite(step).all()):
            return None
        center = center - step
        if float(step.abs().max()) <= 4e-16 * _size(center):
            break
    return center


def _isolated(problem: Problem, tape: Tape, at: torch.Tensor) -> PointProof | None:
    center = newton(problem, at)
    if center is None:
        return None
    distance = float((center - at).norm())
    # a critical point far from theta says nothing about theta (our choice of what is far)
    if distance > 1e-3 * _size(at):
        return None
    hessian = _dense(problem, center)
    values, vectors = torch.linalg.eigh(hessian)
    if float(values.abs().min()) == 0:
        return None
    inverse = vectors @ torch.diag(1 / values) @ vectors.T
    # a congruence that makes the diagonal +-1 keeps Gershgorin's discs alike
    congruence = vectors @ torch.diag(values.abs().rsqrt())
    index = int((values < 0).sum())
    for exponent in range(-15, -2):
        radius = 10.0**exponent * _size(center)
        data = {
            "tape": tape,
            "center": _hex(center),
            "radius": radius.hex(),
            "preconditioner": _hex(inverse),
            "congruence": _hex(congruence),
            "index": index,
        }
        certificate = Certificate(_HERE + "check_nondegenerate", data)
        if certificate.replay():
            kind = kind_of(index, 0, problem.dim)
            statement = (
                f"Exactly one critical point lies within {radius:.0e} (each coordinate) of a point {distance:.1e} "
                f"from theta; its index is {index}, its Hessian regular: {_article(kind)}."
            )
            return PointProof(statement, kind, index, 0, center, radius, distance, certificate)
    return None


def _not_critical(problem: Problem, tape: Tape, at: torch.Tensor) -> PointProof | None:
    gradient = problem.gradient(at)
    component = int(gradient.abs().argmax())
    certificate = Certificate(
        _HERE + "check_not_critical", {"tape": tape, "center": _hex(at), "component": component}
    )
    if not certificate.replay():
        return None
    slope = float(gradient[component])
    statement = f"The gradient is not 0: its component along {_coordinate(problem, component)} is about {slope:.3g}."
    return PointProof(statement, "not critical", None, None, at, 0.0, 0.0, certificate)


def _coordinate(problem: Problem, number: int) -> str:
    """A coordinate of theta by its parameter: "0.weight[1, 2]", or "theta[3]" where F is a plain function."""
    for name, shape in problem.shapes.items():
        if number < math.prod(shape):
            place = ", ".join(str(int(one)) for one in np.unravel_index(number, shape))
            return f"{'theta' if problem.is_function else name}{f'[{place}]' if shape else ''}"
        number -= math.prod(shape)
    raise IndexError(number)


@dataclass(frozen=True)
class CriticalPoints:
    """All critical points in a box, or what was found before the search stopped (`interrupted`: by Ctrl-C).

    points: (m, d); kinds, indices, values: of each. proofs: one for each point. verdict: PROVED when these are
    provably all, UNKNOWN otherwise; certificate: of completeness. cells: looked at. reason: why not all.
    """

    points: torch.Tensor
    kinds: tuple[str, ...]
    indices: tuple[int, ...]
    values: tuple[float, ...]
    proofs: tuple[PointProof, ...]
    verdict: Verdict
    certificate: Certificate | None
    cells: int
    reason: str = ""
    interrupted: bool = False

    def picture(self) -> Picture:
        """F against the index, a mark for each point."""
        return index_picture(self.kinds, self.indices, self.values)

    def __repr__(self) -> str:
        listed = kinds_in_words(self.kinds)
        return (
            f"CriticalPoints({len(self.kinds)}: {listed}; {self.verdict}{'; ' + self.reason if self.reason else ''})"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{kind}</td><td>{index}</td><td>{value:.6g}</td><td>{html.escape(str(point.tolist()))}</td></tr>"
            for kind, index, value, point in zip(self.kinds, self.indices, self.values, self.points, strict=True)
        )
        return f"<p>{html.escape(repr(self))}</p><table><tr><th>kind<th>index<th>F<th>theta</tr>{rows}</table>"


def critical_points_in_box(
    problem: Problem,
    lower: Sequence[float],
    upper: Sequence[float],
    *,
    max_cells: int = 20_000,
    notify: Callable[[str], None] = lambda message: None,
) -> CriticalPoints:
    """Every critical point of F in a box, with proof that there is no other: branch and bound with intervals.

    lower, upper: d numbers each, lower < upper; d up to 30. max_cells: cells looked at before giving up; a degenerate
    critical point in the box makes the search end there, since no cell around it can be decided.

    Raises ValueError on a bad box, NotOnTapeError when F cannot be replayed. Cost: two interval Hessians a cell;
    for functions of 2 variables some hundred cells, and exponentially more with d (3 or 4 at most).
    """
    exact = problem if problem.dtype == torch.float64 else problem.to(torch.float64)
    corner, width = box_of(exact.dim, lower, upper)
    if exact.dim > MAX_DIM:
        raise ValueError(
            f"all critical points of a box are found for up to {MAX_DIM} parameters, got {exact.dim:,}: "
            "find_critical_points searches without proof."
        )
    low, high = corner.tolist(), [float(number) for number in upper]
    search = _Search(exact, proof_tape(exact, corner + 0.5 * width, *sampled(corner, width, 20)), max_cells, notify)
    try:
        tree, interrupted = search.tree(low, high), False
    except KeyboardInterrupt:
        tree, interrupted = None, True
    found = (prove_point(exact, center) for center in search.found)
    proofs = tuple(proof for proof in found if isinstance(proof, PointProof) and proof.index is not None)
    certificate, reason = None, ""
    if interrupted:
        reason = f"interrupted after {search.cells:,} cells"
    elif tree is None:
        reason = (
            f"{min(search.cells, max_cells):,} cells were not enough: a degenerate critical point or a kink in the "
            "box, a critical point on its border, a place where F has no value, or too large a box"
        )
    else:
        corners = {"lower": [number.hex() for number in low], "upper": [number.hex() for number in high]}
        data = {"tape": search.tape, **corners, "tree": tree, "count": len(search.found)}
        certificate = Certificate(_HERE + "check_box", data)
        if len(proofs) != len(search.found) or not certificate.replay():
            certificate, reason = None, "the proof of completeness did not replay; please report this as a bug"
    points = torch.stack([proof.center for proof in proofs]) if proofs else torch.zeros(0, exact.dim).double()
    return CriticalPoints(
        points=points,
        kinds=tuple(proof.kind for proof in proofs),
        indices=tuple(int(proof.index or 0) for proof in proofs),
        values=tuple(float(exact.value(proof.center)) for proof in proofs),
        proofs=proofs,
        verdict=Verdict.PROVED if certificate is not None else Verdict.UNKNOWN,
        certificate=certificate,
        cells=search.cells,
        reason=reason,
        interrupted=interrupted,
    )


class _Search:
    """Branch and bound; the tree it returns is what the checker replays."""

    def __init__(self, problem: Problem, tape: Tape, max_cells: int, notify: Callable[[str], None]) -> None:
        self.problem = problem
        self.tape = tape
        self.max_cells = max_cells
        self.notify = notify
        self.cells = 0
        self.next_note = time.monotonic() + 2
        self.found: list[torch.Tensor] = []

    def tree(self, low: list[float], high: list[float], depth: int = 0) -> Any | None:
        """The proof tree of a cell, None when the cells ran out or became too small."""
        self.cells += 1
        if self.cells > self.max_cells or depth > _DEEPEST:
            return None
        if time.monotonic() > self.next_note:
            self.next_note = time.monotonic() + 2
            self.notify(f"{self.cells:,} cells, {len(self.found)} critical points")
        if point_checker.leaf_holds(self.tape, low, high, ["none"]):
            return ["none"]
        leaf = self._one(low, high) or self._none(low, high)
        if leaf is not None:
            return leaf
        widths = [b - a for a, b in zip(low, high, strict=True)]
        coordinate = max(range(len(widths)), key=lambda j: widths[j])
        # off the middle, so that critical points with round coordinates do not lie on a face
        place = low[coordinate] + 0.4871 * widths[coordinate]
        if not low[coordinate] < place < high[coordinate]:
            return None
        below, above = list(high), list(low)
        below[coordinate] = above[coordinate] = place
        left = self.tree(low, below, depth + 1)
        right = self.tree(above, high, depth + 1) if left is not None else None
        return None if right is None else ["split", coordinate, place.hex(), left, right]

    def _none(self, low: list[float], high: list[float]) -> Any | None:
        """No critical point, by a component of H^-1 g: along a valley no component of g itself tells."""
        derivatives = point_checker.derivatives_at(self.tape, [(a + b) / 2 for a, b in zip(low, high, strict=True)])
        if derivatives is None:
            return None
        inverse, info = torch.linalg.inv_ex(torch.tensor(derivatives[1], dtype=torch.float64))
        if int(info) != 0 or not bool(torch.isfinite(inverse).all()):
            return None
        leaf = ["none", _hex(inverse)]
        return leaf if point_checker.leaf_holds(self.tape, low, high, leaf) else None

    def _newton(self, low: list[float], high: list[float]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """A root of the gradient inside the cell and the inverse Hessian there, by Newton's method on the tape."""
        center = torch.tensor([(a + b) / 2 for a, b in zip(low, high, strict=True)], dtype=torch.float64)
        widths = torch.tensor([b - a for a, b in zip(low, high, strict=True)], dtype=torch.float64)
        # on a cell that one Newton ball covers, Newton's method settles at once: few steps tell
        for _ in range(6):
            derivatives = point_checker.derivatives_at(self.tape, center.tolist())
            if derivatives is None:
                return None
            gradient, hessian = (torch.tensor(numbers, dtype=torch.float64) for numbers in derivatives)
            inverse, info = torch.linalg.inv_ex(hessian)
            step = inverse @ gradient
            if int(info) != 0 or not bool((step.abs() < 2 * widths).all()):
                return None
            center = center - step
        inside = all(a < float(c) < b for a, c, b in zip(low, center, high, strict=True))
        return (center, inverse) if inside else None

    def _one(self, low: list[float], high: list[float]) -> Any | None:
        root = self._newton(low, high)
        if root is None:
            return None
        center, inverse = root
        reach = max(max(float(c) - a, b - float(c)) for a, c, b in zip(low, center, high, strict=True))
        leaf = ["one", _hex(center), (reach * (1 + 1e-9)).hex(), _hex(inverse)]
        if not point_checker.leaf_holds(self.tape, low, high, leaf):
            return None
        self.found.append(center)
        return leaf
