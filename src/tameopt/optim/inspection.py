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

CHANGED, ROWLESS, VARIED = -1, 1 << 40, 1 << 41  # what the function answers, beside a number
# Our choice: below it Python's questions cost less than this module's first use (10 ms of compiling).
FEWEST = 32
_AHEAD = 6  # our choice: how many tensors ahead memory is asked for

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
# the words of the table that the function reads: addresses of the arrays and functions, and numbers
_WORDS = (
    "list count offset undefined items impls places dtypes found present hints metas state entries keys values owned keepers "
    "names tensors columns column_at column_bytes get_item get_entry next_entry grad data_ptr dtype layout contiguous"
).split()


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
        words |= dict(zip(_WORDS[-len(_FUNCTIONS) :], inspector.functions, strict=True))
        self._table = np.array([words[name] for name in _WORDS], dtype=np.uint64).view(np.int64)
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


def _addresses() -> tuple[int, ...]:
    """Of the functions that are called. Raises OSError or AttributeError when one is not exported."""
    return tuple(
        ctypes.cast(
            getattr(ctypes.pythonapi if library == "python" else ctypes.CDLL(_library(library)), name), ctypes.c_void_p
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
    address, alive = machine_code(_source(), "inspect")
    grad = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(functions[3])
    without = torch.nn.Parameter(torch.zeros(1))
    place = grad(without._cdata)
    undefined = ctypes.c_int64.from_address(place or 0).value
    call = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(address)
    return Inspector(call, functions, undefined, _offsets()[0], alive)


def _tried() -> str:
    """What the function gets wrong on tensors of which the answers are known; "" when nothing."""
    base = torch.arange(48.0)
    parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=torch.float32)) for shape in ((2, 3), (4,), (0,), (5,))]
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


def _source() -> str:
    """LLVM text of `inspect(table)`: how many gradients are missing, plus 2^40 if one is not contiguous, plus
    2^41 if a column holds different numbers; -1 if something is not what it was."""
    loads = "\n".join(
        f"  %word_{place} = getelementptr i64, ptr %table, i64 {place}\n"
        f"  %{name} = load {'i64' if name in _NUMBERS else 'ptr'}, ptr %word_{place}"
        for place, name in enumerate(_WORDS)
    )
    return _TEXT.replace("LOADS", loads).replace("AHEAD", str(_AHEAD)).replace("ROWLESS", str(ROWLESS)).replace("VARIED", str(VARIED))


