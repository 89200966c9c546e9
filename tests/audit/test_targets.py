"""What a person may point the audit at, and what they read when it is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tameopt.audit.targets import resolve
from tameopt.audit.training import train
from tameopt.problem import Problem

_GOOD = """
import torch
from torch import nn
import neighbour

def triple():
    torch.manual_seed(0)
    return nn.Linear(2, 1), nn.functional.mse_loss, (torch.ones(4, 2), torch.zeros(4, 1))

def problem():
    import tameopt
    return tameopt.Problem(*triple(), name="mine")

def wrong():
    return 3

def two():
    return nn.Linear(2, 1), nn.functional.mse_loss
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("x = 1\n")
    path = tmp_path / "mine.py"
    path.write_text(_GOOD)
    return path


def test_nothing_is_digits() -> None:
    target = resolve()
    assert target.text == "digits-mlp"
    assert target.training["optimizer"] == "SGD"


def test_a_file_with_a_factory(file: Path) -> None:
    made = resolve(f"{file}:triple").problem
    assert made is not None and made.dim == 3
    named = resolve(f"{file}:problem").problem
    assert named is not None and named.name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits-mpl", "'digits-mlp'"),
        ("nowhere.py:f", "must be a Python file"),
        ("{file}:tripel", "'triple'"),
        ("{file}", "triple, problem, wrong, two"),
        ("{file}:wrong", r"must return a tameopt.Problem or \(model, loss, data\), it returned int"),
        ("{file}:two", "it returned a tuple of"),
    ],
)
def test_what_is_no_target_is_told(file: Path, text: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        resolve(text.format(file=file))


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ValueError, match="could not be run: ZeroDivisionError"):
        resolve(f"{tmp_path / 'broken.py'}:f")


def test_a_recorded_run_finds_its_problem(tmp_path: Path) -> None:
    start = resolve("saddle", seed=5)
    assert start.problem is not None
    train(start.problem, steps=3, seed=5, out=tmp_path / "r", target="saddle")
    found = resolve(tmp_path / "r")
    assert found.run is not None and found.problem is not None
    assert torch.equal(found.problem.theta, start.problem.theta)


def test_a_run_of_another_problem_is_told(tmp_path: Path) -> None:
    problem = Problem.from_function(lambda theta: theta.sum() ** 2, torch.ones(7))
    train(problem, steps=3, out=tmp_path / "r", target="saddle")
    with pytest.raises(ValueError, match="d=7 parameters, saddle now has d=2"):
        resolve(tmp_path / "r")


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it is not a tameopt run"):
        resolve(tmp_path)
