"""Index and nullity at critical points of deep linear networks: all d eigenvalue signs from a few Hessian products.

At such a point the singular vectors of the network's map, of what it misses, and of the hidden layers fit together.
In these bases, one invertible change C of coordinates, C^T H C falls into blocks of at most 2 N coordinates for N
layers: the entries (a, b) and (b, a) of every layer. 2 N products with H read all blocks off at once, and by
Sylvester's law of inertia they have as many negative, zero and positive eigenvalues as H.

Nothing is taken on trust: products with random vectors bound norm(C^T H C - blocks), so a network that is not
linear, a point that is not critical, or another loss is recognised by its remainder and gets no count.

Sources: Baldi and Hornik 1989 (critical points of two layers); the block form follows by inserting the bases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.batches import size_of
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem
from tameopt.structure.linear_chain import LinearChain, in_rows, linear_chain

_RANK_TOLERANCE = 1e-4  # our choice: singular values of the map below this share of the largest count as 0
_CHECKS = 5
# norm(E z) of 5 normal vectors z all fall below norm(E)_F / 10 with probability (2/pi 0.01)^(5/2) < 4e-6
_CHECK_FACTOR = 10.0


@dataclass(frozen=True)
class Inertia:
    """Signs of all eigenvalues of a Hessian H, from the blocks of C^T H C.

    eigenvalues: (d,) float64, ascending, of the blocks: their signs are H's, their sizes are not. remainder: bound of
    norm(C^T H C - blocks)_F, except with probability 4e-6; eigenvalues beyond it have a sure sign. products: spent.
    """

    eigenvalues: torch.Tensor
    remainder: float
    products: int

    def counts(self, zero_tolerance: float) -> tuple[int, int, float]:
        """(negative, zero, gap): eigenvalues within max(remainder, zero_tolerance * largest) count as 0; gap is the
        smallest size counted as not 0, over the largest counted as 0 (the remainder at least)."""
        sizes = self.eigenvalues.abs()
        zero = max(self.remainder, zero_tolerance * float(sizes.max()))
        flat = sizes <= zero
        floor = max(float(sizes[flat].max()) if bool(flat.any()) else 0.0, self.remainder)
        smallest = float(sizes[~flat].min()) if bool((~flat).any()) else math.inf
        gap = smallest / floor if floor > 0 else math.inf
        return int(((self.eigenvalues < 0) & ~flat).sum()), int(flat.sum()), gap


def inertia(problem: Problem, theta: torch.Tensor | None = None, *, seed: int = 0) -> Inertia | None:
    """The signs of all Hessian eigenvalues of a deep linear network at a critical point; None for anything else.

    problem: float64, its network a product of its weight matrices and nothing else, however the model writes it
    (`structure.linear_chain`), with inputs that span their space. theta: (d,).

    Accuracy: `Inertia.remainder`. Cost: 2 N + 5 Hessian products for N layers, and singular value decompositions of
    the layers' sizes.

    >>> layers = torch.nn.Sequential(torch.nn.Linear(4, 3, bias=False), torch.nn.Linear(3, 4, bias=False)).double()
    >>> data = (torch.eye(4).double(), torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).double())
    >>> problem = Problem(layers, torch.nn.MSELoss(), data)
    >>> inertia(problem, torch.zeros(24).double()).counts(1e-6)[:2]
    (12, 0)
    """
    at = problem.at(theta)
    places = _places(problem, at)
    if places is None:
        return None
    congruent = _congruent(problem, problem.hessian(at), places)
    labels = _labels(problem, places)
    blocks, products = _blocks(congruent, labels)
    generator = torch.Generator().manual_seed(seed)
    probes = torch.randn(problem.dim, _CHECKS, dtype=torch.float64, generator=generator).to(at)
    difference = congruent.product(probes) - _apply(blocks, labels, probes)
    remainder = _CHECK_FACTOR * float(difference.norm(dim=0).max())
    values = _eigenvalues(blocks, labels)
    if not math.isfinite(remainder) or remainder > 0.01 * float(values.abs().max()):
        return None
    return Inertia(values.sort().values, remainder, products + _CHECKS)


Frames = list[tuple[torch.Tensor, torch.Tensor]]  # (A_l, A_(l-1)^-1) of each layer: dW = A_l dW' A_(l-1)^-1


@dataclass(frozen=True)
class _Place:
    """Where a parameter stands: its layer from 0, whether it is stored as (outputs, inputs), its frames."""

    layer: int
    upright: bool
    frame: tuple[torch.Tensor, torch.Tensor]


def _places(problem: Problem, at: torch.Tensor) -> list[_Place] | None:
    """For each parameter its layer and the bases in which the layers are diagonal; None for no such network."""
    if at.dtype != torch.float64 or problem.sharing is not None:
        return None  # with shared data the frames would come from this process's data alone
    chain = linear_chain(problem)
    if not chain.layers:
        return None
    parts = problem.unflatten(at)
    layers = chain.matrices(parts)
    X = torch.cat([in_rows(batch[0], chain.widths[0]) for batch in problem.batches])
    if X.shape[0] < X.shape[1] or not bool(torch.isfinite(X).all() & torch.isfinite(at).all()):
        return None
    spread, axes = torch.linalg.eigh(X.T @ X)
    if not float(spread[0]) > 1e-8 * float(spread[-1]):
        return None  # inputs that do not span their space: the frame at the input would be singular
    root = axes * spread.sqrt() @ axes.T
    inverse_root = axes / spread.sqrt() @ axes.T
    residual = _pull(problem, parts, chain) @ inverse_root
    frames = _frames(layers, root, inverse_root, residual)
    order = [chain.layers.index(name) for name in parts]
    return [_Place(layer, chain.upright[layer], frames[layer]) for layer in order]


def _pull(problem: Problem, parts: dict[str, torch.Tensor], chain: LinearChain) -> torch.Tensor:
    """(outputs, inputs) the gradient of F in the network's map: sum_i grad l_i(outputs) x_i^T."""
    total = torch.zeros(chain.widths[-1], chain.widths[0]).to(problem.theta)
    for batch in problem.batches:
        with torch.no_grad():
            outputs = problem.batch_output(parts, batch, True)
        leaf = outputs.requires_grad_()
        with torch.enable_grad():
            assert problem.loss is not None
            value = problem.loss(leaf, batch[1]).sum()
            (gradient,) = torch.autograd.grad(value, leaf)
        weight = size_of(batch) if problem.reduction == "mean" else 1
        pulled = in_rows(gradient, chain.widths[-1]).T @ in_rows(batch[0], chain.widths[0])
        total = total + weight * problem.scale * pulled
    return total


