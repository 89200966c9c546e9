"""Run: the record of a training run, append-only on disk, readable while it is written.

A run is a folder with `record.sqlite` (scalars by step, events, settings) and `vectors/*.safetensors` (theta and
other vectors at some steps). When `record` or `save_vectors` has returned, the data survives `kill -9`: scalars
are committed to SQLite's write-ahead log, vectors are written aside and renamed. There is no pickle.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tameopt.record_file import (
    FORMAT_VERSION,
    RECORD,
    VECTORS,
    RunBusyError,
    RunFormatError,
    check,
    check_header,
    connect,
    make,
    translate,
    write_lock,
)

__all__ = ["FORMAT_VERSION", "Run", "RunBusyError", "RunFormatError"]


class Run:
    """A recorded run. Open one with `Run.create` (to write) or `Run.open`.

    Scalars are float64 by (name, step); vectors are tensors by (name, step); `meta` holds the settings as
    JSON-serialisable data. One process writes at a time, any number read.

    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "a-run"
    >>> with Run.create(folder, {"lr": 0.1}) as run:
    ...     run.record(0, {"loss": 2.3})
    ...     run.record(1, {"loss": 2.1})
    >>> Run.open(folder).series("loss")
    (array([0, 1]), array([2.3, 2.1]))
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._ids: dict[str, int] = {}
        self.seconds_recording = 0.0

    # -- opening -------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | os.PathLike[str], meta: Mapping[str, Any] | None = None) -> Run:
        """A new run in the folder `path`, which must not hold one yet.

        Raises FileExistsError, PermissionError or OSError saying what to do.
        """
        folder = Path(path)
        if (folder / RECORD).exists():
            raise FileExistsError(
                f"{folder} already holds a run: choose another name, or resume it with Run.open(write=True)."
            )
        try:
            (folder / VECTORS).mkdir(parents=True, exist_ok=True)
            lock = write_lock(folder)
        except PermissionError as error:
            raise PermissionError(
                f"{folder} cannot be written: choose a folder that can be written (--out)."
            ) from error
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(f"{folder} must be a folder, it is a file: choose another name.") from error
        make(folder)
        run = cls(folder, connect(folder, write=True), lock)
        run.update_meta({"status": "running", "created": time.time(), **(meta or {})})
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False) -> Run:
        """An existing run, to read (also while another process writes it) or to go on writing.

        Raises FileNotFoundError, RunFormatError for what is not a run or a damaged one, RunBusyError.
        """
        folder = Path(path)
        if folder.name == RECORD:
            folder = folder.parent
        if not folder.exists():
            raise FileNotFoundError(f"no run at {folder}: nothing is there.")
        check_header(folder)
        lock = write_lock(folder) if write else None
        try:
            connection = connect(folder, write=write)
            check(folder, connection)
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise
        return cls(folder, connection, lock)

    def close(self) -> None:
        """Close the record; it can be opened again."""
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({self.path.name}, {self.status}, step {self.last_step:,})"

    # -- writing -------------------------------------------------------------------------------------------

    def record(self, step: int, scalars: Mapping[str, float]) -> None:
        """Record numbers at a step; durable against `kill -9` when it returns. NaN and infinities are kept."""
        self.record_many([step], {name: [number] for name, number in scalars.items()})

    def record_many(self, steps: Sequence[int] | np.ndarray, columns: Mapping[str, Sequence[float]]) -> None:
        """Record whole columns at once, in one transaction: what a training loop flushes now and then.

        steps: (m,) ints >= 0; each column has m numbers. A step recorded twice keeps the newer number.
        """
        begun = time.perf_counter()
        step_list = [int(step) for step in steps]
        if step_list and min(step_list) < 0:
            raise ValueError(f"a step must be >= 0, got {min(step_list)}.")
        table: list[tuple[int, int, float]] = []
        for name, numbers in columns.items():
            if len(numbers) != len(step_list):
                raise ValueError(
                    f"column {name!r} must have {len(step_list)} numbers, one a step, got {len(numbers)}."
                )
            identity = self._name_id(name)
            table.extend((identity, step, float(number)) for step, number in zip(step_list, numbers, strict=True))
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO scalars VALUES (?, ?, ?)", table)
        self.seconds_recording += time.perf_counter() - begun

    def save_vectors(self, step: int, vectors: Mapping[str, torch.Tensor]) -> None:
        """Save named tensors at a step, e.g. {"theta": (d,)}; durable when it returns."""
        self._save(f"step-{int(step):012d}", {name: [(int(step), None)] for name in vectors}, vectors)

    def save_block(self, name: str, steps: Sequence[int], rows: torch.Tensor) -> None:
        """Save a vector at several steps at once, rows: (m, d): one file for a window of the run."""
        if rows.ndim != 2 or rows.shape[0] != len(steps) or not len(steps):
            raise ValueError(f"rows must be (m, d) with m={len(steps)} > 0 steps, got {tuple(rows.shape)}.")
        where = [(int(step), row) for row, step in enumerate(steps)]
        self._save(f"{_safe(name)}-{int(steps[0]):012d}-{int(steps[-1]):012d}", {name: where}, {name: rows})

    def _save(
        self,
        stem: str,
        where: Mapping[str, Sequence[tuple[int, int | None]]],
        tensors: Mapping[str, torch.Tensor],
    ) -> None:
        from safetensors.torch import save_file

        begun = time.perf_counter()
        self._require_writable()
        # A second save at the same step goes beside the first: files already referred to are never rewritten.
        serial = 0
        while (target := self.path / VECTORS / f"{stem}{f'.{serial}' if serial else ''}.safetensors").exists():
            serial += 1
        half = target.with_suffix(".half")
        try:
            save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, half)
            with half.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(half, target)
        except OSError as error:
            half.unlink(missing_ok=True)
            raise OSError(
                f"vectors of {self.path} could not be saved ({error}): nothing recorded before is lost."
            ) from error
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
                [(name, step, target.name, row) for name, pairs in where.items() for step, row in pairs],
            )
        self.seconds_recording += time.perf_counter() - begun

    def event(self, step: int, kind: str, data: Mapping[str, Any] | None = None) -> None:
        """Record that something happened ("resumed", "interrupted", "diverged", …)."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO events (step, kind, data, time) VALUES (?, ?, ?, ?)",
                (int(step), kind, _json(dict(data or {})), time.time()),
            )

    def update_meta(self, settings: Mapping[str, Any]) -> None:
        """Set or replace settings; values must be JSON-serialisable."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [(key, _json(setting)) for key, setting in settings.items()],
            )

    # -- reading -------------------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        """The settings, as recorded."""
        return {key: json.loads(text) for key, text in self._query("SELECT key, value FROM meta")}

    @property
    def status(self) -> str:
        """ "running", "finished", "interrupted" or "diverged"."""
        return str(self.meta.get("status", "running"))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the recorded scalars."""
        return tuple(name for (name,) in self._query("SELECT name FROM names ORDER BY name"))

    @property
    def last_step(self) -> int:
        """The largest step with a recorded number, -1 when there is none."""
        # one index look-up a name: MAX(step) over the whole table would read all of it
        ((step,),) = self._query(
            "SELECT MAX(last) FROM (SELECT (SELECT MAX(step) FROM scalars WHERE name = names.id) AS last FROM names)"
        )
        return -1 if step is None else int(step)

    def series(self, name: str, since: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """((m,) int64 steps, (m,) float64 numbers) of a scalar, by increasing step; empty when never recorded.

        since: the first step wanted; what is read grows with the answer, not with the record.
        """
        rows = self._query(
            "SELECT step, value FROM scalars WHERE name = (SELECT id FROM names WHERE name = ?) AND step >= ? "
            "ORDER BY step",
            (name, int(since)),
        )
        steps = np.array([step for step, _ in rows], dtype=np.int64)
        # SQLite stores NaN as NULL
        numbers = np.array([math.nan if number is None else number for _, number in rows], dtype=np.float64)
        return steps, numbers

    def vector_names(self) -> tuple[str, ...]:
        """The names of the saved vectors."""
        return tuple(name for (name,) in self._query("SELECT DISTINCT name FROM vectors ORDER BY name"))

    def buffers(self) -> dict[str, torch.Tensor]:
        """The last recorded buffers of the model by name, BatchNorm's statistics, say; {} where it has none."""
        names = [name for name in self.vector_names() if name.startswith("buffer:")]
        return {name.removeprefix("buffer:"): self.vector(int(self.vector_steps(name)[-1]), name) for name in names}

    def vector_steps(self, name: str = "theta") -> np.ndarray:
        """(m,) int64 steps at which a vector was saved."""
        rows = self._query("SELECT step FROM vectors WHERE name = ? ORDER BY step", (name,))
        return np.array([step for (step,) in rows], dtype=np.int64)

    def vector(self, step: int, name: str = "theta") -> torch.Tensor:
        """A saved vector.

        Raises KeyError when none was saved at that step, RunFormatError when its file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        rows = self._query("SELECT file, row FROM vectors WHERE name = ? AND step = ?", (name, int(step)))
        if not rows:
            raise KeyError(f"{name!r} was not saved at step {step} of {self.path}; see vector_steps({name!r}).")
        file, row = rows[0]
        try:
            with safe_open(self.path / VECTORS / file, framework="pt") as tensors:
                if row is None:
                    return tensors.get_tensor(name)
                return tensors.get_slice(name)[row]
        except (SafetensorError, OSError) as error:
            raise RunFormatError(f"{self.path / VECTORS / file} is missing or damaged: {error}") from error

    def vectors(self, steps: Sequence[int] | np.ndarray, name: str = "theta") -> torch.Tensor:
        """(m, d) a saved vector at several steps; each file is opened once.

        Raises KeyError and RunFormatError as `vector` does.
        """
        from safetensors import SafetensorError, safe_open

        wanted = [int(step) for step in steps]
        known = {
            step: (file, row)
            for step, file, row in self._query(
                "SELECT step, file, row FROM vectors WHERE name = ? AND step BETWEEN ? AND ?",
                (name, min(wanted, default=0), max(wanted, default=0)),
            )
        }
        missing = [step for step in wanted if step not in known]
        if missing:
            raise KeyError(f"{name!r} was not saved at step {missing[0]} of {self.path}; see vector_steps({name!r}).")
        places: dict[str, list[int]] = {}
        for place, step in enumerate(wanted):
            places.setdefault(known[step][0], []).append(place)
        found: dict[int, torch.Tensor] = {}
        for file, its_places in places.items():
            try:
                with safe_open(self.path / VECTORS / file, framework="pt") as tensors:
                    whole = tensors.get_slice(name)
                    for place in its_places:
                        row = known[wanted[place]][1]
                        found[place] = tensors.get_tensor(name) if row is None else whole[row]
            except (SafetensorError, OSError) as error:
                raise RunFormatError(f"{self.path / VECTORS / file} is missing or damaged: {error}") from error
        return torch.stack([found[place] for place in range(len(wanted))])

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Events by time: {"step", "kind", "data", "time"}."""
        rows = self._query("SELECT step, kind, data, time FROM events ORDER BY id")
        found = [
            {"step": step, "kind": name, "data": json.loads(text), "time": when} for step, name, text, when in rows
        ]
        return [event for event in found if kind is None or event["kind"] == kind]

    # -- within --------------------------------------------------------------------------------------------

    def _query(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise translate(self.path / RECORD, error) from error

    def _require_writable(self) -> None:
        if self._lock is None:
            raise PermissionError(
                f"{self.path} was opened to read: open it with Run.open(path, write=True) to write."
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._require_writable()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise translate(self.path / RECORD, error) from error
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _name_id(self, name: str) -> int:
        if name not in self._ids:
            with self._transaction() as connection:
                connection.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
            ((identity,),) = self._query("SELECT id FROM names WHERE name = ?", (name,))
            self._ids[name] = int(identity)
        return self._ids[name]


def _json(setting: Any) -> str:
    try:
        return json.dumps(setting)
    except TypeError as error:
        raise TypeError(f"a run's settings must be JSON-serialisable: {error}.") from error


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:80]
