"""The only discovery: one public module of a catalogue folder is one ENTRY.

A folder such as `tameopt.problems` holds one file an entry; each public module (its name has no leading
underscore) defines `ENTRY`, whose `name` is how people call it. Nothing is registered by side effect.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from typing import Any, Protocol


class Entry(Protocol):
    """What every entry has."""

    @property
    def name(self) -> str: ...


@functools.cache
def entries(package: str) -> dict[str, Any]:
    """All entries of a catalogue folder, by name, in the order of the names.

    Raises TypeError naming the file when a public module has no ENTRY with a name, or two share one.
    """
    folder = importlib.import_module(package)
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(folder.__path__):
        if module.name.startswith("_") or module.ispkg:
            continue
        full_name = f"{package}.{module.name}"
        entry = getattr(importlib.import_module(full_name), "ENTRY", None)
        name = getattr(entry, "name", None)
        if not isinstance(name, str):
            raise TypeError(
                f"a public module of {package} must define ENTRY with a name, {full_name} does not: "
                "define it, or begin the file's name with an underscore."
            )
        if name in found:
            raise TypeError(f"two entries of {package} are called {name!r}; the second is in {full_name}.")
        found[name] = entry
    return dict(sorted(found.items()))


def names(package: str) -> tuple[str, ...]:
    """The names of a catalogue's entries, sorted."""
    return tuple(entries(package))


def entry(package: str, name: str, kind: str = "") -> Any:
    """The entry of that name; kind: what people call the entries, the package's own name by default.

    Raises ValueError with the nearest name when there is none.
    """
    found = entries(package)
    if name in found:
        return found[name]
    kind = kind or package.rsplit(".", 1)[-1]
    by_lower = {known.lower(): known for known in found}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
    raise ValueError(f"{name!r} is not one of tameopt's {kind}: {', '.join(found)}.{hint}")
