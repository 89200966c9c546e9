"""The analyses: right verdicts on a recorded run, and nothing false when the record is doctored or thin."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tameopt import problems
from tameopt.analysis import Context
from tameopt.claims import CLAIMS
from tameopt.evidence import Finding, Verdict
from tameopt.noise.findings import ANALYSES
from tameopt.optim.schedules import Constant, Power
from tameopt.problem import Problem
from tameopt.run import Run

Train = Callable[..., Run]
P, M, R, U = Verdict.PROVED, Verdict.MEASURED, Verdict.REFUTED, Verdict.UNKNOWN


def context_of(problem: Problem, run: Run | None) -> Context:
    steps = [] if run is None else run.vector_steps()
    theta = problem.theta if run is None or not len(steps) else run.vector(int(steps[-1])).to(problem.dtype)
    return Context(problem, run, theta)


def findings_of(problem: Problem, run: Run | None) -> dict[str, Finding]:
    context = context_of(problem, run)
    found: dict[str, Finding] = {}
    for analysis in ANALYSES:
        if analysis.skip(context):
            continue
        assert analysis.estimate(context).seconds >= 0
        answer = analysis.analyse(context)
        assert {finding.claim for finding in answer.findings} <= set(analysis.claims)
        assert all(picture.caption for picture in answer.pictures)
        found |= {finding.claim: finding for finding in answer.findings}
    return found


def edited(run: Run, folder: Path, changes: dict[str, Any]) -> Run:
    """A copy of a run with other settings."""
    shutil.copytree(run.path, folder)
    with Run.open(folder, write=True) as copy:
        copy.update_meta(changes)
    return Run.open(folder)


def test_claims_exist() -> None:
    assert all(claim in CLAIMS for analysis in ANALYSES for claim in analysis.claims)
    assert len({analysis.name for analysis in ANALYSES}) == len(ANALYSES)


def test_a_good_run(digits: Problem, digits_run: Run) -> None:
    found = findings_of(digits, digits_run)
    verdicts = {claim: finding.verdict for claim, finding in found.items()}
    assert verdicts["step.sum_diverges"] is verdicts["step.square_summable"] is P
    assert verdicts["step.constant"] is R and verdicts["step.vanishes"] is P
    assert verdicts["noise.unbiased"] is P
    assert verdicts["method.stochastic_gradient"] is P and verdicts["method.gradient_descent"] is R
    assert verdicts["init.absolutely_continuous"] is P
    assert verdicts["noise.bounded_variance"] is verdicts["noise.scale"] is M
    distance = found["ode.pseudo_trajectory"]
    assert distance.verdict is M and 0 < distance.value < 1
    low, high = distance.evidence.interval or (0, 0)
    assert low <= distance.value <= high and high - low <= 0.25 * distance.value


def test_without_a_run_every_analysis_is_skipped(digits: Problem) -> None:
    context = context_of(digits, None)
    assert all(analysis.skip(context) == "no run was recorded" for analysis in ANALYSES)


def test_full_batch_has_no_noise(tmp_path: Path, train: Train) -> None:
    problem = problems.load("quadratic")
    with train(tmp_path / "gd", problem, Constant(0.1), 120, None, windows=((10, 60),), every=4) as run:
        found = findings_of(problem, run)
    assert found["method.gradient_descent"].verdict is found["method.stochastic_gradient"].verdict is P
    assert found["noise.unbiased"].verdict is P and found["noise.bounded_variance"].value == 0.0
    assert found["init.absolutely_continuous"].verdict is P  # standard normal
    assert found["values.limit_set"].verdict is M and found["values.limit_set"].value < 1e-4
    assert found["ode.pseudo_trajectory"].verdict is M


@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("part", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4)])
def test_masks_and_batch_statistics_are_noise_too(
    tmp_path: Path, train: Train, part: torch.nn.Module, batch_size: int | None
) -> None:
    """F is the network as it predicts: neither "no noise" nor "mean 0" follows from the sampler."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), part, torch.nn.Tanh(), torch.nn.Linear(4, 2))
    data = (torch.randn(40, 3), torch.randn(40, 2))
    problem = Problem(model, torch.nn.MSELoss(), data, mode="eval")
    with train(tmp_path / "gd", problem, Constant(0.05), 60, batch_size, windows=((10, 40),), every=4) as run:
        found = findings_of(problem, run)
    assert found["noise.unbiased"].verdict is U and found["method.gradient_descent"].verdict is not P
    assert type(part).__name__ in found["noise.unbiased"].statement
    variance = found["noise.bounded_variance"]
    assert variance.verdict is U if batch_size is None else "the sampler alone" in variance.statement


