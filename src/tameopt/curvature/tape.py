"""F as a list of scalar operations, for arithmetic that torch does not do: intervals, exact rationals.

A tape is plain data: entry j is ["const", hex float], ["var", i] or [operation, earlier entries…]; the last entry
is F. It is read off the aten operators that F runs at theta, every tensor spread into its scalars, so it is for
small problems. The numbers in it are the doubles of the model and data, taken exactly.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tameopt.curvature.tape_operators import (
    COMPARISONS,
    OPERATORS,
    Comparison,
    NotOnTapeError,
    Tape,
    Writer,
    array_of,
)
from tameopt.hessian_modes import exact_attention
from tameopt.problem import Problem
from tameopt.structure.arguments import severed
from tameopt.structure.hooks import hooked_parameters
from tameopt.structure.shared_memory import shared_memory
from tameopt.structure.trace import traced

__all__ = ["NotOnTapeError", "Tape", "evaluate", "proof_tape", "tape_of"]


class _Recorder(TorchDispatchMode):
    """Runs F as it is and writes every operator that depends on theta onto the tape."""

    def __init__(self, writer: Writer, dtype: torch.dtype) -> None:
        super().__init__()
        self.writer = writer
        self.dtype = dtype
        self._arrays: dict[int, Any] = {}
        self._alive: list[torch.Tensor] = []  # an id, or a place in memory, means a tensor only while it lives
        self._memory: dict[int, tuple[int, int]] = {}  # where it lies, and how often it was written
        self._places: set[int] = set()

    def track(self, tensor: torch.Tensor, array: Any) -> None:
        shaped = np.asarray(array, dtype=object)
        if shaped.shape != tuple(tensor.shape):
            raise NotOnTapeError(f"an operator gave {tuple(tensor.shape)} where the tape has {shaped.shape}.")
        lifted = np.empty(shaped.shape, dtype=object)
        for where in np.ndindex(shaped.shape):
            one = shaped[where]
            lifted[where] = one if isinstance(one, Comparison) else self.writer.lift(one)
        self._arrays[id(tensor)] = lifted
        self._alive.append(tensor)
        self._memory[id(tensor)] = place, _ = _memory(tensor)
        self._places.add(place)

    def array(self, tensor: torch.Tensor) -> Any:
        return self._arrays[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        output = func(*args, **keywords)
        leaves = tree_leaves((args, keywords))
        if not any(isinstance(leaf, torch.Tensor) and id(leaf) in self._arrays for leaf in leaves):
            return output
        name = str(func).removeprefix("aten.")
        if name.startswith(("_local_scalar_dense", "is_nonzero", "equal")):
            raise NotOnTapeError("F takes a number or a Python branch from theta: it could not be traced.")
        operation = OPERATORS.get(name.split(".")[0])
        if operation is None:
            raise NotOnTapeError(f"the operator {name} is not among those that a proof can replay.")

        def known(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            place, version = _memory(leaf)
            tracked = id(leaf) in self._arrays
            if self._memory[id(leaf)] != (place, version) if tracked else place in self._places:
                raise NotOnTapeError(f"a tensor was given other data, or changed in place, before {name}.")
            return self._arrays[id(leaf)] if tracked else array_of(self.writer, leaf)

        try:
            result = operation(self.writer, *tree_map(known, args), **tree_map(known, keywords))
        except NotOnTapeError:
            raise
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise NotOnTapeError(f"the operator {name} with these arguments is not on the tape.") from error
        pairs = [(output, result)] if isinstance(output, torch.Tensor) else zip(output, result, strict=True)
        for tensor, array in pairs:
            if array is not None:
                self._require_numbers(name, tensor)
                self.track(tensor, array)
        return output

    def _require_numbers(self, name: str, tensor: torch.Tensor) -> None:
        """Refuses what rounds: a cast to whole numbers, or to numbers with fewer digits than F has."""
        if name.split(".")[0] in COMPARISONS if tensor.dtype == torch.bool else tensor.dtype == self.dtype:
            return
        raise NotOnTapeError(f"the operator {name} makes {tensor.dtype} of theta, where F is in {self.dtype}.")


def _memory(tensor: torch.Tensor) -> tuple[int, int]:
    """Where a tensor's storage lies, and how often it was written."""
    return tensor.untyped_storage().data_ptr(), tensor._version


def tape_of(problem: Problem, theta: torch.Tensor | None = None) -> Tape:
    """The tape of F as it runs at theta.

    Branches on data (`torch.where`, ReLU, abs, max of two) go on the tape as "if_less" entries, so that the tape
    is F everywhere; Python branches on theta are refused, and the tape is compared with F at other points.

    Raises NotOnTapeError naming what cannot be written.

    >>> tape_of(Problem.from_function(lambda t: t[0] * t[1], torch.ones(2, dtype=torch.float64)))[:3]
    [['var', 0], ['var', 1], ['mul', 0, 1]]
    """
    _require_whole(problem)
    at = (problem.theta if theta is None else theta).to(problem.device, problem.dtype)
    writer = Writer()
    recorder = _Recorder(writer, problem.dtype)
    flat = at.detach().clone()
    recorder.track(flat, np.array([writer.put("var", i) for i in range(problem.dim)], dtype=object))
    with torch.no_grad(), exact_attention(), recorder:
        output = problem(flat)
    if id(output) not in recorder._arrays:
        raise NotOnTapeError("F does not depend on theta by torch's operators.")
    final = writer.lift(recorder.array(output).reshape(-1)[0])
    if final.place != len(writer.entries) - 1:
        # the output must be the last entry; adding 0 moves it there without changing it
        zero = writer.put("const", (0.0).hex()).place
        writer.entries.append(["add", final.place, zero])
    generator = torch.Generator().manual_seed(0)
    for spread in (0.0, 0.1, 1.0):
        offset = spread * torch.randn(at.shape, generator=generator, dtype=torch.float64)
        _compare(problem, writer.entries, at + offset.to(at))
    return writer.entries


