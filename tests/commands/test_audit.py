"""audit, train and report as a person calls them: files, streams, JSON, exit codes, bad input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tameopt import cli
from tameopt.audit.diagnosis import Diagnosis
from tameopt.run import Run

QUICK = ("quadratic", "--steps", "40", "-q")

FACTORY = """
import torch

def cnn():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(18, 3)
    )
    x = torch.randn(24, 1, 8, 8, generator=generator)
    return model, torch.nn.functional.cross_entropy, (x, torch.arange(24) % 3)

def broken():
    raise RuntimeError("the data are on another disk")

def wrong():
    return 3

def mismatched():
    return torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (torch.ones(4, 2), torch.ones(4, 1))

def not_a_number():
    return torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, (torch.full((4, 2), float("nan")), torch.ones(4, 1))

def frozen():
    model = torch.nn.Linear(2, 1).requires_grad_(False)
    return model, torch.nn.functional.mse_loss, (torch.ones(4, 2), torch.ones(4, 1))

def vector_loss():
    return torch.nn.Linear(2, 2), lambda out, y: (out - y) ** 2, (torch.ones(4, 2), torch.ones(4, 2))
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FACTORY)
    return tmp_path


def _error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_an_audit_writes_its_three_files_and_prints_the_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["audit", *QUICK, "--name", "a"]) == 0
    shown = capsys.readouterr().out
    diagnosis = Diagnosis.load(tmp_path / "runs" / "a")
    assert diagnosis.verdict.title in shown
    assert "report: runs/a/report.html" in shown
    page = (tmp_path / "runs" / "a" / "report.html").read_text()
    assert diagnosis.verdict.title in page
    assert Run.open(tmp_path / "runs" / "a").last_step == 40
    assert not diagnosis.bugs


def test_json_is_one_document_and_the_command_can_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", *QUICK, "--budget", "0.5", "--json", "--lr", "0.05", "--arg", "momentum=0.5"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "tameopt.diagnosis"
    assert "momentum=0.5" in data["settings"]["optimizer"]
    assert data["settings"]["steps_done"] == 40


def test_a_recorded_run_is_audited_and_reported_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["train", *QUICK, "--out", "r", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["status"] == "finished" and trained["steps_done"] == 40
    assert not (tmp_path / "r" / "diagnosis.json").exists()
    assert cli.main(["audit", "r", "-q", "--budget", "0.5"]) == 0
    first = capsys.readouterr().out
    assert cli.main(["report", "r"]) == 0
    assert capsys.readouterr().out == first
    assert cli.main(["report", "r", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("## ")
    assert cli.main(["report", "r", "--html", "copy.html"]) == 0
    assert (tmp_path / "copy.html").read_text().startswith("<!doctype html>")


def test_an_own_network_is_audited(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["audit", "mine.py:cnn", "--steps", "30", "--batch-size", "full", "--budget", "6", "-q", "--json"])
        == 0
    )
    data = json.loads(capsys.readouterr().out)
    assert data["settings"]["d"] == 20 + 57
    assert data["settings"]["n"] == 24
    errors = [one for one in data["analyses"] if one["status"] == "internal error"]
    assert errors == []


def test_a_diverging_run_is_a_finding_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["audit", *QUICK[:1], "--steps", "400", "--lr", "3", "-q", "--fail-on", "problem"])
    shown = capsys.readouterr().out
    assert code == 1
    assert "DIVERGED" in shown
    # the largest eigenvalue is 10, so that steps below 0.2 do not diverge
    assert re.search(r"Next: .*\d", shown)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("audit", "digits-mpl"), "Did you mean 'digits-mlp'?"),
        (("audit", "gone.py:f"), "gone.py must be a Python file, there is none"),
        (("audit", "mine.py:cnm"), "Did you mean 'cnn'?"),
        (("audit", "mine.py:broken"), "error: mine.py:14, in broken: RuntimeError: the data are on another disk"),
        (("audit", "mine.py:wrong"), "must return a tameopt.Problem or (model, loss, data), it returned int"),
        (("audit", "mine.py:mismatched"), "mat1 and mat2"),
        (("audit", "mine.py:not_a_number"), "finite"),
        (("audit", "mine.py:frozen"), "trainable parameters"),
        (("audit", "mine.py:vector_loss"), "the loss must return a scalar"),
        (("audit", "quadratic", "--lr", "-1"), "> 0"),
        (("audit", "quadratic", "--steps", "0"), "steps must be a whole number >= 1"),
        (("audit", "quadratic", "--batch-size", "some"), '--batch-size must be a whole number or "full"'),
        (("audit", "quadratic", "--optimizer", "SDG"), "Did you mean 'SGD'?"),
        (("audit", "quadratic", "--arg", "momentum"), "--arg takes KEY=VALUE"),
        (("audit", "quadratic", "--arg", "mometum=1"), "no argument 'mometum'"),
        (("audit", "quadratic", "--schedule", "cosin"), "cosine"),
        (("audit", "quadratic", "--fail-on", "always"), "--fail-on must be problem, warning, undecided or never"),
        (("audit", "quadratic", "--name", "a/b"), "--name must be the name of one folder"),
        (("audit", "quadratic", "--budget", "-1"), "budget_seconds must be > 0"),
        (("audit", "mine.py"), "write mine.py:factory"),
        (("report", "nowhere"), "no diagnosis at nowhere"),
        (("report", "mine.py"), "mine.py must be a diagnosis in JSON"),
        (("train", "quadratic", "--out", "mine.py", "--steps", "2"), "mine.py must be a folder"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    shown = _error(capsys, *words, *(["-q"] if words[0] != "report" else []))
    assert message in shown
    assert shown.startswith("error: ") and len(shown.splitlines()) <= 3


def test_a_second_training_does_not_write_over_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *QUICK, "--out", "r"]) == 0
    capsys.readouterr()
    assert "already holds a run" in _error(capsys, "train", *QUICK, "--out", "r")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o555)
    assert "cannot be written: choose a folder" in _error(capsys, "train", *QUICK, "--out", "shut/run")


