"""Critical points of every index from many starts: Levenberg-Marquardt on the gradient.

Minimising norm(g)^2 is drawn to saddles as to minima, but it also stops where the gradient is not 0 and lies in the
kernel of the Hessian (gradient-flat points; Frye et al. 2021 found that most "critical points" reported on networks
were such). They are told apart here by the gradient itself, never by the merit function's stationarity.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.func import grad_and_value, hessian, vmap

from tameopt.curvature.classification import Classification, classify
from tameopt.curvature.index_picture import index_picture, kinds_in_words
from tameopt.picture import Picture
from tameopt.problem import Problem

_FAR = 1e3  # a start this many times as far out as it began is on its way to infinity; our choice
_DENSE_BELOW = 300  # our choice: up to here the Hessian is formed; d^3 is then cheaper than a Krylov space


@dataclass(frozen=True)
class FoundPoints:
    """Critical points, one for each class, in the order of F.

    points: representatives. counts: how many starts ended in each class. Two points are of one class when F and
    all computed eigenvalues agree to 1e-5 relatively: so are points that a symmetry of the network maps to each
    other (permuted units, flipped signs, rotated layers), and, rarely, others.
    thetas: (m, d) every critical point reached, duplicates included.
    gradient_flat: (q, d) where the search stopped though norm(g) is not 0. unfinished: starts that did neither.
    interrupted: Ctrl-C ended the search; this is what was found and classified by then.
    """

    points: tuple[Classification, ...]
    counts: tuple[int, ...]
    thetas: torch.Tensor
    gradient_flat: torch.Tensor
    unfinished: int
    interrupted: bool = False

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Classification]:
        return iter(self.points)

    def __getitem__(self, place: int) -> Classification:
        return self.points[place]

    @property
    def histogram(self) -> dict[int, int]:
        """Starts that ended at a critical point of each index (None counts as -1: index not known)."""
        counted: Counter[int] = Counter()
        for point, count in zip(self.points, self.counts, strict=True):
            counted[-1 if point.index is None else point.index] += count
        return dict(sorted(counted.items()))

    def picture(self) -> Picture:
        """F against the index, a mark for each class."""
        points = self.points
        return index_picture([p.kind for p in points], [p.index for p in points], [p.value for p in points])

    def __repr__(self) -> str:
        listed = kinds_in_words([point.kind for point in self.points])
        starts = sum(self.counts) + self.gradient_flat.shape[0] + self.unfinished
        classes = "class" if len(self.points) == 1 else "classes"
        return (
            f"FoundPoints({len(self.points)} {classes}: {listed}; {self.gradient_flat.shape[0]} gradient-flat, "
            f"{self.unfinished} unfinished of {starts} starts)"
        )

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{point.value:.6g}</td><td>{point.kind}</td><td>{point.index}</td><td>{point.nullity}</td>"
            f"<td>{count}</td></tr>"
            for point, count in zip(self.points, self.counts, strict=True)
        )
        return f"<table><tr><th>F<th>kind<th>index<th>nullity<th>starts</tr>{rows}</table>"


def find_critical_points(
    problem: Problem,
    starts: torch.Tensor | None = None,
    *,
    num_starts: int = 100,
    spread: float = 1.0,
    tolerance: float = 1e-9,
    max_steps: int = 300,
    generator: torch.Generator | None = None,
    notify: Callable[[str], None] = lambda message: None,
) -> FoundPoints:
    """Critical points of F from many starts, each classified.

    starts: (m, d); by default num_starts points theta + spread * normal numbers. tolerance: a start is done when
    norm(g) <= tolerance * max abs(eigenvalue) * max(1, norm(theta)). max_steps: of Levenberg-Marquardt, a start.
    For d <= 300 the Hessian is formed, all starts at once where the model allows; beyond, each step minimises
    norm(H s + g) over a Krylov space of 60 products.

    What was found is no proof that there are no others: see `critical_points_in_box` for that. Ctrl-C ends the search
    and keeps what was found (`interrupted`). Raises ValueError on bad arguments.

    >>> F = lambda t: t[0] ** 2 / 2 + t[1] ** 4 / 4 - t[1] ** 2 / 2
    >>> found = find_critical_points(Problem.from_function(F, torch.zeros(2, dtype=torch.float64)), num_starts=40)
    >>> [(point.kind, point.index, round(100 * abs(point.value))) for point in found]
    [('minimum', 0, 25), ('strict saddle', 1, 0)]
    """
    if starts is None:
        if num_starts < 1 or not spread > 0:
            raise ValueError(f"num_starts must be at least 1 and spread > 0, got {num_starts} and {spread}.")
        generator = generator or torch.Generator().manual_seed(0)
        drawn = torch.randn(num_starts, problem.dim, generator=generator, dtype=torch.float64)
        starts = problem.theta + spread * drawn.to(problem.device, problem.dtype)
    if starts.ndim != 2 or starts.shape[1] != problem.dim or starts.shape[0] == 0:
        raise ValueError(f"starts must have shape (m, {problem.dim}) with m > 0, got {tuple(starts.shape)}.")
    search = _Search(problem, tolerance, max_steps)
    ends, done, flat = search.run(starts.to(problem.device, problem.dtype), notify)
    points, counts, all_classified = _classes(problem, ends[done], tolerance, notify)
    # small gradients from which Newton's method leads nowhere (log x far out) are no critical points
    kept = [place for place, point in enumerate(points) if point.kind != "not critical"]
    unfinished = int((~flat).sum()) - sum(counts[place] for place in kept)
    listed, starts_of = tuple(points[place] for place in kept), tuple(counts[place] for place in kept)
    interrupted = search.interrupted or not all_classified
    return FoundPoints(listed, starts_of, ends[done], ends[flat], unfinished, interrupted)


class _Search:
    """Levenberg-Marquardt on norm(grad F)^2 / 2, for many starts side by side."""

    def __init__(self, problem: Problem, tolerance: float, max_steps: int) -> None:
        self.problem = problem
        self.tolerance = tolerance
        self.max_steps = max_steps
        self.dense = problem.dim <= _DENSE_BELOW
        self.interrupted = False

    def gradients(self, thetas: torch.Tensor) -> torch.Tensor:
        """(m, d), NaN where F is no number: its gradient may be one all the same (log x at -1)."""
        gradients, values = self._gradients_and_values(thetas)
        return torch.where(torch.isfinite(values)[:, None], gradients, torch.nan)

    def _gradients_and_values(self, thetas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.dense:
            try:
                return vmap(grad_and_value(self.problem))(thetas)
            except (RuntimeError, NotImplementedError):
                pass  # an operator without a batching rule: one start at a time
        values, gradients = zip(*[self.problem.value_and_gradient(theta) for theta in thetas], strict=True)
        return torch.stack(gradients), torch.stack(values)

    def models(self, thetas: torch.Tensor, gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For each start eigenvalues h (m, p), a basis (m, d, p) and the gradient in it (m, p): H s ~ Q h Q^T s.

        Dense: the whole space. Krylov: singular values in place of h, which is all that the step needs.
        """
        if self.dense:
            try:
                matrices = vmap(hessian(self.problem))(thetas)
            except (RuntimeError, NotImplementedError):  # no batching rule: one start at a time
                matrices = torch.stack([self.problem.hessian(theta).dense() for theta in thetas])
            matrices = torch.nan_to_num((matrices + matrices.transpose(1, 2)) / 2)
            values, basis = torch.linalg.eigh(matrices)
            return values, basis, (basis.transpose(1, 2) @ gradients[:, :, None])[:, :, 0]
        parts = [_krylov(self.problem, theta, gradient) for theta, gradient in zip(thetas, gradients, strict=True)]
        values, basis, inner = zip(*parts, strict=True)
        return torch.stack(values), torch.stack(basis), torch.stack(inner)

    def run(
        self, thetas: torch.Tensor, notify: Callable[[str], None]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where the starts end, which of them are critical, and which gradient-flat."""
        thetas = thetas.clone()
        count = thetas.shape[0]
        done, flat, stuck = (torch.zeros(count, dtype=torch.bool, device=thetas.device) for _ in range(3))
        damping = torch.full((count,), 1e-2, dtype=thetas.dtype, device=thetas.device)
        gradients = self.gradients(thetas)
        horizon = _FAR * thetas.norm(dim=1).clamp_min(1.0)
        stuck |= ~torch.isfinite(gradients).all(dim=1)
        next_note = time.monotonic() + 2
        try:
            for step in range(self.max_steps):
                active = (~done & ~flat & ~stuck).nonzero()[:, 0]
                if active.numel() == 0:
                    break
                here, g = thetas[active], gradients[active]
                values, basis, inner = self.models(here, g)
                size = values.abs().amax(dim=1).clamp_min(torch.finfo(here.dtype).tiny)
                norms = g.norm(dim=1)
                critical = norms <= self.tolerance * size * here.norm(dim=1).clamp_min(1.0)
                # H g = 0 to working accuracy with g itself not small: no step of this model reduces norm(g)
                pull = (values * inner).norm(dim=1)
                # nor does the gradient change on theta's own scale, as it does on the way to infinity
                stretch = here.norm(dim=1).clamp_min(1.0)
                no_way = ~critical & (pull <= 1e-6 * size * norms) & (stretch * pull <= 1e-3 * norms**2)
                far = here.norm(dim=1) > horizon[active]
                done[active[critical & ~far]] = True
                flat[active[no_way & ~far]] = True
                scaled = damping[active, None] * size[:, None] ** 2
                move = -(basis @ (values * inner / (values**2 + scaled))[:, :, None])[:, :, 0]
                trial = here + move
                trial_gradients = self.gradients(trial)
                better = torch.isfinite(trial_gradients).all(dim=1) & (trial_gradients.norm(dim=1) < norms)
                better &= ~critical & ~no_way
                thetas[active[better]], gradients[active[better]] = trial[better], trial_gradients[better]
                # damping small against rounding lets Newton's method be quadratic; our choice of factors
                damping[active] = torch.where(better, damping[active] * 0.1, damping[active] * 4).clamp(1e-20, 1e12)
                stuck[active] |= (damping[active] >= 1e11) | ~torch.isfinite(norms) | far
                if step % 50 == 49 or time.monotonic() > next_note:
                    next_note = time.monotonic() + 2
                    notify(f"step {step + 1}: {int(done.sum())} critical, {int(flat.sum())} gradient-flat of {count}")
        except KeyboardInterrupt:
            self.interrupted = True
            return thetas, done, flat
        near = stuck & (thetas.norm(dim=1) <= horizon)
        return thetas, done, flat | self._flat_end(thetas, gradients, near)

    def _flat_end(self, thetas: torch.Tensor, gradients: torch.Tensor, stuck: torch.Tensor) -> torch.Tensor:
        """Of the starts where no step helps, those with a small H g: gradient-flat to lower accuracy."""
        result = torch.zeros_like(stuck)
        for place in (stuck & torch.isfinite(gradients).all(dim=1)).nonzero()[:, 0].tolist():
            g = gradients[place]
            operator = self.problem.hessian(thetas[place])
            pulled = operator @ g
            size = float((operator @ pulled).norm() / pulled.norm().clamp_min(1e-300))
            stretch = max(1.0, float(thetas[place].norm()))
            flat = float(pulled.norm()) <= 1e-3 * max(size, 1e-300) * float(g.norm())
            result[place] = flat and stretch * float(pulled.norm()) <= 1e-3 * float(g.norm()) ** 2
        return result


def _krylov(problem: Problem, theta: torch.Tensor, g: torch.Tensor, size: int = 60) -> tuple[torch.Tensor, ...]:
    """min norm(H s + g) over span{g, H g, …}: singular values, step basis and the gradient in the image basis."""
    operator = problem.hessian(theta)
    basis, images = g[:, None] / g.norm().clamp_min(torch.finfo(g.dtype).tiny), []
    for _ in range(size):
        image = operator @ basis[:, -1]
        images.append(image)
        rest = image
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        if float(rest.norm()) <= 1e-12 * float(image.norm()) or not bool(torch.isfinite(rest).all()):
            break
        basis = torch.cat([basis, (rest / rest.norm())[:, None]], dim=1)
    steps = basis[:, : len(images)]
    left, values, right = torch.linalg.svd(torch.nan_to_num(torch.stack(images, dim=1)), full_matrices=False)
    missing = size - len(images)
    pad = torch.zeros(missing, dtype=g.dtype, device=g.device)
    directions = torch.cat([steps @ right.T, torch.zeros(g.numel(), missing).to(g)], dim=1)
    return torch.cat([values, pad]), directions, torch.cat([left.T @ g, pad])


def _classes(
    problem: Problem, thetas: torch.Tensor, tolerance: float, notify: Callable[[str], None]
) -> tuple[tuple[Classification, ...], tuple[int, ...], bool]:
    """One representative for each set of points with equal F and eigenvalues, with its count; whether that is all."""
    points: list[Classification] = []
    counts: list[int] = []
    whole = True
    for place, theta in enumerate(thetas):
        again = _nearest(theta, points)
        if again is not None:
            counts[again] += 1
            continue
        try:
            found = classify(problem, theta, gradient_tolerance=max(1e-6, 10 * tolerance))
        except KeyboardInterrupt:
            whole = False
            break
        for known, other in enumerate(points):
            if _alike(found, other):
                counts[known] += 1
                break
        else:
            points.append(found)
            counts.append(1)
        if place % 50 == 49:
            notify(f"{place + 1} of {thetas.shape[0]} points classified, {len(points)} classes")
    order = sorted(range(len(points)), key=lambda j: points[j].value)
    return tuple(points[j] for j in order), tuple(counts[j] for j in order), whole


def _nearest(theta: torch.Tensor, points: list[Classification]) -> int | None:
    """The class whose representative is this very point, to a tenth of what passes for critical."""
    for known, point in enumerate(points):
        if float((theta - point.theta).norm()) <= 1e-7 * max(1.0, float(theta.norm())):
            return known
    return None


def _alike(one: Classification, other: Classification) -> bool:
    scale = max(one.spectrum.norm, other.spectrum.norm, 1e-300)
    size = max(1.0, float(one.theta.norm())) ** 2
    slack = 1e-6 * max(abs(one.value), abs(other.value)) + 1e-9 * scale * size
    if abs(one.value - other.value) > slack or (one.index, one.nullity) != (other.index, other.nullity):
        return False
    if one.nullity:
        # not isolated: along a family of critical points F, index and nullity stay, the eigenvalues do not
        return True
    if one.eigenvalues.shape != other.eigenvalues.shape:
        return False
    return float((one.eigenvalues - other.eigenvalues).abs().max()) <= 1e-5 * scale
