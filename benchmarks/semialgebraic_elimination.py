"""Is quantifier elimination right? Random problems, every answer cross-checked with z3.

    python benchmarks/semialgebraic_elimination.py [--problems 40] [--seed 0]

Question: for random conditions p(x, y) and q(x, y) (and of three variables), is the set that `Set.project` returns
the projection? Needs QEPCAD (pip install --no-deps passagemath-qepcad) and z3 (pip install z3-solver), an independent
solver: its nlsat decides quantifier-free formulas, so that

- the conditions together with the negated answer must be unsatisfiable (no point of the projection is missing);
- at rational points x the answer must say whether z3 finds a y, and the y is the witness.

Prints the problems that disagree, those without an answer in time, and the seconds.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from fractions import Fraction
from typing import Any

import z3

import tameopt
from tameopt.structure.semialgebraic import EliminationError, Polynomial, Set
from tameopt.structure.semialgebraic.formula import And, Atom, Formula, Or


def in_z3(formula: Formula, names: dict[str, Any]) -> Any:
    """A quantifier-free formula in z3's terms."""
    if isinstance(formula, And):
        return z3.And([in_z3(part, names) for part in formula.parts])
    if isinstance(formula, Or):
        return z3.Or([in_z3(part, names) for part in formula.parts])
    assert isinstance(formula, Atom)
    value = _sum(formula.polynomial, names)
    relations = {
        "=": value == 0,
        "!=": value != 0,
        "<": value < 0,
        "<=": value <= 0,
        ">": value > 0,
        ">=": value >= 0,
    }
    return relations[formula.relation]


def _sum(polynomial: Polynomial, names: dict[str, Any]) -> Any:
    total: Any = z3.RealVal(0)
    for monomial, coefficient in polynomial.terms:
        term: Any = z3.RealVal(str(coefficient))
        for name, exponent in monomial:
            for _ in range(exponent):
                term = term * names[name]
        total = total + term
    return total


def random_problem(draw: random.Random, variables: tuple[str, ...]) -> str:
    """Two conditions of degree 2 or 3, the last variable to be eliminated in both."""
    monomials = [f"{a}*{b}" for a in variables for b in variables]
    monomials += [*variables, "1"]
    texts = []
    for relation in (draw.choice(["<", "<=", "=="]), draw.choice(["<", "<=", ">"])):
        chosen = [*draw.sample(monomials, 4), f"{variables[-1]}**{draw.choice([2, 3])}"]
        texts.append(" + ".join(f"({draw.randint(-4, 4)})*{m}" for m in chosen) + f" {relation} 0")
    return " and ".join(texts)


def check(text: str, variables: tuple[str, ...], draw: random.Random) -> tuple[str, float, int]:
    """("" or what is wrong, seconds of the elimination, points compared).

    Raises EliminationError where there is no answer.
    """
    names = {name: z3.Real(name) for name in variables}
    whole = Set(text, variables)
    start = time.perf_counter()
    answer = whole.project(variables[-1])
    seconds = time.perf_counter() - start
    solver = z3.Solver()
    solver.set("timeout", 20_000)
    solver.add(in_z3(whole.formula, names), z3.Not(in_z3(answer.formula, names)))
    if solver.check() == z3.sat:
        return f"{text}: misses {solver.model()}", seconds, 0
    points = 0
    for _ in range(12):
        at = {name: Fraction(draw.randint(-12, 12), draw.randint(1, 4)) for name in variables[:-1]}
        line = z3.Solver()
        line.set("timeout", 20_000)
        line.add(in_z3(whole.formula, names), *(names[key] == z3.RealVal(str(value)) for key, value in at.items()))
        found = line.check()
        if found == z3.unknown:
            continue
        points += 1
        if answer.contains(at) != (found == z3.sat):
            return f"{text}: wrong at {at}, z3 says {found}", seconds, points
    return "", seconds, points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    draw = random.Random(chosen.seed)
    wrong, unanswered, times, points = [], [], [], 0
    for k in range(chosen.problems):
        variables = ("x", "y") if k % 4 else ("x", "y", "z")
        text = random_problem(draw, variables)
        try:
            problem, seconds, compared = check(text, variables, draw)
        except EliminationError as error:
            unanswered.append(f"{text}: {error}")
            continue
        times.append(seconds)
        points += compared
        if problem:
            wrong.append(problem)
    for line in (*wrong, *unanswered):
        print(line)
    print(f"{len(times)} of {chosen.problems} eliminated, {points} points compared with z3, {len(wrong)} wrong")
    if times:
        print(f"seconds: median {statistics.median(times):.3f}, most {max(times):.3f}")
    print(f"tameopt {tameopt.__version__}, z3 {z3.get_version_string()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
