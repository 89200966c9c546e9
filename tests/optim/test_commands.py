"""`tameopt optimizers` and `tameopt bench optimizers`, and the benchmark behind them."""

import json

import pytest
import torch
from typer.testing import CliRunner

from tameopt import cli, optim
from tameopt.optim.benchmark import case, gpt2_medium, measure


def run(*arguments):
    return CliRunner().invoke(cli.build(), list(arguments), env={"COLUMNS": "200"})


def test_optimizers_are_listed_with_formula_defaults_source_and_theorems():
    result = run("optimizers")
    assert result.exit_code == 0, result.output
    for name in ("tame.optim.Adam\n", "tame.optim.LBFGS\n", "tame.optim.keras.Ftrl\n"):
        assert name in result.output
    assert "m = b1 m + (1-b1) g" in result.output
    assert "betas=(0.9, 0.999)" in result.output
    assert "needs: a closure that re-evaluates the loss" in result.output
    document = json.loads(run("optimizers", "SGD", "--json").output)["optimizers"]
    assert [row["name"] for row in document] == ["tame.optim.SGD"]
    assert document[0]["defaults"]["lr"] == 1e-3 and "tame-sgd" in document[0]["theorems"]
    unknown = run("optimizers", "keras.Nadm")
    assert unknown.exit_code == 2 and "Did you mean 'Nadam'" in unknown.output


def test_theorems_of_the_optimizers_exist():
    from tameopt import catalogue

    known = catalogue.names("tameopt.theorems")
    for name in optim.names():
        assert set(optim.entry(name).theorems) <= set(known)


def test_bench_prints_times_and_json():
    arguments = ("bench", "optimizers", "--case", "one:5000", "--optimizer", "Adam", "--repeats", "2", "-q")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    for word in ("tameopt", "torch fused", "torch foreach", "a copy of the same size", "torch 2"):
        assert word in result.output
    rows = json.loads(run(*arguments, "--json").stdout)["rows"]
    assert {row["implementation"] for row in rows} >= {"tameopt", "torch fused"}
    assert all(row["bytes"] == 7 * 4 * 5000 and row["median"] > 0 and row["low"] <= row["high"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "prox"), "tameopt bench measures optimizers, got 'prox'"),
        (("bench", "optimizers", "--optimizer", "LBFGS"), "takes elementwise optimizers, LBFGS is none"),
        (("bench", "optimizers", "--case", "huge"), "a case is small, sharded, gpt2-medium or one:N"),
    ],
)
def test_bad_input(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_peer_that_fails_is_a_row_of_the_table(monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.optim.SGD, "__init__", broken)
    rows = {row.implementation: row for row in measure(["one:100"], ["SGD"], repeats=1).rows}
    assert rows["torch foreach"].failure == "RuntimeError: no such kernel"
    assert rows["tameopt"].failure == "" and rows["tameopt"].median > 0


def test_shapes_of_the_cases():
    assert sum(torch.Size(shape).numel() for shape in gpt2_medium()) == 354_823_168
    assert len(gpt2_medium()) == 292
    assert len(case("small")) == 1000 and case("one:1_000") == ((1000,),)


def test_sharded_parameters_are_timed_as_dtensors_and_the_process_group_goes_again(monkeypatch):
    from tameopt.optim import benchmark

    kinds = set()
    monkeypatch.setattr(benchmark, "small_tensors", lambda: ((4, 3), (4,)))
    timed = benchmark._timed
    monkeypatch.setattr(
        benchmark,
        "_timed",
        lambda action, device: (
            kinds.update(type(p).__name__ for p in getattr(action, "__self__", _Nothing).param_groups[0]["params"])
            or timed(action, device)
        ),
    )
    rows = {row.implementation: row for row in measure(["sharded"], ["SGD"], repeats=1).rows}
    assert rows["tameopt"].failure == "" and rows["tameopt"].median > 0
    assert kinds == {"DTensor"}
    assert not torch.distributed.is_initialized()


class _Nothing:
    param_groups = ({"params": ()},)
