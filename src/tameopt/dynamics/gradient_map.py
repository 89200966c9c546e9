"""The gradient map T(x) = x - alpha grad F(x), its inverse, and whether it is a diffeomorphism.

For alpha < 1/L the inverse is prox_{-alpha F}: z -> argmin_y -alpha F(y) + norm(y - z)^2 / 2, a strictly convex
problem (the lecture's constructive proof), solved here by Newton's method with conjugate gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tameopt.curvature.eigenvalues import spectrum
from tameopt.evidence import Verdict
from tameopt.problem import Problem


@dataclass(frozen=True)
class Inverse:
    """A preimage of z under T, or what stood in the way.

    x: (d,). residual: norm(T(x) - z), computed after the fact. error: norm(x - x*) is at most this where the
        curvature found at x bounds that on the way, residual / (1 - alpha lambda_max); inf where it does not.
    converged: residual <= the tolerance asked for. steps, products: Newton steps and Hessian products.
    convex: no direction of negative curvature of the convex problem was met on the way, at x or at z; else
        alpha L >= 1 there, and x, if it converged, is one of possibly several preimages.
    """

    x: torch.Tensor
    residual: float
    error: float
    converged: bool
    convex: bool
    steps: int
    products: int


@dataclass(frozen=True)
class Diffeomorphism:
    """Whether T is a diffeomorphism, as far as known.

    verdict: REFUTED with a witness, MEASURED when alpha L < 1 wherever it was measured (which is no proof for the
        rest of space), UNKNOWN otherwise. alpha_L: the largest alpha * abs(eigenvalue) found.
    witness: {"kind": "singular", "x", "direction"}: the Jacobian is singular at x to rounding;
        {"kind": "two preimages", "x", "y", "distance", "gap"}: T(x) = T(y) to `gap`, x and y apart.
    reason: in words.
    """

    verdict: Verdict
    alpha_L: float
    witness: dict[str, Any]
    reason: str

    def __repr__(self) -> str:
        return f"Diffeomorphism({self.verdict}: {self.reason})"


@dataclass(frozen=True)
class GradientMap:
    """T(x) = x - alpha grad F(x).

    F: a Problem, or a function of a (d,) tensor (then pass x in float64 for accuracy). alpha: step size, > 0.

    >>> T = GradientMap(Problem.from_function(lambda t: (t**2).sum() / 2, torch.zeros(2).double()), 0.5)
    >>> T(torch.tensor([2.0, -4.0])).tolist()
    [1.0, -2.0]
    >>> T.inverse(torch.tensor([1.0, -2.0])).x.tolist()
    [2.0, -4.0]
    """

    F: Problem | Callable[[torch.Tensor], torch.Tensor]
    alpha: float

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha must be > 0, got {self.alpha}: a descent step needs alpha > 0.")

    def problem(self, like: torch.Tensor) -> Problem:
        """F as a Problem; a plain function takes the dimension and dtype of `like`."""
        return self.F if isinstance(self.F, Problem) else Problem.from_function(self.F, like.detach().clone())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """T(x) for x: (d,); differentiable by torch.func where F is, one gradient."""
        problem = self.problem(x) if isinstance(self.F, Problem) else None
        if problem is not None:
            at = x.to(problem.device, problem.dtype)
            return at - self.alpha * torch.func.grad(problem)(at)
        assert not isinstance(self.F, Problem)
        return x - self.alpha * torch.func.grad(self.F)(x)

    def jacobian(self, x: torch.Tensor) -> torch.Tensor:
        """(d, d) I - alpha grad^2 F(x), by d Hessian products."""
        problem = self.problem(x)
        at = x.to(problem.device, problem.dtype)
        identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
        return identity - self.alpha * problem.hessian(at).dense()

    def inverse(
        self, z: torch.Tensor, *, start: torch.Tensor | None = None, tolerance: float = 1e-12, max_steps: int = 50
    ) -> Inverse:
        """A preimage of z: (d,) by Newton's method with conjugate gradients on the strictly convex problem.

        start: by default z. tolerance: of norm(T(x) - z), relative to max(1, norm(z)) (at least rounding).
        Nothing is raised when it fails: the residual says how well x maps to z. Cost: some 5 Newton steps of up to
        d Hessian products each.
        """
        problem = self.problem(z)
        target = z.to(problem.device, problem.dtype)
        x = target.clone() if start is None else start.to(problem.device, problem.dtype).clone()
        eps = torch.finfo(problem.dtype).eps
        wanted = max(tolerance, 10 * eps) * max(1.0, float(target.norm()))
        products, convex, steps = 0, True, 0
        residual_vector = self._residual(problem, x, target)
        while steps < max_steps:
            if float(residual_vector.norm()) <= wanted or not bool(torch.isfinite(residual_vector).all()):
                break
            step, used, positive = self._newton_step(problem, x, residual_vector)
            steps, products = steps + 1, products + used
            convex &= positive
            x, residual_vector, moved = self._line_search(problem, x, step, residual_vector, target)
            if not moved:
                break
        residual = float(residual_vector.norm())
        ends = (x, target) if math.isfinite(residual) else ()
        tops = [spectrum(problem, end, 1, which="largest", max_products=60) for end in ends]
        # without eigenvalues (a Hessian that is not finite) nothing bounds the error
        largest = [top.lambda_max + float(top.errors[-1]) if top.errors.numel() else math.inf for top in tops]
        slack = 1 - self.alpha * max(largest, default=math.inf)
        return Inverse(
            x=x,
            residual=residual,
            error=residual / slack if slack > 0 else math.inf,
            converged=residual <= wanted,
            convex=convex and slack > 0,
            steps=steps,
            products=products + sum(top.products for top in tops),
        )

    def _residual(self, problem: Problem, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """x - alpha grad F(x) - z, the gradient of the convex problem."""
        return x - self.alpha * problem.gradient(x) - z

    def _newton_step(
        self, problem: Problem, x: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, int, bool]:
        """Solve (I - alpha H) s = -gradient by conjugate gradients; False when the matrix is not positive."""
        operator = problem.hessian(x)
        step, rest = torch.zeros_like(x), -gradient
        direction, size, used = rest.clone(), float(rest @ rest), 0
        # forcing term of an inexact Newton method that keeps quadratic convergence
        stop = min(0.1, math.sqrt(size)) ** 2 * size
        for _ in range(min(problem.dim, 200) + 2):
            if size <= max(stop * 1e-8, 1e-300):
                break
            image = direction - self.alpha * (operator @ direction)
            used += 1
            curvature = float(direction @ image)
            if curvature <= 0:
                return (step if bool(step.any()) else -gradient), used, False
            share = size / curvature
            step, rest = step + share * direction, rest - share * image
            size, before = float(rest @ rest), size
            direction = rest + (size / before) * direction
        return step, used, True

    def _line_search(
        self, problem: Problem, x: torch.Tensor, step: torch.Tensor, residual: torch.Tensor, z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Halve the step until norm(T(x) - z) falls; whether it did."""
        before = float(residual.norm())
        for _ in range(40):
            trial = x + step
            trial_residual = self._residual(problem, trial, z)
            if float(trial_residual.norm()) < before:
                return trial, trial_residual, True
            step = step / 2
        return x, residual, False

    def is_diffeomorphism(
        self,
        points: torch.Tensor | Sequence[Sequence[float]],
        *,
        tries: int = 20,
        generator: torch.Generator | None = None,
    ) -> Diffeomorphism:
        """Whether T is a diffeomorphism, judged by the curvature at some points and a search for a witness.

        points: (m, d) where to look (a path, a grid). A witness is searched between points with alpha lambda_max
        below and above 1 (there the Jacobian is singular in between), then by looking for a second preimage of T(x)
        from `tries` random starts near each of up to 5 points.

        MEASURED says that alpha L < 1 at the points, never more. Cost: the spectra's ends at m points.

        Raises ValueError for points of another shape, or where F or its gradient is not finite.
        """
        like = points if isinstance(points, torch.Tensor) else torch.tensor(points, dtype=torch.float64)
        if like.ndim != 2 or like.shape[0] == 0:
            raise ValueError(f"points must have shape (m, d) with m > 0, got {tuple(like.shape)}.")
        problem = self.problem(like[0])
        where = like.to(problem.device, problem.dtype)
        for number, x in enumerate(where):
            if not _is_defined(problem, x):
                raise ValueError(f"F and its gradient must be finite at the points, at number {number} they are not.")
        found = [spectrum(problem, x, 1, max_products=80) for x in where]
        lost = [number for number, one in enumerate(found) if one.eigenvalues.numel() == 0]
        if lost:
            reason = f"the Hessian is not finite at point number {lost[0]}: {found[lost[0]].failure}"
            return Diffeomorphism(Verdict.UNKNOWN, math.inf, {}, reason)
        tops = [self.alpha * one.lambda_max for one in found]
        alpha_l = max(self.alpha * one.norm for one in found)
        # a kink between two points shows in no Hessian, and in how far apart their gradients are
        alpha_l = max(alpha_l, self.alpha * _secant(problem, where))
        below = [j for j, one in enumerate(found) if tops[j] + self.alpha * max(one.missed, one.noise) < 1]
        above = [j for j, one in enumerate(found) if tops[j] - self.alpha * float(one.errors[-1]) > 1]
        if below and above:
            return self._singular_between(problem, where[below[0]], where[above[0]], alpha_l)
        possible = max(self.alpha * (one.norm + max(one.missed, one.noise)) for one in found)
        if alpha_l < 1 <= possible:
            reason = f"alpha L >= {alpha_l:.3g} was found, but up to {possible:.3g} may have been missed (99%)"
            return Diffeomorphism(Verdict.UNKNOWN, alpha_l, {}, reason)
        if alpha_l < 1:
            below_one = f"{alpha_l:.3g} < 1" if alpha_l < 0.999 else f"1 - {1 - alpha_l:.1e}"
            reason = (
                f"alpha L = {below_one} at {len(found)} points: invertible around them; everywhere only if L "
                "holds everywhere"
            )
            return Diffeomorphism(Verdict.MEASURED, alpha_l, {}, reason)
        twin = self._second_preimage(problem, where, tries, generator or torch.Generator().manual_seed(0))
        if twin is not None:
            reason = f"two points {twin['distance']:.3g} apart have one image, to {twin['gap']:.1e}"
            return Diffeomorphism(Verdict.REFUTED, alpha_l, twin, reason)
        reason = f"alpha L = {alpha_l:.3g} >= 1, so that the lemma does not apply, and no witness was found"
        if abs(max(tops) - 1) <= 1e-9:
            reason += "; alpha lambda_max is 1 to rounding, which does not tell whether the Jacobian is singular"
        return Diffeomorphism(Verdict.UNKNOWN, alpha_l, {}, reason)

    def _singular_between(
        self, problem: Problem, low: torch.Tensor, high: torch.Tensor, alpha_l: float
    ) -> Diffeomorphism:
        """Bisect alpha lambda_max = 1 on a segment; the limit is singular, or a point where F is not C^2."""
        for _ in range(60):
            middle = (low + high) / 2
            if not _is_defined(problem, middle):
                reason = "alpha lambda_max passes 1 between two points, but F is not finite all the way between them"
                return Diffeomorphism(Verdict.UNKNOWN, alpha_l, {}, reason)
            one = spectrum(problem, middle, 1, max_products=80)
            low, high = (middle, high) if self.alpha * one.lambda_max < 1 else (low, middle)
            if float((high - low).norm()) <= 1e-15 * max(1.0, float(high.norm())):
                break
        one = spectrum(problem, high, 1, max_products=80)
        at_end = self.alpha * one.lambda_max
        witness = {
            "kind": "singular",
            "x": high.tolist() if problem.dim <= 1000 else [],
            "alpha_lambda_max": at_end,
            "bracket": float((high - low).norm()),
        }
        what = "its Jacobian is singular" if abs(at_end - 1) < 1e-6 else "its Jacobian jumps across a singular one"
        return Diffeomorphism(
            Verdict.REFUTED, alpha_l, witness, f"{what} at a point where alpha lambda_max = {at_end:.6f}"
        )

    def _second_preimage(
        self, problem: Problem, points: torch.Tensor, tries: int, generator: torch.Generator
    ) -> dict[str, Any] | None:
        for x in points[:5]:
            image = x - self.alpha * problem.gradient(x)
            for _ in range(tries):
                drawn = torch.randn(problem.dim, generator=generator, dtype=torch.float64)
                start = x + drawn.to(x) * max(1.0, float(x.norm()))
                other = _root(problem, self.alpha, start, image)
                if other is None:
                    continue
                distance = float((other - x).norm())
                gap = float((other - self.alpha * problem.gradient(other) - image).norm())
                size = max(1.0, float(image.norm()))
                # x^5 maps 0.002 to 0 within rounding and yet is one to one: how far off the exact preimage may be
                slope = float(torch.linalg.svdvals(self.jacobian(other)).min())
                off = max(gap, torch.finfo(problem.dtype).eps * size) / max(slope, 1e-300)
                # far apart against the accuracy of both: our choice of a margin
                if distance > 1e-3 * max(1.0, float(x.norm()), 1e6 * off) and gap <= 1e-9 * size:
                    return {
                        "kind": "two preimages",
                        "x": x.tolist() if problem.dim <= 1000 else [],
                        "y": other.tolist() if problem.dim <= 1000 else [],
                        "distance": distance,
                        "gap": gap,
                    }
        return None


