"""What the catalogue knows of an optimizer besides its class."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Entry:
    """One optimizer of the catalogue.

    name: how people call it; optimizer: its class; formula: the step in one line, in the lecture's letters;
    source: who proposed it; theorems: which convergence theorems of tameopt speak of it; variants: keyword
    arguments that the laws and benchmarks run besides the defaults, each with a name; gradients: what step()
    needs: "dense" or "sparse" gradients, or a "closure".
    """

    name: str
    optimizer: type[torch.optim.Optimizer]
    formula: str
    source: str
    theorems: tuple[str, ...] = ()
    gradients: str = "dense"
    variants: dict[str, dict[str, object]] = field(default_factory=dict)
