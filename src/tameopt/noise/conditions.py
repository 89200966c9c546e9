"""The step-size conditions of stochastic approximation, decided for all k from the schedule itself.

sum alpha_k = inf with sum alpha_k^2 < inf (Robbins and Monro 1951); with moments of order q >= 2 of the noise
bounded, sum alpha_k^(1+q/2) < inf; with sub-Gaussian noise, sum exp(-c/alpha_k) < inf for every c > 0 (Benaim 1999,
section 4). A finite table of numbers decides none of these, and is answered so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from tameopt.evidence import Certificate, Finding, Scope, Verdict, combine, proved, refuted, unknown
from tameopt.noise._display import HtmlText
from tameopt.noise.tails import Tail, exact, tail_of
from tameopt.optim import schedules
from tameopt.optim.schedules import Real, Schedule

_CHECKER = "tameopt.noise.series_checker:check"
_METHOD = "comparison with (k+1)^-p log(k+e)^-r in exact rationals, Bertrand's criterion"
_SOURCE = "Robbins and Monro 1951; Benaim 1999, section 4"


@dataclass(frozen=True)
class StepConditions(HtmlText):
    """What the steps of one schedule, continued for ever, satisfy.

    Each of `constant`, `positive`, `vanishes`, `diverges`, `square_summable`, `robbins_monro` (both of the last),
    `moment` (for the order q) and `subgaussian` is a `Verdict`; `findings` hold the arguments, replayed.
    """

    schedule: Schedule
    q: Fraction
    findings: tuple[Finding, ...]

    def finding(self, claim: str) -> Finding:
        """The finding about a claim such as "step.sum_diverges"."""
        return next(finding for finding in self.findings if finding.claim == claim)

    @property
    def constant(self) -> Verdict:
        return self.finding("step.constant").verdict

    @property
    def positive(self) -> Verdict:
        return self.finding("step.positive").verdict

    @property
    def vanishes(self) -> Verdict:
        return self.finding("step.vanishes").verdict

    @property
    def diverges(self) -> Verdict:
        return self.finding("step.sum_diverges").verdict

    @property
    def square_summable(self) -> Verdict:
        return self.finding("step.square_summable").verdict

    @property
    def moment(self) -> Verdict:
        return self.finding("step.moment_summable").verdict

    @property
    def subgaussian(self) -> Verdict:
        return self.finding("step.subgaussian").verdict

    @property
    def robbins_monro(self) -> Verdict:
        return combine([self.diverges, self.square_summable])

    def __repr__(self) -> str:
        return (
            f"StepConditions({self.schedule}: diverges {self.diverges}, square_summable {self.square_summable}, "
            f"robbins_monro {self.robbins_monro}, subgaussian {self.subgaussian})"
        )


def step_conditions(schedule: Schedule | Mapping[str, Any], q: Real = 2) -> StepConditions:
    """Decide the step-size conditions of a schedule; each answer carries a certificate that was replayed.

    schedule: a `tame.schedules` entry or its JSON. q: order of the bounded noise moments, >= 2, for `moment`.

    Raises TypeError for a bare list of numbers: it decides nothing, give it a tail with `schedules.Table`.

    >>> from tameopt.optim.schedules import Power
    >>> step_conditions(Power(0.1, 0.75)).robbins_monro
    <Verdict.PROVED: 'PROVED'>
    >>> step_conditions(Power(0.1, 0.5)).robbins_monro, step_conditions(Power(0.1, 0.5)).subgaussian
    (<Verdict.REFUTED: 'REFUTED'>, <Verdict.PROVED: 'PROVED'>)
    """
    if isinstance(schedule, Mapping):
        schedule = schedules.from_json(schedule)
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule must be a tame.schedules entry or its JSON, got {type(schedule).__name__}: finitely many "
            "numbers decide no limit, give them as tame.schedules.Table(values, then=...) with the steps to come."
        )
    order = exact(q)
    if order < 2:
        raise ValueError(f"q must be >= 2, got {q}: the condition asks for bounded moments of order 2 at least.")
    decide = _Decider(schedule, tail_of(schedule))
    return StepConditions(
        schedule,
        order,
        (
            decide.constant(),
            decide.positive(),
            decide.vanishes(),
            decide.sum_diverges(),
            decide.power_summable("step.square_summable", Fraction(2)),
            decide.power_summable("step.moment_summable", 1 + order / 2),
            decide.subgaussian(),
        ),
    )


@dataclass(frozen=True)
class _Decider:
    schedule: Schedule
    tail: Tail | None

    def _yes(self, claim: str, statement: str, **extra: Any) -> Finding:
        return proved(
            claim,
            f"{self.schedule}: {statement}",
            self._certificate(claim, True, extra.get("weight")),
            method=_METHOD,
            scope=Scope.RUN,
            source=_SOURCE,
            estimate=extra.get("estimate"),
        )

    def _no(self, claim: str, statement: str, witness: Mapping[str, Any], weight: Fraction | None = None) -> Finding:
        certificate = self._certificate(claim, False, weight)
        if not certificate.replay():
            return unknown(
                claim,
                f"{self.schedule}: {statement} (the certificate did not replay)",
                missing="a certificate that the checker accepts; please report this as a bug of tameopt",
                method=_METHOD,
            )
        return refuted(
            claim,
            f"{self.schedule}: {statement}",
            {"schedule": str(self.schedule), **witness},
            method=_METHOD,
            scope=Scope.RUN,
            certificate=certificate,
            source=_SOURCE,
        )

    def _unknown(self, claim: str) -> Finding:
        return unknown(
            claim,
            f"{self.schedule}: undecidable from finite data.",
            missing="what the steps are past the last recorded one",
            remedy="say how the schedule goes on: tame.schedules.Table(values, then=tame.schedules.Power(a, p))",
            method=_METHOD,
        )

    def _certificate(self, claim: str, holds: bool, weight: Fraction | None) -> Certificate:
        assert self.tail is not None
        return Certificate(
            _CHECKER,
            {
                "claim": claim,
                "holds": holds,
                "weight": str(weight or 1),
                "schedule": self.schedule.to_json(),
                "tail": self.tail.to_json(),
            },
        )

    # -- the claims ----------------------------------------------------------------------------------------

    def constant(self) -> Finding:
        first, tail = self.schedule(0), self.tail
        if tail is not None and tail == Tail(tail.upper, tail.upper):
            return self._yes("step.constant", f"every step is {first:.6g}.", estimate=first)
        step = next((k for k in _PROBES if self._differs(k)), None)
        if step is None:
            return self._unknown("step.constant")
        then = self.schedule(step)
        return refuted(
            "step.constant",
            f"{self.schedule}: the steps change, from {first:.4g} at step 0 to {then:.4g} at {step:,}.",
            {"alpha": {"0": first, str(step): then}},
            method="two steps compared, relative difference above 1e-9",
            scope=Scope.RUN,
        )

    def _differs(self, k: int) -> bool:
        try:
            return abs(self.schedule(k) - self.schedule(0)) > 1e-9 * self.schedule(0)
        except ValueError:  # past the end of a table
            return False

    def positive(self) -> Finding:
        tail = self.tail
        if tail is None:
            return self._unknown("step.positive")
        if tail.zero_at is None:
            return self._yes("step.positive", "every step is positive.")
        words = (
            f"the steps are 0 from step {tail.zero_at:,} on, so nothing moves after it."
            if tail.upper == 0
            else f"step {tail.zero_at:,} is 0."
        )
        return self._no("step.positive", words, {"step": tail.zero_at, "alpha": 0.0})

    def vanishes(self) -> Finding:
        tail = self.tail
        if tail is None:
            return self._unknown("step.vanishes")
        if _vanishes(tail):
            return self._yes("step.vanishes", "the steps tend to 0.")
        if tail.lower is not None and tail.p == 0 and tail.r <= 0:
            return self._no(
                "step.vanishes",
                f"the steps do not tend to 0: they keep {_keeps(tail)}.",
                {"lower": float(tail.lower)},
            )
        return self._unknown("step.vanishes")

    def sum_diverges(self) -> Finding:
        tail = self.tail
        if tail is None:
            return self._unknown("step.sum_diverges")
        if _is_infinite(tail, Fraction(1)):
            return self._yes("step.sum_diverges", f"the steps sum to infinity, {_law(tail)}.")
        if _is_finite(tail, Fraction(1)):
            why = f"they are 0 from step {tail.start:,} on" if tail.upper == 0 else _law(tail)
            return self._no("step.sum_diverges", f"the steps have a finite sum, {why}.", {"law": _law(tail)})
        return self._unknown("step.sum_diverges")

    def power_summable(self, claim: str, weight: Fraction) -> Finding:
        tail, what = self.tail, "squares" if weight == 2 else f"powers alpha_k^{_decimal(weight)}"
        if tail is None:
            return self._unknown(claim)
        if _is_finite(tail, weight):
            return self._yes(claim, f"the {what} of the steps have a finite sum, {_law(tail)}.", weight=weight)
        if _is_infinite(tail, weight):
            return self._no(
                claim, f"the {what} of the steps sum to infinity, {_law(tail)}.", {"law": _law(tail)}, weight
            )
        return self._unknown(claim)

    def subgaussian(self) -> Finding:
        tail, claim = self.tail, "step.subgaussian"
        if tail is None:
            return self._unknown(claim)
        if tail.upper == 0 or tail.shrink is not None or tail.p > 0 or (tail.p == 0 and tail.r > 1):
            return self._yes(claim, f"sum exp(-c/alpha_k) is finite for every c > 0, {_law(tail)}.")
        if tail.lower is not None and tail.p == 0 and (tail.r <= 0 or (tail.every > 0 and tail.r <= 1)):
            return self._no(
                claim,
                f"sum exp(-c/alpha_k) is infinite for c = {float(tail.lower):.4g}, {_law(tail)}.",
                {"c": float(tail.lower), "law": _law(tail)},
            )
        return self._unknown(claim)


_PROBES = (1, 2, 3, 7, 17, 101, 997, 10_007, 100_003, 1_000_003)


def _vanishes(tail: Tail) -> bool:
    return tail.upper == 0 or tail.shrink is not None or tail.p > 0 or (tail.p == 0 and tail.r > 0)


def _is_finite(tail: Tail, weight: Fraction) -> bool:
    p = tail.p * weight
    return tail.upper == 0 or tail.shrink is not None or p > 1 or (p == 1 and tail.r * weight > 1)


def _is_infinite(tail: Tail, weight: Fraction) -> bool:
    p, r = tail.p * weight, tail.r * weight
    if tail.lower is None:
        return False
    if tail.every == 0:
        return p == 0 and r <= 0
    return p < 1 or (p == 1 and r <= 1)


def _decimal(number: Fraction) -> str:
    short = repr(float(number))
    return (short.removesuffix(".0")) if Fraction(short) == number else str(number)


def _keeps(tail: Tail) -> str:
    assert tail.lower is not None
    return f"coming back to {float(tail.lower):.4g} or more" if tail.every != 1 else f"above {float(tail.lower):.4g}"


def _law(tail: Tail) -> str:
    """The law of the tail in words."""
    if tail.upper == 0:
        return f"alpha_k = 0 from k = {tail.start:,} on"
    if tail.shrink is not None:
        return "they shrink geometrically"
    if tail.p == 0 and tail.r == 0:
        return "they do not shrink"
    log = f" log(k)^{_decimal(-tail.r)}" if tail.r else ""
    return f"alpha_k ~ k^{_decimal(-tail.p)}{log}" if tail.p else f"alpha_k ~ log(k)^{_decimal(-tail.r)}"
