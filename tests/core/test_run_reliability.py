"""Processes that die, disks that fill: what was acknowledged stays."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tameopt import Run


def child(work: Callable[[], None]) -> int:
    """Fork a process that does the work and exits without Python's clean-up; returns its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def kill_at_a_random_point(folder: Path, seconds: float) -> None:
    """One writer, killed after `seconds`; then everything that it acknowledged must be there."""
    read_end, write_end = os.pipe()

    def write() -> None:
        run = Run.create(folder)
        for step in range(10**9):
            if step % 7 == 3:
                run.record_many([step], {"loss": [step * 0.5], "lr": [0.1]})
            else:
                run.record(step, {"loss": step * 0.5})
            if step % 5 == 0:
                run.save_vectors(step, {"theta": torch.full((50,), float(step))})
            os.write(write_end, step.to_bytes(8, "little"))

    pid = child(write)
    os.close(write_end)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    acknowledged = -1
    while packet := os.read(read_end, 8 * 4096):
        acknowledged = int.from_bytes(packet[-8:], "little")
    os.close(read_end)
    if acknowledged < 0 and not (folder / "record.sqlite").exists():
        return  # killed before there was a run
    run = Run.open(folder)
    steps, losses = run.series("loss")
    # the last write may be there or not; none before it may miss
    assert len(steps) in (acknowledged + 1, acknowledged + 2)
    assert np.array_equal(steps, np.arange(len(steps))) and np.array_equal(losses, steps * 0.5)
    for step in run.vector_steps():
        assert bool((run.vector(int(step)) == int(step)).all())
    assert len(run.vector_steps()) >= acknowledged // 5 + 1
    run.close()
    with Run.open(folder, write=True) as again:
        again.record(len(steps), {"loss": 0.0})


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    generator = random.Random(0)
    for trial in range(8):
        kill_at_a_random_point(tmp_path / str(trial), generator.uniform(0.0, 0.15))


@pytest.mark.slow
def test_two_hundred_killed_writers_lose_nothing(tmp_path: Path) -> None:
    generator = random.Random(1)
    for trial in range(200):
        kill_at_a_random_point(tmp_path / str(trial), generator.uniform(0.0, 0.3))


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the same errors reach SQLite."""
    folder = tmp_path / "r"
    report = tmp_path / "report"

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        run = Run.create(folder)
        acknowledged = -1
        try:
            for step in range(0, 10**6, 100):
                run.record_many(range(step, step + 100), {"loss": [1.0] * 100})
                acknowledged = step + 99
        except OSError as error:
            report.write_text(f"{acknowledged}\n{error}")

    pid = child(write)
    os.waitpid(pid, 0)
    acknowledged, message = report.read_text().split("\n", 1)
    assert "nothing recorded before" in message
    steps, _ = Run.open(folder).series("loss")
    assert int(acknowledged) > 0 and steps.tolist() == list(range(int(acknowledged) + 1))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="choose a folder that can be written"):
        Run.create(tmp_path / "r")


def test_a_finished_run_opens_from_a_read_only_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Run.create(tmp_path / "r") as run:
        run.record(0, {"loss": 1.0})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for leftover in ("record.sqlite-wal", "record.sqlite-shm"):
        (tmp_path / "r" / leftover).unlink(missing_ok=True)
    assert Run.open(tmp_path / "r").series("loss")[1].tolist() == [1.0]


def test_the_size_of_a_long_record_is_bounded(tmp_path: Path) -> None:
    with Run.create(tmp_path / "r") as run:
        for start in range(0, 200_000, 10_000):
            numbers = np.random.default_rng(start).random(10_000)
            run.record_many(range(start, start + 10_000), {"loss": numbers.tolist(), "lr": [0.1] * 10_000})
    # 8 bytes of number and some 4 of step: 16 bytes a number leave room for SQLite's pages
    assert (tmp_path / "r" / "record.sqlite").stat().st_size < 2 * 200_000 * 22
