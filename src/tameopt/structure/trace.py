"""Recording what a computation does to theta: one concrete run, every ATen call seen below autograd.

Which tensors depend on theta is kept in `storages`; values that leave torch are noticed by `exits`, hooks by `hooks`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tameopt.structure.arguments import constant_of, named_arguments, on_meta, plain, refusal, reinterpreted, severed
from tameopt.structure.decisions import Decisions
from tameopt.structure.exits import Exits
from tameopt.structure.hooks import hooked_nodes, saved_tensors_hook
from tameopt.structure.places import current_place
from tameopt.structure.program import Constant, Node, Obstruction, Place, Program, Ref
from tameopt.structure.ranges import Interval
from tameopt.structure.storages import Storages

# their results depend on the shapes of their arguments alone, which do not vary
_SHAPE_ONLY = {
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "new_empty",
    "new_zeros", "new_ones", "new_full", "new_empty_strided", "sym_size", "sym_numel", "sym_stride",
    "sym_storage_offset", "sym_is_contiguous",
}  # fmt: skip
# they raise or do nothing: the value is what it would be without them
_CHECKS = {"_linalg_check_errors", "_assert_async", "_assert_scalar", "_assert_tensor_metadata"}
_LEAVES_TORCH = {"_local_scalar_dense", "equal", "is_nonzero", "item"}


@dataclass
class Watch:
    """What to keep of a run for the lint: argument values of the named operators, by node."""

    operators: frozenset[str]
    seen: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)


class Tracer(TorchDispatchMode):
    """Records the calls that touch theta. Use as a context; then `program(outputs)`.

    modules: name by id of each module, for the paths. watch: called with the node's number, the operator and copies
    of its tensor arguments by name, for the operators that it names.
    """

    def __init__(
        self, modules: Mapping[int, str], watch: Watch | None = None, decisions: Decisions | None = None
    ) -> None:
        super().__init__()
        self._decisions = decisions or Decisions()
        self._watch = watch
        self._modules = modules
        self._nodes: list[Node] = []
        self._numbers: dict[str, int] = {}
        self._storages = Storages(self._nodes, self._place)
        self._obstructions: list[Obstruction] = []
        self._random: set[str] = set()
        self._hooks: list[tuple[str, Place]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch would wrap the method for its compiler, whose import takes seconds
        return False

    # -- leaves ----------------------------------------------------------------------------------------------

    def theta(self, name: str, tensor: torch.Tensor) -> None:
        """Declare a tensor to be a part of theta."""
        self._nodes.append(
            Node("theta", {"name": name}, {}, (tuple(tensor.shape),), (str(tensor.dtype),), place=Place("", name))
        )
        self._storages.declare_theta(name, tensor, Ref(len(self._nodes) - 1))

    def data(self, tensor: torch.Tensor) -> None:
        """Declare a tensor to be data: a constant that another batch would change."""
        self._storages.declare_data(tensor)

    def hooked(self, tensor: torch.Tensor) -> None:
        """Note that a hook was registered on a tensor, maybe after it was used."""
        if self._storages.known(tensor):
            self._hooks.append(("a hook may change the gradient here", self._place()))

    def exits(self) -> Exits:
        """The mode that tells this tracer of tensors that leave torch or get a hook."""
        return Exits(self.leaves_torch, self.hooked)

    def leaves_torch(self, tensor: torch.Tensor, method: str) -> None:
        """Note that a method handed the values of a tensor to something else than torch."""
        if self._storages.known(tensor):
            message = "the values go where they cannot be followed: compute with torch, or on a detached constant"
            self._obstruct("value leaves torch", method, message, self._place())
        elif self._storages.is_data(tensor):
            self._obstruct("data branch", method, "Python reads the data here", self._place())

    # -- the mode --------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.split("::")[-1]
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._random.add(name)
        if name in _CHECKS:
            return func(*args, **kwargs)
        if name in _SHAPE_ONLY or not any(self._storages.known(tensor) for tensor in tensors):
            out = func(*args, **kwargs)
            if any(self._storages.is_data(tensor) for tensor in tensors):
                if name in _LEAVES_TORCH and not isinstance(out, torch.Tensor):
                    self._obstruct(
                        "data branch",
                        name,
                        "Python reads a number from the data here",
                        self._place(),
                    )
                for tensor in tree_leaves(out):
                    if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                        self.data(tensor)
            return out
        place = self._place()
        self._decisions.idle = False
        if saved := saved_tensors_hook():
            self._hooks.append((f"{saved} may change what backward reads, saved here", place))
        namespace = func._schema.name.split("::")[0]
        operator = name if namespace == "aten" else f"{namespace}::{name}"
        named = named_arguments(func, args, kwargs)
        problem = refusal(tensors) or reinterpreted(func)
        before = None if problem else self._encode(named, operator, place)
        if before is not None and name.startswith("as_strided"):
            # it reaches the whole storage, not the elements of its argument alone
            before["self"] = self._storages.whole(named["self"]) or before["self"]
        written = [argument.name for argument in func._schema.arguments if argument.alias_info is not None
                   and argument.alias_info.is_write]  # fmt: skip
        self._overwritten([named[key] for key in written], operator, place)
        copies = {}
        if self._watch is not None and name in self._watch.operators:
            copies = {key: item.detach().clone() for key, item in named.items() if isinstance(item, torch.Tensor)}
        out = on_meta(name, named) or func(*args, **kwargs)
        if problem or before is None:
            self._obstruct("refused", operator, problem or "an argument is not covered", place)
            self._opaque(out, named, written, place, operator)
            return out
        index = self._record(func, operator, named, before, written, out, place)
        source = before.get("self")
        if operator == "_local_scalar_dense" and isinstance(out, bool) and isinstance(source, Ref):
            return self._decisions.take(source, out, place)
        self._decisions.spoiled |= operator in _LEAVES_TORCH
        if copies and index is not None and self._watch is not None:
            self._watch.seen.setdefault(index, copies)
        return out

    def _overwritten(self, targets: list[Any], operator: str, place: Place) -> None:
        """Note a write into theta itself: autodiff sees the new value as the leaf, and the next call starts there."""
        for target in targets:
            name = self._storages.part_of_theta(target) if isinstance(target, torch.Tensor) else None
            if name is not None:
                message = f"{name} is written in place: compute a new tensor from it instead"
                self._obstruct("refused", operator, message, place)

    # -- recording -------------------------------------------------------------------------------------------

    def _record(
        self, func: Any, operator: str, named: dict[str, Any], before: dict[str, Any], written: list[str], out: Any,
        place: Place,
    ) -> int | None:  # fmt: skip
        outputs = _outputs(out)
        if not outputs or operator in _LEAVES_TORCH:
            source = next(value for value in named.values() if isinstance(value, torch.Tensor))
            branch = source.dtype == torch.bool or operator in ("equal", "is_nonzero")
            kind = "branch" if branch else "value leaves torch"
            message = (
                f"Python decides on {out!r} here: the certificate holds for this branch only"
                if branch
                else "a number that depends on theta becomes a Python number, which cannot be followed"
            )
            self._obstruct(kind, operator, message, place)
            return None
        shapes, types, cut = self._describe(named)
        node = Node(
            operator,
            before,
            shapes,
            tuple(tuple(tensor.shape) for tensor in outputs),
            tuple(str(tensor.dtype) for tensor in outputs),
            types,
            cut,
            place,
        )
        index = self._number(node, func, named)
        returned = {id(tensor) for tensor in outputs}
        for k, tensor in enumerate(outputs):
            if tensor.layout != torch.strided or tensor.is_complex():
                self._obstruct("refused", operator, refusal([tensor]), place)
                continue
            mutated = any(named.get(name) is tensor for name in written)
            self._storages.write(tensor, Ref(index, k), mutated, self._storages.unseen(tensor) if mutated else "")
        for name in written:
            target = named.get(name)
            if isinstance(target, torch.Tensor) and id(target) not in returned:
                self._opaque((target,), {}, [], place, operator)
        return index

    def _number(self, node: Node, func: Any, named: dict[str, Any]) -> int:
        """The node's number: that of an earlier call with the same arguments.

        Not with constant tensors among them: of those only the range is kept, and two may share it.
        """
        tensors = [leaf for leaf in tree_leaves(list(named.values())) if isinstance(leaf, torch.Tensor)]
        constant = any(not self._storages.known(tensor) for tensor in tensors)
        if constant or torch.Tag.nondeterministic_seeded in func.tags:
            self._nodes.append(node)
            return len(self._nodes) - 1
        key = repr((node.op, sorted(node.arguments.items(), key=lambda item: item[0]), node.shapes, node.dtypes,
                    node.types, node.cut))  # fmt: skip
        if key not in self._numbers:
            self._nodes.append(node)
            self._numbers[key] = len(self._nodes) - 1
        return self._numbers[key]

    def _encode(self, named: dict[str, Any], operator: str, place: Place) -> dict[str, Any] | None:
        encoded: dict[str, Any] = {}
        for name, value in named.items():
            if isinstance(value, torch.Tensor):
                encoded[name] = self._reference(value, operator, place)
                if name == "running_var" and value.is_meta and isinstance(encoded[name], Constant):
                    # averages of variances; without values this is an assumption, and the notes say so
                    encoded[name] = Constant(Interval(0.0))
            elif isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
                encoded[name] = tuple(
                    self._reference(item, operator, place) if isinstance(item, torch.Tensor) else None
                    for item in value
                )
            elif name not in ("layout", "device", "pin_memory", "memory_format", "generator", "non_blocking"):
                encoded[name] = plain(value)
        return encoded

    def _describe(self, named: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
        shapes: dict[str, Any] = {}
        types: dict[str, Any] = {}
        cut: dict[str, str] = {}
        for name, value in named.items():
            items = value if isinstance(value, (list, tuple)) else (value,)
            tensors = [item for item in items if isinstance(item, torch.Tensor)]
            if not tensors:
                continue
            whole = [tuple(tensor.shape) for tensor in tensors]
            shapes[name] = whole if isinstance(value, (list, tuple)) else whole[0]
            odd = [str(tensor.dtype) for tensor in tensors if not tensor.is_floating_point()]
            if odd:
                types[name] = odd
            for tensor in tensors:
                reason = self._cut(tensor)
                if reason:
                    cut[name] = reason
        return shapes, types, cut

    def _cut(self, tensor: torch.Tensor) -> str:
        """Why autodiff does not follow theta through this tensor, or ""."""
        if not tensor.is_floating_point() or not self._storages.known(tensor):
            return ""
        return severed(tensor)

    def _reference(self, tensor: torch.Tensor, operator: str, place: Place) -> Ref | Constant:
        found = self._storages.lookup(tensor)
        if found is not None:
            return found
        try:
            return constant_of(tensor, self._storages.is_data(tensor))
        except ValueError as error:
            self._obstruct("not finite", operator, str(error), place)
            return Constant(Interval())

    def _opaque(self, out: Any, named: dict[str, Any], written: list[str], place: Place, operator: str) -> None:
        targets = [tensor for tensor in tree_leaves(out) if isinstance(tensor, torch.Tensor)]
        targets += [named[name] for name in written if isinstance(named.get(name), torch.Tensor)]
        for tensor in targets:
            if tensor.layout != torch.strided:
                continue
            self._nodes.append(Node("tame.opaque", {"operator": operator}, {}, (tuple(tensor.shape),),
                                    (str(tensor.dtype),), place=place))  # fmt: skip
            self._storages.write(tensor, Ref(len(self._nodes) - 1), True)

    def _obstruct(self, kind: str, operator: str, message: str, place: Place) -> None:
        self._obstructions.append(Obstruction(kind, operator, message, place))
        self._decisions.spoiled |= kind not in ("branch", "data branch")

    def _place(self) -> Place:
        return current_place(self._modules, __file__)

    def program(self, outputs: list[torch.Tensor]) -> Program:
        """What was recorded; outputs: the tensors that the function returned."""
        refs = tuple(self._reference(tensor, "output", Place()) for tensor in outputs)
        random = tuple(sorted(self._random))
        nodes = [(f"a hook on {name} may change the gradient", Place()) for name in hooked_nodes(outputs)]
        hooks = (*dict.fromkeys(self._hooks), *nodes)
        return Program(tuple(self._nodes), refs, tuple(self._obstructions), random, hooks)


def _outputs(out: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without oneDNN's fused recurrent layers and convolutions, which would hide their operators."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about TF32 on Intel GPUs when the flag is read
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def traced(
    theta: Mapping[str, torch.Tensor],
    data: list[torch.Tensor],
    modules: Mapping[int, str],
    function: Callable[[], Any],
    watch: Watch | None = None,
    decisions: Decisions | None = None,
) -> tuple[Program, list[torch.Tensor]]:
    """Run `function` and record what it does with the tensors `theta`.

    theta: leaves that require gradients. data: constants of the batch. decisions: how Python shall decide on theta,
    and where it is noted. Returns the program and the floating tensors that the function returned; the global random
    state is left as it was.
    """
    tracer = Tracer(modules, watch, decisions)
    for name, tensor in theta.items():
        tracer.theta(name, tensor)
    for tensor in data:
        if tensor.layout == torch.strided:
            tracer.data(tensor)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _plain_kernels(), tracer.exits(), tracer:
        torch.default_generator.manual_seed(0)
        result = function()
    outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]
    program = tracer.program(outputs)
    if not isinstance(result, torch.Tensor) and not outputs:
        place = Place()
        program = Program(
            program.nodes,
            (),
            (*program.obstructions, Obstruction("refused", "output", "the function returned no tensor", place)),
        )
    return program, outputs
