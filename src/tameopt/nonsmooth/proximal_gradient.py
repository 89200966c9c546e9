"""Proximal gradient as a torch optimizer: sparse, low-rank or constrained weights on chosen parameter groups.

    theta_{k+1} = prox_{alpha lam f}(theta_k - alpha g_k + beta (theta_k - theta_{k-1}))

beta = 0 is the (stochastic) proximal gradient method, beta > 0 its inertial form (Ochs, Chen, Brox & Pock 2014).
With a full-batch gradient, grad F L-Lipschitz and F + lam f tame, bounded iterates have finite length and converge
for alpha < 2 (1 - beta) / L (Attouch, Bolte & Svaiter 2013, Theorem 5.1; 1/L when f is not convex).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from tameopt.nonsmooth.prox import Prox, entry, names


def resolved(prox: str | Prox | None) -> Prox | None:
    """An entry of the prox catalogue by its name, or as it is.

    Raises ValueError with the nearest name, TypeError for anything else.
    """
    if prox is None or isinstance(prox, Prox):
        return prox
    if isinstance(prox, str):
        return entry(prox)
    raise TypeError(f"prox must be a name of the prox catalogue or one of its entries, got {type(prox).__name__}.")


def name_of(prox: Prox | None) -> str:
    """The name of an entry of the prox catalogue, "none" without a prox, "custom" for one that it does not hold."""
    if prox is None:
        return "none"
    return prox.name if prox.name in names() and entry(prox.name) is prox else "custom"


def as_shape(p: torch.Tensor, prox: Prox) -> torch.Tensor:
    """A parameter as the prox reads it: a convolution's kernel is one row a filter, or a matrix of its filters."""
    if prox.acts_on == "entries" or p.ndim <= 1:
        return p if prox.acts_on != "matrices" else p.reshape(1, -1)
    return p.reshape(p.shape[0], -1)


def regularised(p: torch.Tensor, prox: Prox, t: float, options: dict[str, Any]) -> torch.Tensor:
    """prox_{t f}(p), of the shape of p, which is overwritten where that saves a tensor."""
    rows = as_shape(p, prox)
    return prox(rows, t, out=rows if prox.into is not None else None, **options).reshape(p.shape)


class ProximalGradient(Optimizer):
    """Proximal gradient descent; each parameter group may have its own regulariser.

    params: parameters or groups. lr: alpha > 0. prox: a name of `tame.nonsmooth.prox` or an entry, None for a
    group without regulariser. strength: lam > 0. momentum: beta in [0, 1). options: parameters of the prox.
    Vectors of a matrix or kernel are its rows (one output unit or filter each).

    Cost: the gradient and the prox. The gradient at kinks is what backprop left in .grad. Raises ValueError for
    settings outside these ranges.

    >>> w = torch.nn.Parameter(torch.tensor([2.0, 0.05]))
    >>> optimizer = ProximalGradient([w], lr=0.5, prox="l1", strength=0.2)
    >>> (w ** 2).sum().mul(0.5).backward(); optimizer.step()
    >>> w.data
    tensor([0.9000, 0.0000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        prox: str | Prox | None = None,
        strength: float = 1.0,
        momentum: float = 0.0,
        options: dict[str, Any] | None = None,
    ) -> None:
        defaults = {
            "lr": lr, "prox": prox, "strength": strength, "momentum": momentum, "options": dict(options or {})
        }  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            group["prox"] = resolved(group["prox"])
            group["penalty"] = name_of(group["prox"])  # what a record can hold
            if not group["lr"] > 0:
                raise ValueError(f"lr must be > 0, got {group['lr']}: it is the step of the gradient and the prox.")
            if not group["strength"] > 0:
                raise ValueError(f"strength must be > 0, got {group['strength']}: pass prox=None for no regulariser.")
            if not 0 <= group["momentum"] < 1:
                raise ValueError(f"momentum must be in [0, 1), got {group['momentum']}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients in .grad; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                new = p - group["lr"] * p.grad
                if group["momentum"]:
                    state = self.state[p]
                    if "previous" in state:
                        new += group["momentum"] * (p - state["previous"])
                    state["previous"] = p.detach().clone()
                if group["prox"] is not None:
                    new = regularised(new, group["prox"], group["lr"] * group["strength"], group["options"])
                p.copy_(new)
        return loss

    @torch.no_grad()
    def regularizer(self) -> torch.Tensor:
        """sum of lam f over the groups: what is minimised is the loss plus this."""
        total = torch.zeros(())
        for group in self.param_groups:
            prox = group["prox"]
            for p in group["params"] if prox is not None else []:
                total = total + group["strength"] * prox.evaluate(as_shape(p, prox), **group["options"]).cpu()
        return total

    def sparsity(self) -> float:
        """The share of entries that are exactly 0 in the groups that have a prox; NaN when none has."""
        entries = [p for group in self.param_groups if group["prox"] is not None for p in group["params"]]
        count = sum(p.numel() for p in entries)
        return sum(int((p == 0).sum()) for p in entries) / count if count else float("nan")