def test_reshuffling_is_no_martingale_difference(tmp_path: Path, train: Train, digits: Problem) -> None:
    with train(tmp_path / "epochs", digits, Constant(0.05), 60, 100, sampling="reshuffled") as run:
        found = findings_of(digits, run)
    assert found["noise.unbiased"].verdict is R
    assert "last of its 4 batches is determined" in found["noise.unbiased"].statement
    assert found["values.limit_set"].verdict is U
    assert found["ode.pseudo_trajectory"].verdict is U  # no window was recorded
    assert found["method.stochastic_gradient"].verdict is U and found["method.gradient_descent"].verdict is R


def test_momentum_is_not_plain(tmp_path: Path, train: Train, digits: Problem, digits_run: Run) -> None:
    with train(tmp_path / "heavy", digits, Constant(0.05), 40, 32, momentum=0.9, windows=((10, 30),)) as run:
        found = findings_of(digits, run)
        assert found["method.stochastic_gradient"].verdict is R
        assert "momentum 0.9" in found["method.stochastic_gradient"].statement
    # a record that hides the momentum is found out by its iterates
    hidden = edited(run, tmp_path / "hidden", {"optimizer": {"name": "SGD", "arguments": {"lr": 0.05}}})
    found = findings_of(digits, hidden)
    assert found["method.stochastic_gradient"].verdict is R
    assert "times what rounding allows" in found["method.stochastic_gradient"].statement


def test_hidden_momentum_of_full_batch_descent(tmp_path: Path, train: Train) -> None:
    problem = problems.load("quadratic")
    with train(tmp_path / "gd", problem, Constant(0.05), 40, None, momentum=0.5, windows=((5, 30),)) as run:
        pass
    hidden = edited(run, tmp_path / "hidden", {"optimizer": {"name": "SGD", "arguments": {}}})
    assert findings_of(problem, hidden)["method.gradient_descent"].verdict is R


def test_schedule_that_was_not_followed(tmp_path: Path, digits: Problem, digits_run: Run) -> None:
    lied = edited(digits_run, tmp_path / "lied", {"schedule": Power(0.3, 0.75, shift=11).to_json()})
    found = findings_of(digits, lied)
    assert all(found[claim].verdict is U for claim in found if claim.startswith("step."))
    assert "where the recorded schedule says" in found["step.sum_diverges"].statement


def test_numbers_alone_decide_no_limit(tmp_path: Path, digits: Problem, digits_run: Run) -> None:
    found = findings_of(digits, edited(digits_run, tmp_path / "bare", {"schedule": None}))
    assert found["step.constant"].verdict is R and found["step.positive"].verdict is M
    assert found["step.sum_diverges"].verdict is found["step.square_summable"].verdict is U


