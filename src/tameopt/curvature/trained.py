"""The loss that training steps on, its curvature, and how sure that is.

Training steps on F, unless modules behave otherwise in training (`training_mode`). Then the curvature of F says
nothing of the steps: a bias before BatchNorm has no gradient at all in training, while F, with fixed statistics,
curves along it as anywhere else. The loss as trained is a mean over draws: of masks, and of the batches that
BatchNorm sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tameopt.curvature.eigenvalues import Spectrum, spectrum
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem
from tameopt.student import student_quantile
from tameopt.training_mode import as_trained, listed, only_in_training, share_hessian_mode

# our choice: the top eigenvalue of a mean over few draws is biased upwards; four draws, and four fresh to check
_DRAWS = 4
# our choice: rounding of a product in units of eps norm(H); the curvature found has to be clear of it
_ROUNDING = 16.0


@dataclass(frozen=True)
class TrainedLoss:
    """The training loss as means over draws: `draws` to search in, `fresh` to check what was found.

    words: what it is and over what it was averaged, "" where training steps on F itself; `fresh` is then empty, as it
    is for a loss as trained that is one function. batch_size: of the steps, None for the full batch.
    """

    draws: tuple[Problem, ...]
    fresh: tuple[Problem, ...]
    words: str
    batch_size: int | None = None

    @staticmethod
    def of(problem: Problem, batch_size: int | None, seed: int) -> TrainedLoss:
        """The loss on which steps with batches of `batch_size` (None: the full batch) go down."""
        random, coupled = only_in_training(problem)
        if batch_size is not None and batch_size >= problem.n:
            batch_size = None
        if not random and not coupled:
            return TrainedLoss((problem,), (), "", batch_size)
        if not random and batch_size is None:
            words = "the loss as trained, with the statistics of the full batch in " + _named(coupled)
            return TrainedLoss((as_trained(problem, None, seed),), (), words)
        made = tuple(as_trained(problem, batch_size, 1000 * seed + j) for j in range(2 * _DRAWS))
        parts = []
        if random:
            parts.append(f"{_DRAWS} draws of the masks in {_named(random)}")
        if coupled:
            parts.append(f"statistics of batches of {made[0].batches.batch_size:,} in {_named(coupled)}")
        words = "the loss as trained, with " + ", ".join(parts)
        return TrainedLoss(made[:_DRAWS], made[_DRAWS:], words, batch_size)

    def gradient(self, theta: torch.Tensor) -> torch.Tensor:
        """(d,) float64, the mean gradient of the draws that are searched in."""
        total = torch.zeros_like(theta, dtype=torch.float64)
        for problem in self.draws:
            total += problem.gradient(theta).double() / len(self.draws)
        return total

    def hessian(self, theta: torch.Tensor) -> SymmetricOperator:
        """The mean Hessian of the draws that are searched in."""
        share_hessian_mode((*self.draws, *self.fresh), theta)
        hessians = [problem.hessian(theta) for problem in self.draws]
        first = self.draws[0]

        def product(block: torch.Tensor) -> torch.Tensor:
            total = sum((hessian.product(block) for hessian in hessians), torch.zeros_like(block))
            return total / len(hessians)

        return SymmetricOperator(
            first.dim, product, first.dtype, first.device, "Hessian of the loss as trained", float(len(hessians))
        )


def _named(modules: tuple[str, ...]) -> str:
    return f"the module{'s' if len(modules) > 1 else ''} {listed(modules)}"


@dataclass(frozen=True)
class TopCurvature:
    """lambda_max of P^-1/2 (H + decay) P^-1/2 for the loss as trained, on some coordinates.

    least, most: between these it lies as far as found: exactly up to rounding where the loss is one function, else
    with 95% confidence over the draws. missed: how far beyond `most` it may lie all the same, except with probability
    1%; inf when unknown. found: the pair that was found. products: Hessian products spent. NaN where there is none.
    """

    least: float
    most: float
    missed: float
    found: Spectrum
    products: int


def top_curvature(
    trained: TrainedLoss,
    theta: torch.Tensor,
    *,
    hessian: SymmetricOperator | None = None,
    scaling: torch.Tensor | None = None,
    decay: float = 0.0,
    coordinates: torch.Tensor | None = None,
    sought: int = 1,
    block_size: int = 2,
    tolerance: float | None = 1e-3,
    dense_below: int = 50,
    max_products: int | None = 200,
    generator: torch.Generator | None = None,
) -> TopCurvature:
    """The steepest curvature at theta: (d,), searched in some draws and measured again in fresh ones.

    hessian: `trained.hessian(theta)` where it is at hand. scaling: (d,) P^-1/2, None for P = I. coordinates: (m,)
    those that move, the others standing still. sought: eigenvalues that have to converge; more of them leave less
    that may be missed.

    `least` is a Rayleigh quotient on draws that the vector was not sought in, less rounding: the top eigenvalue of
    the expected Hessian is no smaller, to within its standard error. It may exceed that of the draws by as much.
    """
    whole = trained.hessian(theta) if hessian is None else hessian
    scaled = _scaled(whole, scaling, decay)
    operator = scaled if coordinates is None else scaled.restrict(coordinates)
    found = spectrum(
        operator,
        k=sought,
        which="largest",
        block_size=block_size,
        tolerance=tolerance,
        max_products=max_products,
        dense_below=dense_below,
        generator=generator,
    )
    spent = found.products * len(trained.draws)
    if not found.all_ritz.numel() or not math.isfinite(found.lambda_max):
        return TopCurvature(math.nan, math.nan, math.inf, found, spent)
    top = _full(found.vectors[:, -1].to(theta.dtype), coordinates, theta)
    inner = top if scaling is None else scaling * top
    image = whole @ inner
    size = float(inner.double().norm())
    rounding = _ROUNDING * torch.finfo(theta.dtype).eps * float(image.double().norm()) * size
    least, most = found.lambda_max, found.lambda_max
    if trained.fresh:
        bends = torch.tensor(
            [float(inner @ one.hessian_product(theta, inner[:, None])[:, 0]) for one in trained.fresh]
        ).double()
        spent += len(bends)
        spread = student_quantile(len(bends) - 1) * float(bends.std()) / math.sqrt(len(bends))
        lowest = float(bends.mean()) + decay * size**2
        least, most = lowest - spread, max(found.lambda_max, lowest) + spread
    if rounding > 0.5 * max(abs(found.lambda_max), 1e-300) and scaling is not None:
        return TopCurvature(math.nan, math.nan, math.inf, found, spent)
    return TopCurvature(least - rounding, most + rounding, found.missed + float(found.noise), found, spent)


def _full(vector: torch.Tensor, coordinates: torch.Tensor | None, theta: torch.Tensor) -> torch.Tensor:
    if coordinates is None:
        return vector
    full = torch.zeros_like(theta)
    full[coordinates] = vector
    return full


def _scaled(operator: SymmetricOperator, scaling: torch.Tensor | None, decay: float) -> SymmetricOperator:
    """S (A + decay I) S with S = diag(scaling)."""
    if scaling is None:
        return operator.shift(decay) if decay else operator

    def product(block: torch.Tensor) -> torch.Tensor:
        inner = scaling[:, None] * block
        return scaling[:, None] * (operator.product(inner) + decay * inner)

    return SymmetricOperator(
        operator.dim, product, operator.dtype, operator.device, operator.name, operator.products_per_column
    )


def inverse_root(
    trained: TrainedLoss, theta: torch.Tensor, moments: torch.Tensor, decay: float, epsilon: float
) -> torch.Tensor:
    """(d,) P^-1/2 for P = sqrt(moments) + epsilon, but no smaller than the gradient, which the next steps put into
    the moments: a coordinate just met for the first time is no frozen one."""
    pull = trained.gradient(theta) + decay * theta.double()
    root = torch.maximum(moments.to(pull.device).sqrt(), pull.abs()) + epsilon
    # a coordinate that never had a gradient has not moved, and has no denominator when eps is 0
    return torch.where(root > 0, root, torch.inf).rsqrt().to(theta.dtype)