def _root(problem: Problem, alpha: float, start: torch.Tensor, image: torch.Tensor) -> torch.Tensor | None:
    """Newton's method with least squares for T(y) = image; None unless it settles. Small d only."""
    if problem.dim > 200:
        return None
    y = start
    identity = torch.eye(problem.dim, dtype=problem.dtype, device=problem.device)
    for _ in range(60):
        rest = y - alpha * problem.gradient(y) - image
        if not bool(torch.isfinite(rest).all()):
            return None
        if float(rest.norm()) <= 1e-13 * max(1.0, float(image.norm())):
            return y
        jacobian = identity - alpha * problem.hessian(y).dense()
        step = torch.linalg.lstsq(jacobian, -rest[:, None]).solution[:, 0]
        y = y + step * min(1.0, 2 * max(1.0, float(y.norm())) / max(float(step.norm()), 1e-300))
    return y


def _secant(problem: Problem, points: torch.Tensor) -> float:
    """The largest slope of the gradient between one point and the next: a lower bound of L."""
    gradients = torch.stack([problem.gradient(point) for point in points])
    lengths = (points[1:] - points[:-1]).norm(dim=1)
    slopes = (gradients[1:] - gradients[:-1]).norm(dim=1)[lengths > 0] / lengths[lengths > 0]
    return float(slopes.max()) if len(slopes) else 0.0


def _is_defined(problem: Problem, x: torch.Tensor) -> bool:
    value, gradient = problem.value_and_gradient(x)
    return bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())
