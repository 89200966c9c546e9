"""How F - F* decays: exponentially or like a power, fitted with their noise by pseudo-likelihood.

Both models are F* + A s(t) with a shape s of one or two parameters. For a given shape they are linear in (F*, A),
so those are eliminated (variable projection) and only the shape is searched. The noise may be additive (a floor)
and proportional to the excess (interpolation, multiplicative noise): Var = sigma^2 (rho^2 + (A s)^2), rho profiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["linear", "sublinear"]
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def exponential_shape(parameters: np.ndarray, t: np.ndarray) -> np.ndarray:
    """exp(-b t), parameters (..., 1) = log b, t (m,) in [0, 1] -> (..., m)."""
    decay: np.ndarray = np.exp(-np.exp(parameters[..., :1]) * t)
    return decay


def power_shape(parameters: np.ndarray, t: np.ndarray) -> np.ndarray:
    """(1 + t/tau)^(-p), parameters (..., 2) = (log p, log tau), t (m,) in [0, 1] -> (..., m)."""
    decay: np.ndarray = np.exp(-np.exp(parameters[..., :1]) * np.log1p(t / np.exp(parameters[..., 1:2])))
    return decay


SHAPES: dict[Kind, Shape] = {"linear": exponential_shape, "sublinear": power_shape}
_GRID_B = np.log(np.geomspace(0.05, 600.0, 90))[:, None]
_GRID_P = np.stack(
    np.meshgrid(np.log(np.geomspace(0.1, 12.0, 32)), np.log(np.geomspace(1e-4, 30.0, 28)), indexing="ij"), axis=-1
).reshape(-1, 2)
_GRIDS: dict[Kind, np.ndarray] = {"linear": _GRID_B, "sublinear": _GRID_P}


@dataclass(frozen=True)
class Decay:
    """A fitted model F = F* + A s(t), t = (clock - clock[0]) / span.

    parameters: of the shape, on t in [0, 1]. weights: (m,) 1/Var up to sigma^2, at the fit. residuals: (m,)
    standardised, (y - fit) sqrt(weights). loglik: (m,) pointwise log likelihood.
    """

    kind: Kind
    F_star: float
    amplitude: float
    parameters: np.ndarray
    fitted: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    sigma: float
    loglik: np.ndarray


def _solve_linear(shapes: np.ndarray, y: np.ndarray, weights: np.ndarray, lower: float | None) -> np.ndarray:
    """Weighted least squares of y on (1, s): (G, m) shapes -> (G, 2) of (F*, A); F* >= lower when given."""
    w = weights / weights.sum()
    mean_s, mean_y = shapes @ w, float(y @ w)
    centred = shapes - mean_s[:, None]
    variance = np.einsum("gm,gm,m->g", centred, centred, w)
    covariance = centred @ (w * (y - mean_y))
    amplitude = covariance / np.maximum(variance, 1e-300)
    F_star = mean_y - amplitude * mean_s
    if lower is not None:
        clipped = F_star < lower
        through = ((shapes * w) @ (y - lower)) / np.maximum(np.einsum("gm,gm,m->g", shapes, shapes, w), 1e-300)
        amplitude = np.where(clipped, through, amplitude)
        F_star = np.where(clipped, lower, F_star)
    return np.stack([F_star, amplitude], axis=1)


def _objective(
    kind: Kind, candidates: np.ndarray, t: np.ndarray, y: np.ndarray, weights: np.ndarray, lower: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted residual sums (G,) and linear parameters (G, 2) of candidate shapes (G, q)."""
    shapes = SHAPES[kind](candidates, t)
    linear = _solve_linear(shapes, y, weights, lower)
    residuals = y - linear[:, :1] - linear[:, 1:] * shapes
    sums = np.einsum("gm,gm,m->g", residuals, residuals, weights)
    # a growing model is no decay
    return np.where(linear[:, 1] > 0, sums, np.inf), linear