@pytest.mark.parametrize(
    ("changes", "claim", "verdict"),
    [
        ({"sampling": "unknown"}, "noise.unbiased", U),
        ({"batch_size": None}, "noise.unbiased", U),
        ({"batch_size": None}, "noise.bounded_variance", U),
        ({"optimizer": None}, "method.stochastic_gradient", U),
        ({"optimizer": {"name": "Adam", "arguments": {"lr": 0.1}}}, "method.stochastic_gradient", R),
        ({"optimizer": {"name": "SGD", "arguments": {"weight_decay": 0.1}}}, "method.stochastic_gradient", R),
        ({"optimizer": {"name": "SGD", "arguments": {"trust": 2}}}, "method.stochastic_gradient", U),
        ({"initial_law": ""}, "init.absolutely_continuous", U),
        ({"initial_law": "fixed"}, "init.absolutely_continuous", R),
        ({"initial_law": "a pretrained checkpoint"}, "init.absolutely_continuous", U),
        ({"initial_law": "normal on a sphere"}, "init.absolutely_continuous", U),
        ({"schedule": {"kind": "mystery"}}, "step.sum_diverges", U),
    ],
)
def test_doctored_records(
    tmp_path: Path, digits: Problem, digits_run: Run, changes: dict[str, Any], claim: str, verdict: Verdict
) -> None:
    assert findings_of(digits, edited(digits_run, tmp_path / "copy", changes))[claim].verdict is verdict


def test_a_record_with_missing_tables(tmp_path: Path, digits: Problem, digits_run: Run) -> None:
    folder = tmp_path / "thin"
    shutil.copytree(digits_run.path, folder)
    connection = sqlite3.connect(folder / "record.sqlite")
    connection.execute("DELETE FROM scalars")
    connection.execute("DELETE FROM meta")
    connection.commit()
    connection.close()
    found = findings_of(digits, Run.open(folder))
    assert all(finding.verdict is U for finding in found.values()), found


def test_unknown_sampler_is_judged_by_its_noise(tmp_path: Path, train: Train) -> None:
    """The noise of a run without a recorded sampler: independent draws pass with power, reshuffling is found out."""
    problem = problems.load("digits-linear", n=320).to(torch.float64)
    verdicts = []
    for name in ("with replacement", "reshuffled"):
        folder = tmp_path / name.replace(" ", "-")
        meta = {"batch_size": 32}
        with train(folder, problem, Constant(0.05), 135, 32, sampling=name, windows=((10, 131),), meta=meta) as run:
            pass
        hidden = edited(run, tmp_path / f"hidden-{name[:4]}", {"sampling": "unknown"})
        verdicts.append(findings_of(problem, hidden)["noise.unbiased"])
    assert verdicts[0].verdict is M and "the tests would have seen" in verdicts[0].statement
    assert verdicts[1].verdict is R and "epochs of 10" in verdicts[1].statement


def test_parameters_that_start_at_fixed_numbers(tmp_path: Path, train: Train) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    law = "uniform (torch's default initialisation), seed 0"
    data = (torch.randn(8, 3), torch.randn(8, 1))
    problem = Problem(model, torch.nn.functional.mse_loss, data, initial_law=law)
    with train(tmp_path / "norm", problem, Constant(0.01), 10, 4) as run:
        found = findings_of(problem, run)
    assert found["init.absolutely_continuous"].verdict is R
    assert "LayerNorm.weight" in found["init.absolutely_continuous"].statement


def test_a_drift_is_not_taken_for_noise(tmp_path: Path, digits: Problem) -> None:
    """Control: gradient descent pushed in a fixed direction leaves the flow, unlike uncorrelated noise as large."""
    generator = torch.Generator().manual_seed(1)
    pushes = torch.randn(60, digits.dim, generator=generator, dtype=torch.float64) * 0.02
    verdicts = []
    for name, noise in (("drift", pushes[:1].expand(60, -1)), ("noise", pushes)):
        thetas = [digits.theta]
        for push in noise:
            thetas.append(thetas[-1] - 0.01 * (digits.gradient(thetas[-1]) + push))
        with Run.create(tmp_path / name, {"schedule": Constant(0.01).to_json(), "batch_size": 8}) as run:
            run.save_block("theta", range(61), torch.stack(thetas))
            verdicts.append(findings_of(digits, run)["ode.pseudo_trajectory"])
    assert verdicts[0].verdict is R and "so something else moves the run" in verdicts[0].statement
    assert verdicts[1].verdict is M
