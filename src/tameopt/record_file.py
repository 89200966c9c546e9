"""The SQLite file beneath a run: its schema, how it is made, opened and locked, and its errors in words."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path

FORMAT_VERSION = 1
_APPLICATION_ID = 0x7A3E0  # marks our SQLite files; a foreign database has another
RECORD = "record.sqlite"
VECTORS = "vectors"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE scalars (name INTEGER NOT NULL, step INTEGER NOT NULL, value REAL, PRIMARY KEY (name, step))
    WITHOUT ROWID;
CREATE TABLE vectors (name TEXT NOT NULL, step INTEGER NOT NULL, file TEXT NOT NULL, row INTEGER,
    PRIMARY KEY (name, step)) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
    time REAL NOT NULL);
"""


class RunFormatError(ValueError):
    """The folder or file is not a run that this version can read; the message says why."""


class RunBusyError(RuntimeError):
    """Another process is writing this run."""


def translate(path: Path, error: sqlite3.Error) -> Exception:
    """SQLite's errors in words: what happened, what is safe, what to do."""
    code = getattr(error, "sqlite_errorname", "") or ""
    if code == "SQLITE_FULL":
        return OSError(f"the disk is full: nothing recorded before in {path} is lost; free some space and go on.")
    if code.startswith("SQLITE_IOERR"):
        return OSError(
            f"{path} could not be written or read ({code}): nothing recorded before is lost; check the disk's space "
            "and quota, then go on."
        )
    if code.startswith("SQLITE_READONLY") or code == "SQLITE_CANTOPEN":
        return PermissionError(f"{path} cannot be written: choose a folder that can be written (--out).")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return RunBusyError(f"{path} is locked by another process: try again when it has finished.")
    return RunFormatError(
        f"{path} must be a tameopt record, SQLite says {str(error)!r}: it is damaged or not ours. "
        "If the run folder was copied while it was written, copy record.sqlite-wal with it."
    )


def connect(folder: Path, *, write: bool) -> sqlite3.Connection:
    record = (folder / RECORD).absolute()
    # A reader of a run whose writer was killed must be able to replay the log, so it opens the file for writing and
    # is then held to queries. Only on a read-only medium is it opened as such; a finished run has no log to share
    # there, and SQLite must be told so.
    writable = os.access(folder, os.W_OK) and os.access(record, os.W_OK)
    mode = "rw" if write or writable else "ro"
    frozen = mode == "ro" and not (folder / (RECORD + "-wal")).exists()
    try:
        connection = sqlite3.connect(
            f"{record.as_uri()}?mode={mode}{'&immutable=1' if frozen else ''}",
            uri=True,
            isolation_level=None,
            timeout=10.0,
            check_same_thread=False,
        )
        if write:
            connection.execute("PRAGMA journal_mode=WAL")
            # NORMAL: no fsync a commit. A killed process loses nothing; a power cut may lose the last seconds.
            connection.execute("PRAGMA synchronous=NORMAL")
        else:
            connection.execute("PRAGMA query_only=1")
    except sqlite3.Error as error:
        raise translate(record, error) from error
    return connection


def write_lock(folder: Path) -> int:
    """An exclusive lock that the system releases when the process ends, however it ends."""
    handle = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise RunBusyError(
            f"{folder} is being written by process {owner or '(unknown)'}: stop it first, or choose another name."
        ) from error
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def make(folder: Path) -> None:
    """A new, empty record; it appears under its final name when it is whole, so that no reader sees half of it."""
    half = folder / (RECORD + ".new")
    half.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(half, isolation_level=None)) as connection:
            connection.executescript(
                f"PRAGMA application_id={_APPLICATION_ID}; PRAGMA user_version={FORMAT_VERSION};"
                f"PRAGMA journal_mode=DELETE; BEGIN; {_SCHEMA} COMMIT;"
            )
        os.replace(half, folder / RECORD)
    except sqlite3.Error as error:
        raise translate(folder, error) from error


def check_header(folder: Path) -> None:
    """Raises RunFormatError when the folder holds no SQLite file of the right name."""
    record = folder / RECORD
    if not record.is_file():
        raise RunFormatError(f"{folder} must be a folder with {RECORD}, it has none: it is not a tameopt run.")
    with record.open("rb") as file:
        header = file.read(100)
    if not header.startswith(b"SQLite format 3\0"):
        raise RunFormatError(f"{record} must be an SQLite file, it is not: it is damaged or not ours.")


def check(folder: Path, connection: sqlite3.Connection) -> None:
    """Close the connection and raise RunFormatError when the record is not ours, too new, or damaged."""
    record = folder / RECORD
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION_ID:
            raise RunFormatError(f"{record} is an SQLite file of another program, not a tameopt run.")
        if version > FORMAT_VERSION:
            raise RunFormatError(
                f"{folder} has format {version}, this tameopt reads up to {FORMAT_VERSION}: upgrade tameopt."
            )
        (problem,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if problem != "ok":
            raise RunFormatError(f"{record} is damaged or truncated: {problem}.")
    except sqlite3.Error as error:
        connection.close()
        raise translate(record, error) from error
    except RunFormatError:
        connection.close()
        raise
