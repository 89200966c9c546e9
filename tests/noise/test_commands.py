"""The verbs flow and noise, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tameopt import problems
from tameopt.cli import main
from tameopt.optim.schedules import Power
from tameopt.run import Run

Train = Callable[..., Run]


def test_a_schedule_is_decided(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise", "--schedule", "power:0.75", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["robbins_monro"] == "PROVED"
    assert main(["noise", "--schedule", "power:1/2", "--q", "4"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("NOT ROBBINS-MONRO") and "PROVED    moment condition for q = 4" in out
    assert "REFUTED   their squares have a finite sum" in out


def test_the_flow_of_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flow", "quadratic", "--time", "1", "--points", "2", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] and len(found["rows"]) == 3
    assert found["rows"][2]["F"] < found["rows"][1]["F"] < found["rows"][0]["F"]
    assert main(["flow", "quadratic", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "The gradient flow of quadratic" in out and "a gradient costs" in out and "MB" in out
    assert found["gradient_cost"]["time_ratio"] > 0


def test_a_run_of_a_ready_problem(tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    problem = problems.load("digits-linear")
    meta = {"target": "digits-linear", "problem": "digits-linear"}
    folder = tmp_path / "run"
    with train(folder, problem, Power(0.2, 0.75, shift=5), 100, 32, windows=((20, 80),), meta=meta, every=15):
        pass
    drawn = [str(tmp_path / name) for name in ("flow.png", "noise.svg")]
    assert main(["flow", str(folder), "--windows", "2", "--time", "0.3", "--quiet", "--picture", drawn[0]]) == 0
    out = capsys.readouterr().out
    assert out.startswith(("FOLLOWS", "STAYS NEAR")) and "sqrt(alpha)" in out
    assert main(["noise", str(folder), "--quiet", "--picture", drawn[1]]) == 0
    out = capsys.readouterr().out
    assert out.startswith("NO BIAS SEEN") and "what the tests would have seen" in out and "growth: tr Sigma" in out
    assert (
        "all three hold in 95% of such fits (points of one run: fewer)" in " ".join(out.split())
        and "range of F" in out
        and "keeps coming back to a place of radius" in out
    )
    assert Path(drawn[0]).read_bytes()[:4] == b"\x89PNG" and "95% ellipse" in Path(drawn[1]).read_text()


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["noise"]) == 2
    assert "the folder of a recorded run, or --schedule, is required" in capsys.readouterr().err
    assert main(["noise", "digits-linear", "--quiet"]) == 2
    assert "must be a recorded run of a known problem" in capsys.readouterr().err
    assert main(["flow", "quadratic", "--time", "-1", "--quiet"]) == 2
    assert "--time must be > 0" in capsys.readouterr().err
    assert main(["flow", "quadratic", "--quiet", "--picture", str(tmp_path / "x.png")]) == 2
    assert "--picture draws how a run follows the flow" in capsys.readouterr().err
    assert main(["noise", "--schedule", "power:-1"]) == 2
    assert "p must be >= 0" in capsys.readouterr().err


def test_names_of_the_room_are_no_modules() -> None:
    """A submodule of the same name would replace the function once it is imported."""
    import pkgutil

    from tameopt import noise

    assert not {module.name for module in pkgutil.iter_modules(noise.__path__)} & set(noise.__all__)
