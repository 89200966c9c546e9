"""What a claim about a training run is worth: verdicts, evidence, findings and outcomes.

A *finding* says that a claim (`claims.py`) holds or fails, how we know, and how far it reaches. The four
verdicts are ordered by what they cost to earn, and the constructors refuse a verdict without its price:

- PROVED needs a `Certificate`: plain data that a separate checker replays in exact or outward-rounded
  arithmetic (`replay`). A float comparison never proves.
- MEASURED needs an estimate and its error.
- REFUTED needs a witness.
- UNKNOWN needs to say what is missing, and which call would supply it.
"""

from __future__ import annotations

import enum
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tameopt.claims import claim_named


class Verdict(enum.Enum):
    """How a claim stands. Compare by identity; the order of trust is not an order on truth."""

    PROVED = "PROVED"
    MEASURED = "MEASURED"
    REFUTED = "REFUTED"
    UNKNOWN = "UNKNOWN"

    def __str__(self) -> str:
        return self.value


class Scope(enum.Enum):
    """Where a finding holds. A theorem that asks for a global constant is not served by a local one."""

    GLOBAL = "everywhere"
    PATH = "on the path of the run"
    POINT = "at one point"
    RUN = "of this run's settings"

    def __str__(self) -> str:
        return self.value


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of a conjunction: refuted if one is, else unknown if one is, else the weakest.

    The empty conjunction is PROVED, as in logic.

    >>> combine([Verdict.PROVED, Verdict.MEASURED])
    <Verdict.MEASURED: 'MEASURED'>
    >>> combine([Verdict.UNKNOWN, Verdict.REFUTED])
    <Verdict.REFUTED: 'REFUTED'>
    """
    seen = set(verdicts)
    for verdict in (Verdict.REFUTED, Verdict.UNKNOWN, Verdict.MEASURED):
        if verdict in seen:
            return verdict
    return Verdict.PROVED


@dataclass(frozen=True)
class Cost:
    """What a computation costs, in the units that matter: full-data passes and seconds.

    `gradients` and `hessian_products` count passes over the whole data set (a mini-batch of size b out of n
    counts b/n).
    """

    gradients: float = 0.0
    hessian_products: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.gradients + other.gradients,
            self.hessian_products + other.hessian_products,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Certificate:
    """A proof as plain data, with the name of the checker that replays it.

    checker: "package.module:function"; the function takes `data` and returns True when every step of the
        proof holds, False when one does not, and raises ValueError when `data` is not its kind of proof.
        It must import none of the code that produced the proof.
    data: JSON-serialisable, self-contained.
    """

    checker: str
    data: Mapping[str, Any]

    def replay(self) -> bool:
        """Run the checker on the data. True only when the checker accepts.

        Raises ValueError when the checker cannot be found or is not part of tameopt.
        """
        module_name, _, function_name = self.checker.partition(":")
        if not module_name.startswith("tameopt.") or not function_name:
            raise ValueError(
                f"a checker must be named 'tameopt.module:function', got {self.checker!r}: "
                "a certificate may not run code from elsewhere."
            )
        try:
            function: Callable[[Mapping[str, Any]], bool] = getattr(
                importlib.import_module(module_name), function_name
            )
        except (ImportError, AttributeError) as error:
            raise ValueError(f"the checker {self.checker!r} does not exist: {error}") from error
        return function(self.data) is True


@dataclass(frozen=True)
class Evidence:
    """How a finding is known.

    method: what was done, in words ("block Lanczos, 40 products").
    estimate, interval: the number and the interval it lies in, in `unit`.
    error_kind: what the interval means: "95% interval", "standard error", "bound", "exact", "rounding".
    sample_size, seed: of a measurement; sample_size is None where nothing was sampled.
    certificate: the proof (PROVED).
    witness: what refutes (REFUTED), JSON-serialisable, e.g. {"step": 40, "gradient_norm": 3.1}.
    missing, remedy: what is missing and the call that would supply it (UNKNOWN).
    source: the theorem or lemma used (author, year, number).
    lines: source locations "file:line: what", where a finding is about code.
    """

    method: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    error_kind: str = ""
    unit: str = ""
    sample_size: int | None = None
    seed: int | None = None
    certificate: Certificate | None = None
    witness: Mapping[str, Any] | None = None
    missing: str = ""
    remedy: str = ""
    source: str = ""
    lines: tuple[str, ...] = ()
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Finding:
    """A claim, its verdict and its evidence; made by `proved`, `measured`, `refuted` or `unknown`.

    claim: a name of `claims.py`.
    statement: one sentence for a person, with its number.
    """

    claim: str
    verdict: Verdict
    statement: str
    evidence: Evidence
    scope: Scope = Scope.RUN

    def __post_init__(self) -> None:
        claim_named(self.claim)
        evidence = self.evidence
        if self.verdict is Verdict.PROVED and evidence.certificate is None:
            raise ValueError(
                f"PROVED needs a certificate that a checker replays, {self.claim!r} came with none: "
                "use MEASURED with its error, or attach the certificate."
            )
        if self.verdict is Verdict.MEASURED and (evidence.estimate is None or not evidence.error_kind):
            raise ValueError(
                f"MEASURED needs an estimate and the kind of its error, {self.claim!r} came with "
                f"estimate={evidence.estimate} and error_kind={evidence.error_kind!r}: supply both."
            )
        if self.verdict is Verdict.REFUTED and not evidence.witness:
            raise ValueError(f"REFUTED needs a witness, {self.claim!r} came with none: say where the claim fails.")
        if self.verdict is Verdict.UNKNOWN and not evidence.missing:
            raise ValueError(f"UNKNOWN must say what is missing, {self.claim!r} does not: fill in evidence.missing.")

    @property
    def value(self) -> float:
        """The estimate, or NaN when there is none."""
        return math.nan if self.evidence.estimate is None else self.evidence.estimate


def proved(
    claim: str, statement: str, certificate: Certificate, *, method: str, scope: Scope, **evidence: Any
) -> Finding:
    """A finding whose certificate has just been replayed; UNKNOWN when the replay fails.

    The replay happens here, so no caller can forget it. A certificate that its own checker rejects is our
    bug, and the finding says so rather than claiming anything.
    """
    if certificate.replay():
        return Finding(
            claim,
            Verdict.PROVED,
            statement,
            Evidence(method=method, certificate=certificate, **evidence),
            scope,
        )
    return unknown(
        claim,
        f"{statement} (not proved: the certificate did not replay)",
        missing=f"a certificate that {certificate.checker} accepts; please report this as a bug of tameopt",
        method=method,
        scope=scope,
    )


def measured(
    claim: str,
    statement: str,
    estimate: float,
    *,
    method: str,
    error_kind: str,
    interval: tuple[float, float] | None = None,
    scope: Scope,
    **evidence: Any,
) -> Finding:
    """A finding with an estimate and its error."""
    return Finding(
        claim,
        Verdict.MEASURED,
        statement,
        Evidence(method=method, estimate=estimate, interval=interval, error_kind=error_kind, **evidence),
        scope,
    )


def refuted(
    claim: str, statement: str, witness: Mapping[str, Any], *, method: str, scope: Scope, **evidence: Any
) -> Finding:
    """A finding that a claim fails, with the witness that shows it."""
    return Finding(claim, Verdict.REFUTED, statement, Evidence(method=method, witness=witness, **evidence), scope)


def unknown(
    claim: str,
    statement: str,
    *,
    missing: str,
    remedy: str = "",
    method: str = "",
    scope: Scope = Scope.RUN,
    **evidence: Any,
) -> Finding:
    """A finding that a claim is undecided, with what is missing and the call that would supply it."""
    return Finding(
        claim,
        Verdict.UNKNOWN,
        statement,
        Evidence(method=method, missing=missing, remedy=remedy, **evidence),
        scope,
    )


class Outcome(enum.Enum):
    """What a theorem says about a run, once its hypotheses have been matched with findings."""

    APPLIES = "applies"
    AS_MEASURED = "applies as far as measured"
    LOCALLY = "applies locally, as far as measured"
    FAILS = "does not apply"
    UNDECIDED = "undecided"

    def __str__(self) -> str:
        return self.value
