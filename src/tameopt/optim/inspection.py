"""Is everything still where it was? Asked of all parameters, gradients and states in one compiled call.

A step must know where every gradient lies now, and notice a parameter, a dtype or a state that somebody replaced. In
Python that costs half a microsecond a question, of which a thousand small tensors make more than the step itself. The
function below asks the same in machine code, through functions that Python and torch export: CPython's stable
interface for lists and dictionaries, torch's stable C interface for tensors, and `c10::TensorImpl::grad`.

Nothing is taken on trust. The declarations are looked up in the headers that came with torch, an object's word that
names its tensor is compared with what Python says, and the function is tried on tensors of which the answers are
known; if anything differs, or llvmlite is not there, `inspector()` is None and the questions are asked in Python.
"""

from __future__ import annotations

import ctypes
import functools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tameopt import extras
from tameopt.optim.engines.llvm import machine_code
from tameopt.optim.inspection_source import CHANGED, ROWLESS, VARIED, WORDS, source

# Our choice: below it Python's questions cost less than this module's first use (10 ms of compiling).
FEWEST = 32

Owned = Sequence[tuple[str, Sequence[dict[str, torch.Tensor]], Sequence[torch.Tensor]]]

# header below torch/include -> what it must declare, white space aside
_DECLARED = {
    "c10/core/TensorImpl.h": ("const at::Tensor& grad() const;",),
    "torch/csrc/inductor/aoti_torch/c/shim.h": (
        "AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor,void** ret_data_ptr",
        "AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor,int32_t* ret_dtype)",
        "AOTITorchError aoti_torch_get_layout(AtenTensorHandle tensor,int32_t* ret_layout)",
        "AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle tensor,bool* ret_is_contiguous)",
    ),
}
_FUNCTIONS = (
    ("python", "PyList_GetItem"),
    ("python", "PyDict_GetItemWithError"),
    ("python", "PyDict_Next"),
    ("libc10", "_ZNK3c1010TensorImpl4gradEv"),
    ("libtorch_cpu", "aoti_torch_get_data_ptr"),
    ("libtorch_cpu", "aoti_torch_get_dtype"),
    ("libtorch_cpu", "aoti_torch_get_layout"),
    ("libtorch_cpu", "aoti_torch_is_contiguous"),
)


@dataclass(frozen=True)
class Seen:
    """What an inspection found where nothing had moved.

    addresses: (n,) int64 of the gradients' elements, 0 for none; present: (n,) bool; missing: how many have none;
    contiguous: whether every gradient is; in_step: whether each column of numbers holds one number.
    """

    addresses: np.ndarray[Any, Any]
    present: np.ndarray[Any, Any]
    missing: int
    contiguous: bool
    in_step: bool


@dataclass(frozen=True)
class Inspector:
    """The compiled function.

    call: with the address of a table of words; functions: that it calls; undefined: torch's word for no gradient;
    offset: bytes from a tensor's object to the word that names its tensor.
    """

    call: Callable[[int], int]
    functions: tuple[int, ...]
    undefined: int
    offset: int
    keep_alive: Any

    def watch(
        self,
        parameters: Sequence[torch.Tensor],
        dtypes: Sequence[torch.dtype | None],
        state: Mapping[torch.Tensor, Any],
        owned: Owned,
        columns: Sequence[np.ndarray[Any, Any]] = (),
    ) -> Watch:
        """A watch over parameters as they are now. dtypes: of their gradients, None for not known yet; state: the
        optimizer's; owned: (name, dictionaries that keep it, what is there now); columns: of float32 or float64."""
        return Watch(self, parameters, dtypes, state, owned, columns)


