"""The certificate of a loss: its class of definability, smoothness, autodiff level, and the proof that replays."""

from __future__ import annotations

import functools
import html
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from tameopt.batches import tensors_of
from tameopt.evidence import Certificate, Verdict
from tameopt.loss_module import unwrapped
from tameopt.problem import Problem
from tameopt.structure import kinks
from tameopt.structure.aten._table import row_named
from tameopt.structure.interpret import evaluate, interpret
from tameopt.structure.program import Constant, Node, Obstruction, Place, Program, Ref
from tameopt.structure.tame import (
    ANALYTIC,
    AUTODIFF,
    CLASSICAL,
    STRUCTURE_SOURCE,
    WILD,
    is_o_minimal,
    smoothness_name,
)
from tameopt.structure.trace import module_names, persons_line, severed, traced
from tameopt.structure.value import Value

Wrt = Literal["parameters", "inputs", "both"]
_CHECKER = "tameopt.structure.checker:check"
_MAX_BATCHES = 4  # our choice: batches traced before the rest are covered by "any data of this shape"


@dataclass(frozen=True)
class Operation:
    """One recorded operator call, for reading.

    line: "file.py:12" or ""; module: the module's path or ""; result: what is known about its first output;
    varies: names of the arguments that depend on theta; row: what the operator's table says.
    """

    operator: str
    line: str
    module: str
    varies: tuple[str, ...]
    result: str
    row: str
    smoothness: str
    autodiff: str


