"""D_T: how far the interpolated process of a run is from the gradient flow started on it.

Benaim (1996): with Robbins-Monro steps, a martingale-difference noise of bounded variance and bounded iterates,
sup_{s <= T} norm(w(t+s) - S(w(t), s)) -> 0 as t grows, for every T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tameopt.dynamics.flow import gradient_flow
from tameopt.noise._display import HtmlText
from tameopt.noise.windows import Window
from tameopt.problem import Problem


@dataclass(frozen=True)
class FlowDistance(HtmlText):
    """The process of one window against the flow from its first iterate.

    steps, times: (m+1,) the nodes. distances: (m+1,) norm(theta_k - S(theta_first, tau_k - tau_first)).
    reference_error: the largest distance between the flows at two tolerances; `D` is trusted when it is at most
    a tenth of D. flow: (m+1, d) the reference, float64. moved: the largest distance of the flow from its start.
    evaluations: gradients used. solved: nodes that the flow reached (all, unless it ran out of gradients).
    """

    steps: np.ndarray
    times: np.ndarray
    distances: np.ndarray
    reference_error: float
    flow: torch.Tensor
    moved: float
    evaluations: int
    asked_nodes: int

    @property
    def D(self) -> float:
        """D_T, the largest distance over the nodes; between them it exceeds this by O(alpha) terms only."""
        return float(self.distances.max())

    @property
    def T(self) -> float:
        """The length of the window in the time of the flow."""
        return float(self.times[-1])

    @property
    def relative(self) -> float:
        """D over the distance that the flow moved: below 1 the flow explains where the process went."""
        return self.D / self.moved if self.moved > 0 else float("inf")

    @property
    def trusted(self) -> bool:
        """Whether the reference is solved well enough to measure D: within a tenth of it."""
        return self.reference_error <= 0.1 * self.D

    def __repr__(self) -> str:
        known = "" if self.trusted else f", the flow known to {self.reference_error:.3g} only"
        short = "" if self.steps.size == self.asked_nodes else f", {self.steps.size} of {self.asked_nodes} nodes"
        return (
            f"FlowDistance(D = {self.D:.4g} over T = {self.T:.4g} from step {self.steps[0]:,}, {self.relative:.2g} "
            f"of the way that the flow moved{known}{short})"
        )


def flow_distance(
    problem: Problem, window: Window, *, tolerance: float = 1e-4, max_evaluations: int = 20_000
) -> FlowDistance:
    """D_T on one window, the reference flow solved in float64 at `tolerance` and a tenth of it, tightened once.

    When the gradients run out, the window is shortened to the part that both flows solved (at least 2 nodes).

    Raises ValueError when the window has fewer than 2 steps, when its iterates are not finite or when the flow
    could not be solved over one step.
    """
    if window.alphas.size < 2:
        raise ValueError(
            f"a window must have at least 2 steps, got {window.alphas.size}: record more consecutive iterates."
        )
    thetas = window.thetas.to(problem.device, torch.float64)
    if not bool(torch.isfinite(thetas).all()):
        raise ValueError("the iterates of a window must be finite, got infinities or NaN: the run diverged there.")
    times = torch.as_tensor(window.times, device=thetas.device)
    evaluations, tightened = 0, False
    while True:
        coarse, fine = (
            gradient_flow(
                problem, thetas[0], times, tolerance=accuracy, method="dopri5", max_evaluations=max_evaluations
            )
            for accuracy in (tolerance, tolerance / 10)
        )
        evaluations += int(coarse.evaluations) + int(fine.evaluations)
        solved = int((torch.isfinite(coarse.states).all(1) & torch.isfinite(fine.states).all(1)).sum())
        if solved < 2:
            raise ValueError(
                f"the gradient flow from step {window.steps[0]} could not be solved over one step with "
                f"{max_evaluations} gradients: it is stiff or leaves the finite numbers."
            )
        reference = fine.states[:solved]
        error = float((coarse.states[:solved] - reference).norm(dim=1).max())
        distances = (thetas[:solved] - reference).norm(dim=1)
        found = FlowDistance(
            window.steps[:solved],
            window.times[:solved],
            distances.cpu().numpy(),
            error,
            reference,
            float((reference - reference[0]).norm(dim=1).max()),
            evaluations,
            window.steps.size,
        )
        if found.trusted or tightened or tolerance < 1e-11:
            return found
        tolerance, tightened = tolerance * 1e-2, True


def leading_plane(paths: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The plane in which paths (m_i, d) spread most: ((d,) centre, (d, 2) orthonormal basis, share of the variance).

    In one dimension the second direction is 0.
    """
    cloud = torch.cat(paths)
    centre = cloud.mean(0)
    _, spread, directions = torch.linalg.svd(cloud - centre, full_matrices=False)
    basis = torch.zeros(cloud.shape[1], 2, dtype=cloud.dtype, device=cloud.device)
    rank = min(2, directions.shape[0])
    basis[:, :rank] = directions[:rank].T
    total = float(spread.square().sum())
    return centre, basis, float(spread[:2].square().sum()) / total if total > 0 else 1.0
