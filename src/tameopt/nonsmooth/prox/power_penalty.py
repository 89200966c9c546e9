"""A power p > 1 of the absolute value: its flow is extinct in finite time for p < 2 (x0^(2 - p) / (p (2 - p)))."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox

_STEPS = 100  # Newton's method from above converges monotonically, in under twenty steps but at extreme ratios


def _checked(p: float) -> float:
    if not 1 < p < float("inf"):
        raise ValueError(f"p must be > 1, got {p}: use l1, l_half, l_two_thirds or l0 for p <= 1.")
    return p


def value(x: torch.Tensor, p: float) -> torch.Tensor:
    """sum abs(x)^p."""
    return (x.abs() ** _checked(p)).sum()


def _root(a: torch.Tensor, weight: float, q: float) -> torch.Tensor:
    """y >= 0 with y^q + weight y = a for q >= 1: a convex function, Newton's method falls from an upper bound."""
    y = torch.minimum(a / weight, a ** (1 / q))
    for _ in range(_STEPS):
        new = y - (y**q + weight * y - a) / (q * y ** (q - 1) + weight)
        new = torch.minimum(new.clamp(min=0), y)
        if bool((new == y).all()):
            break
        y = new
    return y


def shrink(v: torch.Tensor, t: float, p: float) -> torch.Tensor:
    """sign(v) x, x the root of x + t p x^(p - 1) = abs(v)."""
    weight = t * _checked(p)
    with torch.no_grad():
        a = v.detach().abs()
        # in x^(p - 1) for p < 2, in x above: either way the convex side
        x = _root(a, weight, 1 / (p - 1)) ** (1 / (p - 1)) if p < 2 else _root(a / weight, 1 / weight, p - 1)
        slope = 1 + weight * (p - 1) * x ** (p - 2)
        defect = x + weight * x ** (p - 1)
    # one more step, which autograd can follow: dx / d abs(v) = 1 / slope
    return v.sign() * (x - (defect - v.abs()) / slope).clamp(min=0)


ENTRY = Prox("power", "sum abs(x)^p", value, shrink, "convex", parameters={"p": 1.5}, source="Chaux et al. 2007")
