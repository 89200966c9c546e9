"""The certificate of a loss: its class of definability, smoothness, autodiff level, and the proof that replays."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tameopt.evidence import Certificate, Verdict
from tameopt.problem import Problem
from tameopt.structure import kinks
from tameopt.structure.aten._table import row_named
from tameopt.structure.interpret import evaluate, interpret
from tameopt.structure.program import Constant, Node, Program, Ref
from tameopt.structure.recording import recorded
from tameopt.structure.statement import Operation, Structure
from tameopt.structure.subject import Wrt, subject_of
from tameopt.structure.tame import (
    ANALYTIC,
    AUTODIFF,
    CLASSICAL,
    STRUCTURE_SOURCE,
    WILD,
    is_o_minimal,
    smoothness_name,
)
from tameopt.structure.value import Value

_CHECKER = "tameopt.structure.checker:check"


def certify(
    target: Problem | nn.Module | Callable[..., Any],
    loss: Callable[..., torch.Tensor] | None = None,
    inputs: Any = None,
    *,
    wrt: Wrt = "parameters",
    seed: int = 0,
) -> Structure:
    """What kind of function of theta a loss is: class, degree, smoothness, autodiff level, with a replayed proof.

    target: a Problem (then F itself is certified), or a module with `inputs`: a tensor, a tuple of arguments or a
        dict of keyword arguments. With a loss, the last of the tuple is the target and loss(model(*inputs), target)
        is certified; without, the outputs. A plain function of a vector theta: certify(f, inputs=theta).
    wrt: what varies: the trainable parameters, the floating inputs, or both.
    seed: for the second run at other parameters, which looks for dependence that the first could not see.

    The statement is about the function in real arithmetic that the recorded operators compute. It takes two runs of
    the model and keeps every intermediate tensor alive meanwhile; on the meta device it takes one and no memory.
    Raises ValueError when the model does not run on the inputs.

    >>> import tameopt as tame
    >>> certify(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)),
    ...         inputs=torch.ones(4, 2)).definable
    'piecewise polynomial'
    """
    start = time.perf_counter()
    if wrt not in ("parameters", "inputs", "both"):
        raise ValueError(f"wrt must be 'parameters', 'inputs' or 'both', got {wrt!r}.")
    subject = subject_of(target, loss, inputs, wrt)
    program, notes = recorded(subject, seed)
    return _structure(subject.name, program, notes, wrt, start, subject.any_data)


def certify_outputs(problem: Problem) -> Structure:
    """The certificate of a problem's network, without its loss, on the first batch.

    Raises ValueError for a problem given as forward(model, batch).
    """
    start = time.perf_counter()
    subject = subject_of(problem, None, None, "parameters")
    if not problem.is_function:
        if problem.forward is not None:
            raise ValueError(
                f"{problem.name} was given as forward(model, batch): its network has no outputs of its own."
            )
        batch = next(iter(problem.batches))
        subject = replace(
            subject,
            name=f"the network of {problem.name}",
            data=subject.data[:1],
            run=lambda parts, _: problem.batch_output(dict(parts), batch, True),
            combine="tame.outputs",
        )
    program, notes = recorded(subject, 0)
    return _structure(subject.name, program, notes, "parameters", start, subject.any_data)


def _structure(
    name: str, program: Program, notes: tuple[str, ...], wrt: str, start: float, any_data: bool
) -> Structure:
    found = interpret(program, any_data)
    # an operator that was named with its line says more than "the second run differs"
    vague = tuple(item for item in program.obstructions if item.kind == "differs between runs")
    exact = tuple(item for item in program.obstructions if item.kind != "differs between runs")
    obstructions = (*exact, *found.obstructions, *vague)
    operations = _operations(program, found.values)
    result = found.values.get(program.outputs[0]) if program.outputs and isinstance(program.outputs[0], Ref) else None
    stops = [item for item in obstructions if item.kind != "branch"]
    if result is None or stops:
        return Structure(
            name, "unknown", None, "unknown", False, "unknown", None, None, "", None, Verdict.UNKNOWN, None,
            obstructions, (), operations, notes, wrt, time.perf_counter() - start,
        )  # fmt: skip
    certificate = Certificate(_CHECKER, certificate_data(program, result, any_data))
    replayed = not obstructions and certificate.replay()
    if not obstructions and not replayed:
        notes = (*notes, "the checker did not accept the certificate: please report this as a bug of tameopt")
    if any_data or any(note.startswith("traced on the meta") for note in notes):
        notes = (*notes, *_assumed(program, found.values))
    worse = tuple(_kinks(program, found.values, operations))
    autodiff = AUTODIFF[result.autodiff]
    return Structure(
        name,
        result.definable,
        result.degree if WILD not in result.generators and not result.generators else None,
        smoothness_name(result.smooth),
        result.total and not result.extended,
        autodiff,
        result.range.lo + 0.0 if result.range.lo > -math.inf else None,
        result.range.hi + 0.0 if result.range.hi < math.inf else None,
        result.shape,
        result.homogeneous,
        Verdict.PROVED if replayed and is_o_minimal(result.definable) else Verdict.UNKNOWN,
        certificate,
        obstructions,
        worse,
        operations,
        notes,
        wrt,
        time.perf_counter() - start,
        replayed,
        _ways(program, found.values),
    )


def _assumed(program: Program, values: Mapping[Ref, Value]) -> Iterable[str]:
    """What data that was not seen must satisfy, beyond being finite."""
    nodes = [program.nodes[index] for index in program.live()]
    masked = ("_softmax", "_log_softmax", "_safe_softmax", "logsumexp")
    rows = any(node.op in masked and any(values[ref].extended for ref in node.refs()) for node in nodes)
    attention = any("attention" in node.op and node.arguments.get("attn_mask") is not None for node in nodes)
    if rows or attention:
        yield "assumed of masks that were not seen: every row keeps an entry"
    if any(node.op.startswith("nll_loss") for node in nodes):
        yield "assumed of targets that were not seen: a batch does not ignore all of them"


def _ways(program: Program, values: Mapping[Ref, Value]) -> tuple[str, ...]:
    """What F is for each way that Python's decisions on theta can go, where it can go several."""
    if len(program.paths) < 2:
        return ()
    found = []
    for path in program.paths:
        decisions = ", ".join(f"{made} at {place}" for made, place in zip(path.made, path.places, strict=True))
        value = values.get(path.result) if path.result is not None else None
        what = path.error or "unknown"
        if value is not None:
            degree = f" of degree {value.degree}" if value.degree is not None and not value.generators else ""
            what = f"{value.definable}{degree}, {smoothness_name(value.smooth)}, autodiff {AUTODIFF[value.autodiff]}"
        found.append(f"{decisions}: {what}")
    return tuple(found)


