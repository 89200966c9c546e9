"""The `tameopt` command: it assembles the verbs of `tameopt.commands` and does nothing else.

Settings come from flags, then the environment (TAMEOPT_AUDIT_LR=0.1), then `tameopt.toml` (`[audit]` `lr = 0.1`),
then `[tool.tameopt.audit]` of `pyproject.toml`, both in the folder where the command is run.
"""

from __future__ import annotations

import difflib
import inspect
import os
import platform
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.catalogue import entries
from tameopt.commands._common import Command, ExitCode, guarded, say

_COMMANDS = "tameopt.commands"


def _version(show: bool) -> None:
    if show:
        from tameopt import __version__

        torch = metadata.version("torch")
        typer.echo(f"tameopt {__version__} (torch {torch}, Python {platform.python_version()})")
        raise typer.Exit


def _start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the versions and stop.")
    ] = False,
) -> None:
    """Where is this training going in the long run, and why?

    Start with `tameopt audit`: it trains a small network on real digits and says where that is going.
    """


def build(defaults: Mapping[str, Mapping[str, Any]] | None = None) -> typer.Typer:
    """The command with all verbs; `defaults` are settings of the configuration files, by verb."""
    app = typer.Typer(
        name="tameopt",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "default_map": {verb: dict(settings) for verb, settings in (defaults or {}).items()},
        },
    )
    app.callback()(_start)
    commands: list[Command] = list(entries(_COMMANDS).values())
    for command in commands:
        decorate = app.command(command.name, rich_help_panel=str(command.panel), help=_help(command))
        decorate(guarded(command.function))
    return app


def _help(command: Command) -> str:
    """The verb's docstring with its paragraphs unwrapped, so that they fill the terminal; brackets stay text."""
    paragraphs = (inspect.getdoc(command.function) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs).replace("[", r"\[")


def configuration(folder: Path) -> dict[str, dict[str, Any]]:
    """The settings of the environment over `tameopt.toml` over `pyproject.toml` of a folder, by verb.

    Raises ValueError naming the file for bad TOML, a verb that does not exist or a setting it does not have.
    """
    settings: dict[str, dict[str, Any]] = {}
    for file, path in ((folder / "pyproject.toml", ("tool", "tameopt")), (folder / "tameopt.toml", ())):
        if not file.is_file():
            continue
        try:
            table: Any = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} must be TOML, it is not: {error}.") from error
        for key in path:
            table = table.get(key, {})
        for verb, options in table.items():
            known = entries(_COMMANDS)
            if verb not in known or not isinstance(options, dict):
                raise ValueError(f"{file}: [{verb}] must be one of the verbs {', '.join(known)}.")
            names = set(inspect.signature(known[verb].function).parameters)
            for option, setting in options.items():
                name = option.replace("-", "_")
                if name not in names:
                    raise ValueError(f"{file}: {verb} has no setting {option!r}: it has {', '.join(sorted(names))}.")
                settings.setdefault(verb, {})[name] = setting
    for verb, command in entries(_COMMANDS).items():
        for name, parameter in inspect.signature(command.function).parameters.items():
            text = os.environ.get(f"TAMEOPT_{verb}_{name}".upper().replace("-", "_"))
            if text is not None:
                many = "list[" in str(parameter.annotation)
                settings.setdefault(verb, {})[name] = text.split(",") if many else text
    return settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code (`sys.argv` by default)."""
    try:
        app = build(configuration(Path.cwd()))
    except ValueError as error:
        say(f"error: {error}")
        return ExitCode.BAD_INPUT
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in entries(_COMMANDS):
        near = difflib.get_close_matches(words[0], entries(_COMMANDS), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        say(f"error: {words[0]!r} is not one of the verbs {', '.join(entries(_COMMANDS))}.{hint}")
        return ExitCode.BAD_INPUT
    try:
        app(args=words, prog_name="tameopt")
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else ExitCode.BAD_INPUT
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
