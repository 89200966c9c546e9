"""The loss on a plane through theta, with the trajectory projected into it and its distance from it.

A slice shows the slice: the index of a point cannot be read off two directions, and a path may look straight on the
plane of its own principal components because everything else was projected away. The distance says how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tameopt.curvature.eigenvalues import Spectrum
from tameopt.curvature.quadrature import SpectralDensity
from tameopt.curvature.tall import orthonormal
from tameopt.picture import Image, Picture, Series
from tameopt.problem import Problem


@dataclass(frozen=True)
class PlaneSlice:
    """F on origin + a u + b v.

    origin: (d,). directions: (d, 2) orthonormal. a, b: (p,) coordinates; losses: (p, p), [i][j] at (a[i], b[j]).
    path: (m, 2) the points of a trajectory projected; distances: (m,) how far they are from the plane, in theta.
    explained: share of the trajectory's squared distance from the origin that lies in the plane; NaN without one.
    """

    origin: torch.Tensor
    directions: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    losses: torch.Tensor
    path: torch.Tensor
    distances: torch.Tensor
    explained: float

    def __repr__(self) -> str:
        tail = f", path explained {100 * self.explained:.1f}%" if self.path.numel() else ""
        low, high = float(self.losses.min()), float(self.losses.max())
        return f"PlaneSlice({self.a.numel()} x {self.b.numel()}, F {low:.4g} to {high:.4g}{tail})"

    def picture(self, title: str = "The loss on a plane") -> Picture:
        """As plain data; contours at equal steps of the logarithm above the smallest value."""
        low, high = float(self.losses.min()), float(self.losses.max())
        gap = max(high - low, 1e-300)
        levels = tuple(low + gap * 10 ** (-4 + 4 * j / 12) for j in range(13))
        series = []
        caption = "A slice shows its own two directions only."
        if self.path.numel():
            series.append(Series.of("trajectory", self.path[:, 0].tolist(), self.path[:, 1].tolist()))
            series.append(Series.of("last iterate", [float(self.path[-1, 0])], [float(self.path[-1, 1])], "points"))
            caption = (
                f"{_percent(self.explained)} of the path's squared distance lies in this plane; it is up to "
                f"{float(self.distances.max()):.3g} away from it in theta."
            )
        image = Image(
            x=tuple(self.a.tolist()),
            y=tuple(self.b.tolist()),
            z=tuple(tuple(row) for row in self.losses.T.tolist()),
            label="F",
            levels=levels,
        )
        return Picture(
            name="loss-plane",
            title=title,
            x_label="along the first direction",
            y_label="along the second direction",
            series=tuple(series),
            image=image,
            caption=caption,
        )


def loss_plane(
    problem: Problem,
    path: torch.Tensor | Sequence[torch.Tensor] | None = None,
    *,
    origin: torch.Tensor | None = None,
    directions: torch.Tensor | None = None,
    extent: float | None = None,
    points: int = 25,
    generator: torch.Generator | None = None,
) -> PlaneSlice:
    """F on a plane: through a trajectory's two main directions, through given ones, or random ones.

    path: (m, d) a trajectory; the plane then goes through its last point (or `origin`) along the two principal
    components of the path about it. directions: (d, 2) instead; made orthonormal. Without either, two random
    directions. extent: half-width in theta; by default what the path needs, else 1. points: values an axis.

    Raises ValueError on bad shapes. Cost: points^2 evaluations of F on all data.
    """
    thetas = None if path is None else torch.stack([one.to(problem.device, problem.dtype) for one in path])
    if thetas is not None and (thetas.ndim != 2 or thetas.shape[1] != problem.dim):
        raise ValueError(f"path must have shape (m, {problem.dim}), got {tuple(thetas.shape)}.")
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}.")
    center = origin if origin is not None else (thetas[-1] if thetas is not None else problem.theta)
    center = center.to(problem.device, problem.dtype)
    plane = _directions(problem, thetas, center, directions, generator)
    offsets = (thetas - center) if thetas is not None else torch.zeros(0, problem.dim).to(center)
    projected = offsets @ plane
    distances = (offsets - projected @ plane.T).norm(dim=1)
    total = float(offsets.square().sum())
    a, b = (_axis(projected[:, j], extent, points) for j in range(2))
    losses = torch.stack(
        [torch.stack([problem.value(center + x * plane[:, 0] + y * plane[:, 1]) for y in b]) for x in a]
    )
    return PlaneSlice(
        origin=center,
        directions=plane,
        a=a,
        b=b,
        losses=losses.double().cpu(),
        path=projected.double().cpu(),
        distances=distances.double().cpu(),
        explained=float(projected.square().sum()) / total if total > 0 else float("nan"),
    )


def _directions(
    problem: Problem,
    thetas: torch.Tensor | None,
    center: torch.Tensor,
    given: torch.Tensor | None,
    generator: torch.Generator | None,
) -> torch.Tensor:
    if problem.dim < 2:
        raise ValueError("a plane needs at least two parameters, there is one.")
    if given is not None:
        if given.shape != (problem.dim, 2):
            raise ValueError(f"directions must have shape ({problem.dim}, 2), got {tuple(given.shape)}.")
        candidates = given.to(center)
    else:
        drawn = torch.randn(
            problem.dim, 2, generator=generator or torch.Generator().manual_seed(0), dtype=torch.float64
        ).to(center)
        candidates = drawn
        if thetas is not None and thetas.shape[0] > 1:
            main = torch.linalg.svd(thetas - center, full_matrices=False)[2][:2].T
            # a straight path has one direction: the second is then random
            candidates = torch.cat([main, drawn], dim=1)
    candidates = candidates[:, : problem.dim]
    lengths = candidates.norm(dim=0).double().cpu()
    rows, triangle, _ = orthonormal(candidates.T.contiguous())
    # our choice: more than rounding is left of a direction beside those before it
    left = triangle.diagonal().abs() > max(1e-10, 100 * torch.finfo(rows.dtype).eps) * lengths
    keep = left.nonzero()[:2, 0]
    if keep.numel() < 2:
        raise ValueError("the two directions must be linearly independent, they are not.")
    return rows[keep.to(rows.device)].T


def _axis(coordinates: torch.Tensor, extent: float | None, points: int) -> torch.Tensor:
    if extent is not None:
        if not extent > 0:
            raise ValueError(f"extent must be > 0, got {extent}.")
        low, high = -extent, extent
    elif coordinates.numel():
        low, high = float(coordinates.min()), float(coordinates.max())
        margin = 0.2 * max(high - low, 1e-12)
        low, high = min(low, 0.0) - margin, max(high, 0.0) + margin
    else:
        low, high = -1.0, 1.0
    return torch.linspace(low, high, points, dtype=coordinates.dtype, device=coordinates.device)


def density_picture(found: SpectralDensity, points: int = 300, ends: Spectrum | None = None) -> Picture:
    """The spectral density with its band (two standard errors) on a logarithmic axis.

    ends: eigenvalues computed one by one are marked where they lie, so that spikes show which are isolated.
    """
    grid, height, error = found.on_grid(points)
    # below a thousandth of one eigenvalue's spike the curve shows the Gaussian's tail, nothing of the operator
    floor = 1e-3 * float(height.max()) / found.dim
    low, high = (height - 2 * error).clamp_min(floor), (height + 2 * error).clamp_min(floor)
    marks = () if ends is None else (_marks(ends, 1.5 * floor),)
    return Picture(
        name="spectral-density",
        title=f"Eigenvalue density, {found.name}",
        x_label="eigenvalue",
        y_label="density",
        series=(
            Series.of("two standard errors", grid.tolist(), low.tolist(), "band", high.tolist()),
            Series.of("density", grid.tolist(), height.clamp_min(floor).tolist()),
            *marks,
        ),
        y_log=True,
        caption="A spike of an isolated eigenvalue has area 1/d: only a logarithmic axis shows it.",
    )


def _marks(ends: Spectrum, height: float) -> Series:
    values = ends.eigenvalues.tolist()
    return Series.of("eigenvalues computed one by one", values, [height] * len(values), "points")


def _percent(share: float) -> str:
    """A share in per cent; 100% only where nothing is left."""
    return f"{100 * share:.0f}%" if share >= 1 or round(100 * share) < 100 else f"{min(100 * share, 99.9):.1f}%"
