"""Every way that Python's decisions on theta can go: one program a way, joined into one.

A function that decides on theta (`if loss > 1:`, a check that raises) is a choice between finitely many functions.
The decisions of a run are turned one by one, until every way is recorded, or is known not to be taken because the
range of its condition excludes it. F is then definable if every way and every condition is: it is a choice between
definable functions on definable sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tameopt.structure.decisions import Decisions, TooManyDecisionsError
from tameopt.structure.interpret import interpret
from tameopt.structure.program import Node, Path, Program, Ref, shifted
from tameopt.structure.value import Value

_MOST = 16  # our choice: ways that are recorded before the certificate is left to the branch taken


@dataclass(frozen=True)
class _Way:
    """program: with the conditions after its outputs, or None when it raises (then error says what)."""

    made: tuple[bool, ...]
    places: tuple[str, ...]
    program: Program | None
    error: str = ""


def joined(
    run: Callable[[Decisions], Program], again: Callable[[Decisions], list[str]],
    skeleton: Callable[[Program], list[str]], any_data: bool,
) -> Program | None:  # fmt: skip
    """One program of all ways, or None when they cannot be told.

    run: records one way; the decisions made are noted in its argument. again: the skeleton of the same way at other
    parameters, which must not differ.
    """
    ways: list[_Way] = []
    waiting: list[tuple[bool, ...]] = [()]
    while waiting:
        prefix = waiting.pop()
        way = _recorded(run, prefix, any_data)
        if way is None:
            return None
        if way.program is not None and again(Decisions(way.made)) != skeleton(way.program):
            return None
        ways.append(way)
        values = interpret(way.program, any_data).values if way.program is not None else {}
        waiting.extend(
            (*way.made[:k], not way.made[k])
            for k in range(len(prefix), len(way.made))
            if not _excluded(way, k, values)
        )
        if len(ways) + len(waiting) > _MOST:
            return None
    return _whole(ways)


def _recorded(run: Callable[[Decisions], Program], prefix: tuple[bool, ...], any_data: bool) -> _Way | None:
    decisions = Decisions(prefix)
    try:
        program = run(decisions)
    except TooManyDecisionsError:
        return None
    except ValueError as error:
        # only what follows from the decisions alone raises wherever they are made
        if not decisions.idle or decisions.spoiled or len(decisions.made) < len(prefix):
            return None
        cause = error.__cause__ or error
        message = f"raises {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}".strip(": ")
        return _Way(tuple(decisions.made), _places(decisions), None, message)
    harmless = ("branch",) if any_data else ("branch", "data branch")
    others = [item for item in program.obstructions if item.kind not in harmless]
    if others or decisions.spoiled or not program.outputs or len(decisions.made) < len(prefix):
        return None
    return _Way(tuple(decisions.made), _places(decisions), replace(
        program, outputs=(*program.outputs, *decisions.conditions), obstructions=()
    ))  # fmt: skip


def _places(decisions: Decisions) -> tuple[str, ...]:
    return tuple(str(place) for place in decisions.places)


def _excluded(way: _Way, k: int, values: Mapping[Ref, Value]) -> bool:
    """Whether the range of the condition of decision k says that it is never made otherwise."""
    if way.program is None:
        return False
    condition = way.program.outputs[1 + k]
    if not isinstance(condition, Ref) or condition not in values:
        return False
    return values[condition].range.lo == values[condition].range.hi == float(way.made[k])


def _whole(ways: list[_Way]) -> Program | None:
    nodes: list[Node] = []
    outputs: list[Ref] = []
    conditions: list[Ref] = []
    paths: list[Path] = []
    random: set[str] = set()
    for way in ways:
        if way.program is None:
            paths.append(Path(way.made, way.places, None, way.error))
            continue
        offset = len(nodes)
        moved = [Ref(out.node + offset, out.output) for out in way.program.outputs if isinstance(out, Ref)]
        if len(moved) != 1 + len(way.made):
            return None
        nodes.extend(shifted(node, offset) for node in way.program.nodes)
        outputs.append(moved[0])
        conditions.extend(moved[1:])
        paths.append(Path(way.made, way.places, moved[0], ""))
        random.update(way.program.random)
    if not outputs:
        return None
    arguments = {
        "tensors": tuple(outputs),
        "conditions": tuple(conditions),
        "ways": [list(way.made) for way in ways if way.program is not None],
        "raising": [list(way.made) for way in ways if way.program is None],
    }
    nodes.append(Node("tame.branches", arguments, {}, ((),), ("torch.float",)))
    return Program(tuple(nodes), (Ref(len(nodes) - 1),), (), tuple(sorted(random)), paths=tuple(paths))
