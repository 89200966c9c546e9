"""Diagnoses for people and machines: terminal, HTML, Markdown and JSON. Rendering computes no verdict."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tameopt.report.html import save_html, to_html, to_notebook
    from tameopt.report.machine import dumps
    from tameopt.report.markdown import to_markdown
    from tameopt.report.model import Level, level
    from tameopt.report.numbers import pretty
    from tameopt.report.plots import draw
    from tameopt.report.svg import draw_svg
    from tameopt.report.terminal import render, show

_HOMES = {
    "Level": "model",
    "draw": "plots",
    "draw_svg": "svg",
    "dumps": "machine",
    "level": "model",
    "pretty": "numbers",
    "render": "terminal",
    "save_html": "html",
    "show": "terminal",
    "to_html": "html",
    "to_markdown": "markdown",
    "to_notebook": "html",
}

__all__ = [
    "Level", "draw", "draw_svg", "dumps", "level", "pretty", "render", "save_html", "show", "to_html", "to_markdown",
    "to_notebook",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"tameopt.report.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tameopt.report' has no attribute {name!r}")
