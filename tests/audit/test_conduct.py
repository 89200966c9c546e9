"""The audit from end to end: what it takes, what it refuses, and what it leaves behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.audit.conduct import training_options
from tameopt.audit.training import train
from tameopt.problem import Problem
from tameopt.run import Run

QUICK = (
    "noise.ode", "nonsmooth.chain_rule", "nonsmooth.goldstein", "kl.ntk", "kl.trap", "dynamics.gradient_map",
)  # fmt: skip


def test_an_absurd_step_is_a_finding_with_the_step_that_would_do(tmp_path: Path) -> None:
    diagnosis = tame.audit("quadratic", lr=1000.0, out=tmp_path / "r", exclude=QUICK)
    assert diagnosis.verdict.kind == "diverged"
    assert diagnosis.settings.status == "diverged"
    # lambda_max = 10: the limit is 0.2, half of it is proposed
    assert diagnosis.verdict.next_action == "lr 1000 -> 0.1"
    assert Run.open(tmp_path / "r").status == "diverged"


def test_a_recorded_run_is_audited_without_training(tmp_path: Path) -> None:
    train(tame.problems.load("saddle"), lr=0.1, steps=60, out=tmp_path / "r", target="saddle").close()
    before = sorted(path.name for path in (tmp_path / "r").rglob("*.safetensors"))
    diagnosis = tame.audit(tmp_path / "r", exclude=QUICK)
    assert diagnosis.settings.steps_done == 60
    assert sorted(path.name for path in (tmp_path / "r").rglob("*.safetensors")) == before


def test_a_run_of_nobody_knows_what_needs_its_problem(tmp_path: Path) -> None:
    problem = Problem.from_function(lambda theta: theta.square().sum(), torch.ones(2, dtype=torch.float64))
    run = train(problem, lr=0.1, steps=30, out=tmp_path / "r", target="mine")
    with pytest.raises(ValueError, match=r"pass problem=\.\.\."):
        tame.audit(run)
    assert tame.audit(run, problem=problem, exclude=QUICK).settings.d == 2


def test_the_report_is_a_call_away(tmp_path: Path) -> None:
    diagnosis = tame.audit("quadratic", lr=0.05, steps=60, out=tmp_path / "r", exclude=QUICK)
    assert diagnosis.save_html(tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!")
    assert diagnosis.verdict.title in diagnosis.to_markdown()
    assert (tmp_path / "r" / "diagnosis.json").is_file()


def test_ctrl_c_in_training_still_gives_a_diagnosis(tmp_path: Path) -> None:
    count = 0

    def F(theta: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 80:
            raise KeyboardInterrupt
        return theta.square().sum()

    problem = Problem.from_function(F, torch.ones(2, dtype=torch.float64))
    diagnosis = tame.audit(problem, lr=0.1, steps=500, out=tmp_path / "r", exclude=QUICK)
    assert diagnosis.interrupted
    assert any("interrupted at step" in note for note in diagnosis.notes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match="choose a folder that can be written"):
        tame.audit("quadratic", steps=5, out=tmp_path / "r")


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("mine")
    with pytest.raises(OSError, match="must be a folder, it is a file"):
        tame.audit("quadratic", steps=5, out=tmp_path / "r")


@pytest.mark.parametrize(
    ("subject", "options", "message"),
    [
        (3, {}, "audit takes a Problem, a Run, or a name or path, got int"),
        (nn.Linear(1, 1), {}, "wrap a model as"),
        ("quadratic", {"budget_seconds": 0}, "budget_seconds must be > 0"),
        ("quadratic", {"batch_size": "all"}, "batch_size must be a number or 'full'"),
        ("quadratic", {"steps": 3, "include": ["kl.nkt"]}, "Did you mean 'kl.ntk'"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, subject: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        tame.audit(subject, out=tmp_path / "r", **options)


def test_what_the_problem_suggests_gives_way_to_what_is_said() -> None:
    suggested = {"optimizer": "SGD", "lr": 0.1, "steps": 300, "batch_size": None, "schedule": "constant"}
    assert training_options(suggested)["lr"] == 0.1
    assert training_options(suggested, lr=0.3, steps=5, batch_size=7)["batch_size"] == 7
    # a step suggested for SGD says nothing about Adam
    assert training_options(suggested, optimizer="Adam")["lr"] == 1e-3
    assert training_options({"batch_size": 64}, batch_size="full")["batch_size"] is None


def test_a_network_with_dropout_and_batchnorm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    data = (torch.randn(120, 4), torch.arange(120) % 3)
    problem = Problem(model, nn.CrossEntropyLoss(), data, mode="eval", name="normed")
    diagnosis = tame.audit(problem, lr=0.05, steps=60, batch_size=20, out=tmp_path / "r", exclude=QUICK)
    assert diagnosis.bugs == ()
    assert any("eval mode" in note for note in diagnosis.notes)
    assert any("Buffers" in note for note in diagnosis.notes)


def test_the_package_is_a_function_too() -> None:
    assert callable(tame.audit)
    assert tame.audit.__name__ == "tameopt.audit"


def test_a_function_without_kl_is_not_called_converged(tmp_path: Path) -> None:
    diagnosis = tame.audit("mexican-hat", steps=2000, out=tmp_path / "r", exclude=QUICK)
    assert diagnosis.verdict.kind not in ("converged", "converging")
    assert diagnosis.verdict.kind != "degenerate" or "no convergence" in diagnosis.verdict.sentence
    found = {one.claim: one for one in diagnosis.findings}
    assert str(found["F.kl"].verdict) == "REFUTED"
    assert str(found["kl.exponent"].verdict) == "REFUTED"
    assert "There is no exponent" in found["kl.exponent"].statement
    assert str(found["iterates.converge"].verdict) == "UNKNOWN"
