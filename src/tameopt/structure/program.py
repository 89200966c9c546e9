"""A traced computation as plain data: nodes, references and what stood in the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tameopt.structure.ranges import Interval


@dataclass(frozen=True)
class Ref:
    """Output `output` of node `node`."""

    node: int
    output: int = 0

    def data(self) -> dict[str, Any]:
        return {"node": self.node, "output": self.output}


@dataclass(frozen=True)
class Constant:
    """A tensor that does not depend on theta: where its elements lie; extended: some are -inf.

    from_data: it depends on the data of the batch that was traced.
    """

    range: Interval
    extended: bool = False
    from_data: bool = False

    def data(self) -> dict[str, Any]:
        return {"constant": self.range.data(), "extended": self.extended}


@dataclass(frozen=True)
class Place:
    """Where in the person's code: "file.py:12" (or ""), the module's path (or ""), the column from 1 (or 0)."""

    line: str = ""
    module: str = ""
    column: int = 0

    def __str__(self) -> str:
        parts = [self.line] if self.line else []
        if self.module:
            parts.append(f"in module {self.module}")
        return " ".join(parts) or "(no line of yours)"


@dataclass(frozen=True)
class Node:
    """One operator call; see `rules._call.Call` for the fields.

    arguments hold `Ref`, `Constant`, lists of them, or plain data. cut: names of the tensor arguments through
    which autodiff does not follow theta, with the reason.
    """

    op: str
    arguments: Mapping[str, Any]
    shapes: Mapping[str, Any]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    types: Mapping[str, Any] = field(default_factory=dict)
    cut: Mapping[str, str] = field(default_factory=dict)
    place: Place = field(default_factory=Place)

    def refs(self) -> list[Ref]:
        """The nodes that this one reads."""
        found: list[Ref] = []
        for argument in self.arguments.values():
            items = argument if isinstance(argument, tuple) else (argument,)
            found.extend(item for item in items if isinstance(item, Ref))
        return found


@dataclass(frozen=True)
class Obstruction:
    """What keeps a certificate from covering everything.

    kind: "no row", "branch", "data branch" (Python reads the data: another batch may run other operators),
    "value leaves torch", "differs between runs", "refused", "not finite".
    """

    kind: str
    operator: str
    message: str
    place: Place

    def __str__(self) -> str:
        return f"{self.place}: {self.operator}: {self.message}"


@dataclass(frozen=True)
class Path:
    """One way that Python's decisions on theta can go.

    made: what is decided, in order; places: where. result: what the function then returns, or None: it raises.
    """

    made: tuple[bool, ...]
    places: tuple[str, ...]
    result: Ref | None
    error: str = ""


@dataclass(frozen=True)
class Program:
    """Everything that was recorded.

    nodes in order; node 0.. are leaves "theta" where `op` says so. outputs: what the function returns. random: the
    operators that drew random numbers. hooks: what may change the gradient behind autodiff's back, and where.
    paths: the ways that Python's decisions on theta can go, when all are in the program.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Ref | Constant, ...]
    obstructions: tuple[Obstruction, ...] = ()
    random: tuple[str, ...] = ()
    hooks: tuple[tuple[str, Place], ...] = ()
    paths: tuple[Path, ...] = ()

    def live(self) -> list[int]:
        """The nodes that the outputs need, in order."""
        needed: set[int] = set()
        stack = [out.node for out in self.outputs if isinstance(out, Ref)]
        while stack:
            index = stack.pop()
            if index not in needed:
                needed.add(index)
                stack.extend(ref.node for ref in self.nodes[index].refs())
        return sorted(needed)


def shifted(node: Node, shift: int) -> Node:
    """The node with its references moved by `shift` nodes."""
    if shift == 0:
        return node

    def moved(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(argument.node + shift, argument.output)
        return tuple(moved(item) for item in argument) if isinstance(argument, tuple) else argument

    arguments = {name: moved(argument) for name, argument in node.arguments.items()}
    return Node(node.op, arguments, node.shapes, node.outputs, node.dtypes, node.types, node.cut, node.place)
