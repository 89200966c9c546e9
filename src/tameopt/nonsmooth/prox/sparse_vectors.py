"""The vectors with at most s nonzero entries."""

from __future__ import annotations

import torch

from tameopt.nonsmooth.prox._entry import Prox, indicator


def value(x: torch.Tensor, s: int) -> torch.Tensor:
    """0 where at most s entries are nonzero, else +inf."""
    return indicator((x != 0).sum(-1) <= s, x)


def project(v: torch.Tensor, t: float, s: int) -> torch.Tensor:
    """The s entries of largest absolute value are kept; among equals PyTorch's topk decides."""
    if s < 0:
        raise ValueError(f"s must be >= 0, got {s}: no vector has fewer than 0 nonzero entries.")
    places = v.abs().topk(min(s, v.shape[-1]), dim=-1).indices
    return torch.zeros_like(v).scatter(-1, places, v.gather(-1, places))


def minimisers(v: torch.Tensor, t: float, s: int) -> list[torch.Tensor]:
    """Every choice among entries tied at the s-th place, for one vector."""
    import itertools

    size = v.abs()
    if s >= v.numel() or s == 0:
        return [project(v, t, s)]
    edge = size.sort(descending=True).values[s - 1]
    sure, tied = (size > edge).nonzero().flatten().tolist(), (size == edge).nonzero().flatten().tolist()
    if float(edge) == 0:
        return [project(v, t, s)]
    found = []
    for chosen in itertools.combinations(tied, s - len(sure)):
        keep = torch.zeros_like(v, dtype=torch.bool)
        keep[[*sure, *chosen]] = True
        found.append(torch.where(keep, v, 0.0))
    return found


ENTRY = Prox(
    "s_sparse",
    "0 where at most s entries are nonzero",
    value,
    project,
    "set",
    "vectors",
    parameters={"s": 1},
    minimisers=minimisers,
)
