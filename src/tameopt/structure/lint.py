"""Lint: the lines where autodiff returns NaN, infinity or a wrong gradient, with a witness where one is found.

A finding is raised where the known ranges do not exclude the bad values of a trap (`traps`), or where the program has
the pattern; guarded code (eps inside, clamp, double where) has ranges that exclude them and is left alone. Two runs,
at the given parameters and at 0, look for a witness.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tameopt.problem import Problem
from tameopt.structure.interpret import call_of, interpret
from tameopt.structure.places import persons_line
from tameopt.structure.program import Constant, Node, Place, Program, Ref
from tameopt.structure.spurious import spurious_slope
from tameopt.structure.subject import Subject, Wrt, subject_of
from tameopt.structure.trace import Watch, traced
from tameopt.structure.traps import BY_OPERATOR, ONLY_INSIDE_WHERE, ONLY_WHEN_HIT, Trap
from tameopt.structure.value import Value

_VIEWS = {
    "view", "_unsafe_view", "alias", "clone", "expand", "t", "transpose", "permute", "unsqueeze", "squeeze", "select",
    "slice", "_to_copy", "reshape", "detach", "tame.unseen",
}  # fmt: skip


@dataclass(frozen=True)
class Lint:
    """One finding.

    code: the rule. severity: "error" where it happens at a witness or the gradient is wrong, "warning" where it may.
    file, line, column: in the person's code ("" and 0 where there is no such line); module: the module's path.
    witness: the parameters at which the bad values were seen, or "".
    """

    code: str
    severity: str
    file: str
    line: int
    column: int
    module: str
    operator: str
    message: str
    torch_returns: str
    right: str
    fix: str
    witness: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.file else f"(module {self.module or '?'})"
        seen = f" [{self.witness}]" if self.witness else ""
        return f"{where}: {self.code} {self.message}{seen}: torch returns {self.torch_returns}. Fix: {self.fix}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lint(
    target: Problem | torch.nn.Module | Callable[..., Any],
    loss: Callable[..., torch.Tensor] | None = None,
    inputs: Any = None,
    *,
    wrt: Wrt = "parameters",
) -> tuple[Lint, ...]:
    """The traps in a computation, in the order of the code; arguments as in `certify`.

    >>> import torch
    >>> [found.code for found in lint(lambda theta: (theta * theta).sqrt().sum(), inputs=torch.ones(2))]
    ['TAME101']
    >>> lint(lambda theta: (theta * theta + 1e-8).sqrt().sum(), inputs=torch.ones(2))
    ()
    """
    subject = subject_of(target, loss, inputs, wrt)
    # a run at 0 that fails to run is no witness; the given parameters must run, and certify says why they do not
    witnesses: dict[str, tuple[Program, Watch, bool]] = {}
    for name, leaves in _starts(subject):
        watch = Watch(frozenset(BY_OPERATOR))
        try:
            program, outputs = traced(
                leaves, list(subject.data[0]), subject.modules, functools.partial(subject.run, leaves, 0), watch
            )
        except (RuntimeError, ValueError, IndexError) as error:
            if name == "at the given values":
                line = persons_line(error)
                raise ValueError(
                    f"the model must run on its inputs, it raised {type(error).__name__}"
                    f"{f' at {line}' if line else ''}: {error}"
                ) from error
            continue
        witnesses[name] = (program, watch, _bad_gradient(outputs, leaves))
    program = witnesses["at the given values"][0]
    values = interpret(program, subject.any_data).values
    found = [*_trapped(program, values, witnesses), *_patterns(program, values), *_cut(program, values)]
    found += _spurious(subject)
    found += [*_obstructed(program), *_hooked(program, subject.hooks)]
    unique = {(one.code, one.file, one.line, one.column, one.module): one for one in reversed(found)}
    return tuple(sorted(unique.values(), key=lambda one: (one.file, one.line, one.column, one.code)))


def _starts(subject: Subject) -> tuple[tuple[str, dict[str, torch.Tensor]], ...]:
    zeros = {key: torch.zeros_like(leaf).requires_grad_() for key, leaf in subject.leaves.items()}
    return ("at the given values", dict(subject.leaves)), ("at 0", zeros)


def _bad_gradient(outputs: list[torch.Tensor], leaves: Mapping[str, torch.Tensor]) -> bool:
    """Whether the gradient of the sum of the outputs is not finite."""
    differentiable = [output.sum() for output in outputs if output.requires_grad]
    if not differentiable or differentiable[0].is_meta:
        return False
    parts = torch.autograd.grad(sum(differentiable), list(leaves.values()), allow_unused=True)  # type: ignore[arg-type]
    return any(part is not None and not bool(torch.isfinite(part).all()) for part in parts)


def _made(code: str, severity: str, node: Node, words: tuple[str, str, str, str], witness: str = "") -> Lint:
    file, _, line = node.place.line.rpartition(":")
    message, torch_returns, right, fix = words
    return Lint(
        code, severity, file, int(line) if line else 0, node.place.column, node.place.module, node.op, message,
        torch_returns, right, fix, witness,
    )  # fmt: skip


def _trapped(
    program: Program, values: Mapping[Ref, Value], witnesses: Mapping[str, tuple[Program, Watch, bool]]
) -> Iterator[Lint]:
    inside_where = _inside_where(program)
    for index in program.live():
        node = program.nodes[index]
        for trap in BY_OPERATOR.get(node.op, ()):
            try:
                call = call_of(program, node, values)
                if not any(value.varies for value in call.tensors) or trap.safe(call):
                    continue
            except KeyError:
                continue  # behind an operator without a row nothing is known, and the values decide
            if trap.code in ONLY_INSIDE_WHERE and index not in inside_where:
                continue
            seen, severe = _witness(trap, index, node, witnesses)
            if trap.code in ONLY_WHEN_HIT and not seen:
                continue
            yield _made(
                trap.code,
                "error" if severe else "warning",
                node,
                (trap.what, trap.torch_returns, trap.right, trap.fix),
                seen,
            )


def _witness(
    trap: Trap, index: int, node: Node, witnesses: Mapping[str, tuple[Program, Watch, bool]]
) -> tuple[str, bool]:
    """Where the bad values were seen, and whether the gradient was not finite there."""
    for name, (program, watch, bad_gradient) in witnesses.items():
        arguments = watch.seen.get(index)
        if arguments is None or index >= len(program.nodes) or program.nodes[index].op != node.op:
            continue
        dim = node.arguments.get("dim")
        try:
            hit = trap.bad(arguments if dim is None else {**arguments, "dim": torch.tensor(dim)})
        except (RuntimeError, KeyError):
            hit = False
        if hit:
            return (f"{name}, where the gradient is not finite" if bad_gradient else name), bad_gradient
    return "", False


def _inside_where(program: Program) -> set[int]:
    """Nodes from which a branch of a where is computed, when its condition varies."""
    found: set[int] = set()
    for index in program.live():
        node = program.nodes[index]
        if node.op != "where" or not isinstance(node.arguments.get("condition"), Ref):
            continue
        stack = [ref.node for name in ("self", "other") if isinstance(ref := node.arguments.get(name), Ref)]
        while stack:
            at = stack.pop()
            if at not in found:
                found.add(at)
                stack.extend(ref.node for ref in program.nodes[at].refs())
    return found


# -- patterns of two operators -----------------------------------------------------------------------------


def _source(program: Program, argument: Any) -> Node | None:
    """The operator that made an argument, views skipped."""
    while isinstance(argument, Ref):
        node = program.nodes[argument.node]
        if node.op not in _VIEWS:
            return node
        argument = node.arguments.get("self")
    return None


def _patterns(program: Program, values: Mapping[Ref, Value]) -> Iterator[Lint]:
    for index in program.live():
        node = program.nodes[index]
        first = node.arguments.get("self")
        source = _source(program, first)
        came = source.op if source is not None else ""
        if node.op == "log" and came in ("sigmoid", "sigmoid_", "_softmax"):
            fused = "logsigmoid" if "sigmoid" in came else "log_softmax"
            words = (
                f"log of {came.strip('_')}", "-inf and a NaN gradient once it underflows (sigmoid(-200), say)",
                "a finite number with slope 1", f"torch.nn.functional.{fused}",
            )  # fmt: skip
            yield _made("TAME301", "warning", node, words)
        if node.op == "binary_cross_entropy":
            words = (
                "binary_cross_entropy of probabilities", "a loss clamped at 100 with gradient up to 1e12 at 0 and 1",
                "log(1 + e^x) - y x", "torch.nn.functional.binary_cross_entropy_with_logits on the scores",
            )  # fmt: skip
            yield _made("TAME302", "warning", node, words)
        if node.op in ("_softmax", "_log_softmax") and came in ("_softmax", "_log_softmax"):
            words = (
                "softmax of a softmax (cross_entropy takes scores, not probabilities)",
                "a loss that cannot reach 0 and flat gradients", "one softmax", "pass the scores",
            )  # fmt: skip
            yield _made("TAME303", "warning", node, words)
        squared = node.op == "pow" and node.arguments.get("exponent") == 2
        if squared and came in ("linalg_vector_norm", "norm", "sqrt"):
            words = (
                f"the square of a {came.replace('linalg_vector_', '')}", "a second derivative NaN or 0 at 0",
                "twice the identity", "x.square().sum() without the root",
            )  # fmt: skip
            yield _made("TAME305", "warning", node, words)
        if node.op == "div":
            yield from _tiny_divisor(program, node)
        if node.op in ("eq", "ne") and _real_comparison(node, values):
            words = (
                "a choice by equality of a number that varies", "the derivative of the chosen branch at one point",
                "the derivative of the function around it", "an inequality, or a formula that needs no special case",
            )  # fmt: skip
            yield _made("TAME205", "warning", node, words)
        if node.op.rstrip("_") in ("round", "floor", "ceil", "trunc", "sign") and _varies(first, values):
            words = (
                f"{node.op.rstrip('_')} of a value that varies", "gradient 0", "no derivative at the steps",
                "a smooth surrogate, or a straight-through estimate that you name as such",
            )  # fmt: skip
            yield _made("TAME204", "warning", node, words)


def _varies(argument: Any, values: Mapping[Ref, Value]) -> bool:
    return isinstance(argument, Ref) and argument in values and values[argument].varies and not values[argument].flat


def _real_comparison(node: Node, values: Mapping[Ref, Value]) -> bool:
    return not node.types and _varies(node.arguments.get("self"), values)


def _tiny_divisor(program: Program, node: Node) -> Iterator[Lint]:
    """x / norm(x).clamp(min=1e-12): the gradient at 0 is 1e12."""
    divisor = _source(program, node.arguments.get("other"))
    if divisor is None or divisor.op.rstrip("_") not in ("clamp_min", "clamp"):
        return
    inner = _source(program, divisor.arguments.get("self"))
    eps = divisor.arguments.get("min")
    eps = eps.range.lo if isinstance(eps, Constant) and eps.range.lo == eps.range.hi else eps
    if inner is not None and inner.op in ("linalg_vector_norm", "norm") and isinstance(eps, float) and eps < 1e-6:
        words = (
            "division by a norm that may be 0", f"a gradient up to {1 / eps:.0e} at 0", "no derivative at 0",
            "a larger eps (1e-6 and up), or x / sqrt(x.square().sum() + eps)",
        )  # fmt: skip
        yield _made("TAME306", "warning", node, words)


# -- wrong gradients ---------------------------------------------------------------------------------------


def _cut(program: Program, values: Mapping[Ref, Value]) -> Iterator[Lint]:
    for index in program.live():
        node = program.nodes[index]
        for name, reason in node.cut.items():
            argument = node.arguments.get(name)
            items = argument if isinstance(argument, tuple) else (argument,)
            varying = [values[item] for item in items if isinstance(item, Ref) and item in values]
            if not any(value.varies and not (value.flat and reason.startswith("detached")) for value in varying):
                continue
            custom = not reason.startswith("detached")
            words = (
                reason, "the gradient of another function", "the gradient of what is computed",
                "check the backward with torch.autograd.gradcheck" if custom
                else "remove the detach, or keep it knowing that the update is no gradient",
            )  # fmt: skip
            yield _made("TAME202" if custom else "TAME201", "error", node, words)


def _spurious(subject: Subject) -> Iterator[Lint]:
    """Backprop returns 0 at the given parameters or at 0, and F is differentiable there with another gradient."""
    for name, leaves in _starts(subject):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                slope = spurious_slope(lambda parts: subject.run(parts, 0), leaves)
            except (RuntimeError, ValueError, IndexError):
                continue  # a run beside the given parameters that fails is no witness
        if slope is not None:
            words = (
                "a spurious critical point: backprop returns 0 and F has a gradient there", "gradient 0",
                f"a slope of {slope:.3g} along a random direction",
                "start elsewhere, or write F without the kinks that cancel (relu(x) - relu(-x) is x)",
            )  # fmt: skip
            yield _made("TAME206", "error", Node(subject.name, {}, {}, (), ()), words, name)


def _hooked(program: Program, parameters: tuple[str, ...]) -> Iterator[Lint]:
    """Hooks registered while the model ran, and those on its parameters."""
    places = [
        *program.hooks,
        *((f"a hook may change the gradient of {name}", Place("", name)) for name in parameters),
    ]
    for message, place in places:
        words = (
            message, "what the hook returns", "the gradient of what is computed",
            "remove the hook, or keep it knowing that the update may be no gradient",
        )  # fmt: skip
        yield _made("TAME202", "error", Node("register_hook", {}, {}, (), (), place=place), words)


def _obstructed(program: Program) -> Iterator[Lint]:
    for item in program.obstructions:
        if item.kind == "refused" and "written in place" in item.message:
            node = Node(item.operator, {}, {}, (), (), place=item.place)
            words = (
                item.message, "the gradient at the new value, as if it were the old one",
                "the gradient of what is computed", "a new tensor; update parameters in the optimizer alone",
            )  # fmt: skip
            yield _made("TAME201", "error", node, words)
        if item.kind == "refused" and item.operator in ("linalg_eig", "linalg_eigvals", "_linalg_eigvals"):
            node = Node(item.operator, {}, {}, (), (), place=item.place)
            words = (
                "eigenvalues of a matrix that need not be symmetric", "gradient inf or NaN at a Jordan block",
                "no derivative where eigenvalues meet: they move like a root",
                "eigvalsh of a symmetric matrix, or svdvals",
            )  # fmt: skip
            yield _made("TAME111", "warning", node, words)
        if item.kind in ("value leaves torch", "branch"):
            node = Node(item.operator, {}, {}, (), (), place=item.place)
            words = (
                item.message.partition(":")[0],
                "the gradient of the branch taken" if item.kind == "branch" else "no gradient through it",
                "nothing, if the two branches agree on the boundary", "torch.where, or a tensor instead of .item()",
            )  # fmt: skip
            yield _made("TAME203", "warning" if item.kind == "branch" else "error", node, words)


def sarif(found: tuple[Lint, ...]) -> dict[str, Any]:
    """The findings as a SARIF 2.1.0 document."""
    rules = {one.code: one.message for one in found}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "tameopt lint",
                        "rules": [{"id": code, "shortDescription": {"text": text}} for code, text in rules.items()],
                    }
                },
                "results": [
                    {
                        "ruleId": one.code,
                        "level": one.severity,
                        "message": {"text": f"{one.message}: torch returns {one.torch_returns}. Fix: {one.fix}"},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {"uri": one.file},
                                    "region": {"startLine": max(one.line, 1), "startColumn": max(one.column, 1)},
                                }
                            }
                        ]
                        if one.file
                        else [],
                    }
                    for one in found
                ],
            }
        ],
    }
