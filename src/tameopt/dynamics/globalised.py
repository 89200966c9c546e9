"""Invariant curves and surfaces beyond the local polynomial: carried on by the map or its inverse, for pictures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from tameopt.dynamics.gradient_map import GradientMap
from tameopt.dynamics.iterate import Map, batched, batched_jacobians
from tameopt.dynamics.manifold import InvariantManifold


def globalised_curve(
    manifold: InvariantManifold, T: GradientMap | Map, *, num_steps: int = 20, points: int = 400
) -> torch.Tensor:
    """(n, d) a curve of the global one-dimensional manifold: the local one carried on by T or its inverse.

    An unstable curve is iterated by T; a stable one by the inverse of a GradientMap, and the curve ends where the
    inverse no longer converges (there T is not invertible). Both sides of the fixed point, in order.

    Raises ValueError unless the manifold is a curve, and for the stable curve of a map without inverse.
    """
    _require(manifold, T, 1, "curve")
    rate = abs(float(manifold.eigenvalues[0]))
    # a fundamental domain [r * contraction, r]: its images cover the rest of the curve once
    contraction = rate if manifold.kind == "stable" else 1 / rate
    per_step = max(4, points // (2 * num_steps))
    carry = _carrier(manifold, T)
    logs = torch.linspace(math.log(contraction), 0.0, per_step + 1, dtype=torch.float64)[1:]
    # the local piece may be most of what a picture shows, however few points a step there are
    inner = torch.linspace(0, contraction, max(per_step, points // 4), dtype=torch.float64)[1:] * manifold.radius
    sides = [[manifold(sign * inner[:, None])] for sign in (-1.0, 1.0)]
    pieces = [manifold(sign * manifold.radius * torch.exp(logs)[:, None]) for sign in (-1.0, 1.0)]
    for _ in range(num_steps):
        for collected, piece in zip(sides, pieces, strict=True):
            collected.append(piece)
        if not any(piece.shape[0] for piece in pieces):
            break
        # both sides at once: what a step costs hardly depends on the number of points
        moved, whole = carry(torch.cat(pieces))
        lengths = [piece.shape[0] for piece in pieces]
        pieces = [
            _unbroken(part, arrived, manifold.kind)
            for part, arrived in zip(moved.split(lengths), whole.split(lengths), strict=True)
        ]
    left, right = (torch.cat([*collected, piece]) for collected, piece in zip(sides, pieces, strict=True))
    return torch.cat([left.flip(0), manifold.fixed_point[None].to(left), right])


def _unbroken(piece: torch.Tensor, arrived: torch.Tensor, kind: str) -> torch.Tensor:
    """The points that arrived; of a stable curve those before the first that is lost, past which it would jump."""
    lost = (~arrived).nonzero()[:, 0]
    return piece[: int(lost[0])] if lost.numel() and kind == "stable" else piece[arrived]


def globalised_surface(
    manifold: InvariantManifold,
    T: GradientMap | Map,
    *,
    num_steps: int = 20,
    angles: int = 60,
    rings_per_step: int = 3,
    extent: float = math.inf,
) -> torch.Tensor:
    """(r, angles + 1, d) a mesh of the global two-dimensional manifold: closed rings around the fixed point.

    Rings fill a fundamental domain of the local polynomial; T (or, for a stable surface, the inverse of a
    GradientMap) carries them outwards `num_steps` times. Nodes farther than `extent` from the fixed point, and those
    beyond where the inverse exists, are NaN. Where the two eigenvalues differ the rings stretch along the faster
    direction, and the mesh is coarse there: it is made for pictures, every node lies on the surface all the same.

    Raises ValueError unless the manifold has dimension 2, and for the stable surface of a map without inverse.
    Cost: num_steps applications of T (Newton solutions for its inverse) at rings_per_step * angles nodes.
    """
    _require(manifold, T, 2, "surface")
    center = manifold.fixed_point
    turn = torch.linspace(0, 2 * math.pi, angles + 1, dtype=torch.float64)
    circle = manifold.radius * torch.stack([turn.cos(), turn.sin()], dim=1)
    rates = manifold.eigenvalues.abs().double()
    inwards = rates if manifold.kind == "stable" else 1 / rates
    # the first ring of the domain is the circle moved inwards by one step; its images fill what lies outside
    shares = torch.arange(1, rings_per_step + 1, dtype=torch.float64) / rings_per_step
    domain = [circle * inwards ** (1 - share) for share in shares]
    inner = [circle * inwards * share for share in torch.linspace(0, 1, rings_per_step + 1, dtype=torch.float64)]
    rings = [manifold(ring) for ring in (*inner, *domain)]
    piece = torch.cat(rings[-rings_per_step:])
    alive = torch.ones(piece.shape[0], dtype=torch.bool)
    carry = _carrier(manifold, T)
    for _ in range(num_steps):
        moved = torch.full_like(piece, math.nan)
        if bool(alive.any()):
            carried, whole = carry(piece[alive])
            whole &= (carried - center.to(carried)).norm(dim=1) <= extent
            moved[alive] = torch.where(whole[:, None], carried, math.nan)
        piece, alive = moved, torch.isfinite(moved).all(dim=1)
        if not bool(alive.any()):
            break
        rings += list(piece.split(angles + 1))
    return torch.stack(rings)


def _require(manifold: InvariantManifold, T: GradientMap | Map, dimension: int, what: str) -> None:
    if manifold.dimension != dimension:
        raise ValueError(f"a {what} needs a manifold of dimension {dimension}, got {manifold.dimension}.")
    if manifold.kind == "stable" and not isinstance(T, GradientMap):
        raise ValueError(f"a stable {what} is carried on by the inverse of T, which only a GradientMap has here.")
    if not manifold.radius > 0:
        raise ValueError(
            f"a {what} needs a local manifold with radius > 0, this has none: its invariance error is "
            f"{manifold.residual:.1e} however near; allow a larger one (residual=)."
        )
    if float(manifold.eigenvalues.abs().min()) < 1e-12:
        raise ValueError(
            f"a {what} is carried on by an invertible T, DT is singular at this fixed point: choose a smaller alpha."
        )


Carrier = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _carrier(manifold: InvariantManifold, T: GradientMap | Map) -> Carrier:
    """Points (m, d) -> where T, or its inverse for a stable manifold, takes them, and which arrived: (m,) bool."""
    probe = manifold.fixed_point + 0.1 * manifold.radius * torch.eye(manifold.fixed_point.numel()).to(
        manifold.fixed_point
    )
    step = batched(T, probe)
    if manifold.kind == "unstable":

        def forward(piece: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            moved = step(piece)
            return moved, torch.isfinite(moved).all(dim=1) & (moved.norm(dim=1) < 1e6)

        return forward
    slopes = batched_jacobians(T, probe)

    def backward(piece: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = 2 * piece - step(piece)  # to first order the inverse
        for _ in range(10):
            # points that have no number stay none, and are told by `good`
            matrices, rest = slopes(x).nan_to_num(0.0, 0.0, 0.0), (step(x) - piece).nan_to_num(0.0, 0.0, 0.0)
            move = torch.linalg.lstsq(matrices, rest[:, :, None]).solution[:, :, 0]
            x = x - move
            # Newton's steps square the error: after one of 1e-8 it is at rounding
            if float(move.abs().max()) <= 1e-8 * max(1.0, float(x.abs().max())):
                break
        good = (step(x) - piece).norm(dim=1) <= 1e-9 * piece.norm(dim=1).clamp_min(1.0)
        # beyond a singular Jacobian the inverse is not unique, and the curve would jump
        good &= torch.linalg.eigvals(slopes(x).nan_to_num(0.0, 0.0, 0.0)).real.amin(dim=1) > 0
        return x, good

    return backward