_NUMBERS = ("count", "offset", "entries", "owned", "columns")
_TEXT = """
define i64 @inspect(ptr %table) {
entry:
LOADS
  %out = alloca ptr
  %number = alloca i32
  %flag = alloca i8
  %position = alloca i64
  %key_out = alloca ptr
  %value_out = alloca ptr
  store i64 0, ptr %position
  br label %parameter
parameter:
  %i = phi i64 [ 0, %entry ], [ %i_next, %counted ]
  %answer = phi i64 [ 0, %entry ], [ %answer_next, %counted ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %object, label %state_begin
object:
  %i_next = add i64 %i, 1
  %later = add i64 %i, AHEAD
  %in_range = icmp slt i64 %later, %count
  %ahead = select i1 %in_range, i64 %later, i64 %i
  %ahead_item_at = getelementptr ptr, ptr %items, i64 %ahead
  %ahead_item = load ptr, ptr %ahead_item_at
  call void @llvm.prefetch.p0(ptr %ahead_item, i32 0, i32 3, i32 1)
  %ahead_impl_at = getelementptr ptr, ptr %impls, i64 %ahead
  %ahead_impl = load ptr, ptr %ahead_impl_at
  call void @llvm.prefetch.p0(ptr %ahead_impl, i32 0, i32 3, i32 1)
  %ahead_impl_2 = getelementptr i8, ptr %ahead_impl, i64 64
  call void @llvm.prefetch.p0(ptr %ahead_impl_2, i32 0, i32 3, i32 1)
  %ahead_impl_3 = getelementptr i8, ptr %ahead_impl, i64 128
  call void @llvm.prefetch.p0(ptr %ahead_impl_3, i32 0, i32 3, i32 1)
  %ahead_hint_at = getelementptr ptr, ptr %hints, i64 %ahead
  %ahead_hint = load ptr, ptr %ahead_hint_at
  call void @llvm.prefetch.p0(ptr %ahead_hint, i32 0, i32 3, i32 1)
  %ahead_pair = mul i64 %ahead, 2
  %ahead_meta_at = getelementptr ptr, ptr %metas, i64 %ahead_pair
  %ahead_meta = load ptr, ptr %ahead_meta_at
  call void @llvm.prefetch.p0(ptr %ahead_meta, i32 0, i32 3, i32 1)
  %ahead_meta_before = getelementptr i8, ptr %ahead_meta, i64 -40
  call void @llvm.prefetch.p0(ptr %ahead_meta_before, i32 0, i32 3, i32 1)
  %ahead_g_at = getelementptr ptr, ptr %ahead_meta_at, i64 1
  %ahead_g = load ptr, ptr %ahead_g_at
  call void @llvm.prefetch.p0(ptr %ahead_g, i32 0, i32 3, i32 1)
  %ahead_g_2 = getelementptr i8, ptr %ahead_g, i64 64
  call void @llvm.prefetch.p0(ptr %ahead_g_2, i32 0, i32 3, i32 1)
  %ahead_g_3 = getelementptr i8, ptr %ahead_g, i64 128
  call void @llvm.prefetch.p0(ptr %ahead_g_3, i32 0, i32 3, i32 1)
  %item = call ptr %get_item(ptr %list, i64 %i)
  %item_then_at = getelementptr ptr, ptr %items, i64 %i
  %item_then = load ptr, ptr %item_then_at
  %same_item = icmp eq ptr %item, %item_then
  br i1 %same_item, label %tensor, label %changed
tensor:
  %impl_at = getelementptr i8, ptr %item, i64 %offset
  %impl = load ptr, ptr %impl_at
  %impl_then_at = getelementptr ptr, ptr %impls, i64 %i
  %impl_then = load ptr, ptr %impl_then_at
  %same_impl = icmp eq ptr %impl, %impl_then
  br i1 %same_impl, label %memory, label %changed
memory:
  %failed_1 = call i32 %data_ptr(ptr %impl_then_at, ptr %out)
  %place = load ptr, ptr %out
  %place_then_at = getelementptr ptr, ptr %places, i64 %i
  %place_then = load ptr, ptr %place_then_at
  %same_place = icmp eq ptr %place, %place_then
  %asked_1 = icmp eq i32 %failed_1, 0
  %good_1 = and i1 %same_place, %asked_1
  br i1 %good_1, label %gradient, label %changed
gradient:
  %g = call ptr %grad(ptr %impl)
  %g_impl = load ptr, ptr %g
  %pair = mul i64 %i, 2
  %meta_at = getelementptr ptr, ptr %metas, i64 %pair
  store ptr %g, ptr %meta_at
  %g_then_at = getelementptr ptr, ptr %meta_at, i64 1
  store ptr %g_impl, ptr %g_then_at
  %none = icmp eq ptr %g_impl, %undefined
  %found_at = getelementptr ptr, ptr %found, i64 %i
  %present_at = getelementptr i8, ptr %present, i64 %i
  br i1 %none, label %absent, label %there
absent:
  store ptr null, ptr %found_at
  store i8 0, ptr %present_at
  %answer_absent = add i64 %answer, 1
  br label %counted
there:
  store i8 1, ptr %present_at
  %failed_2 = call i32 %layout(ptr %g, ptr %number)
  %kind = load i32, ptr %number
  %failed_3 = call i32 %dtype(ptr %g, ptr %number)
  %type = load i32, ptr %number
  %type_then_at = getelementptr i64, ptr %dtypes, i64 %i
  %type_then = load i64, ptr %type_then_at
  %wide_type = sext i32 %type to i64
  %same_type = icmp eq i64 %wide_type, %type_then
  %kind_failed = or i32 %kind, %failed_2
  %failed_either = or i32 %kind_failed, %failed_3
  %strided = icmp eq i32 %failed_either, 0
  %good_2 = and i1 %strided, %same_type
  br i1 %good_2, label %dense, label %changed
dense:
  %failed_4 = call i32 %data_ptr(ptr %g, ptr %found_at)
  %failed_5 = call i32 %contiguous(ptr %g, ptr %flag)
  %failed_any = or i32 %failed_4, %failed_5
  %asked_2 = icmp eq i32 %failed_any, 0
  br i1 %asked_2, label %order, label %changed
order:
  %is_rows = load i8, ptr %flag
  %rows = icmp ne i8 %is_rows, 0
  %answer_unlike = or i64 %answer, ROWLESS
  %answer_there = select i1 %rows, i64 %answer, i64 %answer_unlike
  br label %counted
counted:
  %answer_next = phi i64 [ %answer_absent, %absent ], [ %answer_there, %order ]
  br label %parameter
state_begin:
  br label %entry_of_state
entry_of_state:
  %j = phi i64 [ 0, %state_begin ], [ %j_next, %same_entry ]
  %j_next = add i64 %j, 1
  %is_entry = call i32 %next_entry(ptr %state, ptr %position, ptr %key_out, ptr %value_out)
  %last = icmp eq i32 %is_entry, 0
  br i1 %last, label %entries_over, label %entry_there
entry_there:
  %within = icmp slt i64 %j, %entries
  br i1 %within, label %compare_entry, label %changed
compare_entry:
  %key = load ptr, ptr %key_out
  %key_then_at = getelementptr ptr, ptr %keys, i64 %j
  %key_then = load ptr, ptr %key_then_at
  %same_key = icmp eq ptr %key, %key_then
  %value = load ptr, ptr %value_out
  %value_then_at = getelementptr ptr, ptr %values, i64 %j
  %value_then = load ptr, ptr %value_then_at
  %same_value = icmp eq ptr %value, %value_then
  %same_both = and i1 %same_key, %same_value
  br i1 %same_both, label %same_entry, label %changed
same_entry:
  br label %entry_of_state
entries_over:
  %all_entries = icmp eq i64 %j, %entries
  br i1 %all_entries, label %owned_state, label %changed
owned_state:
  %k = phi i64 [ 0, %entries_over ], [ %k_next, %same_owned ]
  %more_owned = icmp slt i64 %k, %owned
  br i1 %more_owned, label %ask, label %column
ask:
  %k_next = add i64 %k, 1
  %k_later = add i64 %k, AHEAD
  %k_in_range = icmp slt i64 %k_later, %owned
  %k_ahead = select i1 %k_in_range, i64 %k_later, i64 %k
  %ahead_keeper_at = getelementptr ptr, ptr %keepers, i64 %k_ahead
  %ahead_keeper = load ptr, ptr %ahead_keeper_at
  call void @llvm.prefetch.p0(ptr %ahead_keeper, i32 0, i32 3, i32 1)
  %keeper_at = getelementptr ptr, ptr %keepers, i64 %k
  %keeper = load ptr, ptr %keeper_at
  %name_at = getelementptr ptr, ptr %names, i64 %k
  %name = load ptr, ptr %name_at
  %tensor_now = call ptr %get_entry(ptr %keeper, ptr %name)
  %tensor_then_at = getelementptr ptr, ptr %tensors, i64 %k
  %tensor_then = load ptr, ptr %tensor_then_at
  %same_owned_tensor = icmp eq ptr %tensor_now, %tensor_then
  br i1 %same_owned_tensor, label %same_owned, label %changed
same_owned:
  br label %owned_state
column:
  %c = phi i64 [ 0, %owned_state ], [ %c_next, %column_over ]
  %varied = phi i64 [ 0, %owned_state ], [ %varied_next, %column_over ]
  %more_columns = icmp slt i64 %c, %columns
  br i1 %more_columns, label %column_there, label %done
column_there:
  %c_next = add i64 %c, 1
  %base_at = getelementptr ptr, ptr %column_at, i64 %c
  %base = load ptr, ptr %base_at
  %twice = mul i64 %c, 2
  %length_at = getelementptr i64, ptr %column_bytes, i64 %twice
  %length = load i64, ptr %length_at
  %size_at = getelementptr i64, ptr %length_at, i64 1
  %size = load i64, ptr %size_at
  %is_float = icmp eq i64 %size, 4
  %shift = select i1 %is_float, i64 1, i64 2
  %words = shl i64 %length, %shift
  %halves = lshr i64 %words, 1
  %first_low = load i32, ptr %base
  %step = select i1 %is_float, i64 0, i64 1
  %first_high_at = getelementptr i32, ptr %base, i64 %step
  %first_high = load i32, ptr %first_high_at
  br label %number_of_column
number_of_column:
  %w = phi i64 [ 0, %column_there ], [ %w_next, %number_there ]
  %differ = phi i32 [ 0, %column_there ], [ %differ_next, %number_there ]
  %more_words = icmp slt i64 %w, %halves
  br i1 %more_words, label %number_there, label %column_over
number_there:
  %word_now_at = getelementptr i32, ptr %base, i64 %w
  %word_now = load i32, ptr %word_now_at
  %odd = and i64 %w, %step
  %is_high = icmp ne i64 %odd, 0
  %like = select i1 %is_high, i32 %first_high, i32 %first_low
  %off = xor i32 %word_now, %like
  %differ_next = or i32 %differ, %off
  %w_next = add i64 %w, 1
  br label %number_of_column
column_over:
  %varies = icmp ne i32 %differ, 0
  %flag_varied = select i1 %varies, i64 VARIED, i64 0
  %varied_next = or i64 %varied, %flag_varied
  br label %column
done:
  %whole = or i64 %answer, %varied
  ret i64 %whole
changed:
  ret i64 -1
}
declare void @llvm.prefetch.p0(ptr, i32, i32, i32)
"""
