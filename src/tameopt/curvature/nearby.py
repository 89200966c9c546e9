"""Whether the signs seen at theta are those of the critical point that Newton's step leads to.

At x = 1e-9 the Hessian of x^3 is 6e-9, positive and far above its rounding, and the gradient is 3e-18; at the
critical point itself the Hessian is 0. Sizes at one point cannot tell; how much the Hessian changes on the way can
(the condition of Kantorovich's theorem, measured in place of proved).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tameopt.curvature.eigenvalues import Spectrum
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem

_WATCHED = 10  # eigenvalues nearest 0 whose change is measured; our choice
# Kantorovich: where the Hessian changes by at most half of an eigenvalue on Newton's step, a critical point lies
# within twice the step, and the eigenvalue keeps its sign up to there. Twice that since the change is measured only.
_SAFETY = 4.0
_KRYLOV = 60


def newton_step(found: Spectrum, gradient: torch.Tensor, zero: float) -> torch.Tensor:
    """(d,) -H^-1 g on the eigenvectors found; eigenvalues up to `zero` count as +-zero: the step stays finite."""
    vectors = found.vectors.double().cpu()
    values = found.eigenvalues
    sizes = values.abs().clamp_min(max(zero, torch.finfo(torch.float64).tiny))
    signs = torch.where(values < 0, -1.0, 1.0).double()
    return -(vectors @ ((vectors.T @ gradient.double().cpu()) * signs / sizes))


@dataclass(frozen=True)
class KernelPart:
    """The part of a gradient along directions in which the Hessian hardly curves.

    directions: (d, q) orthonormal. sizes: (q,) norm(H v) of each, with the sign of v^T H v. part: (q,) the gradient
    along them. gradient_norm: of it all.
    """

    directions: torch.Tensor
    sizes: torch.Tensor
    part: torch.Tensor
    gradient_norm: float

    @property
    def share(self) -> float:
        """norm(part) / norm(g); where it is near 1 no step of Newton's method is short."""
        return float(self.part.norm()) / self.gradient_norm if self.gradient_norm > 0 else 0.0

    def step(self, gradient: torch.Tensor, zero: float) -> torch.Tensor:
        """(q,) Newton's step along the directions for a gradient (d,); sizes up to `zero` count as +-zero."""
        inner = (self.directions.T @ gradient).double().cpu()
        signs = torch.where(self.sizes < 0, -1.0, 1.0).double()
        return -inner * signs / self.sizes.abs().clamp_min(max(zero, torch.finfo(torch.float64).tiny))


def kernel_part(hessian: SymmetricOperator, gradient: torch.Tensor, limit: float) -> KernelPart:
    """The part of g where norm(H v) <= limit, by Lanczos from g on at most 60 products (our choice).

    A Ritz value near 0 would not be enough: where small eigenvalues crowd, 60 products resolve none of them.
    """
    size = gradient.norm()
    empty = KernelPart(gradient[:, None][:, :0], torch.zeros(0).double(), torch.zeros(0).double(), float(size))
    if not float(size) > 0:
        return empty
    basis = (gradient / size)[:, None]
    images = hessian @ basis
    for _ in range(_KRYLOV - 1):
        rest = images[:, -1]
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        if not float(rest.norm()) > 1e-10 * float(images.norm()):
            break
        basis = torch.cat([basis, (rest / rest.norm())[:, None]], dim=1)
        images = torch.cat([images, hessian @ basis[:, -1:]], dim=1)
    if not bool(torch.isfinite(images).all()):
        return empty
    # singular vectors, not Ritz vectors: of all v in the Krylov space those with the smallest norm(H v)
    _, sizes, right = torch.linalg.svd(images, full_matrices=False)
    flat = right[sizes <= limit].T
    directions = basis @ flat
    curves = (directions * (images @ flat)).sum(dim=0)
    sizes = torch.where(curves < 0, -1.0, 1.0).double().cpu() * sizes[sizes <= limit].double().cpu()
    return KernelPart(directions, sizes, (directions.T @ gradient).double().cpu(), float(size))


def change_on_the_way(
    problem: Problem, theta: torch.Tensor, found: Spectrum, step: torch.Tensor, zero: float
) -> float:
    """How far an eigenvalue may lie from the one at the critical point: 4 times the Hessian's change over the step on
    the eigenvectors of the ten eigenvalues nearest 0 among those beyond `zero`; at most 10 Hessian products.

    inf where the Hessian is no number there.
    """
    beyond = (found.eigenvalues.abs() > zero).nonzero()[:, 0]
    nearest = beyond[found.eigenvalues[beyond].abs().argsort()[:_WATCHED]]
    if nearest.numel() == 0 or float(step.norm()) == 0:
        return 0.0
    vectors = found.vectors[:, nearest.to(found.vectors.device)]
    images = problem.hessian(theta + step.to(theta)) @ vectors
    change = (vectors.T @ images).double().cpu() - torch.diag(found.eigenvalues[nearest])
    return (
        _SAFETY * float(torch.linalg.matrix_norm(change, 2)) if bool(torch.isfinite(change).all()) else float("inf")
    )


def slope_jump(problem: Problem, theta: torch.Tensor, value: float) -> float:
    """How much the slope of F jumps at theta along a random line, 0 where no jump shows: F has a kink at theta.

    (F(theta + h v) + F(theta - h v) - 2 F(theta)) / h shrinks with h where F is smooth, grows where it is rounding,
    and stays where the slope jumps. Cost: 6 values a line, two lines. A kink beside theta, farther than some 1e-8 of
    its size, does not show.
    """
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(problem.dtype).eps
    for _ in range(2):
        line = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
        line = (line / line.norm()).to(theta)
        jumps = []
        for share in (1.0, 0.1, 0.01):
            h = share * eps**0.375 * max(1.0, float(theta.norm()))
            both = float(problem.value(theta + h * line)) + float(problem.value(theta - h * line))
            jumps.append((both - 2 * value) / h)
        first, second, third = jumps
        alike = abs(second - first) <= 0.2 * abs(first) and abs(third - second) <= 0.2 * abs(second)
        if alike and abs(third) > 100 * eps * abs(value) / h:
            return third
    return 0.0


def falls_along(problem: Problem, theta: torch.Tensor, gradient: torch.Tensor, value: float) -> bool:
    """Whether F falls along -g at half the rate that g promises, or more."""
    size = float(gradient.norm())
    h = torch.finfo(problem.dtype).eps ** 0.5 * max(1.0, float(theta.norm()))
    return size > 0 and float(problem.value(theta - h / size * gradient)) <= value - 0.5 * h * size
