"""From graphs to Triton kernels: `step` makes one pass over memory, `fold` makes its coefficients.

`step` is one launch over a table of chunks, one program a chunk: each looks up which tensor its chunk belongs to, its
tensor's addresses and its row of coefficients, and runs the rule on up to BLOCK elements. Full chunks take a path
without masks so that loads stay vectors. Divisions and square roots are the correctly rounded ones, and the launch
switches off the fusion of products and sums, so the arithmetic is the eager engine's.

`fold` counts the step and folds hyperparameters and counts into coefficients, in double, one element a unit. Both
leave everything as it is where `skip` (a GradScaler's found_inf) is not 0, and neither touches a unit whose gradient
has the address 0.
"""

from __future__ import annotations

from tameopt.optim.expr import Graph, Instruction
from tameopt.optim.fold import Fold

_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "less": "<", "greater": ">", "same": "=="}
_TYPES = {"float32": "tl.float32", "float64": "tl.float64", "float16": "tl.float16", "bfloat16": "tl.bfloat16"}
_IMPORTS = ["import triton", "import triton.language as tl", "", ""]


def step(graph: Graph, names: tuple[str, ...], dtypes: tuple[str, ...], compute: str) -> str:
    """Python text of the kernel `step`.

    names: "theta", "g" and the states in the order of the pointer table; dtypes: of each, such as "bfloat16";
    compute: "float32" or "float64".
    """
    lines = [
        *_IMPORTS,
        # no variant of the kernel for counts that are 1 or a multiple of 16: each would be compiled anew
        '@triton.jit(do_not_specialize=["count"])',
        "def step(table, count, tensors, starts, lengths, coefficients, skip, BLOCK: tl.constexpr, "
        "ALIGNED: tl.constexpr):",
        "    chunk = tl.program_id(0)",
        "    tensor = tl.load(tensors + chunk)",
        "    there = (tl.load(table + count + tensor) != 0) & (tl.load(skip) == 0.0)",
        "    if there:",
        "        start = tl.load(starts + chunk)",
        "        length = tl.load(lengths + chunk)",
        "        offsets = tl.arange(0, BLOCK)",
    ]
    for place, (name, dtype) in enumerate(zip(names, dtypes, strict=True)):
        at = f"tl.load(table + {place} * count + tensor).to(tl.pointer_type({_TYPES[dtype]}))"
        lines.append(f"        p_{name} = {at} + start")
        lines += ["        if ALIGNED:", f"            p_{name} = tl.multiple_of(p_{name}, 16)"]
    for place, name in enumerate(graph.coefficients):
        lines.append(f"        c_{name} = tl.load(coefficients + tensor * {len(graph.coefficients)} + {place})")
    lines.append("        if length == BLOCK:")
    lines += [f"            {line}" for line in _body(graph, names, dtypes, compute, "")]
    lines.append("        else:")
    lines.append("            inside = offsets < length")
    lines += [f"            {line}" for line in _body(graph, names, dtypes, compute, ", mask=inside")]
    return "\n".join(lines) + "\n"


def fold(graph: Fold, kept: tuple[str, ...], given: tuple[str, ...], count_type: str, compute: str) -> str:
    """Python text of the kernel `fold`.

    kept: the counts in the order of their table; given: the numbers of this step in the order of theirs; count_type:
    "float32" or "float64", of the counts; compute: of the coefficients.
    """
    lines = [
        *_IMPORTS,
        '@triton.jit(do_not_specialize=["count"])',
        "def fold(table, count, groups, options, counts, first, given, skip, coefficients, BLOCK: tl.constexpr, "
        "SHARED: tl.constexpr):",
        "    unit = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = unit < count",
        # a block of zeros: Triton's interpreter cannot spread the result of a comparison of two scalars
        "    goes_on = inside & (tl.load(skip + tl.full([BLOCK], 0, tl.int32)) == 0.0)",
        "    there = goes_on & (tl.load(table + count + unit, mask=inside, other=0) != 0)",
        "    counted = goes_on if SHARED else there",
        "    group = tl.load(groups + unit, mask=inside, other=0)",
    ]
    for place, name in enumerate(graph.options):
        at = f"options + group * {len(graph.options)} + {place}"
        lines.append(f"    option_{_word(name)} = tl.load({at}, mask=inside, other=0.5)")
    for name in graph.scalars:
        if name == "first":
            at = "first + unit"
        elif name in kept:
            at = f"counts + {kept.index(name)} * count + unit"
        else:
            at = f"given + {given.index(name)} * count + unit"
        more = " + 1.0" if name == "step" else ""
        lines.append(f"    scalar_{name} = tl.load({at}, mask=inside, other=0.5).to(tl.float64){more}")
    for position, instruction in enumerate(graph.instructions):
        if instruction.operation == "stored":
            value = f"v{instruction.inputs[0]}.to({_TYPES[count_type]}).to(tl.float64)"
        else:
            value = _expression(instruction, "float64")
        lines.append(f"    v{position} = {value}")
    width = len(graph.coefficients)
    for place, (_, position) in enumerate(graph.coefficients):
        value = f"(v{position} + tl.full([BLOCK], 0.0, tl.float64)).to({_TYPES[compute]})"
        lines.append(f"    tl.store(coefficients + unit * {width} + {place}, {value}, mask=inside)")
    for name, position in graph.kept:
        value = f"(v{position} + tl.full([BLOCK], 0.0, tl.float64)).to({_TYPES[count_type]})"
        lines.append(f"    tl.store(counts + {kept.index(name)} * count + unit, {value}, mask=counted)")
    lines.append(f"    tl.store(first + unit, tl.full([BLOCK], 0.0, {_TYPES[count_type]}), mask=there)")
    return "\n".join(lines) + "\n"


