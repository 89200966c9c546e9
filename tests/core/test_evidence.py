"""A verdict is refused without its price."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tameopt.catalogue import entries, entry
from tameopt.claims import CLAIMS, claim_named
from tameopt.evidence import (
    Certificate,
    Evidence,
    Finding,
    Scope,
    Verdict,
    combine,
    measured,
    proved,
    refuted,
    unknown,
)


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (Verdict.PROVED, "PROVED needs a certificate"),
        (Verdict.MEASURED, "MEASURED needs an estimate"),
        (Verdict.REFUTED, "REFUTED needs a witness"),
        (Verdict.UNKNOWN, "must say what is missing"),
    ],
)
def test_a_verdict_without_its_price_is_refused(verdict: Verdict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Finding("F.tame", verdict, "F is tame", Evidence(method="none"))


def test_measured_without_the_kind_of_error_is_refused() -> None:
    with pytest.raises(ValueError, match="kind of its error"):
        measured("F.tame", "s", 1.0, method="m", error_kind="", scope=Scope.RUN)


def test_a_certificate_that_does_not_replay_proves_nothing() -> None:
    # a checker of ours that rejects everything that is not its kind of proof
    certificate = Certificate("tameopt.claims:claim_named", "F.tame")  # type: ignore[arg-type]
    finding = proved("F.tame", "F is tame", certificate, method="forged", scope=Scope.GLOBAL)
    assert finding.verdict is Verdict.UNKNOWN
    assert "did not replay" in finding.statement


@pytest.mark.parametrize("checker", ["os:system", "tameopt.evidence:no_such", "tameopt.nowhere:check", "tameopt"])
def test_a_certificate_may_not_name_foreign_code(checker: str) -> None:
    with pytest.raises(ValueError, match=r"checker"):
        Certificate(checker, {}).replay()


def test_combine_is_commutative_associative_and_never_upgrades() -> None:
    trust = {Verdict.PROVED: 3, Verdict.MEASURED: 2, Verdict.UNKNOWN: 1, Verdict.REFUTED: 0}
    for a, b, c in itertools.product(Verdict, repeat=3):
        assert combine([a, b]) is combine([b, a])
        assert combine([combine([a, b]), c]) is combine([a, combine([b, c])])
        assert trust[combine([a, b])] == min(trust[a], trust[b])
    assert combine([]) is Verdict.PROVED


def test_findings_know_their_value() -> None:
    finding = measured("gradient.lipschitz", "L = 2", 2.0, method="m", error_kind="bound", scope=Scope.PATH)
    assert finding.value == 2.0
    assert unknown("F.tame", "s", missing="a trace").value != unknown("F.tame", "s", missing="a trace").value
    assert refuted("F.tame", "s", {"x": 0}, method="m", scope=Scope.GLOBAL).evidence.witness == {"x": 0}


def test_unknown_claims_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'F\.tame'"):
        claim_named("F.tme")
    assert all(claim.name == name and claim.statement for name, claim in CLAIMS.items())


def test_the_catalogue_suggests_and_names_the_file_at_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "digits-mlp" in entries("tameopt.problems")
    with pytest.raises(ValueError, match=r"Did you mean 'rosenbrock'"):
        entry("tameopt.problems", "Rosenbrok")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "__init__.py").touch()
    (tmp_path / "shelf" / "_private.py").touch()
    assert entries("shelf") == {}
    entries.cache_clear()
    (tmp_path / "shelf" / "odd.py").write_text("x = 1")
    with pytest.raises(TypeError, match=r"must define ENTRY with a name, shelf\.odd does not"):
        entries("shelf")
