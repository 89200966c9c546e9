"""The objective as a list of operators: what PyTorch computes on one batch, traced to aten and made plain.

Nonsmoothness lives in single operators (relu, abs, max-pool, ...), so every question of this room begins with
the list of them. The trace is functional (no in-place writes) and takes parameters and batch as inputs, so a
branch on the value of either is refused instead of being frozen silently. A branch on constants (whether a mask
is causal) always goes the same way and is followed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tameopt.batches import Batch
from tameopt.problem import Problem


class TraceError(ValueError):
    """The objective cannot be written as one list of operators; the message says why."""


@dataclass(frozen=True)
class Ref:
    """The result of an earlier step, by name."""

    name: str


@dataclass(frozen=True)
class Step:
    """One operator of the trace.

    op: "parameter", "input", "constant", "getitem" or an aten name such as "aten.relu.default".
    args, kwargs: as the operator takes them, with `Ref` for earlier results; a parameter's args are (name,).
    depends: whether the result depends on theta.
    """

    name: str
    op: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    depends: bool

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the steps that this one reads, in order."""
        return tuple(leaf.name for leaf in _leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Ref))


def _leaves(tree: Any) -> list[Any]:
    return tree_flatten(tree, is_leaf=lambda leaf: isinstance(leaf, Ref))[0]


def mapped(tree: Any, known: Mapping[str, Any]) -> Any:
    """An argument tree with the results that it refers to."""
    return tree_map(
        lambda leaf: known[leaf.name] if isinstance(leaf, Ref) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Ref),
    )