def _frames(
    layers: list[torch.Tensor], root: torch.Tensor, inverse_root: torch.Tensor, residual: torch.Tensor
) -> Frames:
    """Frames from the singular vectors of the map (first r channels) and of the residual (the rest)."""
    ahead = [root]  # W_l ... W_1 on whitened inputs
    for W in layers:
        ahead.append(W @ ahead[-1])
    U, s, Vh = torch.linalg.svd(ahead[-1])
    size = max(float(s[0]), float(residual.norm())) if s.numel() else 0.0
    r = int((s > _RANK_TOLERANCE * size).sum())
    # what is left: the residual between the complements, by its own singular vectors
    left, _, right = torch.linalg.svd(U[:, r:].T @ residual @ Vh[r:].T)
    V = torch.cat([Vh[:r].T, Vh[r:].T @ right.T], dim=1)
    U = torch.cat([U[:, :r], U[:, r:] @ left], dim=1)
    bases = [root @ V]
    inverses = [V.T @ inverse_root]
    behind = torch.eye(layers[-1].shape[0], dtype=U.dtype, device=U.device)
    duals = [behind]  # W_N ... W_(l+1)
    for W in reversed(layers[1:]):
        duals.insert(0, duals[0] @ W)
    for through, dual in zip(ahead[1:-1], duals[:-1], strict=True):
        images = through @ V[:, :r]
        images = images / images.norm(dim=0)
        # the rest of the layer: what the later layers do not carry to the kept outputs
        complement = torch.linalg.svd((dual.T @ U[:, :r]).T)[2][r:].T if r else torch.eye(through.shape[0]).to(U)
        bases.append(torch.cat([images, complement], dim=1))
        inverses.append(torch.linalg.inv(bases[-1]))
    bases.append(U)
    # an input frame in the original coordinates: W_1 acts on root^-1 of the whitened ones
    frames = [(bases[1], V.T @ inverse_root)]
    frames += [(bases[j + 1], inverses[j]) for j in range(1, len(layers))]
    return frames