class Watch:
    """What is watched, in the arrays that the function reads. It holds every object that it has the address of."""

    def __init__(
        self,
        inspector: Inspector,
        parameters: Sequence[torch.Tensor],
        dtypes: Sequence[torch.dtype | None],
        state: Mapping[torch.Tensor, Any],
        owned: Owned,
        columns: Sequence[np.ndarray[Any, Any]],
    ) -> None:
        triples = [
            (id(keeper), id(name), id(tensor), place)
            for name, keepers, tensors in owned
            for place, (keeper, tensor) in enumerate(zip(keepers, tensors, strict=True))
        ]
        triples.sort(key=lambda triple: triple[3])  # one dictionary's questions after each other: it is near then
        n = len(parameters)
        self._held = (inspector, list(parameters), list(state.items()), state, list(owned), list(columns))
        self._found, self._present = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
        arrays = {
            "items": _words(map(id, parameters)),
            "impls": _words(p._cdata for p in parameters),
            "places": _words(p.data_ptr() for p in parameters),
            "dtypes": np.array([-1 if d is None else _number_of(d) for d in dtypes], dtype=np.int64),
            "found": self._found,
            "present": self._present,
            "hints": _words(_storage(p) for p in parameters),
            "metas": np.zeros((n, 2), dtype=np.int64),  # where a parameter's word for its gradient lay, and that word
            "keys": _words(map(id, state)),
            "values": _words(map(id, state.values())),
            "keepers": _words(t[0] for t in triples),
            "names": _words(t[1] for t in triples),
            "tensors": _words(t[2] for t in triples),
            "column_at": _words(column.ctypes.data for column in columns),
            "column_bytes": np.array([(len(c), c.itemsize) for c in columns], dtype=np.int64).reshape(-1),
        }
        self._arrays = arrays
        words = {name: array.ctypes.data for name, array in arrays.items()}
        words |= {"list": 0, "count": n, "offset": inspector.offset, "undefined": inspector.undefined}
        words |= {"state": id(state), "entries": len(state), "owned": len(triples), "columns": len(columns)}
        words |= dict(zip(WORDS[-len(_FUNCTIONS) :], inspector.functions, strict=True))
        self._table = np.array([words[name] for name in WORDS], dtype=np.uint64).view(np.int64)
        self._address = self._table.ctypes.data
        self._call, self._n = inspector.call, n

    def look(self, parameters: list[torch.Tensor]) -> Seen | None:
        """Where the gradients are now; None when a parameter, a kind of gradient or a state is not what it was."""
        if len(parameters) != self._n:
            return None
        self._table[0] = id(parameters)
        answer = self._call(self._address)
        if answer == CHANGED:
            return None
        return Seen(self._found, self._present, answer % ROWLESS, not answer & ROWLESS, not answer & VARIED)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _words(numbers: Any) -> np.ndarray[Any, Any]:
    return np.fromiter(numbers, dtype=np.int64)


@functools.cache
def _number_of(dtype: torch.dtype) -> int:
    """torch's number of a dtype: its C interface exports one function for each."""
    name = str(dtype).removeprefix("torch.")
    function = getattr(ctypes.CDLL(_library("libtorch_cpu")), f"aoti_torch_dtype_{name}", None)
    return -2 if function is None else int(function())  # -2: of no gradient


@functools.cache
def inspector() -> Inspector | None:
    """The function, or None when it cannot be had or does not answer as Python does: see `why_not`."""
    return None if why_not() else _compiled()


@functools.cache
def why_not() -> str:
    """Why the questions are asked in Python; "" when they are not."""
    if not extras.available("llvmlite"):
        return "llvmlite is not here"
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python is not CPython with its lock"
    missing = _undeclared()
    if missing:
        return f"torch's headers do not declare {missing}"
    try:
        _addresses()
    except (OSError, AttributeError) as error:
        return str(error)
    return _tried()


def _undeclared() -> str:
    """The first declaration that torch's headers lack; "" when all are there."""
    include = pathlib.Path(torch.__file__).parent / "include"
    for header, declarations in _DECLARED.items():
        try:
            text = "".join((include / header).read_text(encoding="utf-8").split())
        except OSError:
            return header
        for declaration in declarations:
            if "".join(declaration.split()) not in text:
                return declaration
    return ""


def _library(name: str) -> str:
    folder = pathlib.Path(torch.__file__).parent / "lib"
    return str(folder / (name + (".dylib" if sys.platform == "darwin" else ".so")))


def _exports(library: str) -> Any:
    return ctypes.pythonapi if library == "python" else ctypes.CDLL(_library(library))