def test_ctrl_c_ends_with_what_was_measured(tmp_path: Path) -> None:
    """Through a process, since a signal goes to one: exit 130, and the verdict says that it was interrupted."""
    words = [
        sys.executable,
        "-m",
        "tameopt.cli",
        "audit",
        "quadratic",
        "--steps",
        "100000000",
        "--out",
        "r",
        "--budget",
        "1",
    ]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
        # a shell lets its background jobs ignore the signal, and their children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not _recorded(tmp_path / "r"):
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in out.lower()
    assert Diagnosis.load(tmp_path / "r").interrupted
    assert Run.open(tmp_path / "r").status == "interrupted"


def _recorded(folder: Path) -> bool:
    try:
        with Run.open(folder) as run:
            return run.last_step > 0
    except (OSError, ValueError):
        return False


def test_a_finished_run_is_watched_once_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *QUICK, "--out", "r"]) == 0
    capsys.readouterr()
    assert cli.main(["watch", "r"]) == 0
    assert capsys.readouterr().out.startswith("r: finished, step 40 of 40, ")
    assert cli.main(["watch", "r", "--json"]) == 0
    shot = json.loads(capsys.readouterr().out)
    assert (shot["state"], shot["step"], shot["planned"]) == ("finished", 40, 40)
    assert "nothing is there" in _error(capsys, "watch", "gone")
    assert "--interval must be > 0" in _error(capsys, "watch", "r", "--interval", "0")


def test_runs_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, lr in (("slow", "0.01"), ("fast", "0.1")):
        assert cli.main(["train", *QUICK, "--lr", lr, "--out", name]) == 0
    capsys.readouterr()
    assert cli.main(["compare", "slow", "fast", "--html", "both.html"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("fast ends lower than slow")
    assert "SGD(lr=0.01)" in shown and "not audited yet" in shown
    assert "fast ends lower than slow" in (tmp_path / "both.html").read_text()
    assert "at least two runs, got 1" in _error(capsys, "compare", "slow")


def test_step_sizes_of_a_problem_and_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lr", "quadratic", "-q"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("quadratic at the start\nA step above 0.2 is unstable here")
    assert cli.main(["train", *QUICK, "--out", "r"]) == 0
    capsys.readouterr()
    assert cli.main(["lr", "r", "-q", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["where"] == "at step 40"
    assert data["steps"]["whole"]["limit"][1] == pytest.approx(0.2)


def test_a_report_that_cannot_be_written_does_not_cost_the_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(diagnosis: object, path: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tameopt.report.html.save_html", full)
    assert cli.main(["audit", *QUICK, "--out", "r", "--budget", "0.5"]) == 0
    captured = capsys.readouterr()
    assert "report.html could not be written ([Errno 28] No space left on device)" in captured.err
    assert "report: r/report.html" not in captured.out and "quadratic" not in captured.err
    assert "Question" in captured.out


def test_a_watched_run_is_audited_with_the_problem_named(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import tameopt as tame

    problem = tame.problems.load("digits-linear")
    with Run.create("watched", {"d": problem.dim, "n": problem.n, "steps_done": 2, "status": "finished"}) as run:
        run.record_many([0, 1], {"loss": [2.3, 2.2], "lr": [0.1, 0.1]})
        run.save_vectors(2, {"theta": torch.zeros(problem.dim)})
    assert "--problem" in _error(capsys, "lr", "watched", "-q")
    assert "does not say which problem" in _error(capsys, "audit", "watched", "-q")
    assert "got the run watched" in _error(capsys, "audit", "watched", "-q", "--problem", "watched")
    assert cli.main(["audit", "watched", "-q", "--problem", "digits-linear", "--budget", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["d"] == problem.dim
