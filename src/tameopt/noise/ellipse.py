"""The noise in the plane where it is largest, with the ellipse that holds 95% of a Gaussian of its covariance."""

from __future__ import annotations

import math

import torch

from tameopt.noise.window_distance import leading_plane
from tameopt.picture import Picture, Series

_RADIUS = math.sqrt(-2.0 * math.log(0.05))  # 95% of a Gaussian in the plane lie within so many standard deviations


def noise_ellipse(noise: torch.Tensor, what: str) -> Picture:
    """Picture of (m, d) noise vectors, m >= 3, in their leading plane; what: where they come from, for the caption.

    The axes are the two leading principal directions of the second moments around 0, so that a bias shows as a cloud
    beside the cross at 0.
    """
    rows = noise.detach().to("cpu", torch.float64)
    if rows.ndim != 2 or rows.shape[0] < 3:
        raise ValueError(f"noise must be (m, d) with m >= 3 vectors, got shape {tuple(rows.shape)}.")
    # the cloud and its mirror image have mean 0: their plane is that of the second moments
    _, basis, share = leading_plane([rows, -rows])
    flat = rows @ basis
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    scales, axes = torch.linalg.eigh(covariance)
    angle = torch.linspace(0.0, 2.0 * math.pi, 121, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()])
    ring = mean[:, None] + _RADIUS * axes @ (scales.clamp(min=0.0).sqrt()[:, None] * circle)
    inside = ring_share(flat - mean, covariance)
    return Picture(
        "noise-ellipse",
        "The noise in its leading plane",
        "first leading direction",
        "second leading direction",
        (
            Series.of("noise", flat[:, 0].tolist(), flat[:, 1].tolist(), "points"),
            Series.of("95% ellipse of a Gaussian", ring[0].tolist(), ring[1].tolist()),
            Series.of("mean", [float(mean[0])], [float(mean[1])], "points"),
            Series.of("0", [0.0], [0.0], "points"),
        ),
        caption=f"{what}; the plane holds {100 * share:.0f}% of the variance, the ellipse {100 * inside:.0f}% of the "
        "points.",
    )


def ring_share(centred: torch.Tensor, covariance: torch.Tensor) -> float:
    """The share of (m, 2) points inside the 95% ellipse."""
    squares = ((centred @ torch.linalg.pinv(covariance)) * centred).sum(1)
    return float((squares <= _RADIUS**2).to(torch.float64).mean())
