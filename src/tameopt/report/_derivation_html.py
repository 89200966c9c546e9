"""The derivation of a structure certificate as nested, foldable lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tameopt.report.text import escaped

_OPEN_LEVELS = 2  # our choice: the modules of the second level are in sight, what is inside them on demand


def derivation_markup(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """The tree that the structure analysis left in its facts, or "" where there is none."""
    certificate = facts.get("structure.certificate", {})
    tree = certificate.get("derivation")
    if not isinstance(tree, Mapping) or not tree.get("children"):
        return ""
    ways = "".join(f"<li>{escaped(way)}</li>" for way in certificate.get("ways", ()))
    chosen = f"<p>F is one of these, as Python decides on the parameters:</p><ul>{ways}</ul>" if ways else ""
    return chosen + _branch(tree, 0)


def _branch(tree: Mapping[str, Any], depth: int) -> str:
    kinks = f' <span class="badge UNKNOWN">{int(tree["kinks"])} not smooth</span>' if tree["kinks"] else ""
    items = "".join(_branch(child, depth + 1) if "children" in child else _leaf(child) for child in tree["children"])
    return (
        f"<details{' open' if depth < _OPEN_LEVELS else ''}><summary><b>{escaped(tree['name'])}</b> "
        f'<span class="soft">{escaped(tree["result"])}</span>{kinks}</summary><ul>{items}</ul></details>'
    )


def _leaf(step: Mapping[str, Any]) -> str:
    """An operator, with the arguments that depend on theta."""
    times = f" x{step['times']}" if step["times"] > 1 else ""
    where = f' <span class="soft">{escaped(step["line"])}</span>' if step["line"] else ""
    varies = f"({escaped(', '.join(step['varies']))})" if step.get("varies") else ""
    return (
        f"<li><code>{escaped(step['operator'])}{varies}</code>{times}: {escaped(step['result'])}{where}"
        f'<br><span class="soft">the row of {escaped(step["operator"])}: {escaped(step["row"])}</span></li>'
    )