@dataclass(frozen=True)
class Structure:
    """What kind of function a loss or network is, and how that is known.

    definable: "polynomial" | "piecewise polynomial" | "semialgebraic" | "R_an" | "R_exp" | "R_an,exp" | "Pfaffian" |
        "R_G,exp" | "not definable" (no o-minimal structure is known to contain it) | "unknown".
    degree: of the polynomial pieces, or None. smoothness: "analytic" | "C^k" | "locally Lipschitz" | "continuous" |
        "discontinuous" (no better proved), on its domain. total: defined and finite for every theta.
    autodiff: "classical" | "Clarke" | "conservative" | "almost everywhere" | "wrong" (not proved better).
    lower_bound, upper_bound: of the value, or None. shape: "affine" | "convex" | "concave" | "".
    homogeneous: h with value(t theta) = t^h value(theta) for t > 0, or None.
    verdict: PROVED when definability is: the certificate replays in the separate checker, and the class is
        o-minimal; UNKNOWN otherwise, with `obstructions`. replayed: the checker accepted the other claims
        (smoothness, autodiff, bounds), which hold for a function that is not tame, too.
    branches: lines where Python decided on a tensor that depends on theta: the rest holds for that branch only.
    kinks: the operations that are not smooth by themselves, or may leave their domain.
    operations: all that touch theta, in order.
    wrt: what varies. seconds: what it took.
    """

    name: str
    definable: str
    degree: int | None
    smoothness: str
    total: bool
    autodiff: str
    lower_bound: float | None
    upper_bound: float | None
    shape: str
    homogeneous: int | None
    verdict: Verdict
    certificate: Certificate | None = field(repr=False)
    obstructions: tuple[Obstruction, ...]
    kinks: tuple[Operation, ...] = field(repr=False)
    operations: tuple[Operation, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    wrt: str = "parameters"
    seconds: float = 0.0
    replayed: bool = False

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that touch theta, sorted."""
        return tuple(sorted({operation.operator for operation in self.operations}))

    @property
    def branches(self) -> tuple[Obstruction, ...]:
        """Where Python decided on theta."""
        return tuple(item for item in self.obstructions if item.kind == "branch")

    @property
    def tame(self) -> bool:
        """Whether definability in an o-minimal structure is proved."""
        return self.verdict is Verdict.PROVED and is_o_minimal(self.definable)

    @property
    def locally_lipschitz(self) -> bool:
        """Whether local Lipschitz continuity on all of R^d is proved."""
        smooth = self.smoothness not in ("continuous", "discontinuous", "unknown")
        return self.replayed and self.total and smooth

    @property
    def summary(self) -> str:
        """One sentence."""
        if self.definable == "unknown":
            first = self.obstructions[0] if self.obstructions else "nothing was recorded"
            return f"{self.name}: unknown. {first}"
        degree = f" of degree {self.degree}" if self.degree is not None else ""
        domain = "" if self.total else " on its domain"
        text = (
            f"{self.name}: {self.definable}{degree}, {self.smoothness}{domain}, autodiff {self.autodiff} "
            f"({self.verdict}, {len(self.operations)} operations, {len(self.operators)} operators)"
        )
        if self.branches:
            text += f"; on the branch taken at {self.branches[0].place} only"
        return text

    def to_json(self) -> dict[str, Any]:
        """As plain data, without the certificate's nodes."""
        return {
            "name": self.name,
            "definable": self.definable,
            "degree": self.degree,
            "smoothness": self.smoothness,
            "total": self.total,
            "autodiff": self.autodiff,
            "lower_bound": self.lower_bound,
            "upper_bound": self.upper_bound,
            "shape": self.shape,
            "homogeneous": self.homogeneous,
            "verdict": str(self.verdict),
            "wrt": self.wrt,
            "seconds": self.seconds,
            "operators": list(self.operators),
            "kinks": [_where(operation) for operation in self.kinks],
            "obstructions": [
                {"kind": item.kind, "operator": item.operator, "message": item.message, "place": str(item.place)}
                for item in self.obstructions
            ],
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return f"Structure({self.summary})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(_where(operation))}</td><td>{html.escape(operation.result)}</td></tr>"
            for operation in self.operations
        )
        return f"<p>{html.escape(self.summary)}</p><table>{rows}</table>"


def _where(operation: Operation) -> str:
    place = str(Place(operation.line, operation.module))
    return f"{operation.operator} at {place}"


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
    program, notes = _recorded(subject, seed)
    return _structure(subject.name, program, notes, wrt, start, subject.any_data)


def certify_outputs(problem: Problem) -> Structure:
    """The certificate of a problem's network, without its loss, on the first batch.

    Raises ValueError for a problem given as forward(model, batch).
    """
    start = time.perf_counter()
    subject = _of_problem(problem)
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
    program, notes = _recorded(subject, 0)
    return _structure(subject.name, program, notes, "parameters", start, subject.any_data)


@dataclass(frozen=True)
class Subject:
    """A function to trace. run(leaves, part) computes part number `part` (a batch) from the leaves by name.

    hooks: parameters whose gradient a hook may change.
    """

    name: str
    leaves: Mapping[str, torch.Tensor]
    data: tuple[tuple[torch.Tensor, ...], ...]
    modules: Mapping[int, str]
    run: Callable[[Mapping[str, torch.Tensor], int], Any]
    combine: str = "tame.outputs"
    any_data: bool = False
    notes: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    @property
    def parts(self) -> int:
        return len(self.data)


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_()


def subject_of(target: Any, loss: Any, inputs: Any, wrt: Wrt) -> Subject:
    """What `certify(target, loss, inputs, wrt=wrt)` traces."""
    if isinstance(target, Problem):
        if wrt != "parameters":
            raise ValueError(f"a Problem is certified in its parameters, got wrt={wrt!r}: pass the model and inputs.")
        return _of_problem(target)
    if inputs is None:
        raise ValueError(
            "certify(model, inputs=...) needs the inputs the model is called with: a tensor, a tuple or a dict."
        )
    if isinstance(target, nn.Module):
        return _of_module(unwrapped(target), loss, inputs, wrt)
    if callable(target):
        return _of_problem(Problem.from_function(target, torch.as_tensor(inputs)))
    raise TypeError(f"certify needs a Problem, a module or a function of theta, got {type(target).__name__}.")


def _of_problem(problem: Problem) -> Subject:
    leaves = {name: _leaf(view) for name, view in problem.unflatten(problem.theta).items()}
    if problem.is_function:
        return Subject(
            problem.name, leaves, ((),), module_names(problem.model), lambda parts, _: problem.batch_output(
                dict(parts), ()), "tame.total",
        )  # fmt: skip
    batches = []
    for batch in problem.batches:
        batches.append(batch)
        if len(batches) == _MAX_BATCHES + 1:
            break
    any_data = len(batches) > _MAX_BATCHES
    notes: tuple[str, ...] = ()
    if any_data:
        batches = batches[:_MAX_BATCHES]
        notes = (
            f"{_MAX_BATCHES} batches were traced; the others are covered because the certificate holds for any "
            "finite data through the same operators",
        )
    combine = "tame.total" if problem.reduction == "sum" else "tame.average"
    return Subject(
        problem.name,
        leaves,
        tuple(tuple(tensors_of(batch)) for batch in batches),
        module_names(problem._module),
        lambda parts, k: problem.batch_output(dict(parts), batches[k]),
        combine,
        any_data,
        notes,
        hooked_parameters(problem.model),
    )


def _of_module(model: nn.Module, loss: Any, inputs: Any, wrt: Wrt) -> Subject:
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a TorchScript module runs outside what can be recorded: pass the Python module it was made from."
        )
    if loss is not None and not (isinstance(inputs, (tuple, list)) and len(inputs) >= 2):
        raise ValueError("with a loss, inputs must be (*inputs, target), as a batch of a Problem.")
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if loss is not None and floating and tensors and floating[-1] is tensors[-1]:
        floating = floating[:-1]
    leaves: dict[str, torch.Tensor] = {}
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wrt in ("parameters", "both"):
        leaves.update({f"parameter {name}": _leaf(parameter) for name, parameter in parameters.items()})
    if wrt in ("inputs", "both"):
        leaves.update({f"input {k}": _leaf(tensor) for k, tensor in enumerate(floating)})
    if not leaves:
        raise ValueError(f"nothing varies: {type(model).__name__} has no trainable parameters (wrt={wrt!r}).")
    numbers = {id(tensor): k for k, tensor in enumerate(floating)}
    buffers = dict(model.named_buffers())

    def run(parts: Mapping[str, torch.Tensor], _: int) -> Any:
        def swapped(leaf: Any) -> Any:
            return parts.get(f"input {numbers.get(id(leaf))}", leaf) if isinstance(leaf, torch.Tensor) else leaf

        batch = tree_map(swapped, inputs)
        constants = {name: buffer.clone() for name, buffer in buffers.items()}
        for name, parameter in model.named_parameters():
            constants[name] = parts.get(f"parameter {name}", parameter.detach())
        if loss is not None:
            *arguments, goal = batch
            return loss(functional_call(model, constants, tuple(arguments)), goal)
        if isinstance(batch, Mapping):
            return functional_call(model, constants, (), dict(batch))
        return functional_call(model, constants, tuple(batch) if isinstance(batch, (tuple, list)) else (batch,))

    hooks = hooked_parameters(model) if wrt != "inputs" else ()
    return Subject(type(model).__name__, leaves, (tuple(tensors),), module_names(model), run, hooks=hooks)


