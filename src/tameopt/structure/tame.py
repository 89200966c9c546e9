"""The lattice of definability classes: which o-minimal structure a function needs.

A class is read off three facts about a function: the degree of its polynomial pieces (if it has such), whether it
has more than one piece, and the *generators* it needs beyond polynomials:

- "algebraic": roots and quotients, still semialgebraic (Tarski-Seidenberg);
- "analytic": analytic functions restricted to compact boxes, R_an (Gabrielov 1968; van den Dries 1986);
- "exp": the exponential, R_exp (Wilkie 1996); with "analytic" R_an,exp (van den Dries-Miller 1994);
- "pfaffian": Pfaffian functions such as erf (Wilkie 1999), over R_an by Speissegger 1999;
- "gamma": log Gamma on (0, inf), R_G,exp (van den Dries-Speissegger 2000); together with "pfaffian" the Pfaffian
  closure of that structure (Speissegger 1999 applies to any o-minimal expansion of the reals);
- "wild": no o-minimal structure is known to contain it (sin of an unbounded argument, say).
"""

from __future__ import annotations

from collections.abc import Iterable

ALGEBRAIC, RESTRICTED_ANALYTIC, EXPONENTIAL = "algebraic", "analytic", "exp"
PFAFFIAN, GAMMA, WILD = "pfaffian", "gamma", "wild"
GENERATORS = (ALGEBRAIC, RESTRICTED_ANALYTIC, EXPONENTIAL, PFAFFIAN, GAMMA, WILD)

CLASSES = (
    "polynomial",
    "piecewise polynomial",
    "semialgebraic",
    "R_an",
    "R_exp",
    "R_an,exp",
    "Pfaffian",
    "R_G,exp",
    "not definable",
    "unknown",
)

# Smoothness as a number, so that composition is a minimum: a composition is as smooth as its least smooth part.
DISCONTINUOUS, CONTINUOUS, LIPSCHITZ, ANALYTIC = -2, -1, 0, 1000

# Autodiff as a number, so that composition is a maximum.
CLASSICAL, CLARKE, CONSERVATIVE, ALMOST_EVERYWHERE, WRONG = 0, 1, 2, 3, 4
AUTODIFF = ("classical", "Clarke", "conservative", "almost everywhere", "wrong")


def class_name(generators: Iterable[str], degree: int | None, piecewise: bool) -> str:
    """The smallest class of the lattice that the three facts allow.

    >>> class_name((), 2, False), class_name((), 1, True), class_name({"exp", "algebraic"}, None, True)
    ('polynomial', 'piecewise polynomial', 'R_exp')
    """
    needed = set(generators)
    if not needed <= set(GENERATORS):
        raise ValueError(f"generators must be among {GENERATORS}, got {sorted(needed)}.")
    if WILD in needed:
        return "not definable"
    if GAMMA in needed:
        return "R_G,exp"
    if PFAFFIAN in needed:
        return "Pfaffian"
    if {RESTRICTED_ANALYTIC, EXPONENTIAL} <= needed:
        return "R_an,exp"
    if EXPONENTIAL in needed:
        return "R_exp"
    if RESTRICTED_ANALYTIC in needed:
        return "R_an"
    if ALGEBRAIC in needed or degree is None:
        return "semialgebraic"
    return "piecewise polynomial" if piecewise else "polynomial"


def smoothness_name(level: int) -> str:
    """The smoothness level in words.

    >>> [smoothness_name(level) for level in (1000, 2, 1, 0, -1, -2)]
    ['analytic', 'C^2', 'C^1', 'locally Lipschitz', 'continuous', 'discontinuous']
    """
    if level >= ANALYTIC:
        return "analytic"
    if level >= 1:
        return f"C^{level}"
    return {LIPSCHITZ: "locally Lipschitz", CONTINUOUS: "continuous", DISCONTINUOUS: "discontinuous"}[level]


def is_o_minimal(name: str) -> bool:
    """Whether every function of that class is definable in one o-minimal structure on the real field."""
    return name not in ("not definable", "unknown")


STRUCTURE_SOURCE = {
    "polynomial": "Tarski 1951; Seidenberg 1954",
    "piecewise polynomial": "Tarski 1951; Seidenberg 1954",
    "semialgebraic": "Tarski 1951; Seidenberg 1954",
    "R_an": "Gabrielov 1968; van den Dries 1986",
    "R_exp": "Wilkie 1996",
    "R_an,exp": "van den Dries and Miller 1994",
    "Pfaffian": "Wilkie 1999; Speissegger 1999",
    "R_G,exp": "van den Dries and Speissegger 2000; Speissegger 1999",
}
