"""From a traced program to what is known about its outputs: each node by the rule of its operator's row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tameopt.structure import kinks
from tameopt.structure.aten._row import Row
from tameopt.structure.aten._table import row_named
from tameopt.structure.checker._kinks import convention_holds
from tameopt.structure.program import Constant, Node, Obstruction, Program, Ref
from tameopt.structure.ranges import Interval
from tameopt.structure.rules._call import Call, NoRuleError
from tameopt.structure.rules.masks import require_taken
from tameopt.structure.rules.selection import branches
from tameopt.structure.tame import ALMOST_EVERYWHERE, CLASSICAL, CONSERVATIVE, WRONG
from tameopt.structure.value import Value, constant, join, parameter


@dataclass(frozen=True)
class Interpretation:
    """values: what is known, by node and output, of the live nodes that were reached; obstructions: why not all."""

    values: dict[Ref, Value]
    obstructions: tuple[Obstruction, ...]


def interpret(program: Program, any_data: bool = False) -> Interpretation:
    """Apply the rules to the live nodes in order; stop at the first operator without a row.

    any_data: treat constants that come from the data as unknown numbers, so that the result holds for any batch
    that runs through the same operators.
    """
    values: dict[Ref, Value] = {}
    for index in program.live():
        node = program.nodes[index]
        try:
            outputs = evaluate(node, values, any_data, hints_of(program, node, values))
        except NoRuleError as error:
            return Interpretation(values, (Obstruction("no row", node.op, str(error), node.place),))
        for k, value in enumerate(outputs):
            values[Ref(index, k)] = value
    return Interpretation(values, ())


def hints_of(program: Program, node: Node, values: Mapping[Ref, Value]) -> dict[str, Any]:
    """What the nodes before a node say about it, as further arguments of its call: see `guards_of`, `border_of`."""
    found = {"guards": guards_of(program, node), "border": border_of(program, node, values)}
    return {name: hint for name, hint in found.items() if hint}


_OPPOSITE = {"gt": "le", "ge": "lt", "lt": "ge", "le": "gt"}


def guards_of(program: Program, node: Node) -> tuple[tuple[str, str, float], ...]:
    """For where(x > c, x, y): that its branch x is > c; (branch, comparison, bound) for each branch so guarded."""
    condition = node.arguments.get("condition")
    if node.op != "where" or not isinstance(condition, Ref):
        return ()
    source = program.nodes[condition.node]
    bound = source.arguments.get("other")
    if source.op not in _OPPOSITE or not isinstance(bound, (int, float)):
        return ()
    compared = source.arguments.get("self")
    found = []
    for branch, comparison in (("self", source.op), ("other", _OPPOSITE[source.op])):
        if isinstance(compared, Ref) and node.arguments.get(branch) == compared:
            found.append((branch, comparison, float(bound)))
    return tuple(found)


def border_of(program: Program, node: Node, values: Mapping[Ref, Value]) -> tuple[list[int], list[int]] | None:
    """For a max pooling right after a padding with -inf: how much was padded before and after, by dimension."""
    x = node.arguments.get("self")
    if not node.op.startswith("max_pool") or not isinstance(x, Ref):
        return None
    source = program.nodes[x.node]
    inner = source.arguments.get("self")
    if source.op == "unsqueeze" and source.arguments["dim"] == -2 and isinstance(inner, Ref):
        # max_pool1d is max_pool2d of an image of one row
        source = program.nodes[inner.node]
        inner = source.arguments.get("self")
    padded = source.op == "constant_pad_nd" and source.arguments.get("value") == "-inf"
    if not padded or not isinstance(inner, Ref) or values[inner].extended:
        return None
    # torch lists them from the last dimension on
    widths, rank = list(source.arguments["pad"]), int(node.op[len("max_pool")])
    widths += [0] * (2 * rank - len(widths))
    if len(widths) > 2 * rank or min(widths) < 0:
        return None
    return widths[0::2][::-1], widths[1::2][::-1]


def evaluate(
    node: Node, values: Mapping[Ref, Value], any_data: bool, hints: Mapping[str, Any] | None = None
) -> list[Value]:
    """What is known about the outputs of a node; hints: see `hints_of`.

    Raises NoRuleError when its operator has no row, or its row does not cover this call.
    """
    if node.op == "theta":
        return [parameter()]
    if node.op == "tame.opaque":
        raise NoRuleError(f"what {node.arguments['operator']} wrote here is not recorded")
    arguments = _valued(node, values, any_data)
    arguments.update(hints or {})
    call = Call(node.op, arguments, node.shapes, node.outputs, node.dtypes, node.types)
    if node.op in ("tame.mix", "tame.average", "tame.outputs"):
        return [after_cut(node, call, join(call.tensors))]
    if node.op == "tame.branches":
        return [branches(call)]
    if node.op == "tame.unseen":
        return [unseen(call.value("self"), call.value("behind"))]
    if node.op == "tame.total":
        joined = join(call.tensors)
        ranges = call.tensors[0].range
        for value in call.tensors[1:]:
            ranges = ranges + value.range
        return [after_cut(node, call, joined.but(range=ranges))]
    row = row_named(node.op)
    if row is None:
        raise NoRuleError("no row in tameopt's operator tables")
    require_taken(call, row.rule)
    outputs = row.rule(squared(node, call))
    if len(outputs) < len(node.outputs):
        outputs = outputs + [outputs[-1]] * (len(node.outputs) - len(outputs))
    outputs = [
        value if value.varies else constant(value.range, value.extended).but(total=value.total) for value in outputs
    ]
    outputs = as_probed(row, squared(node, call), outputs)
    return [after_cut(node, call, value) for value in outputs]


def unseen(value: Value, behind: Value) -> Value:
    """A value written where autodiff does not look: it keeps the derivative of what was there before."""
    if value.varies:
        return value.but(autodiff=WRONG)
    if not behind.varies:
        return value
    return value.but(varies=True, degree=0, shape="affine", homogeneous=0, autodiff=WRONG)


def as_probed(row: Row, call: Call, outputs: list[Value]) -> list[Value]:
    """Autodiff is conservative at this operator's kinks only if the installed torch is seen to be so."""
    if all(value.autodiff < CONSERVATIVE for value in outputs):
        return outputs
    gradients = kinks.gradients(call.name)
    if gradients is not None and convention_holds(call.name, gradients):
        return outputs
    arguments = {
        name: tuple(_classical(item) for item in argument) if isinstance(argument, tuple) else _classical(argument)
        for name, argument in call.arguments.items()
    }
    alone = row.rule(replace(call, arguments=arguments))
    if all(value.autodiff != CONSERVATIVE for value in alone):
        return outputs
    return [value.but(autodiff=max(value.autodiff, ALMOST_EVERYWHERE)) for value in outputs]