def hooked_parameters(model: nn.Module) -> tuple[str, ...]:
    """The parameters with a hook on their gradient: what is traced are copies, which do not have it."""
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
    )


# -- recording ---------------------------------------------------------------------------------------------


def _recorded(subject: Subject, seed: int) -> tuple[Program, tuple[str, ...]]:
    """The program of all parts, and what should be said about it."""
    notes = list(subject.notes)
    program = _run_all(subject, subject.leaves)
    on_meta = any(leaf.is_meta for leaf in subject.leaves.values())
    if not subject.any_data:
        # every batch was traced, so what Python read from the data is what it will read again
        kept = tuple(item for item in program.obstructions if item.kind != "data branch")
        program = replace(program, obstructions=kept)
    if program.random:
        notes.append(f"random numbers are drawn ({', '.join(program.random)}): this holds given the noise")
    if on_meta:
        notes.append(
            "traced on the meta device: nothing was computed; buffers count as arbitrary numbers, running variances "
            "as >= 0"
        )
    elif not program.obstructions:
        generator = torch.Generator().manual_seed(seed)
        moved = {
            name: _leaf(leaf.detach() + 0.1 * (1 + leaf.detach().abs()) * _noise(leaf, generator))
            for name, leaf in subject.leaves.items()
        }
        second = _run_all(subject, moved)
        if any(item.kind != "data branch" for item in second.obstructions) or _skeleton(second) != _skeleton(program):
            message = (
                "a second run at other parameters went through other operators or constants: theta reaches the "
                "result on a way that torch does not show (NumPy, Python numbers, state kept between calls)"
            )
            where = Obstruction("differs between runs", subject.name, message, Place())
            program = replace(program, obstructions=(where, *second.obstructions))
    return program, tuple(notes)