def certificate_data(program: Program, result: Value, any_data: bool) -> dict[str, Any]:
    """The proof as plain data: the live nodes, the result, and what is claimed about it."""
    return {
        "kind": "tameopt structure 1",
        "source": STRUCTURE_SOURCE.get(result.definable, ""),
        "nodes": [_node_data(index, program.nodes[index], any_data) for index in program.live()],
        "conventions": {
            op: gradients
            for op in sorted({program.nodes[index].op for index in program.live()})
            if (gradients := kinks.gradients(op)) is not None
        },
        "result": _data(program.outputs[0], any_data),
        "claims": {
            "generators": sorted(result.generators),
            "degree": result.degree,
            "piecewise": result.piecewise,
            "smooth": result.smooth,
            "autodiff": result.autodiff,
            "total": result.total and not result.extended,
            "lower": None if result.range.lo == -math.inf else result.range.lo,
            "upper": None if result.range.hi == math.inf else result.range.hi,
            "shape": result.shape,
            "homogeneous": result.homogeneous,
        },
    }


def _node_data(index: int, node: Node, any_data: bool) -> dict[str, Any]:
    return {
        "index": index,
        "op": node.op,
        "arguments": {name: _data(argument, any_data) for name, argument in node.arguments.items()},
        "shapes": {name: _listed(shape) for name, shape in node.shapes.items()},
        "outputs": [list(shape) for shape in node.outputs],
        "dtypes": list(node.dtypes),
        "types": dict(node.types),
        "cut": dict(node.cut),
        "place": str(node.place),
    }


def _listed(shape: Iterable[Any]) -> list[Any]:
    return [_listed(item) if isinstance(item, (tuple, list)) else item for item in shape]


def _data(argument: Any, any_data: bool) -> Any:
    if isinstance(argument, Constant) and any_data and argument.from_data:
        return {"constant": [None, None, False, False], "extended": argument.extended}
    if isinstance(argument, (Ref, Constant)):
        return argument.data()
    return [_data(item, any_data) for item in argument] if isinstance(argument, tuple) else argument


def _operations(program: Program, values: Mapping[Ref, Value]) -> tuple[Operation, ...]:
    found = []
    for index in program.live():
        node = program.nodes[index]
        value = values.get(Ref(index))
        if node.op == "theta" or node.op.startswith("tame."):
            continue
        row = row_named(node.op)
        varying = tuple(name for name, argument in node.arguments.items() if _has_ref(argument))
        found.append(
            Operation(
                node.op,
                node.place.line,
                node.place.module,
                varying,
                "unknown" if value is None else str(value),
                "" if row is None else f"{row.definable}; {row.smoothness}; autodiff {row.autodiff}",
                "unknown" if value is None else smoothness_name(value.smooth),
                "unknown" if value is None else AUTODIFF[value.autodiff],
            )
        )
    return tuple(found)


def _has_ref(argument: Any) -> bool:
    items = argument if isinstance(argument, tuple) else (argument,)
    return any(isinstance(item, Ref) for item in items)


def _kinks(program: Program, values: Mapping[Ref, Value], operations: tuple[Operation, ...]) -> Iterable[Operation]:
    """The operations that are themselves not smooth, not defined everywhere, or not differentiated exactly."""
    listed = iter(operations)
    for index in program.live():
        node = program.nodes[index]
        if node.op == "theta" or node.op.startswith("tame."):
            continue
        operation = next(listed)
        value = values.get(Ref(index))
        if value is None or (value.smooth >= ANALYTIC and value.autodiff == CLASSICAL and value.total):
            continue
        ideal = {
            ref: values[ref].but(smooth=ANALYTIC, autodiff=CLASSICAL, total=True)
            for ref in node.refs()
            if ref in values
        }
        alone = evaluate(node, ideal, False)[0]
        if alone.smooth < ANALYTIC or alone.autodiff > CLASSICAL or not alone.total:
            yield replace(operation, smoothness=smoothness_name(alone.smooth), autodiff=AUTODIFF[alone.autodiff])
