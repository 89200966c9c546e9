"""What an entry of the prox catalogue is, and the arithmetic that several share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch.autograd import forward_ad

from tameopt.picture import Picture, Series

Shape = Literal["entries", "vectors", "matrices"]
_HUGE = 2**22  # bytes from which numpy asks the kernel for huge pages (numpy/_core/src/multiarray/alloc.c)
_DIMENSIONS = {"entries": 0, "vectors": 1, "matrices": 2}
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class Prox:
    """A function f and its proximal map.

    value: (x, **parameters) -> f(x), summed over entries, or over vectors / matrices of the batch.
    map: (v, t, **parameters) -> argmin_x f(x) + norm(x - v)^2 / (2 t), of the shape of v; where the minimiser is
        not unique, the one nearest to 0 (the sparser, the lower rank).
    acts_on: "entries" (any shape), "vectors" (the last dimension) or "matrices" (the last two).
    kind: "convex", "weakly convex", "nonconvex" or "set" (f is 0 on a closed set, +inf off it; t is not used).
    minimisers: (v: one number, or one vector, t, **parameters) -> all minimisers, where they can be several.
    into: (v, t, out, **parameters), the map written into out, which may be v, without a temporary of v's size; where
        the arithmetic allows it. parameters: names and defaults. source: where the formula is from.
    """

    name: str
    formula: str
    value: Callable[..., torch.Tensor]
    map: Callable[..., torch.Tensor]
    kind: Literal["convex", "weakly convex", "nonconvex", "set"]
    acts_on: Shape = "entries"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    minimisers: Callable[..., list[torch.Tensor]] | None = None
    source: str = ""
    into: Callable[..., Any] | None = None

    def __call__(
        self, v: torch.Tensor, t: float = 1.0, *, out: torch.Tensor | None = None, **parameters: Any
    ) -> torch.Tensor:
        """prox_{t f}(v); written into `out` and returned where that is given, v itself for in place.

        `out` saves the memory of a tensor; what is written there is not differentiable. A large fresh result on a CPU
        that no derivative follows lies in memory of numpy's, 2 MiB a page: its storage cannot grow. Raises TypeError
        for a v that is no floating tensor, ValueError for t <= 0, a v of too few dimensions, another shape or dtype
        of out, or an unknown parameter.
        """
        if not isinstance(v, torch.Tensor) or not v.is_floating_point():
            what = str(v.dtype) if isinstance(v, torch.Tensor) else type(v).__name__
            raise TypeError(f"v must be a floating tensor, got {what}: convert it by torch.as_tensor(v).float().")
        if not (isinstance(t, (int, float)) and t > 0 and math.isfinite(t)):
            raise ValueError(f"t must be a number > 0, got {t}: it is the step of the proximal map.")
        needed = _DIMENSIONS[self.acts_on]
        if v.ndim < needed:
            raise ValueError(f"{self.name} acts on {self.acts_on}: v must have at least {needed} dimensions.")
        given = self._checked(parameters) if parameters else self.parameters
        if out is None:
            if v.nbytes < _HUGE or self.into is None or not _plain(v):
                return self.map(v, float(t), **given)
            # new memory costs a page fault a page: 2,000 for 8 MB, several times what the arithmetic takes
            fresh = torch.from_numpy(np.empty(v.shape, dtype=_NUMPY[v.dtype]))
            self.into(v, float(t), fresh, **given)
            return fresh
        if out.shape != v.shape or out.dtype != v.dtype:
            raise ValueError(f"out must be {tuple(v.shape)} of {v.dtype}, got {tuple(out.shape)} of {out.dtype}.")
        with torch.no_grad():
            if self.into is None:
                return out.copy_(self.map(v, float(t), **given))
            self.into(v, float(t), out, **given)
            return out

    def evaluate(self, x: torch.Tensor, **parameters: Any) -> torch.Tensor:
        """f(x), a scalar tensor: summed over the batch."""
        return self.value(x, **self._checked(parameters))

    def all_minimisers(self, v: torch.Tensor, t: float = 1.0, **parameters: Any) -> list[torch.Tensor]:
        """Every minimiser for one number (one vector or matrix, where f acts on those); one where it is unique.

        Ties are told up to a few units in the last place. Raises ValueError for more than one number, vector or
        matrix where there can be several, and as a call does.
        """
        found = self(v, t, **parameters)
        if self.minimisers is None:
            return [found]
        if v.numel() != 1 if self.acts_on == "entries" else v.ndim != (1 if self.acts_on == "vectors" else 2):
            one = {"entries": "number", "vectors": "vector", "matrices": "matrix"}[self.acts_on]
            raise ValueError(
                f"all minimisers are listed for one {one}, got shape {tuple(v.shape)}: ask one at a time."
            )
        return self.minimisers(v, float(t), **self._checked(parameters))

    def picture(self, t: float = 1.0, *, reach: float = 4.0, **parameters: Any) -> Picture:
        """The graph of v -> prox_{t f}(v) on [-reach, reach], broken where it jumps.

        Raises ValueError for an f that does not act on entries, and as a call does.
        """
        if self.acts_on != "entries":
            raise ValueError(f"a graph needs a function of entries, {self.name} acts on {self.acts_on}.")
        v = torch.linspace(-reach, reach, 2001, dtype=torch.float64)
        x = self(v, t, **parameters)
        jump = torch.cat([x.diff().abs() > 20 * v.diff(), torch.zeros(1, dtype=torch.bool)])
        graph = torch.where(jump, torch.nan, x)
        settings = ", ".join(f"{key} = {value:g}" for key, value in self._checked(parameters).items())
        caption = f"f(x) = {self.formula}, t = {t:g}" + (f", {settings}" if settings else "") + "."
        diagonal = Series.of("v", v.tolist(), v.tolist())
        series = (diagonal, Series.of(f"prox of {self.name}", v.tolist(), graph.tolist()))
        return Picture(f"prox-{self.name}", f"Proximal map of {self.name}", "v", "x", series, caption=caption)

    def _checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ValueError(f"{self.name} has no parameter {unknown[0]!r}; its parameters are: {known}.")
        return {**self.parameters, **parameters}

    def __repr__(self) -> str:
        return f"Prox({self.name}: {self.formula}, {self.kind}, on {self.acts_on})"


def followed(v: torch.Tensor) -> bool:
    """Whether autograd, forward mode, a transform of torch.func or a subclass reads what is done to v."""
    # right after a pass over a large tensor each line of Python is a cache miss: no call more than needed
    return (
        type(v) is not torch.Tensor
        or (v.requires_grad and torch.is_grad_enabled())
        or forward_ad._current_level >= 0
        or torch._C._functorch.is_functorch_wrapped_tensor(v)
    )


def _plain(v: torch.Tensor) -> bool:
    return v.is_cpu and v.dtype in _NUMPY and v.is_contiguous() and not followed(v)


def positive(name: str, number: float) -> float:
    """The number, which must be > 0 (ValueError)."""
    if not number > 0:
        raise ValueError(f"{name} must be > 0, got {number}.")
    return number


def soft(v: torch.Tensor, level: float) -> torch.Tensor:
    """Soft thresholding, sign(v) max(abs(v) - level, 0): one pass over memory, on CPU and GPU."""
    return torch.nn.functional.softshrink(v, level)


def indicator(inside: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """0 where every entry of the batch is inside, else +inf."""
    return torch.where(inside.all(), 0.0, torch.inf).to(like.dtype)


def simplex_projection(v: torch.Tensor, radius: float) -> torch.Tensor:
    """The projection on {x >= 0, sum x = radius} along the last dimension, by sorting (Held, Wolfe, Crowder 1974)."""
    ordered = v.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - radius
    ranks = torch.arange(1, v.shape[-1] + 1, dtype=v.dtype, device=v.device)
    support = (ordered * ranks > excess).sum(-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, support - 1) / support.to(v.dtype)
    return (v - threshold).clamp(min=0)


def l1_ball_projection(v: torch.Tensor, radius: float) -> torch.Tensor:
    """The projection on {norm1(x) <= radius} along the last dimension."""
    outside = v.abs().sum(-1, keepdim=True) > radius
    projected = simplex_projection(v.abs(), radius) * v.sign()
    return torch.where(outside, projected, v)


def best_of(candidates: list[torch.Tensor], objective: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Entry by entry the candidate of least objective; among equals the first."""
    best, least = candidates[0], objective(candidates[0])
    for other in candidates[1:]:
        value = objective(other)
        better = value < least
        best, least = torch.where(better, other, best), torch.where(better, value, least)
    return best


def distinct(candidates: list[torch.Tensor], objective: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
    """The candidates of least objective, without repetition, equal up to 8 units in the last place."""
    values = [float(objective(candidate)) for candidate in candidates]
    eps = 8 * torch.finfo(candidates[0].dtype).eps
    least = min(values)
    found: list[torch.Tensor] = []
    for candidate, value in zip(candidates, values, strict=True):
        if value <= least + eps * max(1.0, abs(least)) and not any(torch.equal(candidate, old) for old in found):
            found.append(candidate)
    return found
