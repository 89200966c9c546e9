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

from tameopt.curvature.tape_operators import OPERATORS, NotOnTapeError, Tape, Writer, array_of
from tameopt.hessian_modes import exact_attention
from tameopt.problem import Problem

__all__ = ["NotOnTapeError", "Tape", "evaluate", "tape_of"]


class _Recorder(TorchDispatchMode):
    """Runs F as it is and writes every operator that depends on theta onto the tape."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer
        self._arrays: dict[int, Any] = {}
        self._alive: list[torch.Tensor] = []  # an id means a tensor only while that tensor lives

    def track(self, tensor: torch.Tensor, array: Any) -> None:
        shaped = np.asarray(array, dtype=object)
        if shaped.shape != tuple(tensor.shape):
            raise NotOnTapeError(f"an operator gave {tuple(tensor.shape)} where the tape has {shaped.shape}.")
        self._arrays[id(tensor)] = shaped
        self._alive.append(tensor)

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
            return self._arrays[id(leaf)] if id(leaf) in self._arrays else array_of(leaf)

        result = operation(self.writer, *tree_map(known, args), **tree_map(known, keywords))
        if isinstance(output, torch.Tensor):
            self.track(output, result)
        else:
            for tensor, array in zip(output, result, strict=True):
                if array is not None:
                    self.track(tensor, array)
        return output


def tape_of(problem: Problem, theta: torch.Tensor | None = None) -> Tape:
    """The tape of F as it runs at theta.

    Branches on data (`torch.where`, ReLU, abs, max of two) go on the tape as "if_less" entries, so that the tape
    is F everywhere; Python branches on theta are refused, and the tape is compared with F at other points.

    Raises NotOnTapeError naming what cannot be written.

    >>> tape_of(Problem.from_function(lambda t: t[0] * t[1], torch.ones(2, dtype=torch.float64)))[:3]
    [['var', 0], ['var', 1], ['mul', 0, 1]]
    """
    if problem.sharing is not None:
        raise NotOnTapeError(f"the data are spread over {problem.sharing.processes} processes")
    at = (problem.theta if theta is None else theta).to(problem.device, problem.dtype)
    writer = Writer()
    recorder = _Recorder(writer)
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
    _compare(problem, writer.entries, at)
    return writer.entries


def _compare(problem: Problem, tape: Tape, at: torch.Tensor) -> None:
    """Refuse a tape that is not F: what F computes outside torch would be frozen on it."""
    generator = torch.Generator().manual_seed(0)
    for spread in (0.0, 0.1, 1.0):
        point = at + spread * torch.randn(at.shape, generator=generator, dtype=torch.float64).to(at)
        expected = float(problem.value(point))
        try:
            found = evaluate(tape, point.tolist())
        except (ArithmeticError, ValueError):
            continue  # outside the domain of a logarithm or root, where F is nan as well
        # a thousand roundings of the problem's dtype, on the scale that cancellation leaves (our choice)
        slack = 1e3 * torch.finfo(problem.dtype).eps * max(1.0, abs(expected))
        if math.isfinite(expected) and abs(found - expected) > slack:
            raise NotOnTapeError(
                f"the tape gives {found:.8g} where F gives {expected:.8g}: F depends on theta outside torch's "
                "operators, or cancels too much to compare."
            )


def evaluate(tape: Tape, point: list[float]) -> float:
    """F by the tape in double precision.

    >>> evaluate([["var", 0], ["const", (2.0).hex()], ["mul", 0, 1]], [3.0])
    6.0
    """
    values: list[float] = []
    for operation, *arguments in tape:
        if operation == "const":
            values.append(float.fromhex(arguments[0]))
        elif operation == "var":
            values.append(point[arguments[0]])
        elif operation == "pow":
            values.append(values[arguments[0]] ** arguments[1])
        elif operation == "if_less":
            a, b, then, otherwise = (values[place] for place in arguments)
            values.append(then if a < b else otherwise)
        else:
            try:
                values.append(_FLOAT[operation](*(values[place] for place in arguments)))
            except (ArithmeticError, ValueError):
                values.append(math.nan)  # matters only where the branch is taken
    return values[-1]


_FLOAT: dict[str, Callable[..., float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "sin", "cos", "tanh", "atan", "erf")},
}