def _require_whole(problem: Problem) -> None:
    if problem.sharing is not None:
        raise NotOnTapeError(f"the data are spread over {problem.sharing.processes} processes")


def proof_tape(problem: Problem, theta: torch.Tensor, *others: torch.Tensor) -> Tape:
    """The tape of F for a proof: refused where F is not what its operators say, or autodiff's gradient not F's.

    Values that leave torch (`.numpy()`), `detach`, hooks, custom autograd Functions, random numbers and tensors that
    are changed in place show in the trace that `structure` reads, wherever theta lies. others: (d,) further points
    where the tape is compared with F.

    Raises NotOnTapeError naming what stands in the way.
    """
    _require_whole(problem)
    if shared := shared_memory(problem.model):
        raise NotOnTapeError(shared)
    if hooked := hooked_parameters(problem.model):
        raise NotOnTapeError(f"{hooked[0]} has a hook on its gradient")
    leaf = problem.at(theta).detach().clone().requires_grad_()
    try:
        program, outputs = traced({"theta": leaf}, [], {}, lambda: problem(leaf))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise NotOnTapeError(f"F could not be traced: {first[:150]}") from error
    cuts = [cut for index in program.live() for cut in program.nodes[index].cut.values()]
    reasons = [
        *(
            f"Python branches on theta ({one.place})" if one.kind == "branch" else str(one)
            for one in program.obstructions
        ),
        *(f"{place}: {what}" for what, place in program.hooks),
        *(f"it draws random numbers ({one})" for one in program.random),
        *(f"autodiff's gradient is not that of F: {cut}" for cut in [*cuts, *map(severed, outputs)] if cut),
    ]
    if reasons:
        raise NotOnTapeError(reasons[0])
    tape = tape_of(problem, theta)
    for point in others:
        _compare(problem, tape, point.to(problem.device, problem.dtype))
    return tape


def _compare(problem: Problem, tape: Tape, point: torch.Tensor) -> None:
    """Refuse a tape that is not F: what F computes outside torch would be frozen on it."""
    expected = float(problem.value(point))
    found, error = evaluate(tape, point.tolist())
    if not math.isfinite(found) and not math.isfinite(expected):
        return  # outside the domain of a logarithm or root, or too large
    # a thousand times what rounding does to the tape in the problem's dtype (our choice: torch sums otherwise)
    slack = 1e3 * torch.finfo(problem.dtype).eps * (error + abs(expected))
    if not abs(found - expected) <= slack and (math.isfinite(error) or not math.isfinite(found)):
        raise NotOnTapeError(
            f"the tape gives {found:.8g} where F gives {expected:.8g}: F depends on theta outside torch's "
            "operators, or cancels too much to compare."
        )


def evaluate(tape: Tape, point: list[float]) -> tuple[float, float]:
    """F by the tape in double precision, and by how many units of relative rounding it may be off.

    The error is not finite where rounding may take another branch, or where a root is 0. Both are NaN where F has
    no value.

    >>> evaluate([["var", 0], ["const", (2.0).hex()], ["mul", 0, 1]], [3.0])
    (6.0, 6.0)
    """
    pairs: list[tuple[float, float]] = []
    for operation, *arguments in tape:
        try:
            if operation == "const":
                pairs.append((float.fromhex(arguments[0]), 0.0))
            elif operation == "var":
                pairs.append((point[arguments[0]], 0.0))
            else:
                pairs.append(_applied(operation, arguments, pairs))
        except (ArithmeticError, ValueError):
            pairs.append((math.nan, math.nan))  # matters only where the branch is taken
    return pairs[-1]


def _applied(operation: str, arguments: list[int], pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The value of an entry, and its error in units of rounding: what comes with its arguments, and its own."""
    if operation == "if_less":
        (a, e), (b, f), then, otherwise = (pairs[place] for place in arguments)
        value, error = then if a < b else otherwise
        return value, error if abs(a - b) > 1e-12 * (e + f) else math.inf
    if operation == "pow":
        (x, e), n = pairs[arguments[0]], arguments[1]
        return x**n, n * abs(x ** (n - 1)) * e + n * abs(x**n)
    if operation in _SLOPES:
        x, e = pairs[arguments[0]]
        function, slope = _SLOPES[operation]
        value = function(x)
        return value, slope(x, value) * e + abs(value)
    (x, e), (y, f) = (pairs[place] for place in arguments)
    if operation == "mul":
        return x * y, abs(x) * f + abs(y) * e + abs(x * y)
    if operation == "div":
        return x / y, e / abs(y) + abs(x / y) * (f / abs(y) + 1)
    value = x + y if operation == "add" else x - y
    return value, e + f + abs(value)


# each function with its slope at x, given its value there
_SLOPES: dict[str, tuple[Callable[[float], float], Callable[[float, float], float]]] = {
    "neg": (operator.neg, lambda x, value: 1.0),
    "sqrt": (math.sqrt, lambda x, value: 0.5 / value if value > 0 else math.inf),
    "exp": (math.exp, lambda x, value: value),
    "log": (math.log, lambda x, value: 1 / abs(x)),
    "sin": (math.sin, lambda x, value: 1.0),
    "cos": (math.cos, lambda x, value: 1.0),
    "tanh": (math.tanh, lambda x, value: 1 - value * value),
    "atan": (math.atan, lambda x, value: 1 / (1 + x * x)),
    "erf": (math.erf, lambda x, value: 1.2 * math.exp(-x * x)),
}
