"""From a graph to LLVM text: one pass over memory that loads, computes and stores each element once.

The kernel claims chunks of tensors from a shared counter, so any number of threads may run it together. The inner
loop is written with vectors; what is left over at the end of a chunk goes one element at a time through the same
instructions, which is why the result of an element does not depend on where it lies. No fast-math flag is set and
nothing contracts a product and a sum, so every operation rounds as the eager engine's does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tameopt.optim.expr import Graph, Instruction

# Our choice: two or four registers of a vector unit, enough to hide the latency of a division.
LANES = {"float": 16, "double": 8}
# Our choice: 4 and 8 lines of 64 bytes took 24% off 1,000 small tensors, 16 and more less.
PREFETCHED_LINES = 4
# Our choice: bytes ahead that the loop asks for. The processor's own prefetching stops at each page and takes a while
# to begin again: 256 to 2048 took 7 to 14% off Adam on 1,000 small tensors and up to 10% off RMSprop on one of 4M
# elements. A rule without states, of two streams, got a tenth slower by it.
_PREFETCH_AHEAD = 512
# Our choice: so many places of a chunk are worked on in turn, by the number of tensors that a rule has. The processor
# fetches each stream of addresses by itself, and few streams leave its memory waiting: on 4M elements, one thread,
# this took 18 to 25% off rules of two and three tensors and 5 to 10% off those of four.
_PLACES = {2: 4, 3: 3, 4: 2}
_BINARY = {"add": "fadd", "subtract": "fsub", "multiply": "fmul", "divide": "fdiv"}
_COMPARISONS = {"less": "olt", "greater": "ogt", "same": "oeq"}
_UNARY = {"sqrt": "sqrt", "absolute": "fabs"}

HEADER = """
define void @step(ptr %table, i64 %stride, ptr %row_of, ptr %tensors, ptr %starts, ptr %lengths,
                  ptr %coefficients, i64 %width, ptr %next, i64 %count) {
entry:
  br label %claim
claim:
  %chunk = atomicrmw add ptr %next, i64 1 monotonic
  %more = icmp slt i64 %chunk, %count
  br i1 %more, label %found, label %done
found:
  %tensor_at = getelementptr i64, ptr %tensors, i64 %chunk
  %tensor = load i64, ptr %tensor_at
  %row_at = getelementptr i64, ptr %row_of, i64 %tensor
  %row = load i64, ptr %row_at
  %absent = icmp slt i64 %row, 0
  br i1 %absent, label %claim, label %chunk_begin
chunk_begin:
  %start_at = getelementptr i64, ptr %starts, i64 %chunk
  %start = load i64, ptr %start_at
  %length_at = getelementptr i64, ptr %lengths, i64 %chunk
  %length = load i64, ptr %length_at
  %coefficient_row = mul i64 %row, %width
"""


@dataclass(frozen=True)
class Roles:
    """The tensors of a kernel in the order of its pointer table, with their storage types in LLVM's words.

    names: "theta", "g" and the states; types: "float", "double", "half" or "bfloat" of each; compute: "float" or
    "double".
    """

    names: tuple[str, ...]
    types: tuple[str, ...]
    compute: str


class _Lines:
    """Text under construction, with fresh names."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def add(self, text: str) -> str:
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        self.lines.append(text if text.endswith(":") else f"  {text}")


def kernel(graph: Graph, roles: Roles) -> str:
    """LLVM text of `step` for a graph: see the module for its promises.

    Its arguments: table (roles, tensors) of addresses; row_of (tensors,) of coefficient rows, -1 to leave a tensor
    out; tensors, starts, lengths (chunks,); coefficients (rows, width) in double; next, the shared counter.
    """
    text = _Lines()
    lanes = LANES[roles.compute]
    pointers = {}
    for place, (name, storage) in enumerate(zip(roles.names, roles.types, strict=True)):
        row = text.add(f"mul i64 %stride, {place}")
        column = text.add(f"add i64 {row}, %tensor")
        at = text.add(f"getelementptr i64, ptr %table, i64 {column}")
        base = text.add(f"load ptr, ptr {at}")
        pointers[name] = text.add(f"getelementptr {_memory(storage)}, ptr {base}, i64 %start")
    scalars = {}
    for place, name in enumerate(graph.coefficients):
        column = text.add(f"add i64 %coefficient_row, {place}")
        at = text.add(f"getelementptr double, ptr %coefficients, i64 {column}")
        loaded = text.add(f"load double, ptr {at}")
        scalars[name] = text.add(f"fptrunc double {loaded} to float") if roles.compute == "float" else loaded
    _prefetch(text, roles)
    places = _PLACES.get(len(roles.names), 1)
    text.do(f"%part_all = udiv i64 %length, {places}")
    text.do(f"%part = and i64 %part_all, -{lanes}")
    text.do(f"%parts = mul i64 %part, {places}")
    text.do(f"%wide_end = and i64 %length, -{lanes}")
    offsets = ["0"]
    for _ in range(places - 1):
        offsets.append(text.add(f"add i64 {offsets[-1]}, %part"))
    text.do("br label %parted")
    _loop(text, graph, roles, pointers, scalars, "parted", lanes, "chunk_begin", "0", "%part", "wide", offsets)
    _loop(text, graph, roles, pointers, scalars, "wide", lanes, "parted", "%parts", "%wide_end", "narrow")
    _loop(text, graph, roles, pointers, scalars, "narrow", 1, "wide", "%wide_end", "%length", "claim")
    return HEADER + "\n".join(text.lines) + "\ndone:\n  ret void\n}\n" + _task()


def _task() -> str:
    """`task(begin, end, words)`: `step` with its arguments from an array, for threads that all get the same."""
    kinds = ("ptr", "i64", *["ptr"] * 5, "i64", "ptr", "i64")
    lines = []
    for place, kind in enumerate(kinds):
        lines.append(f"  %at_{place} = getelementptr i64, ptr %words, i64 {place}")
        lines.append(f"  %word_{place} = load {kind}, ptr %at_{place}")
    arguments = ", ".join(f"{kind} %word_{place}" for place, kind in enumerate(kinds))
    body = "\n".join([*lines, f"  call void @step({arguments})", "  ret void"])
    return f"define void @task(i64 %begin, i64 %end, ptr %words) {{\n{body}\n}}\n"


def _prefetch(text: _Lines, roles: Roles) -> None:
    """Ask for the first lines of the chunk after this one: short tensors would each begin by waiting for memory."""
    after = text.add("add i64 %chunk, 1")
    beyond = text.add(f"icmp slt i64 {after}, %count")
    follower = text.add(f"select i1 {beyond}, i64 {after}, i64 %chunk")
    tensor, start = (
        text.add(f"load i64, ptr {text.add(f'getelementptr i64, ptr %{table}, i64 {follower}')}")
        for table in ("tensors", "starts")
    )
    for place, storage in enumerate(roles.types):
        column = text.add(f"add i64 {text.add(f'mul i64 %stride, {place}')}, {tensor}")
        base = text.add(f"load ptr, ptr {text.add(f'getelementptr i64, ptr %table, i64 {column}')}")
        first = text.add(f"getelementptr {_memory(storage)}, ptr {base}, i64 {start}")
        for line in range(PREFETCHED_LINES):
            at = text.add(f"getelementptr i8, ptr {first}, i64 {64 * line}")
            text.do(f"call void @llvm.prefetch.p0(ptr {at}, i32 0, i32 3, i32 1)")


def _loop(
    text: _Lines,
    graph: Graph,
    roles: Roles,
    pointers: dict[str, str],
    scalars: dict[str, str],
    label: str,
    lanes: int,
    before: str,
    begin: str,
    end: str,
    after: str,
    offsets: Sequence[str] = ("0",),
) -> None:
    """for (i = begin; i < end; i += lanes) body at i plus each offset."""
    text.do(f"{label}:")
    text.do(f"%{label}_i = phi i64 [ {begin}, %{before} ], [ %{label}_next, %{label}_body ]")
    text.do(f"%{label}_more = icmp slt i64 %{label}_i, {end}")
    text.do(f"br i1 %{label}_more, label %{label}_body, label %{after}")
    text.do(f"{label}_body:")
    for offset in offsets:
        index = f"%{label}_i" if offset == "0" else text.add(f"add i64 %{label}_i, {offset}")
        _body(text, graph, roles, pointers, scalars, index, lanes)
    text.do(f"%{label}_next = add i64 %{label}_i, {lanes}")
    text.do(f"br label %{label}")


def _body(
    text: _Lines,
    graph: Graph,
    roles: Roles,
    pointers: dict[str, str],
    scalars: dict[str, str],
    index: str,
    lanes: int,
) -> None:
    storage = dict(zip(roles.names, roles.types, strict=True))
    kind = roles.compute
    at = {
        name: text.add(f"getelementptr {_memory(storage[name])}, ptr {pointers[name]}, i64 {index}")
        for name in roles.names
    }
    if lanes > 1 and len(roles.names) > 2:
        for place in at.values():
            ahead = text.add(f"getelementptr i8, ptr {place}, i64 {_PREFETCH_AHEAD}")
            text.do(f"call void @llvm.prefetch.p0(ptr {ahead}, i32 0, i32 3, i32 1)")
    loaded = {name: _load(text, storage[name], kind, at[name], lanes) for name in graph.reads()}
    values: list[str] = []
    for instruction in graph.instructions:
        if instruction.operation in ("theta", "g"):
            values.append(loaded[instruction.operation])
        elif instruction.operation == "state":
            values.append(loaded[instruction.name])
        elif instruction.operation == "coefficient":
            values.append(_splat(text, scalars[instruction.name], kind, lanes))
        elif instruction.operation == "constant":
            values.append(_splat(text, _literal(instruction.value, kind), kind, lanes))
        elif instruction.operation == "stored":
            values.append(_stored(text, storage["theta"], kind, values[instruction.inputs[0]], lanes))
        elif instruction.operation == "dithered":
            x, seed = instruction.inputs
            if graph.instructions[seed].operation != "coefficient":
                raise ValueError("the seed of `dithered` must be a coefficient.")
            values.append(_dithered(text, kind, values[x], scalars[graph.instructions[seed].name], index, lanes))
        else:
            values.append(_compute(text, instruction, [values[i] for i in instruction.inputs], kind, lanes))
    _store(text, storage["theta"], kind, at["theta"], values[graph.theta], lanes)
    for name, position in graph.outputs:
        _store(text, storage[name], kind, at[name], values[position], lanes)


def _vector(kind: str, lanes: int) -> str:
    return kind if lanes == 1 else f"<{lanes} x {kind}>"


def _memory(storage: str) -> str:
    return "i16" if storage == "bfloat" else storage


def _literal(value: float, kind: str) -> str:
    import struct

    # LLVM writes float constants as the bits of the double that equals them
    rounded = struct.unpack("f", struct.pack("f", value))[0] if kind == "float" else value
    return "0x" + struct.pack(">d", rounded).hex().upper()


def _splat(text: _Lines, value: str, kind: str, lanes: int) -> str:
    if lanes == 1:
        return value
    vector = _vector(kind, lanes)
    one = text.add(f"insertelement {vector} poison, {kind} {value}, i64 0")
    return text.add(f"shufflevector {vector} {one}, {vector} poison, <{lanes} x i32> zeroinitializer")


def _integers(text: _Lines, value: int, bits: int, lanes: int) -> str:
    return _splat(text, str(value), f"i{bits}", lanes)


def _load(text: _Lines, storage: str, kind: str, at: str, lanes: int) -> str:
    """The element(s) at an address, in the compute type."""
    size = {"float": 4, "double": 8, "half": 2, "bfloat": 2}[storage]
    memory = _vector(_memory(storage), lanes)
    raw = text.add(f"load {memory}, ptr {at}, align {size}")
    found = storage
    if storage == "bfloat":  # the upper half of a float
        wide = text.add(f"zext {memory} {raw} to {_vector('i32', lanes)}")
        shifted = text.add(f"shl {_vector('i32', lanes)} {wide}, {_integers(text, 16, 32, lanes)}")
        raw = text.add(f"bitcast {_vector('i32', lanes)} {shifted} to {_vector('float', lanes)}")
        found = "float"
    return _convert(text, raw, found, kind, lanes)


def _convert(text: _Lines, value: str, source: str, target: str, lanes: int) -> str:
    order = ("half", "float", "double")
    if source == target:
        return value
    operation = "fpext" if order.index(source) < order.index(target) else "fptrunc"
    return text.add(f"{operation} {_vector(source, lanes)} {value} to {_vector(target, lanes)}")


def _store(text: _Lines, storage: str, kind: str, at: str, value: str, lanes: int) -> None:
    """Round to the storage type (to nearest, ties to even) and store."""
    size = {"float": 4, "double": 8, "half": 2, "bfloat": 2}[storage]
    if storage == "bfloat":
        value = _to_bfloat(text, _convert(text, value, kind, "float", lanes), lanes)
    else:
        value = _convert(text, value, kind, storage, lanes)
    text.do(f"store {_vector(_memory(storage), lanes)} {value}, ptr {at}, align {size}")


def _stored(text: _Lines, storage: str, kind: str, value: str, lanes: int) -> str:
    """The value after a trip through the storage type."""
    if storage != "bfloat":
        return _convert(text, _convert(text, value, kind, storage, lanes), storage, kind, lanes)
    words = _vector("i32", lanes)
    narrow = _to_bfloat(text, _convert(text, value, kind, "float", lanes), lanes)
    wide = text.add(f"zext {_vector('i16', lanes)} {narrow} to {words}")
    shifted = text.add(f"shl {words} {wide}, {_integers(text, 16, 32, lanes)}")
    return _convert(text, text.add(f"bitcast {words} {shifted} to {_vector('float', lanes)}"), "float", kind, lanes)


def _dithered(text: _Lines, kind: str, value: str, seed: str, index: str, lanes: int) -> str:
    """See `tameopt.optim.functions.dithered`: a hash of place and seed added below the bits that bfloat16 keeps."""
    if kind != "float":
        raise ValueError("stochastic rounding is for bfloat16 parameters.")
    words, floats = _vector("i32", lanes), _vector("float", lanes)

    def constant(number: int) -> str:
        return _integers(text, number, 32, lanes)

    place = text.add(f"add i64 %start, {index}")
    place = _splat(text, text.add(f"trunc i64 {place} to i32"), "i32", lanes)
    if lanes > 1:
        steps = ", ".join(f"i32 {lane}" for lane in range(lanes))
        place = text.add(f"add {words} {place}, <{steps}>")
    whole = text.add(f"fptoui float {seed} to i32")
    spread = _splat(text, text.add(f"mul i32 {whole}, {0x9E3779B9}"), "i32", lanes)
    h = text.add(f"add {words} {place}, {spread}")
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        mixed = text.add(f"xor {words} {h}, {text.add(f'lshr {words} {h}, {constant(shift)}')}")
        h = text.add(f"mul {words} {mixed}, {constant(factor)}")
    bits = text.add(f"bitcast {floats} {value} to {words}")
    raised = text.add(f"add {words} {bits}, {text.add(f'and {words} {h}, {constant(0xFFFF)}')}")
    kept = text.add(f"and {words} {raised}, {constant(0xFFFF0000)}")
    rounded = text.add(f"bitcast {words} {kept} to {floats}")
    suffix = "f32" if lanes == 1 else f"v{lanes}f32"
    size = text.add(f"call {floats} @llvm.fabs.{suffix}({floats} {value})")
    infinity = _splat(text, "0x7FF0000000000000", "float", lanes)
    finite = text.add(f"fcmp olt {floats} {size}, {infinity}")
    return text.add(f"select {_vector('i1', lanes)} {finite}, {floats} {rounded}, {floats} {value}")


def _to_bfloat(text: _Lines, value: str, lanes: int) -> str:
    words, floats = _vector("i32", lanes), _vector("float", lanes)
    sixteen = _integers(text, 16, 32, lanes)
    bits = text.add(f"bitcast {floats} {value} to {words}")
    odd = text.add(f"and {words} {text.add(f'lshr {words} {bits}, {sixteen}')}, {_integers(text, 1, 32, lanes)}")
    bias = text.add(f"add {words} {odd}, {_integers(text, 0x7FFF, 32, lanes)}")
    rounded = text.add(f"lshr {words} {text.add(f'add {words} {bits}, {bias}')}, {sixteen}")
    # the carry of the rounding would turn a NaN into an infinity or a number
    nan = text.add(f"fcmp uno {floats} {value}, {value}")
    kept = text.add(
        f"select {_vector('i1', lanes)} {nan}, {words} {_integers(text, 0x7FC0, 32, lanes)}, {words} {rounded}"
    )
    return text.add(f"trunc {words} {kept} to {_vector('i16', lanes)}")


def _compute(text: _Lines, instruction: Instruction, inputs: list[str], kind: str, lanes: int) -> str:
    """One operation of the graph."""
    vector, operation = _vector(kind, lanes), instruction.operation
    condition = _vector("i1", lanes)
    suffix = ("" if lanes == 1 else f"v{lanes}") + ("f32" if kind == "float" else "f64")
    if operation in _BINARY:
        return text.add(f"{_BINARY[operation]} {vector} {inputs[0]}, {inputs[1]}")
    if operation in _UNARY:
        return text.add(f"call {vector} @llvm.{_UNARY[operation]}.{suffix}({vector} {inputs[0]})")
    if operation == "power":  # in double, rounded once: see `tameopt.optim.functions.power`
        wide, tail = _vector("double", lanes), ("" if lanes == 1 else f"v{lanes}") + "f64"
        x, y = (_convert(text, each, kind, "double", lanes) for each in inputs)
        return _convert(
            text, text.add(f"call {wide} @llvm.pow.{tail}({wide} {x}, {wide} {y})"), "double", kind, lanes
        )
    if operation == "negative":
        return text.add(f"fneg {vector} {inputs[0]}")
    if operation in _COMPARISONS:
        return text.add(f"fcmp {_COMPARISONS[operation]} {vector} {inputs[0]}, {inputs[1]}")
    if operation == "where":
        return text.add(f"select {condition} {inputs[0]}, {vector} {inputs[1]}, {vector} {inputs[2]}")
    if operation in ("maximum", "minimum"):
        # an ordered comparison is false for NaN: the second value is taken, so a NaN there survives by itself
        order = "ogt" if operation == "maximum" else "olt"
        first = text.add(f"fcmp {order} {vector} {inputs[0]}, {inputs[1]}")
        nan = text.add(f"fcmp uno {vector} {inputs[0]}, {inputs[0]}")
        either = text.add(f"or {condition} {first}, {nan}")
        return text.add(f"select {condition} {either}, {vector} {inputs[0]}, {vector} {inputs[1]}")
    if operation == "sign":
        zero, one = _splat(text, _literal(0.0, kind), kind, lanes), _splat(text, _literal(1.0, kind), kind, lanes)
        below = text.add(f"fcmp olt {vector} {inputs[0]}, {zero}")
        above = text.add(f"fcmp ogt {vector} {inputs[0]}, {zero}")
        minus = text.add(f"select {condition} {below}, {vector} {text.add(f'fneg {vector} {one}')}, {vector} {zero}")
        return text.add(f"select {condition} {above}, {vector} {one}, {vector} {minus}")
    raise ValueError(f"the cpu engine has no operation {operation!r}: add it to tameopt.optim.engines.llvm_source.")