def _noise(leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.device, leaf.dtype)


def _skeleton(program: Program) -> list[str]:
    return [
        repr((node.op, sorted(node.arguments.items()), node.shapes, node.dtypes))
        for node in (program.nodes[index] for index in program.live())
    ]


def _run_all(subject: Subject, leaves: Mapping[str, torch.Tensor]) -> Program:
    """Trace every part and join the results with one last node."""
    nodes: list[Node] = []
    outputs: list[Ref | Constant] = []
    obstructions: list[Obstruction] = []
    cuts = [f"a hook may change the gradient of {name}" for name in subject.hooks]
    random: set[str] = set()
    for part in range(subject.parts):
        run = functools.partial(subject.run, leaves, part)
        try:
            program, tensors = traced(leaves, list(subject.data[part]), subject.modules, run)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            first = str(error).splitlines()[0] if str(error) else ""
            shapes = [tuple(tensor.shape) for tensor in subject.data[part]]
            line = persons_line(error)
            raise ValueError(
                f"the model must run on its inputs, but with shapes {shapes} it raised {type(error).__name__}"
                f"{f' at {line}' if line else ''}: {first}"
            ) from error
        random.update(program.random)
        shift = len(nodes)
        nodes.extend(_shifted(node, shift) for node in program.nodes)
        outputs.extend(Ref(out.node + shift, out.output) if isinstance(out, Ref) else out for out in program.outputs)
        obstructions.extend(item for item in program.obstructions if item not in obstructions)
        cuts.extend(f"a hook may change the gradient here ({place})" for place in program.hooks)
        for tensor, out in zip(tensors, program.outputs, strict=True):
            if isinstance(out, Ref) and (reason := severed(tensor)):
                cuts.append(reason)
            if not tensor.is_meta and not bool(torch.isfinite(tensor.detach()).all()):
                obstructions.append(
                    Obstruction("not finite", "output", "the value at these parameters is not finite", Place())
                )
    if not outputs:
        return Program(tuple(nodes), (), tuple(obstructions))
    last = Node(
        subject.combine,
        {"tensors": tuple(outputs)},
        {},
        ((),),
        ("torch.float",),
        cut={"tensors": cuts[0]} if cuts else {},
    )
    nodes.append(last)
    return Program(tuple(nodes), (Ref(len(nodes) - 1),), tuple(obstructions), tuple(sorted(random)))


def _shifted(node: Node, shift: int) -> Node:
    if shift == 0:
        return node

    def moved(argument: Any) -> Any:
        if isinstance(argument, Ref):
            return Ref(argument.node + shift, argument.output)
        return tuple(moved(item) for item in argument) if isinstance(argument, tuple) else argument

    arguments = {name: moved(argument) for name, argument in node.arguments.items()}
    return Node(node.op, arguments, node.shapes, node.outputs, node.dtypes, node.types, node.cut, node.place)


# -- from the program to the statement ---------------------------------------------------------------------


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
    )


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