def _addresses() -> tuple[int, ...]:
    """Of the functions that are called. Raises OSError or AttributeError when one is not exported."""
    return tuple(
        ctypes.cast(
            getattr(ctypes.pythonapi if library == "python" else ctypes.CDLL(_library(library)), name),
            ctypes.c_void_p,
        ).value
        or 0
        for library, name in _FUNCTIONS
    )


@functools.cache
def _offsets() -> list[int]:
    """Where in a tensor's object the word lies that `_cdata` tells: one place if all is well."""
    tensors = [torch.nn.Parameter(torch.zeros(2)), torch.zeros(3), torch.zeros(2, 2)[1]]
    word = ctypes.c_int64.from_address
    places = range(object.__basicsize__, torch._C.TensorBase.__basicsize__, 8)
    return [place for place in places if all(word(id(t) + place).value == t._cdata for t in tensors)]


@functools.cache
def _compiled() -> Inspector:
    functions = _addresses()
    (address,), alive = machine_code(source(), "inspect")
    grad = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(functions[3])
    without = torch.nn.Parameter(torch.zeros(1))
    place = grad(without._cdata)
    undefined = ctypes.c_int64.from_address(place or 0).value
    call = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
    return Inspector(call, functions, undefined, _offsets()[0], alive)


def _tried() -> str:
    """What the function gets wrong on tensors of which the answers are known; "" when nothing."""
    base = torch.arange(48.0)
    parameters: list[torch.Tensor] = [
        torch.nn.Parameter(torch.zeros(shape, dtype=torch.float32)) for shape in ((2, 3), (4,), (0,), (5,))
    ]
    parameters.append(torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)))
    if len(_offsets()) != 1:
        return "it is not clear where a tensor's object names its tensor"
    parameters[0].grad, parameters[1].grad = base[5:11].view(2, 3), base[16:20]
    parameters[2].grad, parameters[4].grad = torch.zeros(0), torch.ones(2, 2, dtype=torch.float64)
    dtypes = [torch.float32, torch.float32, torch.float32, None, torch.float64]
    state = {p: {"v": torch.zeros(1)} for p in parameters}
    owned = [("v", [state[p] for p in parameters], [state[p]["v"] for p in parameters])]
    columns = [np.ones(5, dtype=np.float32), np.full(3, 0.1), np.ones(1)]
    watch = _compiled().watch(parameters, dtypes, state, owned, columns)

    def answer() -> tuple[Any, ...] | None:
        s = watch.look(parameters)
        return None if s is None else (s.addresses.tolist(), s.present.tolist(), s.missing, s.contiguous, s.in_step)

    def expected(contiguous: bool = True, in_step: bool = True) -> tuple[Any, ...]:
        found = [p.grad for p in parameters]
        places = [0 if g is None else g.data_ptr() for g in found]
        return places, [g is not None for g in found], sum(g is None for g in found), contiguous, in_step

    right = answer() == expected()
    for column in columns[:2]:
        column[-1] = 3.0
        right = right and answer() == expected(in_step=False)
        column[-1] = column[0]
    parameters[1].grad, kept = None, parameters[1].grad
    right = right and answer() == expected()
    parameters[1].grad, parameters[0].grad = kept, base[:6].view(3, 2).t()
    right = right and answer() == expected(contiguous=False)
    parameters[0].grad = base[:6].view(2, 3)
    parameters[3].grad = base[:5]  # a first gradient
    right = right and answer() is None
    parameters[3].grad = None
    parameters[4].grad = torch.ones(2, 2).to_sparse().double()
    right = right and answer() is None
    parameters[4].grad = torch.ones(2, 2, dtype=torch.float64)
    right = right and answer() == expected()
    state[parameters[2]]["v"] = torch.zeros(1)
    right = right and answer() is None
    state[parameters[2]]["v"] = owned[0][2][2]
    first = state[parameters[0]]
    state[parameters[0]] = dict(first)
    right = right and answer() is None
    state[parameters[0]] = first
    right = right and answer() == expected()
    parameters[0].data = base[6:12].view(2, 3)
    right = right and answer() is None
    return "" if right else "the compiled questions are not answered as Python answers them"
