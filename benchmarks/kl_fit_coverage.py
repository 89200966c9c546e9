"""Do the 95% intervals of `kl.fit` cover?

    python benchmarks/kl_fit_coverage.py [RUNS] [SEED] [ROW ...]        (rows 1 to 8, all by default)

Simulated losses on 100 recorded steps, F* = 0.3, exponential (factor 0.999 a step) or power 1 decay, with noise of 5%
of the excess or of a constant 0.01, independent or autoregressive (rho), Gaussian or Student's t with 5 degrees of
freedom. Counts which regime is found, and how often the intervals of the rate (factor or power), of F* and of the
constant c cover among the runs that were decided rightly. SEED: of the simulation; no choice in `kl.fit` was made on
the default one.
"""

from __future__ import annotations

import sys

import numpy as np

from tameopt.kl.fit import fit
from tameopt.kl.series import LossSeries

CASES = (
    ("linear", "proportional", 0.0), ("linear", "proportional", 0.5), ("linear", "constant", 0.0),
    ("linear", "constant", 0.5), ("sublinear", "proportional", 0.0), ("sublinear", "proportional", 0.5),
    ("linear", "constant, t5", 0.5), ("sublinear", "proportional, t5", 0.0),
)  # fmt: skip


def autoregressive(generator: np.random.Generator, m: int, rho: float, heavy: bool) -> np.ndarray:
    """(m,) stationary, unit variance."""
    size = m + 100
    raw = generator.standard_t(5, size) * np.sqrt(3 / 5) if heavy else generator.standard_normal(size)
    shocks = raw * np.sqrt(1 - rho**2)
    series = np.zeros(size)
    for i in range(1, size):
        series[i] = rho * series[i - 1] + shocks[i]
    return series[100:]


def simulate(regime: str, noise: str, rho: float, runs: int, seed: int) -> tuple[dict[str, int], list[float]]:
    """(regimes found, [coverage of the rate, of F*, of c])."""
    generator = np.random.default_rng([seed, *noise.encode(), round(10 * rho)])
    k = np.arange(0, 6000, 60)
    excess = 2 * 0.999**k if regime == "linear" else 1 / (1 + k / 200)
    # (F - F*)' = -c^2 (F - F*)^(2 theta): c^2 = -log(0.999), and for 1/(1 + k/200), theta = 1, c^2 = 1/200
    rate, c = (0.999, np.sqrt(-np.log(0.999))) if regime == "linear" else (1.0, np.sqrt(1 / 200))
    found: dict[str, int] = {}
    covered = []
    for _ in range(runs):
        z = autoregressive(generator, k.size, rho, "t5" in noise)
        values = 0.3 + (excess * (1 + 0.05 * z) if "proportional" in noise else excess + 0.01 * z)
        fitted = fit(LossSeries(k, k.astype(float), values, np.full(k.size, np.nan)))
        found[fitted.regime] = found.get(fitted.regime, 0) + 1
        if fitted.regime == regime:
            low, high = fitted.factor_interval if regime == "linear" else fitted.power_interval
            ends = fitted.F_star_interval, fitted.c_interval
            covered.append([low <= rate <= high, ends[0][0] <= 0.3 <= ends[0][1], ends[1][0] <= c <= ends[1][1]])
    return found, [float(share) for share in np.mean(covered, axis=0)]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 20260
    print(f"{runs} simulated runs a row, seed {seed}\n")
    print("| decay | noise | rho | regimes found | rate covered | F* covered | c covered |")
    print("|---|---|---|---|---|---|---|")
    for case in [CASES[int(row) - 1] for row in sys.argv[3:]] or CASES:
        found, shares = simulate(*case, runs, seed)
        words = ", ".join(f"{name} {count}" for name, count in sorted(found.items(), key=lambda item: -item[1]))
        print(
            f"| {' | '.join(map(str, case))} | {words} | {' | '.join(f'{100 * s:.1f}%' for s in shares)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
