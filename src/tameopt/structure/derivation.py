"""The derivation of a certificate as a tree: modules, the operators they ran, and what is known after each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tameopt.structure.statement import Operation, Structure

_BOOKKEEPING = {"detach", "alias"}  # torch's own copies for the backward pass; a cut shows in what reads them


@dataclass
class Branch:
    """A module (or the whole function): what it ran, in order; result: what is known after its last operator.

    kinks: operators in it that are not smooth by themselves, or leave their domain. whole: what is known of the whole
    function, which its last operator need not say (Python may have decided between several).
    """

    name: str
    children: list[Branch | Operation] = field(default_factory=list)
    kinks: int = 0
    whole: str = ""

    @property
    def result(self) -> str:
        if self.whole:
            return self.whole
        last = self.children[-1] if self.children else None
        return last.result if last is not None else ""

    @property
    def count(self) -> int:
        return sum(child.count if isinstance(child, Branch) else 1 for child in self.children)


def derivation(found: Structure) -> Branch:
    """The operations of a certificate under the modules that ran them."""
    degree = f" of degree {found.degree}" if found.degree is not None else ""
    root = Branch(found.name, whole=f"{found.definable}{degree}, {found.smoothness}")
    bad = {(item.operator, item.line, item.module) for item in found.kinks}
    open_path: list[Branch] = [root]
    last = None
    for operation in found.operations:
        if operation.operator in _BOOKKEEPING and last is not None and operation.module == last.module:
            continue
        last = operation
        path = operation.module.split(".") if operation.module else []
        depth = 0
        while depth < min(len(path), len(open_path) - 1) and open_path[depth + 1].name == path[depth]:
            depth += 1
        del open_path[depth + 1 :]
        for name in path[depth:]:
            branch = Branch(name)
            open_path[-1].children.append(branch)
            open_path.append(branch)
        open_path[-1].children.append(operation)
        if (operation.operator, operation.line, operation.module) in bad:
            for branch in open_path:
                branch.kinks += 1
    return root


def lines(branch: Branch, depth: int = 0) -> Iterator[str]:
    """The tree as indented text."""
    kinks = f", {branch.kinks} not smooth" if branch.kinks else ""
    yield f"{'  ' * depth}{branch.name}: {branch.result}{kinks}"
    for child, times in _runs(branch.children):
        if isinstance(child, Branch):
            yield from lines(child, depth + 1)
        else:
            repeated = f" x{times}" if times > 1 else ""
            where = f"   {child.line.rpartition('/')[2]}" if child.line else ""
            yield f"{'  ' * (depth + 1)}{child.operator}{repeated} -> {child.result}{where}"


def _runs(children: Sequence[Branch | Operation]) -> Iterator[tuple[Branch | Operation, int]]:
    """Equal operations in a row, once with their number."""
    last: Branch | Operation | None = None
    times = 0
    for child in children:
        if child == last and isinstance(child, Operation):
            times += 1
            continue
        if last is not None:
            yield last, times
        last, times = child, 1
    if last is not None:
        yield last, times


def as_data(branch: Branch, most: int = 2000) -> dict[str, Any] | None:
    """The tree as plain data for a report: {"name", "result", "kinks", "children"}; None past `most` operations.

    A child is such a tree, or an operation: {"operator", "times", "result", "line", "row", "varies"}.
    """
    if branch.count > most:
        return None
    children: list[dict[str, Any]] = []
    for child, times in _runs(branch.children):
        if isinstance(child, Branch):
            inner = as_data(child, most)
            assert inner is not None
            children.append(inner)
        else:
            children.append({
                "operator": child.operator, "times": times, "result": child.result, "line": child.line,
                "row": child.row, "varies": list(child.varies),
            })  # fmt: skip
    return {"name": branch.name, "result": branch.result, "kinks": branch.kinks, "children": children}
