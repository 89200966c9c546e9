"""How fast and how exact is the least-norm point against QP solvers?

Question: for m = 256 points in d dimensions whose hull is at a known distance from 0, what do
`tameopt.nonsmooth.min_norm` and the QP solvers quadprog and DAQP (both on the Gram matrix) return, how far from the
truth, in what time? Points whose hull held 0 hold it no more once their entries are rounded: where d >= m the truth
is computed from the rounded points, in integers, and printed.

    OMP_NUM_THREADS=1 python benchmarks/nonsmooth_min_norm.py        (needs: pip install quadprog daqp)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from importlib.metadata import version

import numpy as np

from tameopt.nonsmooth import min_norm

M, REPEATS = 256, 5


def cloud(d: int, distance: float, seed: int = 0) -> np.ndarray:
    """(256, d) points of a hyperplane at that distance whose foot is in the interior of their hull."""
    rng = np.random.default_rng(seed)
    e = rng.standard_normal(d)
    e /= np.linalg.norm(e)
    points = rng.standard_normal((M, d))
    points -= np.outer(points @ e, e)
    points -= rng.dirichlet(np.ones(M)) @ points
    return points + distance * e


def by_quadprog(points: np.ndarray) -> np.ndarray:
    """Goldfarb & Idnani's dual method, with the ridge it needs to be definite."""
    import quadprog

    gram = points @ points.T
    gram[np.diag_indices(M)] += 1e-12
    rows = np.vstack([np.ones(M), np.eye(M)]).T.copy()
    return quadprog.solve_qp(gram, np.zeros(M), rows, np.r_[1.0, np.zeros(M)], 1)[0] @ points


def by_daqp(points: np.ndarray) -> np.ndarray:
    """The dual active-set solver DAQP."""
    import daqp

    kinds = np.r_[np.zeros(M, dtype=np.int32), 5].astype(np.int32)
    upper, lower = np.r_[np.ones(M), 1.0], np.r_[np.zeros(M), 1.0]
    return daqp.solve(points @ points.T, np.zeros(M), np.ones((1, M)), upper, lower, kinds)[0] @ points


def exact_distance(points: np.ndarray, weights: np.ndarray, bits: int = 220) -> tuple[float, float]:
    """The distance from 0 of the hull of these very floats, all of which are active, from above and from below.

    Iterative refinement of the weights in integers, units of 2^-bits (points and weights are whole numbers of them):
    the point, and its products with all points, are exact; only the corrections are solved for in floats.
    """

    def whole(array: np.ndarray) -> np.ndarray:
        numbers = [int(Fraction(float(number)) * 2**bits) for number in array.ravel()]
        return np.array(numbers, dtype=object).reshape(array.shape)

    def floats(array: np.ndarray, shift: int = 0) -> np.ndarray:
        return np.array([float(Fraction(number, 2 ** (bits - shift))) for number in array])

    exact, w, m = whole(points), whole(weights), len(points)
    gram = points @ points.T
    inverse = np.linalg.inv(gram + gram.diagonal().max())
    for _ in range(6):
        w[0] += 2**bits - w.sum()
        x = (w @ exact) >> bits
        products = (exact @ x) >> bits
        norm = float(np.linalg.norm(floats(x, 100))) * 2.0**-100
        lower = float(floats(products, 100).min()) * 2.0**-100 / norm
        step = inverse @ floats(products.sum() // m - products, 100) * 2.0**-100
        w = w + whole(step - step.sum() * floats(w))
    assert min(w) > 0, "not all points are active"
    return norm, lower


def main() -> None:
    """Print a table: median and quartiles of milliseconds, error of the distance."""
    solvers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "tameopt": lambda points: min_norm(points).point,
        "quadprog": by_quadprog,
        "daqp": by_daqp,
    }
    print("numpy", np.__version__, "quadprog", version("quadprog"), "daqp", version("daqp"), "float64, seed 0")
    print(f"{'d':>5} {'distance':>9} {'solver':>9} {'ms median [quartiles]':>26} {'error':>9} {'truth':>23}")
    for d in (16, 64, 256, 2000):
        for distance in (1.0, 1e-4, 0.0):
            points = cloud(d, distance)
            truth = exact_distance(points, min_norm(points).weights)[0] if d >= M else distance
            for name, solve in solvers.items():
                solve(points)
                times = []
                for _ in range(REPEATS):
                    begun = time.perf_counter()
                    x = solve(points)
                    times.append(1e3 * (time.perf_counter() - begun))
                low, middle, high = np.quantile(times, [0.25, 0.5, 0.75])
                error = abs(float(np.linalg.norm(x)) - truth)
                quartiles = f"{middle:10.2f} [{low:6.2f}, {high:6.2f}]"
                print(f"{d:5} {distance:9.0e} {name:>9} {quartiles} {error:9.1e} {truth:23.16e}")


if __name__ == "__main__":
    main()