def _classical(argument: Any) -> Any:
    return argument.but(autodiff=CLASSICAL) if isinstance(argument, Value) else argument


def call_of(program: Program, node: Node, values: Mapping[Ref, Value]) -> Call:
    """A node's call with what is known about its arguments.

    Raises KeyError where an argument was not reached.
    """
    return Call(node.op, _valued(node, values, False), node.shapes, node.outputs, node.dtypes, node.types)


def squared(node: Node, call: Call) -> Call:
    """x * x read as x^2, whose range is known to be nonnegative; x == x marked as a comparison of equals."""
    left, right = node.arguments.get("self"), node.arguments.get("other")
    if not isinstance(left, Ref) or left != right:
        return call
    if node.op in ("eq", "ne"):
        return replace(call, arguments={**call.arguments, "same": True})
    if node.op.rstrip("_") == "mul":
        return Call("square", {"self": call.value("self"), "square": True}, call.shapes, call.outputs, call.dtypes)
    return call


def after_cut(node: Node, call: Call, value: Value) -> Value:
    """The value with autodiff's level lowered where a varying argument is cut off from autodiff."""
    level = value.autodiff
    for name, reason in node.cut.items():
        argument = call.arguments.get(name)
        cut = [argument] if isinstance(argument, Value) else [item for item in argument or () if item is not None]
        for item in cut:
            if item.varies and value.varies:
                # the derivative of a locally constant function is 0 almost everywhere, as autodiff takes it
                harmless = item.flat and reason.startswith("detached")
                level = max(level, ALMOST_EVERYWHERE if harmless else WRONG)
    return value if level == value.autodiff else value.but(autodiff=level)


def _valued(node: Node, values: Mapping[Ref, Value], any_data: bool) -> dict[str, Any]:
    def one(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return values[argument]
        if isinstance(argument, Constant):
            unknown = any_data and argument.from_data
            return constant(Interval() if unknown else argument.range, argument.extended)
        return argument

    return {
        name: tuple(one(item) for item in argument) if isinstance(argument, tuple) else one(argument)
        for name, argument in node.arguments.items()
    }
