"""Is a network a product of weight matrices, W_N ... W_1 x?

Recognised from the trace of its outputs in theta: matrix products with each weight once, in a chain, nothing else,
however the model writes them. A trace that reads no values is that of every theta; the product itself is compared
with the outputs besides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tameopt.problem import Problem
from tameopt.structure.program import Node, Ref
from tameopt.structure.subject import new_leaf
from tameopt.structure.trace import traced

_VIEWS = {"view", "reshape", "_unsafe_view", "squeeze", "unsqueeze", "clone", "alias"}


@dataclass(frozen=True)
class LinearChain:
    """What a network is as a product of matrices.

    layers: names of the weights from input to output, () when it was not recognised: reason says why. upright: for
    each whether it is stored as (outputs, inputs), as in nn.Linear, or the other way round. broken: the weight in
    which the outputs were seen not to be linear, with the relative error, or None. widths: of input, hidden layers,
    output.
    """

    layers: tuple[str, ...] = ()
    upright: tuple[bool, ...] = ()
    widths: tuple[int, ...] = ()
    reason: str = ""
    broken: tuple[str, float] | None = None

    @property
    def bottleneck(self) -> int:
        """The largest rank that the product can have."""
        return min(self.widths)

    @property
    def wide(self) -> bool:
        """No hidden layer is narrower than both input and output."""
        return self.bottleneck == min(self.widths[0], self.widths[-1])

    def matrices(self, parts: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """W_1, ..., W_N, each (outputs, inputs)."""
        return [parts[name] if up else parts[name].T for name, up in zip(self.layers, self.upright, strict=True)]


def linear_chain(problem: Problem, seed: int = 0) -> LinearChain:
    """The network as W_N ... W_1 x in its trainable weights, or why it is not seen to be one.

    Frozen weights, biases, weights used twice, residual connections and activations are no such product. Cost: some
    value passes on one batch.

    >>> layers = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 3, bias=False))
    >>> linear_chain(Problem(layers, torch.nn.MSELoss(), (torch.eye(3), torch.eye(3)))).widths
    (3, 2, 3)
    """
    if problem.is_function or problem.forward is not None:
        return LinearChain(reason="the problem does not show the network's outputs")
    batch = next(iter(problem.batches))
    pair = (
        isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, torch.Tensor) for part in batch)
    )
    if not pair or not batch[0].is_floating_point():
        return LinearChain(reason="the network takes no single floating tensor")
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(problem.dim, dtype=torch.float64, generator=generator).to(problem.theta)
    # near the size of the weights themselves, or an overflow would speak of nothing
    theta = theta * float(problem.theta.double().pow(2).mean().sqrt().clamp_min(0.1))
    broken = _broken(problem, theta, batch)
    weights = _weights(problem, theta, batch)
    if broken is not None:
        reason = weights if isinstance(weights, str) else f"the outputs are not linear in {broken[0]}"
        return LinearChain(reason=reason, broken=broken)
    return LinearChain(reason=weights) if isinstance(weights, str) else _checked(problem, theta, batch, weights)


def _weights(problem: Problem, theta: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> tuple[_Weight, ...] | str:
    """The weights from input to output as the trace has them, or why it is no such product."""
    leaves = {name: new_leaf(part) for name, part in problem.unflatten(theta).items()}
    try:
        program, _ = traced(leaves, [], {}, lambda: problem.batch_output(leaves, batch, True))
    except (RuntimeError, ValueError, TypeError) as error:
        return f"the network could not be traced: {str(error).strip().splitlines()[0][:100]}"
    if program.obstructions or program.hooks or program.random:
        return "its trace does not say what it does for every theta"
    found: dict[int, _Product] = {}
    for index in program.live():
        product = _product(program.nodes[index], found)
        if isinstance(product, str):
            return product
        found[index] = product
    last = found[program.outputs[0].node] if program.outputs and isinstance(program.outputs[0], Ref) else None
    if last is None or not last or last[0] is not None:
        return "the outputs are no product with the inputs, one row a sample"
    return tuple(weight for weight in last if weight is not None)


@dataclass(frozen=True)
class _Weight:
    name: str
    turned: bool


_Product = tuple[_Weight | None, ...]  # the factors from left to right; None: the inputs, one row a sample


def _product(node: Node, found: dict[int, _Product]) -> _Product | str:
    """What a node computes as a product of weights and the inputs, or why it is none."""
    if node.op == "theta":
        return (_Weight(str(node.arguments["name"]), False),)
    if node.op == "addmm" and isinstance(bias := node.arguments["self"], Ref) and len(found[bias.node]) == 1:
        (one,) = found[bias.node]
        return f"it adds the bias {one.name}" if one is not None else "it adds the inputs"
    other = f"it runs {node.op} ({node.place}), which is no product of the inputs with one weight after another"
    if node.cut or len(node.outputs) != 1:
        return other
    # a constant factor is taken for the inputs here; whether it is them is checked by values
    factors = {
        name: found[item.node] if isinstance(item, Ref) else (None,)
        for name, item in node.arguments.items()
        if name in ("self", "mat2")
    }
    first = factors.get("self", ())
    if _turns(node) and len(node.outputs[0]) == 2:
        return tuple(one and _Weight(one.name, not one.turned) for one in reversed(first))
    if node.op in _VIEWS and first[:1] == (None,):
        return first if node.shapes["self"][-1:] == node.outputs[0][-1:] else other
    if node.op != "mm":
        return other
    product = first + factors["mat2"]
    names = [one.name for one in product if one is not None]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        return f"it uses {twice} twice"
    return product if product.count(None) <= 1 else other


def _turns(node: Node) -> bool:
    """Whether the node transposes a matrix."""
    given = node.arguments
    if node.op == "transpose":
        return sorted(axis % 2 for axis in (given["dim0"], given["dim1"])) == [0, 1]
    return node.op == "t" or (node.op == "permute" and [axis % 2 for axis in given["dims"]] == [1, 0])


def _broken(problem: Problem, theta: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> tuple[str, float] | None:
    """The first weight W with f(-2 W) != -2 f(W), others held."""
    with torch.no_grad():
        parts = problem.unflatten(theta)
        plain = problem.batch_output(parts, batch, True).double()
        for name, part in parts.items():
            scaled = problem.batch_output({**parts, name: -2 * part}, batch, True).double()
            error = float((scaled + 2 * plain).norm()) / max(float(scaled.norm()), 2 * float(plain.norm()), 1e-300)
            # 1e4 units of rounding, our choice: products of long layers stay far below
            if error > 1e4 * torch.finfo(theta.dtype).eps:
                return name, error
    return None


def _checked(
    problem: Problem, theta: torch.Tensor, batch: tuple[torch.Tensor, ...], weights: tuple[_Weight, ...]
) -> LinearChain:
    # inputs in rows times A^T is the layer A: a factor that was turned is stored upright
    parts, chain = (
        problem.unflatten(theta),
        LinearChain(tuple(one.name for one in weights), tuple(one.turned for one in weights)),
    )
    unused = [name for name in parts if name not in chain.layers]
    if unused:
        return LinearChain(reason=f"{unused[0]} takes no part in the outputs")
    matrices = chain.matrices(parts)
    widths = (matrices[0].shape[1], *(W.shape[0] for W in matrices))
    with torch.no_grad():
        outputs = problem.batch_output(parts, batch, True)
        if outputs.shape[-1] != widths[-1] or batch[0].numel() % widths[0]:
            return LinearChain(reason="its outputs are reshaped")
        product = in_rows(batch[0], widths[0])
        for W in matrices:
            product = product @ W.T
        same = product.shape == in_rows(outputs, widths[-1]).shape
        size = float(outputs.double().norm())
        if not same or not float((product - in_rows(outputs, widths[-1])).double().norm()) <= 1e-4 * size:
            return LinearChain(reason="its outputs are not its weights times the data: something frozen acts on them")
    return LinearChain(chain.layers, chain.upright, widths)


def in_rows(tensor: torch.Tensor, width: int) -> torch.Tensor:
    """(samples, width) inputs or outputs of a chain."""
    return tensor.reshape(-1, width)
