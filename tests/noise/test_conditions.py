"""Step conditions: the known table of exponents, certificates that refuse tampering, agreement with partial sums."""

from __future__ import annotations

import ast
import copy
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tameopt.evidence import Verdict
from tameopt.noise import series_checker
from tameopt.noise.conditions import step_conditions
from tameopt.optim.schedules import Constant, Cosine, Power

P, R = Verdict.PROVED, Verdict.REFUTED


@pytest.mark.parametrize(
    ("schedule", "diverges", "squares", "subgaussian", "vanishes"),
    [
        (Constant(0.1), P, R, R, R),
        (Power(0.1, 1), P, P, P, P),
        (Power(0.1, 0.75), P, P, P, P),
        (Power(0.1, 0.5), P, R, P, P),
        (Power(0.1, Fraction(1, 3)), P, R, P, P),
        (Power(0.1, Fraction(501, 1000), shift=50), P, P, P, P),
        (Power(0.1, Fraction(1001, 1000), shift=0.5), R, P, P, P),
        (Power(0.1, 0), P, R, R, R),
        (Cosine(0.1, 100), R, P, P, P),
        (Cosine(0.1, 100, a_min=1e-5), P, R, R, R),
    ],
)
def test_known_table(schedule, diverges, squares, subgaussian, vanishes) -> None:  # type: ignore[no-untyped-def]
    conditions = step_conditions(schedule)
    assert (conditions.diverges, conditions.square_summable) == (diverges, squares)
    assert conditions.subgaussian is subgaussian
    assert conditions.vanishes is vanishes
    assert conditions.robbins_monro is (P if (diverges, squares) == (P, P) else R)
    for finding in conditions.findings:
        assert finding.statement.startswith(str(schedule))
        if finding.evidence.certificate is not None:
            assert finding.evidence.certificate.replay()


def test_zero_steps_are_not_positive() -> None:
    finding = step_conditions(Cosine(0.1, 100)).finding("step.positive")
    assert finding.verdict is R
    assert finding.evidence.witness is not None and finding.evidence.witness["step"] == 100


def test_constant() -> None:
    assert step_conditions(Constant(0.1)).constant is P
    assert step_conditions(Constant(0.1)).finding("step.constant").value == 0.1
    assert step_conditions(Power(0.1, 0)).constant is P
    assert step_conditions(Power(0.1, 0.1)).constant is R


@given(st.fractions(0, 2, max_denominator=60), st.fractions(2, 8, max_denominator=10))
def test_moment_threshold_is_exact(p: Fraction, q: Fraction) -> None:
    conditions = step_conditions(Power(0.3, p), q=q)
    assert conditions.moment is (P if p * (1 + q / 2) > 1 else R)
    assert conditions.diverges is (P if p <= 1 else R)


def test_a_float_means_its_decimal() -> None:
    # 0.4 (1 + q/2) = 1 at q = 3; the binary 0.4 lies above 2/5 and would decide the tie by rounding
    assert Fraction(0.4) > Fraction(2, 5)
    assert step_conditions(Power(1.0, 0.4), q=3).moment is R
    assert step_conditions(Power(1.0, 0.4), q=3 + Fraction(1, 10**12)).moment is P


def _certificate(schedule, claim="step.square_summable"):  # type: ignore[no-untyped-def]
    certificate = step_conditions(schedule).finding(claim).evidence.certificate
    assert certificate is not None
    return copy.deepcopy(dict(certificate.data))


def test_checker_refuses_tampering() -> None:
    good = _certificate(Power(0.1, 0.5))
    assert series_checker.check(good) and good["holds"] is False
    assert not series_checker.check({**good, "holds": True})
    assert not series_checker.check({**good, "holds": True, "weight": "3"})  # another weight under the same claim
    sharper = copy.deepcopy(good)
    sharper["tail"]["p"] = "3/4"
    assert not series_checker.check({**sharper, "holds": True})
    shrinking = copy.deepcopy(good)
    shrinking["tail"]["shrink"] = ["1/2", 1]
    assert not series_checker.check({**shrinking, "holds": True})
    zero = copy.deepcopy(good)
    zero["tail"]["upper"] = "0"
    assert not series_checker.check({**zero, "holds": True})
    other = {**_certificate(Power(0.1, 0.75)), "schedule": Power(0.1, 0.5).to_json()}
    assert not series_checker.check(other)
    constant = {**_certificate(Constant(0.1), "step.constant"), "schedule": Power(0.1, 0.5).to_json()}
    assert not series_checker.check(constant)


def test_checker_refuses_what_is_no_certificate() -> None:
    with pytest.raises(ValueError, match="not a certificate of step sizes"):
        series_checker.check({"claim": "step.sum_diverges"})
    with pytest.raises(ValueError, match="no bounds are known for a schedule of kind 'mystery'"):
        series_checker.check({**_certificate(Constant(0.1)), "schedule": {"kind": "mystery"}})
    with pytest.raises(ValueError, match=r"cannot claim 'F\.tame'"):
        series_checker.check({**_certificate(Constant(0.1)), "claim": "F.tame"})
    with pytest.raises(ValueError, match="must be > 0"):
        series_checker.check({**_certificate(Constant(0.1)), "schedule": {"kind": "constant", "a": -1}})


def test_checker_imports_nothing_of_ours() -> None:
    tree = ast.parse(Path(series_checker.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not any(str(name).startswith("tameopt") for name in imported)


def test_refusals() -> None:
    with pytest.raises(TypeError, match="finitely many numbers decide no limit"):
        step_conditions([0.1, 0.05])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="q must be >= 2, got 1"):
        step_conditions(Constant(0.1), q=1)