def _congruent(problem: Problem, hessian: SymmetricOperator, places: list[_Place]) -> SymmetricOperator:
    """C^T H C, C: dW_l' -> A_l dW_l' A_(l-1)^-1 layer by layer."""
    shapes = list(problem.shapes.values())

    def moved(block: torch.Tensor, back: bool) -> torch.Tensor:
        parts, start = [], 0
        for (rows, columns), place in zip(shapes, places, strict=True):
            A, inverse = place.frame
            part = block[start : start + rows * columns].T.reshape(-1, rows, columns)
            part = part if place.upright else part.mT
            part = A.T @ part @ inverse.T if back else A @ part @ inverse
            part = part if place.upright else part.mT
            parts.append(part.reshape(block.shape[1], -1).T)
            start += rows * columns
        return torch.cat(parts)

    return SymmetricOperator(
        hessian.dim,
        lambda block: moved(hessian.product(moved(block, False)), True),
        hessian.dtype,
        hessian.device,
        f"{hessian.name}, in the network's bases",
    )


def _labels(problem: Problem, places: list[_Place]) -> torch.Tensor:
    """(2, d) for each coordinate its block and its place in it: (a, b) and (b, a) of all layers share a block."""
    width = max(max(shape) for shape in problem.shapes.values())
    block, place = [], []
    for (rows, columns), at in zip(problem.shapes.values(), places, strict=True):
        a, b = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        a, b = (a, b) if at.upright else (b, a)
        block.append((torch.minimum(a, b) * width + torch.maximum(a, b)).reshape(-1))
        place.append((2 * at.layer + (a < b).long()).reshape(-1))
    return torch.stack([torch.unique(torch.cat(block), return_inverse=True)[1], torch.cat(place)])


def _blocks(operator: SymmetricOperator, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """(number, p, p) the diagonal blocks: a product with one coordinate of each shows a column of all."""
    block, place = labels.to(operator.device)
    number, places = int(block.max()) + 1, int(place.max()) + 1
    blocks = torch.zeros(number, places, places, dtype=torch.float64, device=operator.device)
    starts = torch.stack([(place == j).to(operator.dtype) for j in range(places)], dim=1)
    images = operator.product(starts)
    for j in range(places):
        blocks[block, place, j] = images[:, j].double()
    present = torch.zeros(number, places, dtype=torch.bool, device=operator.device)
    present[block, place] = True
    return blocks * (present[:, :, None] & present[:, None, :]), places


def _apply(blocks: torch.Tensor, labels: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    block, place = labels.to(vectors.device)
    spread = torch.zeros(
        blocks.shape[0], blocks.shape[1], vectors.shape[1], dtype=blocks.dtype, device=vectors.device
    )
    spread[block, place] = vectors.double()
    return (blocks @ spread)[block, place].to(vectors)


def _eigenvalues(blocks: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(d,) of all blocks; places that a block does not have are put out of the way and left out."""
    block, place = labels.to(blocks.device)
    absent = torch.ones(blocks.shape[:2], dtype=torch.bool, device=blocks.device)
    absent[block, place] = False
    far = 4 * float(blocks.abs().sum(dim=2).max()) + 1
    symmetric = (blocks + blocks.mT) / 2 + torch.diag_embed(far * absent.to(blocks))
    values = torch.linalg.eigvalsh(symmetric).reshape(-1)
    return values[values < far / 2].cpu()
