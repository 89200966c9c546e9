"""The live view says what the record says, and notices when the writer is gone."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path

from tameopt.report import live
from tameopt.run import Run


def test_a_snapshot_follows_the_record(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", {"steps_planned": 200}) as run:
        run.record_many(range(100), {"loss": [1 / (k + 1) for k in range(100)], "lr": [0.1] * 100})
        run.record(0, {"full_loss": 2.5})
        reader = Run.open(tmp_path / "run")
        first = live.snapshot(reader)
        assert (first.state, first.step, first.planned, first.over) == ("running", 99, 200, False)
        assert first.latest["loss"] == (99, 0.01) and first.latest["full_loss"] == (0, 2.5)
        assert math.isnan(first.steps_per_second) and math.isnan(first.seconds_left)
        run.record(149, {"loss": 0.005})
        second = live.snapshot(reader, first)
        assert second.steps_per_second > 0 and second.seconds_left > 0
        assert "step 149 of 200" in live.line(second)
        run.update_meta({"status": "finished"})
        assert live.snapshot(reader).over


def test_a_killed_writer_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Run.create(folder).close()
    # a process that has ended: its number is free
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (folder / "writer.lock").write_text(str(gone.pid))
    assert live.snapshot(Run.open(folder)).state == "stopped"
    (folder / "writer.lock").write_text(str(os.getpid()))
    assert live.snapshot(Run.open(folder)).state == "running"


def test_an_empty_run_and_odd_numbers_still_show(tmp_path: Path) -> None:
    from rich.console import Console

    with Run.create(tmp_path / "run") as run:
        shot = live.snapshot(run)
        assert "step 0" in live.line(shot)
        run.record(3, {"loss": math.nan, "weird\x1b[2J": -0.0})
        run.event(3, "diverged")
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(live.panel(live.snapshot(run)))
        text = console.export_text()
    assert "not a number" in text and "diverged at step 3" in text and "\x1b[2J" not in text


def test_a_sparkline_keeps_the_shape() -> None:
    assert live.sparkline([]) == ""
    assert live.sparkline([float("nan")]) == ""
    assert len(live.sparkline(list(range(1, 1000)))) == 60
    assert live.sparkline([5.0, 5.0]) == "▁▁"
    line = live.sparkline([-1.0, 0.0, 1.0], 3)
    assert line == "▁▄█" or line == "▁▅█"
