"""The record survives: kill -9, damage, foreign files, two writers, NaN."""

from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tameopt import Run
from tameopt.run import RunBusyError, RunFormatError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r", {"lr": 0.1, "schedule": {"kind": "Constant"}}) as run:
        run.record(0, {"loss": 2.5, "gradient_norm": math.nan})
        run.record_many([1, 2], {"loss": [math.inf, -0.25]})
        run.save_vectors(2, {"theta": torch.arange(3.0), "m": torch.ones(2, dtype=torch.float64)})
        run.save_block("theta", [3, 4], torch.arange(6.0).reshape(2, 3))
        run.event(2, "resumed", {"from": 1})
    run = Run.open(tmp_path / "r")
    steps, losses = run.series("loss")
    assert steps.tolist() == [0, 1, 2] and losses.tolist() == [2.5, math.inf, -0.25]
    assert np.isnan(run.series("gradient_norm")[1]).all()
    assert run.series("never")[0].size == 0
    assert run.vector_steps().tolist() == [2, 3, 4]
    assert torch.equal(run.vectors([2, 4]), torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    assert run.vector(2, "m").dtype == torch.float64
    assert run.meta["schedule"] == {"kind": "Constant"}
    assert run.events("resumed")[0]["data"] == {"from": 1}
    assert run.names == ("gradient_norm", "loss") and run.vector_names() == ("m", "theta")
    assert run.last_step == 2 and run.status == "running"


WRITER = """
import sys, torch
from tameopt import Run
run = Run.create(sys.argv[1], {})
for step in range(10**9):
    run.record(step, {"loss": step / 2, "lr": 0.1})
    if step % 10 == 0:
        run.save_vectors(step, {"theta": torch.full((100,), float(step))})
    print(step, flush=True)
"""


def test_kill_9_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "r")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged == 200:
            # readable while it is written
            assert Run.open(tmp_path / "r").last_step >= 200
        if acknowledged >= 537:
            break
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    writer.wait()
    writer.stdout.close()
    run = Run.open(tmp_path / "r", write=True)
    steps, losses = run.series("loss")
    assert steps.tolist() == list(range(len(steps))) and len(steps) > acknowledged
    assert np.array_equal(losses, steps / 2)
    for step in range(0, acknowledged + 1, 10):
        assert (run.vector(step) == step).all()
    run.record(len(steps), {"loss": 0.0})  # and it goes on
    run.close()


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r"), pytest.raises(RunBusyError, match=f"written by process {os.getpid()}"):
        Run.open(tmp_path / "r", write=True)
    Run.open(tmp_path / "r", write=True).close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    Run.create(tmp_path / "r").close()
    with pytest.raises(PermissionError, match="opened to read"):
        Run.open(tmp_path / "r").record(0, {"loss": 1.0})


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    Run.create(tmp_path / "r").close()
    with pytest.raises(FileExistsError, match="already holds a run"):
        Run.create(tmp_path / "r")
    (tmp_path / "file").write_text("hello")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        Run.create(tmp_path / "file")


def test_foreign_and_damaged_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing is there"):
        Run.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFormatError, match="not a tameopt run"):
        Run.open(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "record.sqlite").write_text("not a database")
    with pytest.raises(RunFormatError, match="must be an SQLite file"):
        Run.open(tmp_path / "text")
    (tmp_path / "other").mkdir()
    other = sqlite3.connect(tmp_path / "other" / "record.sqlite")
    other.execute("CREATE TABLE t (a)")
    other.commit()
    other.close()
    with pytest.raises(RunFormatError, match="another program"):
        Run.open(tmp_path / "other")
    with Run.create(tmp_path / "newer") as newer:
        newer._connection.execute("PRAGMA user_version=99")
    with pytest.raises(RunFormatError, match="upgrade tameopt"):
        Run.open(tmp_path / "newer")


def test_a_truncated_record_is_refused(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        run.record_many(range(5000), {"loss": [1.0] * 5000})
    record = tmp_path / "r" / "record.sqlite"
    record.write_bytes(record.read_bytes()[: record.stat().st_size // 2])
    with pytest.raises(RunFormatError, match=r"damaged|truncated"):
        Run.open(tmp_path / "r")


def test_a_damaged_vector_is_named(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        run.save_vectors(0, {"theta": torch.ones(100)})
    file = next((tmp_path / "r" / "vectors").iterdir())
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunFormatError, match="missing or damaged"):
        Run.open(tmp_path / "r").vector(0)
    with pytest.raises(KeyError, match="was not saved at step 1"):
        Run.open(tmp_path / "r").vector(1)


def test_wrong_numbers_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        with pytest.raises(ValueError, match="must be >= 0, got -1"):
            run.record(-1, {"loss": 1.0})
        with pytest.raises(ValueError, match=r"must have 2 numbers, one a step, got 1"):
            run.record_many([0, 1], {"loss": [1.0]})
        with pytest.raises(ValueError, match=r"rows must be \(m, d\)"):
            run.save_block("theta", [0, 1], torch.ones(3, 2))
        with pytest.raises(TypeError, match="JSON-serialisable"):
            run.update_meta({"x": object()})
        assert run.last_step == -1


def test_a_vector_saved_again_keeps_the_older_file_whole(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        run.save_vectors(3, {"theta": torch.zeros(2)})
        run.save_vectors(3, {"theta": torch.ones(2)})
        assert run.vector(3).tolist() == [1.0, 1.0]
    assert len(list((tmp_path / "r" / "vectors").iterdir())) == 2


def test_recording_cost_is_measured(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        start = time.perf_counter()
        run.record_many(range(1000), {"loss": [0.0] * 1000})
        assert 0 < run.seconds_recording <= time.perf_counter() - start


def test_a_series_can_be_read_from_a_step_on(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run") as run:
        run.record_many(range(10), {"loss": [float(k) for k in range(10)]})
        steps, losses = run.series("loss", since=7)
    assert steps.tolist() == [7, 8, 9]
    assert losses.tolist() == [7.0, 8.0, 9.0]
