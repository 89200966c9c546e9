"""Matrix factorisation by PALM: nonnegative, and with sparse factors, step sizes from the factors themselves.

H(X, Y) = norm_F(A - X Y)^2 / 2 has block gradients of Lipschitz constants norm(Y Y^T) and norm(X^T X), which are
eigenvalues of small matrices: computed at each step, not guessed (Bolte, Sabach & Teboulle 2014, section 4).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tameopt.nonsmooth.prox import Prox
from tameopt.nonsmooth.proximal_gradient import resolved


@dataclass(frozen=True)
class Factorisation:
    """A ~ X Y: X (n, r), Y (r, m).

    values: H + the penalties after each pass. length: sum of norm((X, Y)_{k+1} - (X, Y)_k). converged: the
    relative change of (X, Y) in a pass fell below the tolerance. decreased: every pass decreased the objective,
    as the theorem says it must without inertia.
    """

    X: torch.Tensor
    Y: torch.Tensor
    values: tuple[float, ...]
    length: float
    passes: int
    converged: bool
    decreased: bool

    @property
    def value(self) -> float:
        """The last objective."""
        return self.values[-1]

    def __repr__(self) -> str:
        return f"Factorisation(rank {self.X.shape[1]}, value {self.value:.6g}, {self.passes} passes)"


def _start(A: torch.Tensor, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    scale = math.sqrt(max(float(A.mean()), 1e-12) / rank)
    sizes = ((A.shape[0], rank), (rank, A.shape[1]))
    X, Y = (scale * torch.rand(size, dtype=torch.float64, generator=generator).to(A) for size in sizes)
    return X, Y


def _refuse(A: torch.Tensor, rank: int) -> None:
    if A.ndim != 2 or not A.is_floating_point():
        raise ValueError(f"A must be a floating matrix, got shape {tuple(A.shape)} of {A.dtype}.")
    if not bool(torch.isfinite(A).all()):
        raise ValueError("A must be finite: remove or impute its NaN and infinite entries.")
    if not 1 <= rank <= min(A.shape):
        raise ValueError(f"rank must be in 1..{min(A.shape)}, got {rank}.")


def factorise(
    A: torch.Tensor,
    rank: int,
    *,
    prox: tuple[str | Prox | None, str | Prox | None] = ("nonnegative", "nonnegative"),
    strength: tuple[float, float] = (1.0, 1.0),
    inner: int = 1,
    inertia: float = 0.0,
    passes: int = 500,
    tolerance: float = 1e-5,
    generator: torch.Generator | None = None,
    start: tuple[torch.Tensor, torch.Tensor] | None = None,
    notify: Callable[[int, float], None] | None = None,
) -> Factorisation:
    """Minimise norm_F(A - X Y)^2 / 2 + f(X) + g(Y) by PALM (iPALM with inertia > 0).

    A: (n, m) floating. prox: regularisers of X and of Y^T, whose vectors are the r-columns seen as rows of length
    r; nonnegative by default. inner: block steps before the other block moves; more than 1 is PALM on a repeated
    block, and cheap, because A Y^T and Y Y^T are formed once. tolerance: on the relative change in a pass.

    Cost: two products with A a pass. Raises ValueError for a bad rank, shape, inertia or non-finite A.

    >>> A = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> factorise(A, 1, generator=torch.Generator().manual_seed(0)).value < 1e-8
    True
    """
    _refuse(A, rank)
    if not 0 <= inertia < 1:
        raise ValueError(f"inertia must be in [0, 1), got {inertia}.")
    proxes = tuple(resolved(one) for one in prox)
    X, Y = start if start is not None else _start(A, rank, generator or torch.Generator().manual_seed(0))
    X, Y = X.clone(), Y.clone()
    old_X, old_Yt = X, Y.T
    square, values, length, converged = float(A.square().sum()), [], 0.0, False
    for count in range(passes):
        before_X, before_Y = X, Y
        X, last_X = _block(X, old_X, A @ Y.T, Y @ Y.T, proxes[0], strength[0], inner, inertia)
        Yt, last_Yt = _block(Y.T, old_Yt, A.T @ X, X.T @ X, proxes[1], strength[1], inner, inertia)
        Y, old_X, old_Yt = Yt.T, last_X, last_Yt
        move = math.sqrt(float((X - before_X).square().sum() + (Y - before_Y).square().sum()))
        length += move
        size = math.sqrt(float(X.square().sum() + Y.square().sum()))
        if count % 10 == 9 or count + 1 == passes or move <= tolerance * size:
            values.append(_objective(A, X, Y, square, proxes, strength))
            if notify is not None:
                notify(count + 1, values[-1])
        if move <= tolerance * size:
            converged = True
            break
    return Factorisation(X, Y, tuple(values), length, count + 1, converged, _decreased(values, square))


def _block(
    X: torch.Tensor,
    old: torch.Tensor,
    B: torch.Tensor,
    G: torch.Tensor,
    prox: Prox | None,
    strength: float,
    inner: int,
    inertia: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`inner` proximal steps on X -> tr(X G X^T) / 2 - <X, B>: its gradient X G - B is norm(G)-Lipschitz."""
    modulus = max(float(torch.linalg.eigvalsh(G)[-1]), 1e-12)
    t = 1 / (1.0000001 * modulus)
    for _ in range(inner):
        at = torch.lerp(old, X, 1 + inertia) if inertia else X
        new = torch.addmm(B, at, G, beta=t, alpha=-t).add_(at)
        old = X
        X = new if prox is None else new.clamp_(min=0) if prox.name == "nonnegative" else prox(new, t * strength)
    return X, old


