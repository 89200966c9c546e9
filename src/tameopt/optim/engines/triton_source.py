"""From a graph to a Triton kernel: one launch over a table of chunks, one program a chunk, one pass over memory.

Each program looks up which tensor its chunk belongs to, that tensor's addresses and its row of coefficients, and
runs the rule on up to BLOCK elements. Full chunks take a path without masks so that loads stay vectors. Divisions
and square roots are the correctly rounded ones, and the launch switches off the fusion of products and sums, so the
arithmetic is the eager engine's.
"""

from __future__ import annotations

from tameopt.optim.expr import Graph, Instruction

_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "less": "<", "greater": ">", "same": "=="}
_TYPES = {"float32": "tl.float32", "float64": "tl.float64", "float16": "tl.float16", "bfloat16": "tl.bfloat16"}


def unsupported(graph: Graph) -> str:
    """The operation that Triton has no correctly rounded form of, or ""."""
    return next((i.operation for i in graph.instructions if i.operation == "power"), "")


def kernel(graph: Graph, names: tuple[str, ...], dtypes: tuple[str, ...], compute: str) -> str:
    """Python text of a Triton kernel called `step`.

    names: "theta", "g" and the states in the order of the pointer table; dtypes: of each, such as "bfloat16";
    compute: "float32" or "float64".
    """
    lines = [
        "import triton",
        "import triton.language as tl",
        "",
        "",
        "@triton.jit",
        "def step(table, stride, row_of, tensors, starts, lengths, coefficients, BLOCK: tl.constexpr, "
        "ALIGNED: tl.constexpr):",
        "    chunk = tl.program_id(0)",
        "    tensor = tl.load(tensors + chunk)",
        "    row = tl.load(row_of + tensor)",
        "    if row >= 0:",
        "        start = tl.load(starts + chunk)",
        "        length = tl.load(lengths + chunk)",
        "        offsets = tl.arange(0, BLOCK)",
    ]
    for place, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        at = f"tl.load(table + {place} * stride + tensor).to(tl.pointer_type({_TYPES[dtype]}))"
        lines.append(f"        p_{name} = {at} + start")
        lines += ["        if ALIGNED:", f"            p_{name} = tl.multiple_of(p_{name}, 16)"]
    for place, name in enumerate(graph.coefficients):
        lines.append(f"        c_{name} = tl.load(coefficients + row * {len(graph.coefficients)} + {place})")
    lines.append("        if length == BLOCK:")
    lines += [f"            {line}" for line in _body(graph, names, dtypes, compute, "")]
    lines.append("        else:")
    lines.append("            inside = offsets < length")
    lines += [f"            {line}" for line in _body(graph, names, dtypes, compute, ", mask=inside")]
    return "\n".join(lines) + "\n"


def _body(graph: Graph, names: tuple[str, ...], dtypes: tuple[str, ...], compute: str, mask: str) -> list[str]:
    storage = dict(zip(names, dtypes, strict=True))
    work = _TYPES[compute]
    other = ", other=0.0" if mask else ""
    lines = [f"x_{name} = tl.load(p_{name} + offsets{mask}{other}).to({work})" for name in graph.reads()]
    for position, instruction in enumerate(graph.instructions):
        lines += _lines(position, instruction, compute, storage["theta"])
    for name, position in (("theta", graph.theta), *graph.outputs):
        # a value that is the same for all elements (a constant new state) must still fill the block
        value = f"v{position}"
        if graph.uniform(position):
            value = f"({value} + tl.zeros([BLOCK], {work}))"
        lines.append(f"tl.store(p_{name} + offsets, {value}.to({_TYPES[storage[name]]}){mask})")
    return lines


def _lines(position: int, instruction: Instruction, compute: str, storage: str) -> list[str]:
    if instruction.operation == "stored":
        return [f"v{position} = v{instruction.inputs[0]}.to({_TYPES[storage]}).to({_TYPES[compute]})"]
    if instruction.operation != "dithered":
        return [f"v{position} = {_expression(instruction, compute)}"]
    value, seed = (f"v{i}" for i in instruction.inputs)
    h = f"h{position}"
    lines = [f"{h} = (start + offsets).to(tl.uint32) + {seed}.to(tl.uint32) * 0x9E3779B9"]
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        lines.append(f"{h} = ({h} ^ ({h} >> {shift})) * {factor:#x}")
    bits = f"({value}.to(tl.uint32, bitcast=True) + ({h} & 0xFFFF)) & 0xFFFF0000"
    rounded = f"({bits}).to(tl.float32, bitcast=True)"
    lines.append(f'v{position} = tl.where(tl.abs({value}) < float("inf"), {rounded}, {value})')
    return lines


def _expression(instruction: Instruction, compute: str) -> str:
    x = [f"v{i}" for i in instruction.inputs]
    operation = instruction.operation
    if operation in ("theta", "g"):
        return f"x_{operation}"
    if operation == "state":
        return f"x_{instruction.name}"
    if operation == "coefficient":
        return f"c_{instruction.name}"
    if operation == "constant":
        return repr(instruction.value)
    if operation in _INFIX:
        return f"{x[0]} {_INFIX[operation]} {x[1]}"
    if operation == "divide":
        return f"tl.div_rn({x[0]}, {x[1]})" if compute == "float32" else f"{x[0]} / {x[1]}"
    if operation == "sqrt":
        return f"tl.sqrt_rn({x[0]})" if compute == "float32" else f"tl.sqrt({x[0]})"
    if operation == "negative":
        return f"-{x[0]}"
    if operation == "absolute":
        return f"tl.abs({x[0]})"
    if operation == "where":
        return f"tl.where({x[0]}, {x[1]}, {x[2]})"
    if operation in ("maximum", "minimum"):
        sign = ">" if operation == "maximum" else "<"  # false for NaN: a NaN in the second survives by itself
        return f"tl.where(({x[0]} {sign} {x[1]}) | ({x[0]} != {x[0]}), {x[0]}, {x[1]})"
    if operation == "sign":
        return f"tl.where({x[0]} > 0.0, 1.0, tl.where({x[0]} < 0.0, -1.0, 0.0))"
    raise ValueError(f"the triton engine has no operation {operation!r}.")
