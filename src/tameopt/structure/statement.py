"""What a certificate says: the class of a loss, its smoothness, its autodiff level, and the operations behind it."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

from tameopt.evidence import Certificate, Verdict
from tameopt.structure.program import Obstruction, Place
from tameopt.structure.tame import is_o_minimal


@dataclass(frozen=True)
class Operation:
    """One recorded operator call, for reading.

    line: "file.py:12" or ""; module: the module's path or ""; result: what is known about its first output;
    varies: names of the arguments that depend on theta; row: what the operator's table says.
    """

    operator: str
    line: str
    module: str
    varies: tuple[str, ...]
    result: str
    row: str
    smoothness: str
    autodiff: str


@dataclass(frozen=True)
class Structure:
    """What kind of function a loss or network is, and how that is known.

    definable: "polynomial" | "piecewise polynomial" | "semialgebraic" | "R_an" | "R_exp" | "R_an,exp" | "Pfaffian" |
        "R_G,exp" | "not definable" (no o-minimal structure is known to contain it) | "unknown".
    degree: of the polynomial pieces, or None. smoothness: "analytic" | "C^k" | "locally Lipschitz" | "continuous" |
        "discontinuous" (no better proved), on its domain. total: defined and finite for every theta.
    autodiff: "classical" | "Clarke" | "conservative" | "almost everywhere" | "wrong" (not proved better).
    lower_bound, upper_bound: of the value, or None. shape: "affine" | "convex" | "concave" | "".
    homogeneous: h with value(t theta) = t^h value(theta) for t > 0, or None.
    verdict: PROVED when definability is: the certificate replays in the separate checker, and the class is
        o-minimal; UNKNOWN otherwise, with `obstructions`. replayed: the checker accepted the other claims
        (smoothness, autodiff, bounds), which hold for a function that is not tame, too.
    branches: lines where Python decided on a tensor that depends on theta and the other ways could not be followed:
        the rest holds for that branch only. ways: where they could, each way and what F is on it; F is one of these.
    kinks: the operations that are not smooth by themselves, or may leave their domain.
    operations: all that touch theta, in order.
    wrt: what varies. seconds: what it took.
    """

    name: str
    definable: str
    degree: int | None
    smoothness: str
    total: bool
    autodiff: str
    lower_bound: float | None
    upper_bound: float | None
    shape: str
    homogeneous: int | None
    verdict: Verdict
    certificate: Certificate | None = field(repr=False)
    obstructions: tuple[Obstruction, ...]
    kinks: tuple[Operation, ...] = field(repr=False)
    operations: tuple[Operation, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    wrt: str = "parameters"
    seconds: float = 0.0
    replayed: bool = False
    ways: tuple[str, ...] = ()

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that touch theta, sorted."""
        return tuple(sorted({operation.operator for operation in self.operations}))

    @property
    def branches(self) -> tuple[Obstruction, ...]:
        """Where Python decided on theta."""
        return tuple(item for item in self.obstructions if item.kind == "branch")

    @property
    def tame(self) -> bool:
        """Whether definability in an o-minimal structure is proved."""
        return self.verdict is Verdict.PROVED and is_o_minimal(self.definable)

    @property
    def locally_lipschitz(self) -> bool:
        """Whether local Lipschitz continuity on all of R^d is proved."""
        smooth = self.smoothness not in ("continuous", "discontinuous", "unknown")
        return self.replayed and self.total and smooth

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.definable == "unknown":
            first = self.obstructions[0] if self.obstructions else "nothing was recorded"
            return f"{self.name}: unknown. {first}"
        degree = f" of degree {self.degree}" if self.degree is not None else ""
        domain = "" if self.total else " on its domain"
        text = (
            f"{self.name}: {self.definable}{degree}, {self.smoothness}{domain}, autodiff {self.autodiff} "
            f"({self.verdict}, {len(self.operations)} operations, {len(self.operators)} operators)"
        )
        if self.branches:
            text += f"; on the branch taken at {self.branches[0].place} only"
        if self.ways:
            text += f"; one of {len(self.ways)} functions, as Python decides"
        return text

    def to_json(self) -> dict[str, Any]:
        """As plain data, without the certificate's nodes."""
        return {
            "name": self.name,
            "definable": self.definable,
            "degree": self.degree,
            "smoothness": self.smoothness,
            "total": self.total,
            "autodiff": self.autodiff,
            "lower_bound": self.lower_bound,
            "upper_bound": self.upper_bound,
            "shape": self.shape,
            "homogeneous": self.homogeneous,
            "verdict": str(self.verdict),
            "wrt": self.wrt,
            "seconds": self.seconds,
            "operators": list(self.operators),
            "kinks": [_where(operation) for operation in self.kinks],
            "obstructions": [
                {"kind": item.kind, "operator": item.operator, "message": item.message, "place": str(item.place)}
                for item in self.obstructions
            ],
            "ways": list(self.ways),
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return f"Structure({self.summary})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(_where(operation))}</td><td>{html.escape(operation.result)}</td></tr>"
            for operation in self.operations
        )
        return f"<p>{html.escape(self.summary)}</p><table>{rows}</table>"


def _where(operation: Operation) -> str:
    place = str(Place(operation.line, operation.module))
    return f"{operation.operator} at {place}"