def squares(dtype: str) -> str:
    """Python text of `squares`, the sum of squares of each chunk of the gradients in double, and of `total`, the sum
    of those of each unit: the same order of additions every time, so replicas agree."""
    return "\n".join([
        *_IMPORTS,
        "@triton.jit",
        "def add(x, y):",
        "    return x + y",
        "",
        "",
        '@triton.jit(do_not_specialize=["count"])',
        "def squares(table, count, tensors, starts, lengths, found, BLOCK: tl.constexpr):",
        "    chunk = tl.program_id(0)",
        "    tensor = tl.load(tensors + chunk)",
        "    address = tl.load(table + count + tensor)",
        "    if address != 0:",
        f"        g = address.to(tl.pointer_type({_TYPES[dtype]})) + tl.load(starts + chunk)",
        "        offsets = tl.arange(0, BLOCK)",
        "        inside = offsets < tl.load(lengths + chunk)",
        "        x = tl.load(g + offsets, mask=inside, other=0.0).to(tl.float64)",
        "        tl.store(found + chunk, tl.reduce(x * x, 0, add))",
        "    else:",
        "        tl.store(found + chunk, 0.0)",
        "",
        "",
        "@triton.jit",
        "def total(found, begins, sums, BLOCK: tl.constexpr):",
        "    unit = tl.program_id(0)",
        "    place = tl.load(begins + unit)",
        "    end = tl.load(begins + unit + 1)",
        "    partial = tl.full([BLOCK], 0.0, tl.float64)",
        "    while place < end:",
        "        at = place + tl.arange(0, BLOCK)",
        "        partial += tl.load(found + at, mask=at < end, other=0.0)",
        "        place += BLOCK",
        "    tl.store(sums + unit, tl.reduce(partial, 0, add))",
        "",
    ])  # fmt: skip


def _word(name: str) -> str:
    return name.replace(".", "_")


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
            value = f"({value} + tl.full([BLOCK], 0.0, {work}))"
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
    if operation in ("option", "scalar"):
        return f"{operation}_{_word(instruction.name)}"
    if operation == "constant":  # a bare literal would be a float32, whatever it meets
        return f"tl.full((), {instruction.value!r}, {_TYPES[compute]})"
    if operation in _INFIX:
        return f"{x[0]} {_INFIX[operation]} {x[1]}"
    if operation == "divide":
        return f"tl.div_rn({x[0]}, {x[1]})" if compute == "float32" else f"{x[0]} / {x[1]}"
    if operation == "sqrt":
        return f"tl.sqrt_rn({x[0]})" if compute == "float32" else f"tl.sqrt({x[0]})"
    if operation == "power":  # in double, rounded once; 0^0 is 1
        base, exponent = (f"{each}.to(tl.float64)" for each in x)
        return f"tl.where({x[1]} == 0.0, 1.0, tl.exp2({exponent} * tl.log2({base}))).to({_TYPES[compute]})"
    if operation == "modulo":
        return f"{x[0]} - tl.floor({x[0]} / {x[1]}) * {x[1]}"
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
    raise ValueError(
        f"the triton engine has no operation {operation!r}: add it to tameopt.optim.engines.triton_source."
    )
