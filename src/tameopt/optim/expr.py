"""Tracing: a rule called with symbols gives the graph of its arithmetic.

One of the two places where tameopt generates code from code (the other is the catalogue): the engines turn a
`Graph` into one pass over memory. Symbols know the operations of `tameopt.optim.functions` and nothing else, so a
rule that branches on a tensor's value, or computes with coefficients what `coefficients` should fold in double,
fails here and names what it did.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NoReturn

from tameopt.optim.rule import Rule

# operation -> number of inputs; those without inputs are leaves: of an update the first five, of a fold (see
# `tameopt.optim.fold`) "option", "scalar" and "constant"
ARITY = {
    "theta": 0, "g": 0, "state": 0, "coefficient": 0, "constant": 0, "option": 0, "scalar": 0,
    "negative": 1, "sqrt": 1, "absolute": 1, "sign": 1, "stored": 1,
    "add": 2, "subtract": 2, "multiply": 2, "divide": 2, "maximum": 2, "minimum": 2, "power": 2, "dithered": 2,
    "modulo": 2, "less": 2, "greater": 2, "same": 2, "where": 3,
}  # fmt: skip
_SCALARS = ("coefficient", "constant")


class Symbol:
    """A value of a traced rule: an operation and its inputs."""

    __slots__ = ("inputs", "name", "operation", "value")

    def __init__(self, operation: str, *inputs: Symbol, name: str = "", value: float = 0.0) -> None:
        self.operation, self.inputs, self.name, self.value = operation, inputs, name, value

    def apply(self, operation: str) -> Symbol:
        """A function of one value."""
        return Symbol(operation, self)

    @staticmethod
    def binary(operation: str, x: Any, y: Any) -> Symbol:
        """A function of two values, at least one of them a symbol."""
        pair = lift(x), lift(y)
        if operation not in ("less", "greater", "same") and all(each.operation in _SCALARS for each in pair):
            raise TypeError(
                f"an update rule must not {operation} two scalars ({pair[0]!r} and {pair[1]!r}): each element would "
                "pay for it, in low precision. Compute it in `coefficients`."
            )
        return Symbol(operation, *pair)

    def where(self, x: Any, y: Any) -> Symbol:
        """x where this condition holds, else y."""
        return Symbol("where", self, lift(x), lift(y))

    def __add__(self, other: Any) -> Symbol:
        return self.binary("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self.binary("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        return self.binary("subtract", self, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self.binary("subtract", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self.binary("multiply", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self.binary("multiply", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self.binary("divide", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.binary("divide", other, self)

    def __pow__(self, other: Any) -> Symbol:
        return self.binary("power", self, other)

    def __rpow__(self, other: Any) -> Symbol:
        return self.binary("power", other, self)

    def __mod__(self, other: Any) -> Symbol:
        return self.binary("modulo", self, other)

    def __neg__(self) -> Symbol:
        return Symbol("negative", self)

    def __lt__(self, other: Any) -> Symbol:
        return self.binary("less", self, other)

    def __gt__(self, other: Any) -> Symbol:
        return self.binary("greater", self, other)

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "an update rule must not branch on a value: use `where`, or a flag for what is fixed before the step."
        )

    def __repr__(self) -> str:
        return self.name or (repr(self.value) if self.operation == "constant" else self.operation)


def lift(x: Any) -> Symbol:
    """A symbol as it is, a number as a constant."""
    if isinstance(x, Symbol):
        return x
    if isinstance(x, int | float):
        return Symbol("constant", value=float(x))
    raise TypeError(f"an update rule computes with theta, g, its states and numbers, got {type(x).__name__}.")


@dataclass(frozen=True)
class Instruction:
    """One operation: inputs are positions of earlier instructions. name: of a state or coefficient."""

    operation: str
    inputs: tuple[int, ...] = ()
    name: str = ""
    value: float = 0.0


@dataclass(frozen=True)
class Graph:
    """The arithmetic of a rule under given flags, in an order that can be executed.

    coefficients: their names in the order of the engines' tables; states: those read or written; theta: position of
    the new theta; outputs: state name -> position of its new value. Common subexpressions appear once.
    """

    instructions: tuple[Instruction, ...]
    coefficients: tuple[str, ...]
    states: tuple[str, ...]
    theta: int
    outputs: tuple[tuple[str, int], ...]

    def uniform(self, position: int) -> bool:
        """Whether the value is the same for every element of a tensor."""
        instruction = self.instructions[position]
        if instruction.operation in ("theta", "g", "state"):
            return False
        return all(self.uniform(each) for each in instruction.inputs)

    def reads(self) -> tuple[str, ...]:
        """What a pass must load: "theta" and "g" if used, and the states used."""
        found = {i.name if i.operation == "state" else i.operation for i in self.instructions}
        return tuple(name for name in ("theta", "g", *self.states) if name in found)


class _Recorder:
    """A namespace that answers any attribute with a leaf, and remembers which were asked."""

    def __init__(self, operation: str) -> None:
        self.__dict__["_operation"], self.__dict__["_asked"] = operation, {}

    def __getattr__(self, name: str) -> Symbol:
        if name.startswith("__"):
            raise AttributeError(name)
        asked: dict[str, Symbol] = self.__dict__["_asked"]
        return asked.setdefault(name, Symbol(self.__dict__["_operation"], name=name))


def _recorder(operation: str) -> Any:
    return _Recorder(operation)


@functools.cache
def trace(rule: Rule, flags: tuple[tuple[str, Any], ...], states: tuple[str, ...]) -> Graph:
    """The graph of a rule.

    flags: the rule's choices as items; states: names of the states kept under these flags.

    >>> from tameopt.optim.rules.sgd import RULE
    >>> off = tuple((name, False) for name in ("momentum", "nesterov", "decay", "maximize"))
    >>> [i.operation for i in trace(RULE, off, ()).instructions]
    ['theta', 'coefficient', 'g', 'multiply', 'subtract']
    """
    state = SimpleNamespace(**{name: Symbol("state", name=name) for name in states})
    theta, new = rule.update(
        Symbol("theta"), Symbol("g"), state, _recorder("coefficient"), SimpleNamespace(**dict(flags), storage=None)
    )
    unknown = set(new) - set(states)
    if unknown:
        raise TypeError(
            f"rule {rule.name} writes the state {sorted(unknown)[0]!r}, which its `states` does not name."
        )
    return linearise(theta, new, states)


def linearise(theta: Symbol, new: Mapping[str, Symbol], states: tuple[str, ...]) -> Graph:
    """The graph below some outputs, equal subexpressions merged."""
    written = [name for name in states if name in new]
    instructions, places = ordered([lift(theta), *(lift(new[name]) for name in written)])
    coefficients = tuple(dict.fromkeys(i.name for i in instructions if i.operation == "coefficient"))
    return Graph(instructions, coefficients, states, places[0], tuple(zip(written, places[1:], strict=True)))


def ordered(outputs: Sequence[Symbol]) -> tuple[tuple[Instruction, ...], list[int]]:
    """The instructions below some outputs, equal subexpressions merged, and where each output stands."""
    instructions: list[Instruction] = []
    numbers: dict[Instruction, int] = {}
    seen: dict[int, int] = {}

    def visit(symbol: Symbol) -> int:
        if id(symbol) not in seen:
            inputs = tuple(visit(each) for each in symbol.inputs)
            made = Instruction(symbol.operation, inputs, symbol.name, symbol.value)
            if made not in numbers:
                numbers[made] = len(instructions)
                instructions.append(made)
            seen[id(symbol)] = numbers[made]
        return seen[id(symbol)]

    places = [visit(each) for each in outputs]
    return tuple(instructions), places
