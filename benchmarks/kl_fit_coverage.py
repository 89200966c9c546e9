"""Do the 95% intervals of `kl.fit` cover?

    python benchmarks/kl_fit_coverage.py [RUNS]

Simulated losses on 100 recorded steps, F* = 0.3, exponential (factor 0.999 a step) or power 1 decay, with noise of 5%
of the excess or of a constant 0.01, independent or autoregressive (rho). Counts which regime is found, and how often
the interval of the rate and of F* covers among the runs that were decided rightly.
"""

from __future__ import annotations

import sys

import numpy as np

from tameopt.kl.fit import fit
from tameopt.kl.series import LossSeries

CASES = (
    ("linear", "proportional", 0.0), ("linear", "proportional", 0.5), ("linear", "constant", 0.0),
    ("linear", "constant", 0.5), ("sublinear", "proportional", 0.0), ("sublinear", "proportional", 0.5),
)  # fmt: skip


def autoregressive(generator: np.random.Generator, m: int, rho: float) -> np.ndarray:
    """(m,) stationary, unit variance."""
    shocks = generator.standard_normal(m + 100) * np.sqrt(1 - rho**2)
    series = np.zeros(m + 100)
    for i in range(1, m + 100):
        series[i] = rho * series[i - 1] + shocks[i]
    return series[100:]


def simulate(regime: str, noise: str, rho: float, runs: int) -> tuple[dict[str, int], float, float]:
    """(regimes found, coverage of the rate, coverage of F*)."""
    generator = np.random.default_rng(0)
    k = np.arange(0, 6000, 60)
    truth = 0.999 if regime == "linear" else 1.0
    excess = 2 * 0.999**k if regime == "linear" else 1 / (1 + k / 200)
    found: dict[str, int] = {}
    rate, limit = [], []
    for i in range(runs):
        z = autoregressive(generator, k.size, rho)
        values = 0.3 + (excess * (1 + 0.05 * z) if noise == "proportional" else excess + 0.01 * z)
        fitted = fit(LossSeries(k, k.astype(float), values, np.full(k.size, np.nan)), seed=i)
        found[fitted.regime] = found.get(fitted.regime, 0) + 1
        if fitted.regime == regime:
            low, high = fitted.factor_interval if regime == "linear" else fitted.power_interval
            rate.append(low <= truth <= high)
            limit.append(fitted.F_star_interval[0] <= 0.3 <= fitted.F_star_interval[1])
    return found, float(np.mean(rate)), float(np.mean(limit))


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(f"{runs} simulated runs a row\n\n| decay | noise | rho | regimes found | rate covered | F* covered |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        found, rate, limit = simulate(*case, runs)
        words = ", ".join(f"{name} {count}" for name, count in sorted(found.items(), key=lambda item: -item[1]))
        print(f"| {case[0]} | {case[1]} | {case[2]} | {words} | {100 * rate:.1f}% | {100 * limit:.1f}% |", flush=True)


if __name__ == "__main__":
    main()
