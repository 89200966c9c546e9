"""Semialgebraic sets and functions, exactly: what the lecture's third chapter says can be computed.

>>> from tameopt.structure import semialgebraic
>>> print(*semialgebraic.Set("4*x**2 < 3").pieces())
(-0.866025403784 (root of degree 2), 0.866025403784 (root of degree 2))
"""

from tameopt.structure.semialgebraic.algebraic import AlgebraicNumber, real_roots
from tameopt.structure.semialgebraic.critical import CriticalValue, critical_values
from tameopt.structure.semialgebraic.formula import parse, parse_polynomial
from tameopt.structure.semialgebraic.function import Function
from tameopt.structure.semialgebraic.line import Break, LinePiece, breaks, line_pieces
from tameopt.structure.semialgebraic.polynomial import Polynomial
from tameopt.structure.semialgebraic.qepcad import EliminationError
from tameopt.structure.semialgebraic.sets import Set, project, truth
from tameopt.structure.semialgebraic.univariate import Piece, decompose

__all__ = [
    "AlgebraicNumber",
    "Break",
    "CriticalValue",
    "EliminationError",
    "Function",
    "LinePiece",
    "Piece",
    "Polynomial",
    "Set",
    "breaks",
    "critical_values",
    "decompose",
    "line_pieces",
    "parse",
    "parse_polynomial",
    "project",
    "real_roots",
    "truth",
]
