"""Are the exponents of bivariate polynomials of degree at most 8 PROVED, and in how many seconds each?

    python benchmarks/kl_exponents.py [COUNT] [SEED]

Hard ones on file (degenerate Newton polygons, coefficients that need towers of number fields, powers), and COUNT
random polynomials a kind: sparse with integer coefficients, dense, squares of dense ones, products of curves
through the origin, and (polynomial)^2 + higher terms. Prints the slowest of each kind in seconds of CPU time, and
every one that is undecided or not PROVED.
"""

from __future__ import annotations

import sys
import time
from fractions import Fraction

import numpy as np

from tameopt.evidence import Verdict
from tameopt.kl import exponent
from tameopt.kl.polynomial import Polynomial, Terms, add, multiply

HARD = (
    "(x - y**2)**2 + x**4", "(x - y**2)**2 + y**8", "(x**2 - 2*y**2)**2 + x**5", "(x**2 - 2*y**2)**2 + y**7",
    "((y**2 - x**3)**2 + x**5*y)", "(y**2 - x**3)**2 + x**7*y", "(x**2 + y**2)**3 - 4*x**2*y**2",
    "(x**3 - 2*y**3)**2 + x**8", "(x**4 - 2*y**4)**2",
    "(x**2 - 3*y**2)**2 + x**3*y**4 + y**8", "x**8 + y**8 + x**3*y**3",
    "(y - x**2)**2*(y + x**2)**2", "((y - x**2)**2 - x**5)*(x + y**3)", "(x**3 + x*y**3 + y**4)**2",
    "(x**2 - y**3)**2 + x*y**5 + y**8", "(x**2 + x*y + y**2)**4", "(x**2 - 5*x*y + y**2)**4 + x**8",
    "x**2*y**2*(x - y)**2*(x + y)**2", "(x*y)**4 + x**7*y + y**8", "(x - y - x**2)**8",
)  # fmt: skip


def _power(f: Terms, k: int) -> Terms:
    result: Terms = {(0, 0): Fraction(1)}
    for _ in range(k):
        result = multiply(result, f)
    return result


def _random(generator: np.random.Generator, low: int, high: int, share: float) -> Terms:
    """Coefficients in -5..5 on a share of the monomials of degree low..high."""
    found: Terms = {}
    for i in range(high + 1):
        for j in range(high + 1 - i):
            if i + j >= low and generator.random() < share:
                c = int(generator.integers(-5, 6))
                if c:
                    found[(i, j)] = Fraction(c)
    return found or {(low, 0): Fraction(1), (0, high): Fraction(1)}


def kinds(generator: np.random.Generator) -> dict[str, Terms]:
    """One polynomial of each random kind."""
    line = _random(generator, 1, 2, 1.0)
    return {
        "sparse": _random(generator, 2, 8, 0.15),
        "dense from degree 2": _random(generator, 2, 8, 1.0),
        "dense from degree 4": _random(generator, 4, 8, 1.0),
        "square of a dense quartic": _power(_random(generator, 2, 4, 1.0), 2),
        "curve squared times another": multiply(_power(line, 2), _random(generator, 2, 4, 0.7)),
        "square and higher terms": add(_power(_random(generator, 1, 3, 0.7), 2), _random(generator, 7, 8, 0.5)),
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    generator = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    cases: dict[str, list[object]] = {"hard": list(HARD)}
    for _ in range(count):
        for kind, terms in kinds(generator).items():
            if terms:
                cases.setdefault(kind, []).append(Polynomial(("x", "y"), terms))
    print("| kind | count | PROVED | undecided | median CPU s | largest CPU s |\n|---|---|---|---|---|---|")
    for kind, polynomials in cases.items():
        seconds, undecided, proved = [], [], 0
        for one in polynomials:
            begun = time.process_time()
            found = exponent(one)
            seconds.append(time.process_time() - begun)
            proved += found.verdict is Verdict.PROVED
            if found.theta is not None and found.verdict is not Verdict.PROVED:
                print(f"  {found.verdict}: {one}")
            if found.theta is None:
                undecided.append(f"{one}: {found.rule}")
            if seconds[-1] > 10:
                print(f"  {seconds[-1]:.1f} s: {one}")
        print(
            f"| {kind} | {len(polynomials)} | {proved} | {len(undecided)} | {np.median(seconds):.3f} | "
            f"{max(seconds):.2f} |",
            flush=True,
        )
        for words in undecided:
            print(f"  undecided: {words}")


if __name__ == "__main__":
    main()
