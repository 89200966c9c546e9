"""Pages generated from the code at each build: verbs, theorems, problems, claims, glossary, library."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

# the order of the lecture; a page that is not named here follows by name
CHAPTERS = (
    "optim", "optimizers", "structure", "curvature", "dynamics", "kl", "noise", "nonsmooth", "theorems", "audit",
    "watch", "integrations", "problems",
)  # fmt: skip
OWN = {"index", "start", "choose", "report", "verdicts", "scale", "extend"}
ROOMS = ("structure", "curvature", "dynamics", "kl", "noise", "nonsmooth", "theorems", "problems", "report")


def write(folder: Path) -> None:
    """Write every page; one that is unchanged is left alone, so that sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    pages: dict[str, Callable[[], str]] = {
        "commands.md": commands,
        "theorems.md": theorems,
        "problems.md": problems,
        "claims.md": claims,
        "glossary.md": glossary,
        "api.md": api,
        "chapters.inc": lambda: chapters(folder.parent),
    }
    for name, make in pages.items():
        target, text = folder / name, make()
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")


def chapters(docs: Path) -> str:
    """The rooms' own pages, in the order of the lecture."""
    there = {page.stem for page in docs.glob("*.md")} - OWN
    ordered = [name for name in CHAPTERS if name in there] + sorted(there - set(CHAPTERS))
    listed = "\n".join(ordered)
    return f"```{{toctree}}\n:caption: One chapter at a time\n:maxdepth: 1\n\n{listed}\n```\n" if ordered else ""


def _plain(text: str) -> str:
    """Text in which no character is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _literal(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text.strip()}\n{fence}\n"


def commands() -> str:
    """Each verb's own help."""
    from typer.testing import CliRunner

    from tameopt import cli
    from tameopt.catalogue import entries

    app, parts = cli.build(), ["# The command", ""]
    parts.append(
        "Results go to stdout, progress to stderr. Exit codes: 0 done, 1 a finding at or above `--fail-on`, 2 bad "
        "usage or input, 101 an error of tameopt itself, 130 interrupted. Settings come from flags, then "
        "`TAMEOPT_VERB_OPTION` in the environment, then `tameopt.toml`, then `[tool.tameopt.VERB]` in "
        "`pyproject.toml`.\n"
    )
    for name in entries("tameopt.commands"):
        shown = CliRunner(env={"COLUMNS": "82", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, [name, "--help"])
        lines = [line.rstrip() for line in shown.output.strip().splitlines()]
        parts += [f"## tameopt {name}", "", _literal("\n".join(lines))]
    return "\n".join(parts)


def theorems() -> str:
    """Each theorem with its hypotheses, conclusion, source and BibTeX."""
    from tameopt import theorems as catalogue

    parts = ["# Theorems", "", "Each is judged in every audit; `tameopt theorems NAME` prints one.", ""]
    for name in catalogue.names():
        one = catalogue.entry(name)
        parts += [f"## {_plain(one.title)}", "", f"`{one.name}`, chapter: {_plain(one.chapter)}.", ""]
        for hypothesis in one.hypotheses:
            scope = f" ({hypothesis.scope})"
            local = f" Locally enough: {_plain(hypothesis.local_suffices)}." if hypothesis.local_suffices else ""
            parts.append(f"- {_plain(hypothesis.statement)}{scope}: `{hypothesis.claim}`.{local}")
        parts += ["", f"**Conclusion.** {_plain(one.conclusion)}", ""]
        if one.remark:
            parts += [_plain(one.remark), ""]
        parts += [f"Source: {_plain(one.source)}", "", _literal(one.bibtex)]
    return "\n".join(parts)


def problems() -> str:
    """The ready problems."""
    from tameopt import problems as catalogue

    parts = ["# Ready problems", "", "| Name | Parameters | Samples | What it is |", "|---|---:|---:|---|"]
    for name in catalogue.names():
        entry = catalogue.entry(name)
        problem = entry.load()
        samples = "" if problem.is_function else f"{problem.n:,}"
        parts.append(f"| `{name}` | {problem.dim:,} | {samples} | {_plain(entry.title)} |")
    parts += ["", "Sources:", ""]
    parts += [f"- `{name}`: {_plain(catalogue.entry(name).source)}" for name in catalogue.names()]
    return "\n".join(parts) + "\n"


def claims() -> str:
    """The vocabulary of findings and hypotheses."""
    from tameopt.claims import CLAIMS

    rows = [f"| `{one.name}` | {_plain(one.statement)} | {_plain(one.value)} |" for one in CLAIMS.values()]
    head = ["# Claims", "", "Analyses yield findings about these; hypotheses of theorems are these.", ""]
    return "\n".join([*head, "| Claim | Statement | Number |", "|---|---|---|", *rows]) + "\n"


def glossary() -> str:
    """The words of a report."""
    from tameopt.report.glossary import TERMS

    parts = ["# Glossary", ""]
    for term in TERMS:
        parts += [_plain(term.word), f": {_plain(term.meaning)}", ""]
    return "\n".join(parts)


def api() -> str:
    """Public names of each room with their signatures and docstrings, as written."""
    parts = ["# The library", "", "`import tameopt as tame`. Docstrings as they stand in the code.", ""]
    from tameopt import Problem, Run, watch

    parts += ["## tame", "", *_members("tame", [("Problem", Problem), ("Run", Run), ("watch", watch)])]
    for room in ROOMS:
        module = importlib.import_module(f"tameopt.{room}")
        names = [name for name in getattr(module, "__all__", []) if not name.startswith("_")]
        members = [(name, getattr(module, name)) for name in sorted(names)]
        parts += [f"## tame.{room}", "", _literal(inspect.getdoc(module) or ""), *_members(f"tame.{room}", members)]
    return "\n".join(parts)


def _members(prefix: str, members: list[tuple[str, Any]]) -> list[str]:
    parts = []
    for name, member in members:
        if inspect.ismodule(member) or not callable(member):
            continue
        try:
            signature = str(inspect.signature(member))
        except (TypeError, ValueError):
            signature = "(…)"
        text = f"{prefix}.{name}{signature}\n\n{inspect.getdoc(member) or ''}"
        parts += [f"### {prefix}.{name}", "", _literal(text)]
    return parts
