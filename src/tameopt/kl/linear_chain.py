"""Is a network a product of weight matrices, W_N ... W_1 x, and do widths and data leave no bad local minimum?

Recognised from the trace of its outputs in theta: matrix products with each weight once, in a chain, nothing else. A
trace that reads no values is that of every theta; the product itself is compared with the outputs besides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tameopt.problem import Problem
from tameopt.structure.program import Node, Ref
from tameopt.structure.subject import new_leaf
from tameopt.structure.trace import traced

_VIEWS = {"view", "reshape", "_unsafe_view", "clone", "alias"}
_TURNS = {"t", "transpose", "permute", "numpy_T"}
# our choice: rank is called full above 1e-6 of the largest singular value and deficient below 1e-12; open between
_FULL, _DEFICIENT = 1e-6, 1e-12


@dataclass(frozen=True)
class LinearChain:
    """What a network is as a product of matrices.

    layers: names of the weights from input to output, () when it was not recognised: reason says why. broken: the
    weight in which the outputs were seen not to be linear, with the relative error, or None. widths: of input, hidden
    layers, output.
    """

    layers: tuple[str, ...] = ()
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


@dataclass(frozen=True)
class LinearData:
    """The inputs' rank and the least value of norm(W X - Y)^2 over matrices W that the network can be.

    singular_values: of the inputs, descending. least: of norm(W X - Y)^2.
    """

    dimension: int
    singular_values: tuple[float, ...]
    least: float

    @property
    def ratio(self) -> float:
        """The smallest singular value over the largest, 0 when there are fewer samples than inputs."""
        if len(self.singular_values) < self.dimension or not self.singular_values[0] > 0:
            return 0.0
        return self.singular_values[-1] / self.singular_values[0]

    @property
    def full_rank(self) -> bool | None:
        """Whether the inputs span their space; None when rounding leaves it open."""
        return True if self.ratio > _FULL else False if self.ratio < _DEFICIENT else None


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
    if len(batch) != 2 or not batch[0].is_floating_point():
        return LinearChain(reason="the network takes no single floating tensor")
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(problem.dim, dtype=torch.float64, generator=generator).to(problem.theta)
    # near the size of the weights themselves, or an overflow would speak of nothing
    theta = theta * float(problem.theta.double().pow(2).mean().sqrt().clamp_min(0.1))
    broken = _broken(problem, theta, batch)
    if broken is not None:
        name, error = broken
        return LinearChain(reason=f"the outputs are not linear in {name}", broken=(name, error))
    leaves = {name: new_leaf(part) for name, part in problem.unflatten(theta).items()}
    try:
        program, _ = traced(leaves, [], {}, lambda: problem.batch_output(leaves, batch, True))
    except (RuntimeError, ValueError, TypeError) as error:
        return LinearChain(reason=f"the network could not be traced: {str(error).strip().splitlines()[0][:100]}")
    if program.obstructions or program.hooks or program.random:
        return LinearChain(reason="its trace does not say what it does for every theta")
    kinds: dict[int, _Weight | _Layer] = {}
    for index in program.live():
        found = _kind(program.nodes[index], kinds)
        if isinstance(found, str):
            return LinearChain(reason=found)
        kinds[index] = found
    last = kinds[program.outputs[0].node] if program.outputs and isinstance(program.outputs[0], Ref) else None
    if not isinstance(last, _Layer):
        return LinearChain(reason="the outputs are no product with the inputs")
    return _checked(problem, theta, batch, last.weights)


def linear_data(problem: Problem, chain: LinearChain) -> LinearData:
    """Rank of the inputs and the least value of norm(W X - Y)^2, by two singular value decompositions."""
    X = torch.cat([_rows(batch[0], chain.widths[0]) for batch in problem.batches]).double()
    Y = torch.cat([_rows(batch[1], chain.widths[-1]) for batch in problem.batches]).double()
    U, s, _ = torch.linalg.svd(X, full_matrices=False)
    seen = U[:, s > _FULL * s.max()] if s.numel() else U[:, :0]
    inside = seen.T @ Y  # W X ranges over all matrices of that row space, of rank at most the bottleneck
    rest = torch.linalg.svdvals(inside)[chain.bottleneck :]
    least = float((Y - seen @ inside).square().sum() + rest.square().sum())
    return LinearData(X.shape[1], tuple(s.tolist()), least)


@dataclass(frozen=True)
class _Weight:
    name: str
    turned: bool


@dataclass(frozen=True)
class _Layer:
    """The inputs times these weights, each turned."""

    weights: tuple[str, ...]


def _kind(node: Node, kinds: dict[int, _Weight | _Layer]) -> _Weight | _Layer | str:
    if node.op == "theta":
        return _Weight(str(node.arguments["name"]), False)
    other = f"it runs {node.op} ({node.place}), which is no product of the inputs with one weight after another"
    if node.cut or len(node.outputs) != 1:
        return other
    given = {name: kinds[item.node] if isinstance(item, Ref) else item for name, item in node.arguments.items()}
    first = given.get("self")
    if node.op in _TURNS and isinstance(first, _Weight) and len(node.outputs[0]) == 2:
        return _Weight(first.name, not first.turned)
    if node.op in _VIEWS and isinstance(first, _Layer):
        return first if node.shapes["self"][-1:] == node.outputs[0][-1:] else other
    if node.op in ("mm", "bmm"):
        weight = given.get("mat2")
        if node.op == "mm" and isinstance(weight, _Weight) and weight.turned and not isinstance(first, _Weight):
            before = first.weights if isinstance(first, _Layer) else ()
            return f"it uses {weight.name} twice" if weight.name in before else _Layer((*before, weight.name))
    return other


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
    problem: Problem, theta: torch.Tensor, batch: tuple[torch.Tensor, ...], names: tuple[str, ...]
) -> LinearChain:
    parts = problem.unflatten(theta)
    unused = [name for name in parts if name not in names]
    if unused:
        return LinearChain(reason=f"{unused[0]} takes no part in the outputs")
    widths = (parts[names[0]].shape[1], *(parts[name].shape[0] for name in names))
    with torch.no_grad():
        outputs = problem.batch_output(parts, batch, True)
        if outputs.shape[-1] != widths[-1] or batch[0].numel() % widths[0]:
            return LinearChain(reason="its outputs are reshaped")
        product = _rows(batch[0], widths[0])
        for name in names:
            product = product @ parts[name].T
        same = product.shape == _rows(outputs, widths[-1]).shape
        size = float(outputs.double().norm())
        if not same or float((product - _rows(outputs, widths[-1])).double().norm()) > 1e-4 * size:
            return LinearChain(reason="its outputs are not its weights times the data: something frozen acts on them")
    return LinearChain(names, widths)


def _rows(tensor: torch.Tensor, width: int) -> torch.Tensor:
    return tensor.reshape(-1, width)


def size_in_words(chain: LinearChain) -> str:
    """Layers, widths, and where it is narrow."""
    hidden = chain.widths[1:-1]
    narrow = f"; its narrowest hidden layer has {min(hidden):,}" if hidden else ""
    widths = " -> ".join(f"{width:,}" for width in chain.widths)
    return f"{len(chain.layers)} weight matri{'ces' if hidden else 'x'} ({widths}){narrow}"