def _search(
    kind: Kind,
    t: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    lower: float | None,
    near: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The best shape parameters and (F*, A): Levenberg-Marquardt from `near`, or from two points of a grid.

    The valley of (p, tau, F*) is long, curved and flat: descent along coordinates stops in it, Gauss-Newton on the
    projected residual does not (variable projection, Golub and Pereyra 1973).
    """
    candidates = _GRIDS[kind]
    sums = np.zeros(1) if near is not None else _objective(kind, candidates, t, y, weights, lower)[0]
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    order = np.argsort(sums)
    # the best grid point, and one further off: the valley may have two ends
    for start in candidates[order[[0, min(12, order.size - 1)]]] if near is None else near[None]:
        found = _levenberg(kind, start, t, y, weights, lower)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    return best[1], best[2]


def _projected(
    kind: Kind, candidates: np.ndarray, t: np.ndarray, y: np.ndarray, weights: np.ndarray, lower: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """(G, m) weighted residuals with (F*, A) eliminated, and (G, 2) those."""
    shapes = SHAPES[kind](candidates, t)
    linear = _solve_linear(shapes, y, weights, lower)
    return (y - linear[:, :1] - linear[:, 1:] * shapes) * np.sqrt(weights), linear


def _levenberg(
    kind: Kind, start: np.ndarray, t: np.ndarray, y: np.ndarray, weights: np.ndarray, lower: float | None
) -> tuple[float, np.ndarray, np.ndarray]:
    """(weighted residual sum, shape parameters, (F*, A)) at a local minimum."""
    q = start.size
    low, high = _GRIDS[kind].min(axis=0), _GRIDS[kind].max(axis=0)
    centre, damping, step = start, 1e-3, 1e-5
    offsets = step * np.concatenate([np.eye(q), -np.eye(q)])
    (residual, *_), (pair, *_) = _projected(kind, centre[None], t, y, weights, lower)
    value = float(residual @ residual)
    for _ in range(40):
        around, _ = _projected(kind, centre + offsets, t, y, weights, lower)
        jacobian = ((around[:q] - around[q:]) / (2 * step)).T
        gram, slope = jacobian.T @ jacobian, jacobian.T @ residual
        scale = np.maximum(np.diag(gram), 1e-300)
        dampings = damping * np.array([1e-2, 1.0, 1e2, 1e4])
        # a ridge of 1e-14 keeps the matrices of the smallest damping regular
        matrices = gram + (dampings + 1e-14)[:, None, None] * np.diag(scale)
        trials = centre - np.linalg.solve(matrices, np.broadcast_to(slope, (dampings.size, q))[..., None])[..., 0]
        trials = np.clip(trials, low, high)
        residuals, pairs = _projected(kind, trials, t, y, weights, lower)
        values = np.where(pairs[:, 1] > 0, np.einsum("gm,gm->g", residuals, residuals), np.inf)
        best = int(np.argmin(values))
        if not values[best] < value:
            break
        gained, moved = value - values[best], float(np.abs(trials[best] - centre).max())
        centre, value, residual, pair, damping = (
            trials[best], float(values[best]), residuals[best], pairs[best], max(dampings[best], 1e-12),
        )  # fmt: skip
        if gained <= 1e-9 * value and moved < 1e-6:
            break
    return (value if pair[1] > 0 else np.inf), centre, pair


def _noise(y: np.ndarray, fitted: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, float]:
    """(weights, sigma) of Var = sigma^2 (rho^2 + excess^2), rho by maximum likelihood on a grid."""
    top = float(excess.max())
    ratios = np.concatenate([np.geomspace(1e-14, 1e3, 52) * top, [0.0]])
    squares = ratios[:, None] ** 2 + excess**2
    squares = np.maximum(squares, 1e-300)
    residuals = (y - fitted) ** 2
    sigma2 = np.maximum((residuals / squares).mean(axis=1), 1e-300)
    loglik = -0.5 * (y.size * np.log(sigma2) + np.log(squares).sum(axis=1))
    best = int(np.argmax(loglik))
    return 1.0 / squares[best], float(np.sqrt(sigma2[best]))


def fit_decay(kind: Kind, clock: np.ndarray, values: np.ndarray, lower: float | None = None) -> Decay | None:
    """The best decay of that kind, or None when the series does not fall.

    clock, values: (m,). lower: a known lower bound of F (0 for a sum of squares), which F* then respects.
    """
    span = float(clock[-1] - clock[0])
    t = (clock - clock[0]) / span
    scale = float(np.ptp(values))
    if scale == 0.0 or not np.isfinite(scale):
        return None
    weights = np.ones_like(values)
    floor = 4 * np.finfo(np.float64).eps * float(np.abs(values).max())
    parameters: np.ndarray | None = None
    for _ in range(8):
        parameters, (F_star, amplitude) = _search(kind, t, values, weights, lower, parameters)
        if not amplitude > 0:
            return None
        excess = amplitude * SHAPES[kind](parameters, t)
        fitted = F_star + excess
        # rounding is the least additive noise there is
        new, _ = _noise(values, fitted, np.hypot(excess, floor))
        change = float(np.max(np.abs(np.log(new / new.max()) - np.log(weights / weights.max()))))
        weights = new
        if change < 1e-3:
            break
    # the weights have settled: once more from the grid, in case the first weights led astray
    parameters, (F_star, amplitude) = _search(kind, t, values, weights, lower)
    if not amplitude > 0:
        return None
    fitted = F_star + amplitude * SHAPES[kind](parameters, t)
    residuals = (values - fitted) * np.sqrt(weights)
    sigma2 = max(float((residuals**2).mean()), 1e-300)
    loglik = -0.5 * (np.log(sigma2 / weights) + residuals**2 / sigma2)
    return Decay(
        kind, float(F_star), float(amplitude), parameters, fitted, weights, residuals, float(np.sqrt(sigma2)), loglik
    )
