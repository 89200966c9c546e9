"""Bootstrap of a fitted decay: intervals that survive autocorrelated residuals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tameopt.kl.decay_models import SHAPES, Decay
from tameopt.kl.trend import student_quantile


def correlation_length(residuals: np.ndarray) -> float:
    """1 + 2 sum of the autocorrelations up to the first negative one: how many points make one independent one."""
    m = residuals.size
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0.0 or m < 4:
        return 1.0
    total = 1.0
    for lag in range(1, m // 3 + 1):
        rho = float(centred[:-lag] @ centred[lag:]) / power
        if rho <= 0:
            break
        total += 2 * rho
    return total


def block_length(residuals: np.ndarray) -> int:
    """The block length: m^(1/3) (Kunsch 1989's rate), or the correlation length times it when that is longer."""
    m = residuals.size
    base = m ** (1 / 3) * max(1.0, correlation_length(residuals) ** (2 / 3))
    return int(np.clip(round(base), 1, max(1, m // 4)))


def lag_one(residuals: np.ndarray, parameters: int) -> float:
    """The lag-1 autocorrelation of regression residuals, corrected for its downward bias, at most 0.95.

    A regression with q parameters takes low frequencies out of m residuals; to first order the estimate is low by
    (1 + 3 rho + q (1 + rho)/2)/m (Marriott and Pope 1954 for q = 0; the q part was fitted by simulation).
    """
    m = residuals.size
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0.0 or m < 8:
        return 0.0
    rho = float(centred[:-1] @ centred[1:]) / power
    corrected = (rho + (1 + parameters / 2) / m) / (1 - (3 + parameters / 2) / m)
    return float(np.clip(corrected, -0.5, 0.95))


def resample(
    residuals: np.ndarray, replicates: int, generator: np.random.Generator, parameters: int = 3
) -> np.ndarray:
    """(replicates, m) series that vary and depend like the residuals: a pre-whitened block bootstrap.

    The residuals are whitened by their first-order autoregression, the innovations resampled in short circular
    blocks, and the autoregression run again. Blocks of the raw residuals alone (Kunsch 1989) break low frequencies
    and give intervals that are too short.
    """
    m = residuals.size
    rho = lag_one(residuals, parameters)
    centred = residuals - residuals.mean()
    innovations = centred[1:] - rho * centred[:-1]
    innovations = innovations - innovations.mean()
    # Independent points that m dependent ones are worth; the spread is set so that the series has the residuals'
    # variance, with the lost parameters restored and Student's quantile for the normal one.
    worth = max(parameters + 2.0, m * (1 - rho) / (1 + rho))
    widen = np.sqrt(worth / (worth - parameters)) * student_quantile(int(worth - parameters)) / 1.96
    target = float(centred.std()) * widen * np.sqrt(1 - rho**2)
    spread = float(innovations.std())
    if spread > 0:
        innovations = innovations * (target / spread)
    length = max(1, round(m**0.25))
    warm = 3 * length + int(np.ceil(6 / (1 - abs(rho))))
    count = -(-(m + warm) // length)
    starts = generator.integers(0, m - 1, size=(replicates, count))
    index = (starts[:, :, None] + np.arange(length)).reshape(replicates, -1)[:, : m + warm] % (m - 1)
    drawn = innovations[index]
    series = np.empty_like(drawn)
    series[:, 0] = drawn[:, 0]
    for k in range(1, m + warm):
        series[:, k] = rho * series[:, k - 1] + drawn[:, k]
    return series[:, warm:]


@dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates of a decay's parameters: F_star (R,), amplitude (R,), shape (R, q)."""

    F_star: np.ndarray
    amplitude: np.ndarray
    shape: np.ndarray


def _jacobian(decay: Decay, t: np.ndarray) -> np.ndarray:
    """(m, 2 + q) derivative of the fitted curve in (F*, log A, shape), by central differences in the shape."""
    shape = SHAPES[decay.kind]
    columns = [np.ones_like(t), decay.amplitude * shape(decay.parameters, t)]
    for j in range(decay.parameters.size):
        step = np.zeros_like(decay.parameters)
        step[j] = 1e-5
        ahead, behind = shape(decay.parameters + step, t), shape(decay.parameters - step, t)
        columns.append(decay.amplitude * (ahead - behind) / 2e-5)
    return np.stack(columns, axis=1)


def bootstrap_decay(
    decay: Decay,
    clock: np.ndarray,
    generator: np.random.Generator,
    replicates: int = 400,
    lower: float | None = None,
) -> Replicates:
    """Refit the decay to resampled residuals, by Gauss-Newton steps from the fit (all replicates at once).

    clock: (m,) as it was fitted.
    """
    t = (clock - clock[0]) / (clock[-1] - clock[0])
    root = np.sqrt(decay.weights)
    drawn = resample(decay.residuals, replicates, generator, decay.parameters.size + 2)
    noisy = decay.fitted + drawn / root
    free = _gauss_newton(decay, t, noisy, root, None)
    if lower is None:
        return free
    bound = _gauss_newton(decay, t, noisy, root, lower)
    below = free.F_star < lower
    return Replicates(
        np.where(below, lower, free.F_star),
        np.where(below, bound.amplitude, free.amplitude),
        np.where(below[:, None], bound.shape, free.shape),
    )


def _gauss_newton(
    decay: Decay, t: np.ndarray, noisy: np.ndarray, root: np.ndarray, fixed: float | None
) -> Replicates:
    """Six damped Gauss-Newton steps with the Jacobian at the fit; F* held at `fixed` when given."""
    jacobian = _jacobian(decay, t) * root[:, None]
    if fixed is not None:
        jacobian = jacobian[:, 1:]
    inverse = np.linalg.pinv(jacobian, rcond=1e-12)
    R = noisy.shape[0]
    F_star = np.full(R, decay.F_star if fixed is None else fixed)
    log_amplitude = np.full(R, np.log(decay.amplitude))
    shape = np.tile(decay.parameters, (R, 1))
    for _ in range(6):
        curve = F_star[:, None] + np.exp(log_amplitude)[:, None] * SHAPES[decay.kind](shape, t)
        change = ((noisy - curve) * root) @ inverse.T
        if fixed is None:
            F_star = F_star + change[:, 0]
            change = change[:, 1:]
        change = np.clip(change, -1.0, 1.0)
        log_amplitude = log_amplitude + change[:, 0]
        shape = shape + change[:, 1:]
    return Replicates(F_star, np.exp(log_amplitude), shape)