def _objective(
    A: torch.Tensor,
    X: torch.Tensor,
    Y: torch.Tensor,
    square: float,
    proxes: tuple[Prox | None, ...],
    strength: tuple[float, float],
) -> float:
    value = float((A - X @ Y).square().sum()) / 2
    for part, prox, lam in zip((X, Y.T), proxes, strength, strict=True):
        if prox is not None and prox.kind != "set":
            value += lam * float(prox.evaluate(part))
    return value


def svd_start(A: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A deterministic nonnegative start: the positive part of each singular pair, of the sign that holds more.

    Zeros are lifted to the mean of A over 100, or they would stay on the boundary (Boutsidis & Gallopoulos 2008).
    """
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    X, Y = torch.empty(A.shape[0], rank).to(A), torch.empty(rank, A.shape[1]).to(A)
    for j in range(rank):
        u, v = U[:, j], Vh[j]
        plus, minus = (float((sign * u).clamp(min=0).norm() * (sign * v).clamp(min=0).norm()) for sign in (1, -1))
        if plus < minus:
            u, v = -u, -v
        u, v = u.clamp(min=0), v.clamp(min=0)
        scale = float((S[j] * u.norm() * v.norm()).sqrt())
        X[:, j], Y[j] = scale * u / u.norm().clamp(min=1e-300), scale * v / v.norm().clamp(min=1e-300)
    lift = float(A.mean()) / 100
    return X.clamp(min=lift), Y.clamp(min=lift)


def nmf(A: torch.Tensor, rank: int, *, passes: int = 1000, tolerance: float = 1e-3, sweeps: int = 2) -> Factorisation:
    """Nonnegative matrix factorisation, norm_F(A - X Y)^2 / 2 with X, Y >= 0, by PALM with one column a block.

    A: (n, m) >= 0. The 2 rank blocks are the columns of X and the rows of Y. On one of them H is a quadratic of
    Hessian norm(y_j)^2 I, so that its Lipschitz constant is exact and the proximal step nearly the block's minimiser:
    these are the hierarchical alternating least squares of Cichocki et al. (2007), and the theorem of PALM (gamma =
    1.0001 > 1, no inertia) covers them. sweeps: over the blocks of X before those of Y move (A Y^T is formed once).
    Starts from `svd_start`, stops when ten passes decrease the objective by less than `tolerance` of it.

    Cost: two products with A a pass. Raises ValueError for a negative entry and as `factorise`.

    >>> round(nmf(torch.tensor([[1.0, 2.0], [2.0, 4.0]]), 1).value, 8)
    0.0
    """
    _refuse(A, rank)
    if bool((A < 0).any()):
        raise ValueError(f"A must be >= 0 for a nonnegative factorisation, its least entry is {float(A.min())}.")
    X, Y = svd_start(A, rank)
    Xt, Y, At = X.T.contiguous(), Y.contiguous(), A.T.contiguous()
    square, values, length, converged, count = float(A.square().sum()), [], 0.0, False, 0
    for count in range(1, passes + 1):
        before_X, before_Y = Xt.clone(), Y.clone()
        _columns(Xt, Y @ At, Y @ Y.T, sweeps)
        G, B = Xt @ Xt.T, Xt @ A
        _columns(Y, B, G, sweeps)
        length += math.sqrt(float((Xt - before_X).square().sum() + (Y - before_Y).square().sum()))
        if count % 10 == 0 or count == passes:
            values.append((square - 2 * float((B * Y).sum()) + float((G * (Y @ Y.T)).sum())) / 2)
            if len(values) > 1 and values[-2] - values[-1] <= tolerance * values[-1]:
                converged = True
                break
    values[-1] = float((A - Xt.T @ Y).square().sum()) / 2  # the cheap form above cancels where the fit is perfect
    return Factorisation(Xt.T, Y, tuple(values), length, count, converged, _decreased(values, square))


def _columns(Xt: torch.Tensor, B: torch.Tensor, G: torch.Tensor, sweeps: int) -> None:
    """In place, row by row of Xt (r, n): the projected gradient step of length 1 / (1.0001 G_jj) in it."""
    steps = (1 / (1.0001 * G.diagonal().clamp(min=1e-12))).tolist()
    for _ in range(sweeps):
        for j, t in enumerate(steps):
            Xt[j].add_(torch.addmv(B[j], Xt.T, G[j], alpha=-1), alpha=t).clamp_(min=0)


def _decreased(values: Sequence[float], square: float) -> bool:
    slack = 1e-9 * max(1.0, values[0]) + 1e-12 * square
    return all(b <= a + slack for a, b in itertools.pairwise(values))
