"""The command itself: verbs are found, settings come in the promised order, errors become codes."""

from __future__ import annotations

import functools
import json
import operator
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tameopt import cli
from tameopt.catalogue import entries
from tameopt.commands._common import Command, ExitCode, Json, Panel, emit_json, guarded, printable
from tameopt.commands._progress import _PlainLines
from tameopt.extras import MissingExtraError


def _verb(function: Callable[..., int | None]) -> Command:
    return Command("probe", Panel.TOOLS, function)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int | None]], None]:
    """Replace the catalogue of verbs by one verb (and a second, since one verb alone loses its name)."""

    def install(function: Callable[..., int | None]) -> None:
        other = Command("other", Panel.REFERENCE, lambda: None)
        monkeypatch.setattr(cli, "entries", lambda package: {"probe": _verb(function), "other": other})

    return install


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in entries("tameopt.commands"):
        assert f" {name} " in shown


def test_every_verb_explains_itself_and_offers_json() -> None:
    for name, command in entries("tameopt.commands").items():
        assert isinstance(command, Command), name
        assert (command.function.__doc__ or "").strip(), name
        assert any("--json" in str(annotation) for annotation in command.function.__annotations__.values()) or any(
            annotation == "Json" for annotation in command.function.__annotations__.values()
        ), f"{name} has no --json"


def test_help_does_not_import_torch() -> None:
    code = "import sys; from tameopt import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def test_version_names_torch(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert "torch 2." in capsys.readouterr().out


def test_an_unknown_verb_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["problem"]) == ExitCode.BAD_INPUT
    assert "'problem' is not one of the verbs" in (shown := capsys.readouterr().err)
    assert "Did you mean 'problems'?" in shown


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("alpha must be > 0, got -1"), 2, "ValueError: alpha must be > 0, got -1"),
        (TypeError("model must be a module"), 2, "TypeError: model must be a module"),
        (FileNotFoundError(2, "No such file", "gone.py"), 2, "gone.py must exist, it does not"),
        (PermissionError(13, "denied", "closed/x"), 2, "closed/x may not be read or written"),
        (OSError("the disk is full: free some space"), 2, "the disk is full"),
        (MissingExtraError("drawing needs matplotlib: pip install 'tameopt[analysis]'"), 2, "pip install"),
        (KeyboardInterrupt(), 130, "interrupted: what was recorded up to here is kept"),
        (RuntimeError("shapes differ"), 2, "in raising: RuntimeError: shapes differ"),
    ],
)
def test_an_error_becomes_a_line_and_a_code(
    probe: Callable[[Callable[..., int | None]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def raising() -> int | None:
        raise error

    probe(raising)
    assert cli.main(["probe"]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_an_error_of_our_own_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("tameopt.problems.names", functools.partial(operator.truediv, 1, 0))
    assert cli.main(["problems"]) == ExitCode.INTERNAL
    shown = capsys.readouterr().err
    assert "ZeroDivisionError" in shown and "Traceback" in shown and "Please report it" in shown


def test_a_finding_is_exit_one(probe: Callable[[Callable[..., int | None]], None]) -> None:
    probe(lambda: 1)
    assert cli.main(["probe"]) == ExitCode.FINDING


def test_flags_beat_environment_beats_files(
    probe: Callable[[Callable[..., int | None]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def show(lr: float = 0.5, batch_size: int = 8, as_json: Json = False) -> None:
        emit_json({"lr": lr, "batch_size": batch_size, "as_json": as_json})

    probe(show)
    monkeypatch.chdir(tmp_path)

    def settings(*flags: str) -> dict[str, object]:
        assert cli.main(["probe", *flags]) == 0
        return json.loads(capsys.readouterr().out)

    assert settings() == {"lr": 0.5, "batch_size": 8, "as_json": False}
    (tmp_path / "pyproject.toml").write_text("[tool.tameopt.probe]\nlr = 0.1\nbatch-size = 16\n")
    assert settings() == {"lr": 0.1, "batch_size": 16, "as_json": False}
    (tmp_path / "tameopt.toml").write_text("[probe]\nlr = 0.2\n")
    assert settings() == {"lr": 0.2, "batch_size": 16, "as_json": False}
    monkeypatch.setenv("TAMEOPT_PROBE_LR", "0.3")
    assert settings()["lr"] == 0.3
    assert settings("--lr", "0.4", "--json") == {"lr": 0.4, "batch_size": 16, "as_json": True}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[probe]\nlrr = 1\n", "probe has no setting 'lrr': it has lr"),
        ("[prob]\nlr = 1\n", "[prob] must be one of the verbs"),
        ("[probe\n", "must be TOML, it is not"),
    ],
)
def test_a_bad_configuration_is_named(
    probe: Callable[[Callable[..., int | None]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
    words: str,
) -> None:
    def show(lr: float = 0.5) -> None:
        return None

    probe(show)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tameopt.toml").write_text(text)
    assert cli.main(["probe"]) == ExitCode.BAD_INPUT
    assert words in capsys.readouterr().err


def test_names_cannot_drive_the_terminal() -> None:
    assert printable("\x1b[31mred\x07\u202e") == "\\x1b[31mred\\x07\\u202e"
    assert printable("θ* = 0.5\tλ\n") == "θ* = 0.5\tλ\n"


def test_guarded_keeps_the_signature_for_typer() -> None:
    import inspect

    def verb(lr: float = 0.5) -> None:
        """Help."""

    assert list(inspect.signature(guarded(verb)).parameters) == ["lr"]
    assert guarded(verb).__doc__ == "Help."


def test_plain_progress_writes_one_line_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = _PlainLines(5.0, clock=lambda: now[0])
    for second in range(12):
        now[0] = float(second)
        lines.show("training", second, 12)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split("]")[0] for line in shown] == ["[    0 s", "[    5 s", "[   10 s"]
    assert shown[1].endswith(" 42% training")