@dataclass(frozen=True)
class Graph:
    """The steps from (parameters, batch) to the loss of a batch, in an order in which they can be run.

    constants: tensors that are neither (buffers, frozen parameters, literals), by step name.
    output: the step that is the loss, a scalar (or one loss a sample).
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, torch.Tensor]
    output: str

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(step for step in self.steps if step.name == name)

    def run(
        self,
        parameters: Mapping[str, torch.Tensor],
        batch: Batch,
        visit: Callable[[Step, tuple[Any, ...], dict[str, Any], Any], None] | None = None,
        replace: Callable[[Step, tuple[Any, ...], dict[str, Any]], Any] | None = None,
    ) -> torch.Tensor:
        """The loss of the batch, differentiable; `visit` sees each theta-dependent operator with its values.

        replace: may compute a theta-dependent operator in its own way; NotImplemented leaves it as it is.
        Cost: one forward pass.
        """
        inputs = tree_flatten(batch)[0]
        known: dict[str, Any] = {}
        last_use = self._last_uses()
        for number, step in enumerate(self.steps):
            if step.op == "parameter":
                known[step.name] = parameters[step.args[0]]
            elif step.op == "input":
                known[step.name] = inputs[step.args[0]]
            elif step.op == "constant":
                known[step.name] = self.constants[step.name]
            else:
                assert step.function is not None
                args = mapped(step.args, known)
                kwargs = mapped(dict(step.kwargs), known)
                own = replace(step, args, kwargs) if replace is not None and step.depends else NotImplemented
                known[step.name] = step.function(*args, **kwargs) if own is NotImplemented else own
                if visit is not None and step.depends:
                    visit(step, args, kwargs, known[step.name])
            for name in last_use.get(number, ()):
                if name != self.output:
                    del known[name]
        return known[self.output]

    def _last_uses(self) -> dict[int, list[str]]:
        where: dict[str, int] = {}
        for number, step in enumerate(self.steps):
            where[step.name] = number
            for name in step.inputs:
                where[name] = number
        last: dict[int, list[str]] = {}
        for name, number in where.items():
            last.setdefault(number, []).append(name)
        return last


def trace(problem: Problem, theta: torch.Tensor, batch: Batch) -> Graph:
    """The operators of problem.batch_output on a batch of this form, at theta: (d,).

    Raises TraceError when the model branches on values, or uses what the tracer cannot see through.
    Cost: one forward pass and a tenth of a second.
    """
    parameters = {key: view.detach() for key, view in problem.unflatten(theta).items()}
    leaves, form = tree_flatten(batch)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    keys = list(parameters)

    def evaluate(*values: torch.Tensor) -> torch.Tensor:
        given = iter(values[len(keys) :])
        rebuilt = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return problem.batch_output(dict(zip(keys, values, strict=False)), tree_unflatten(rebuilt, form))

    return _steps_of(_traced(evaluate, [*parameters.values(), *tensors]), keys, _positions(leaves))


def trace_function(F: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Graph:
    """The operators of a plain function F: (d,) tensor -> scalar, at x; its parameter is called "theta"."""

    def evaluate(theta: torch.Tensor) -> torch.Tensor:  # the tracer would read F's default arguments as inputs
        return F(theta)

    return _steps_of(_traced(evaluate, [x.detach()]), ["theta"], [])


def _positions(leaves: Sequence[Any]) -> list[int]:
    return [number for number, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]


class _Decisions(TorchDispatchMode):
    """Lets Python read numbers out of tensors while a trace is made; `read` holds what was read from.

    Whoever uses it has to refuse a trace in which one of these depends on an input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: list[torch.Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.ops.aten._local_scalar_dense.default:
            return func(*args, **(kwargs or {}))
        self.read.append(torch.ops.aten.clone.default(args[0]))  # a node of the graph, to see what it depends on
        with _disable_current_modes():
            return func(*args)


def _traced(function: Callable[..., torch.Tensor], values: Sequence[torch.Tensor]) -> Any:
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with _Decisions() as decisions:
            output = function(*inputs)
        return output, *decisions.read

    try:
        # trust nothing but aten: mutations are written out, so relu_ is relu
        module = make_fx(functionalize(run, remove="mutations"))(*values)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TraceError(
            f"the objective must be one list of operators, tracing it raised {type(error).__name__}: {first[:200]}"
        ) from error
    results: Any = module.graph.output_node().args[0]
    output, *read = results
    if any(_may_change(node) for node in read):
        raise TraceError(
            "the objective must be one list of operators, but Python reads a number out of a tensor that depends on "
            "the parameters, the batch or chance (a data-dependent branch, .item())"
        )
    module.graph.output_node().args = (output,)
    return module


def _may_change(node: torch.fx.Node) -> bool:
    """Whether a node's value depends on an input of the graph or on random numbers."""
    waiting, seen = [node], set[torch.fx.Node]()
    while waiting:
        one = waiting.pop()
        if one.op == "placeholder" or torch.Tag.nondeterministic_seeded in getattr(one.target, "tags", ()):
            return True
        seen.add(one)
        waiting.extend(source for source in one.all_input_nodes if source not in seen)
    return False


def _steps_of(module: Any, keys: Sequence[str], positions: Sequence[int]) -> Graph:
    steps: list[Step] = []
    constants: dict[str, torch.Tensor] = {}
    dependent: set[str] = set()
    output = ""

    def plain(tree: Any) -> Any:
        if isinstance(tree, torch.fx.Node):
            return Ref(tree.name)
        if isinstance(tree, (tuple, list)):
            return type(tree)(plain(leaf) for leaf in tree) if type(tree) in (tuple, list) else list(map(plain, tree))
        return {key: plain(leaf) for key, leaf in tree.items()} if isinstance(tree, dict) else tree

    number = 0
    for node in module.graph.nodes:
        if node.op == "placeholder":
            is_parameter = number < len(keys)
            what = keys[number] if is_parameter else positions[number - len(keys)]
            steps.append(Step(node.name, "parameter" if is_parameter else "input", None, (what,), {}, is_parameter))
            number += 1
        elif node.op == "get_attr":
            constants[node.name] = getattr(module, node.target).detach()
            steps.append(Step(node.name, "constant", None, (), {}, False))
        elif node.op == "call_function":
            name = "getitem" if node.target is operator.getitem else str(node.target)
            args, kwargs, function = plain(tuple(node.args)), plain(dict(node.kwargs)), node.target
            if name == "aten.copy.default" and (shape := _copied_shape(node)) is not None:
                # what y[i] = x and copy_ become; it has no derivative of its own
                name, function, args, kwargs = "aten.expand.default", _EXPAND, (args[1], shape), {}
            step = Step(node.name, name, function, args, kwargs, False)
            if any(source in dependent for source in step.inputs):
                step = Step(step.name, step.op, step.function, step.args, step.kwargs, True)
            steps.append(step)
        elif node.op == "output":
            output = node.args[0].name
        if steps and steps[-1].depends:
            dependent.add(steps[-1].name)
    return _reachable(steps, constants, output)


_EXPAND = torch.ops.aten.expand.default


def _copied_shape(node: Any) -> list[int] | None:
    """The shape of an `aten.copy` that changes no type, else None."""
    into, source = node.meta.get("tensor_meta"), node.args[1]
    given = source.meta.get("tensor_meta") if isinstance(source, torch.fx.Node) else None
    same = given is not None and into is not None and given.dtype == into.dtype
    return list(into.shape) if same else None


def _reachable(steps: Sequence[Step], constants: Mapping[str, torch.Tensor], output: str) -> Graph:
    """Only what the output needs; every parameter is kept, so that an unused one stays visible."""
    wanted = {output}
    kept: list[Step] = []
    for step in reversed(steps):
        if step.name in wanted or step.op == "parameter":
            kept.append(step)
            wanted.update(step.inputs)
    names = {step.name for step in kept}
    return Graph(tuple(reversed(kept)), {name: tensor for name, tensor in constants.items() if name in names}, output)
