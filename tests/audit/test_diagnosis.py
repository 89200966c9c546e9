"""A diagnosis survives JSON whole, and what is no diagnosis is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tameopt as tame
from tameopt.audit.codec import decode, encode
from tameopt.audit.diagnosis import Diagnosis, TrainingVerdict
from tameopt.evidence import Verdict


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    found: Diagnosis = tame.audit("saddle", steps=120, out=tmp_path_factory.mktemp("audit") / "saddle")
    return found


def test_json_keeps_everything(diagnosis: Diagnosis) -> None:
    text = json.dumps(diagnosis.to_json(), allow_nan=False)
    again = Diagnosis.from_json(json.loads(text))
    assert json.loads(json.dumps(again.to_json(), allow_nan=False)) == json.loads(text)
    assert again.verdict == diagnosis.verdict
    assert [one.outcome for one in again.judgements] == [one.outcome for one in diagnosis.judgements]


def test_certificates_still_replay_after_json(diagnosis: Diagnosis) -> None:
    again = Diagnosis.from_json(json.loads(json.dumps(diagnosis.to_json())))
    proofs = [one for one in again.findings if one.verdict is Verdict.PROVED]
    assert proofs
    for one in proofs:
        assert one.evidence.certificate is not None
        assert one.evidence.certificate.replay(), one.claim


def test_the_file_beside_the_run_is_the_diagnosis(diagnosis: Diagnosis) -> None:
    loaded = Diagnosis.load(diagnosis.settings.run_path)
    assert loaded.to_json() == diagnosis.to_json()


def test_no_bug_of_ours_in_it(diagnosis: Diagnosis) -> None:
    assert diagnosis.bugs == ()
    assert {record.status for record in diagnosis.analyses} <= {"done", "skipped"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "schema"),
        ('{"schema": "tameopt.diagnosis", "schema_version": 99}', "schema version 99"),
        ('{"schema": "tameopt.diagnosis", "schema_version": "1"}', "schema version"),
        ("not json", "must be a diagnosis in JSON"),
        (
            '{"schema": "tameopt.diagnosis", "schema_version": 1, "settings": 3}',
            "diagnosis.settings must be an object",
        ),
    ],
)
def test_what_is_no_diagnosis_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "diagnosis.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Diagnosis.load(tmp_path)


def test_an_absent_diagnosis_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="run the audit first"):
        Diagnosis.load(tmp_path)


def test_a_verdict_has_a_known_kind() -> None:
    with pytest.raises(ValueError, match="must be one of converging"):
        TrainingVerdict("nice", "", "", (), "low", "", "")


@pytest.mark.parametrize("number", [0.1, -0.0, math.inf, -math.inf, 1e308, 5e-324])
def test_numbers_come_back_exactly(number: float) -> None:
    written = json.loads(json.dumps(encode(number), allow_nan=False))
    assert decode(float, written) == number
    assert math.isnan(decode(float, encode(math.nan)))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (float, "1.0", "must be a number"),
        (float, True, "must be a number"),
        (int, 1.5, "must be int"),
        (tuple[int, ...], 3, "must be a list"),
        (dict[str, int], [], "must be an object"),
        (Verdict, "MAYBE", "must be one of PROVED"),
    ],
)
def test_data_of_another_type_is_told(kind: Any, data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(kind, data)


def test_what_is_no_plain_data_is_told() -> None:
    with pytest.raises(TypeError, match="must hold plain data"):
        encode(object())
