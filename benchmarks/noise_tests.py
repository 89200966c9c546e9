"""Do the noise tests and intervals keep what they promise? Size, power and coverage by simulation.

    python benchmarks/noise_tests.py [size-500] [size-5000] [power] [tails] [growth] [covariance]

size: false alarms of `noise_tests` at 5%, all its tests together, n = 500 and 5,000. power: rejections of known
departures. tails: how often `tail_index` calls each law heavy. growth, covariance: how often the stated intervals
hold the truth.
Each share comes with its standard error in points; minutes on one core.
"""

from __future__ import annotations

import math
import platform
import sys
import time

import numpy as np

from tameopt.noise import growth_model, noise_tests, tail_index
from tameopt.noise.covariance import mean_interval
from tameopt.noise.hill import hill


def share(count: float, trials: int) -> str:
    p = count / trials
    return f"{100 * p:.2f}% +- {100 * math.sqrt(max(p * (1 - p), 1e-9) / trials):.2f} ({trials:,} simulations)"


LAWS = {
    "Gaussian": lambda rng, m: rng.normal(size=(m, 1)),
    "Student t5": lambda rng, m: rng.standard_t(5, (m, 1)),
    "skewed (exponential - 1)": lambda rng, m: rng.exponential(size=(m, 1)) - 1,
}


def size(m: int, trials: int = 5_000) -> None:
    print(f"\n## False alarms of noise_tests at the level 5%, n = {m:,}, epochs of 10 known\n")
    for law, draw in LAWS.items():
        rng, begun = np.random.default_rng(m), time.perf_counter()
        alarms = sum(noise_tests(draw(rng, m), epoch=10, seed=seed, power=False).rejected for seed in range(trials))
        print(f"{law}: {share(alarms, trials)}, {time.perf_counter() - begun:.0f} s", flush=True)


def power() -> None:
    print("\n## Rejections of known departures at the level 5%\n")
    trials = 200
    for m, d in ((60, 20), (160, 20), (500, 1), (500, 20)):
        rng = np.random.default_rng(m + d)
        counts = {"bias 0.2": 0, "correlation 0.2": 0, "reshuffling, 10 batches an epoch": 0}
        for seed in range(trials):
            noise = rng.normal(size=(m + 1, d))
            shift = np.zeros(d)
            shift[0] = 0.2 * d**0.5
            blocks = noise[: m // 10 * 10].reshape(-1, 10, d)
            copies = (
                noise + shift,
                noise[1:] + 0.2 * noise[:-1],
                (blocks - blocks.mean(1, keepdims=True)).reshape(-1, d),
            )
            for name, copy in zip(counts, copies, strict=True):
                counts[name] += noise_tests(copy, epoch=10, seed=seed, power=False).rejected
        shares = ", ".join(f"{name} {100 * count / trials:.0f}%" for name, count in counts.items())
        print(f"n = {m}, d = {d}: {shares}", flush=True)


def tails() -> None:
    print("\n## Called heavy by tail_index (light in brackets): one number a step\n")
    trials = 6_000
    for m in (500, 5000):
        rng, k = np.random.default_rng(m), round(m ** (2 / 3))
        found = tail_index(np.abs(rng.normal(size=m)), seed=1)  # its controls depend on m and k alone
        for law, draw in {
            "Gaussian": lambda: rng.normal(size=(500, m)),  # noqa: B023
            "Student t3": lambda: rng.standard_t(3, (500, m)),  # noqa: B023
            "Student t2": lambda: rng.standard_t(2, (500, m)),  # noqa: B023
        }.items():
            alphas = np.concatenate([hill(np.abs(draw()), k) for _ in range(trials // 500)])
            heavy = (alphas < found.gaussian[0]) & (alphas <= found.student3[1])
            light = (alphas >= found.gaussian[0]) & (alphas > found.student3[1])
            print(f"n = {m:,}, {law}: {share(heavy.sum(), trials)} [{100 * light.mean():.2f}%]", flush=True)


def _decay(rng: np.random.Generator, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared gradients over three decades and gaps over two, falling together as along a run."""
    u = np.sort(rng.uniform(size=m))
    return 10 ** (-3 * u) * np.exp(0.5 * rng.normal(size=m)), 10 ** (-2 * u) * np.exp(0.3 * rng.normal(size=m))


DESIGNS = {
    "exponential": lambda rng, m: (rng.exponential(size=m), rng.exponential(size=m)),
    "falling along a run": _decay,
}
ERRORS = {
    "uniform, 30%": lambda rng, mean: mean * rng.uniform(0.7, 1.3, mean.size),
    "log-normal, 30%": lambda rng, mean: mean * np.exp(0.3 * rng.normal(size=mean.size) - 0.045),
    "of one size": lambda rng, mean: mean + 0.5 * mean.min() * rng.uniform(-1, 1, mean.size),
}


def growth(trials: int = 2_000) -> None:
    print("\n## The three intervals of growth_model together, nominally 95%\n")
    for design, points in DESIGNS.items():
        for errors, put in ERRORS.items():
            for m in (20, 60):
                rng, shares = np.random.default_rng(m), []
                for truth in ((0.5, 2.0, 0.0), (0.5, 2.0, 1.0), (0.0, 1.0, 0.0)):
                    hits = 0
                    for _ in range(trials):
                        squares, gaps = points(rng, m)
                        mean = truth[0] + truth[1] * squares + truth[2] * gaps
                        fit = growth_model(put(rng, mean), squares, gaps)
                        hits += all(low <= t <= high for t, (low, high) in zip(truth, fit.intervals, strict=True))
                    shares.append(f"A, B, C = {truth}: {share(hits, trials)}")
                print(f"{design}, errors {errors}, m = {m}: " + "; ".join(shares), flush=True)


def covariance() -> None:
    print("\n## The interval of tr Sigma from drawn samples\n")
    for name, draw in {
        "chi-square, 6 degrees": lambda rng, shape: rng.chisquare(6, shape),
        "exponential": lambda rng, shape: rng.exponential(size=shape),
        "log-normal, sigma 1": lambda rng, shape: rng.lognormal(0, 1, shape),
        "log-normal, sigma 1.5": lambda rng, shape: rng.lognormal(0, 1.5, shape),
    }.items():
        for m in (100, 400, 2000):
            rng, trials = np.random.default_rng(m), 5_000
            population = draw(rng, 50_000)
            truth, hits = population.mean(), 0
            for _ in range(trials):
                low, high = mean_interval(rng.choice(population, m), 0.0)
                hits += low <= truth <= high
            print(f"{name}, {m:,} samples: {share(hits, trials)}", flush=True)


if __name__ == "__main__":
    print(f"numpy {np.__version__}, Python {platform.python_version()}")
    questions = {
        "size-500": lambda: size(500),
        "size-5000": lambda: size(5000),
        "power": power,
        "tails": tails,
        "growth": growth,
        "covariance": covariance,
    }
    for name in sys.argv[1:] or questions:
        questions[name]()
