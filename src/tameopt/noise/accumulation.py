"""Where the end of a run keeps coming back to, and how far from critical F is there.

Under the corollary of the lecture every accumulation point of theta_k is critical: 0 lies in the Clarke
subdifferential, which is the gradient alone where F is smooth. On a network with kinks the gradient need not be small
near a critical point (abs(x) near 0), so the distance of 0 to the hull of the gradients around the place is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tameopt.noise._display import HtmlText
from tameopt.noise.windows import problem_of_run, require_run
from tameopt.nonsmooth.goldstein import goldstein
from tameopt.nonsmooth.graph import TraceError
from tameopt.nonsmooth.kinks import census
from tameopt.problem import Problem
from tameopt.run import Run


@dataclass(frozen=True)
class AccumulationPoint(HtmlText):
    """A place that the end of a run keeps coming back to.

    centre: (d,) the mean of its iterates; visits: how many; radius: their largest distance from the centre.
    value, gradient_norm: F and norm(grad F) at the centre.
    clarke_distance: where `smooth`, norm(grad F), the distance of 0 to the Clarke subdifferential at the centre; else
    an upper bound on the distance of 0 to the Goldstein subdifferential of radius `radius`, the hull of the Clarke
    subdifferentials within the cluster: small certifies that the cluster is nearly critical, large nothing.
    smooth: no operator of F has a kink.
    """

    centre: torch.Tensor
    visits: int
    radius: float
    value: float
    gradient_norm: float
    clarke_distance: float
    smooth: bool

    def __repr__(self) -> str:
        clarke = "" if self.smooth else f", Clarke distance within the radius <= {self.clarke_distance:.3g}"
        return (
            f"AccumulationPoint({self.visits} visits within {self.radius:.3g}, F = {self.value:.6g}, "
            f"norm(grad F) = {self.gradient_norm:.3g}{clarke})"
        )


def accumulation_points(
    problem: Problem, run: Run, *, iterates: int = 64, samples: int = 32, seed: int = 0
) -> tuple[AccumulationPoint, ...]:
    """Clusters of the recorded iterates in the last quarter of a run, most visited first, and how critical they are.

    iterates: at most so many are looked at. Two iterates belong together within twice the root mean square move
    between consecutive looked-at ones: a walk that only drifts gives one long cluster, two basins give two.
    samples: gradients around each centre where F has kinks; cost: one gradient a cluster, and these.

    Raises ValueError when fewer than 4 finite iterates were recorded in the last quarter.
    """
    steps = require_run(run).vector_steps("theta")
    late = steps[steps >= 0.75 * steps.max()] if steps.size else steps
    if late.size > iterates:
        # by time, not by number: a window of consecutive iterates at the end must not stand for the whole quarter
        asked = torch.linspace(float(late[0]), float(late[-1]), iterates, dtype=torch.float64).numpy()
        late = late[sorted({int(abs(late - step).argmin()) for step in asked})]
    thetas = run.vectors(late).to(torch.float64) if late.size else torch.zeros(0, problem.dim)
    thetas = thetas[torch.isfinite(thetas).all(1)]
    if thetas.shape[0] < 4:
        raise ValueError(
            f"at least 4 finite iterates of the last quarter must be recorded, got {thetas.shape[0]}: record theta "
            "more often."
        )
    reach = 2.0 * float(thetas.diff(dim=0).square().sum(1).mean().sqrt())
    near = torch.cdist(thetas, thetas, compute_mode="donot_use_mm_for_euclid_dist") <= reach
    precise, generator = problem_of_run(problem, run).to(torch.float64), torch.Generator().manual_seed(seed)
    found = [_point(precise, thetas[members], samples, generator) for members in _components(near)]
    return tuple(sorted(found, key=lambda point: -point.visits))


def _point(problem: Problem, members: torch.Tensor, samples: int, generator: torch.Generator) -> AccumulationPoint:
    centre = members.mean(0)
    radius = float((members - centre).norm(dim=1).max())
    at = centre.to(problem.device)
    value, gradient = problem.value_and_gradient(at)
    size, smooth = float(gradient.norm()), _is_smooth(problem, at)
    bound = size
    if not smooth and radius > 0:
        around = goldstein(problem.gradient, at, radius, samples=samples, generator=generator)
        bound = min(size, around.eps)
    return AccumulationPoint(centre, members.shape[0], radius, float(value), size, bound, smooth)


def _is_smooth(problem: Problem, theta: torch.Tensor) -> bool:
    try:
        return census(problem, theta).smooth
    except TraceError:
        return False


def _components(near: torch.Tensor) -> list[list[int]]:
    """The connected components of a symmetric (m, m) relation."""
    left, found = set(range(near.shape[0])), []
    while left:
        component, frontier = set(), {min(left)}
        while frontier:
            component |= frontier
            frontier = {j for i in frontier for j in torch.nonzero(near[i])[:, 0].tolist()} - component
        left -= component
        found.append(sorted(component))
    return found
