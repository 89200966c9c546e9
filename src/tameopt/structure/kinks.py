"""What autodiff returns at kinks, asked of the installed torch rather than assumed.

For each operator that is not differentiable somewhere there is a point on its kink and the set of its Clarke
subgradients there: a box, the simplex of convex weights (at a tie) or a ball (at the origin of a norm). A convention
that lies in the set makes the operator's derivative conservative (Bolte and Pauwels 2021, Theorem 3 and Section 5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

Tensor = torch.Tensor


@dataclass(frozen=True)
class Probe:
    """point: where the operator has a kink; function: of the point, summed to a number."""

    function: Callable[[Tensor], Tensor]
    point: tuple[float, ...]


def _halves(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: f(x[:1], x[1:])


_TIE = (0.0, 0.0, 0.0, 0.0)
_IMAGE = (1, 1, 2, 2)

PROBES: dict[str, tuple[Probe, ...]] = {
    "relu": (Probe(torch.relu, (0.0,)),),
    "threshold": (Probe(lambda x: functional.threshold(x, 0.0, 0.0), (0.0,)),),
    "abs": (Probe(torch.abs, (0.0,)),),
    "relu6": (Probe(functional.relu6, (0.0,)), Probe(functional.relu6, (6.0,))),
    "hardsigmoid": (Probe(functional.hardsigmoid, (-3.0,)), Probe(functional.hardsigmoid, (3.0,))),
    "hardswish": (Probe(functional.hardswish, (-3.0,)), Probe(functional.hardswish, (3.0,))),
    "leaky_relu": (Probe(lambda x: functional.leaky_relu(x, 0.25), (0.0,)),),
    "rrelu_with_noise": (Probe(lambda x: functional.rrelu(x, 0.25, 0.25), (0.0,)),),
    "rrelu_with_noise_functional": (Probe(lambda x: functional.rrelu(x, 0.25, 0.25), (0.0,)),),
    "elu": (Probe(lambda x: functional.elu(x, 0.5), (0.0,)),),
    "selu": (Probe(functional.selu, (0.0,)),),
    "softshrink": (Probe(functional.softshrink, (-0.5,)), Probe(functional.softshrink, (0.5,))),
    "prelu": (Probe(lambda x: functional.prelu(x, torch.full((1,), 0.25).to(x)), (0.0,)),),
    "_prelu_kernel": (Probe(lambda x: functional.prelu(x, torch.full((1,), 0.25).to(x)), (0.0,)),),
    "clamp": (
        Probe(lambda x: torch.clamp(x, -1.0, 1.0), (-1.0,)),
        Probe(lambda x: torch.clamp(x, -1.0, 1.0), (1.0,)),
        Probe(lambda x: torch.clamp(x, min=0.0), (0.0,)),
        Probe(lambda x: torch.clamp(x, max=0.0), (0.0,)),
    ),
    "clamp_min": (Probe(lambda x: torch.clamp_min(x, 0.0), (0.0,)),),
    "clamp_max": (Probe(lambda x: torch.clamp_max(x, 0.0), (0.0,)),),
    "hardtanh": (Probe(functional.hardtanh, (-1.0,)), Probe(functional.hardtanh, (1.0,))),
    "maximum": (Probe(_halves(torch.maximum), (0.0, 0.0)),),
    "minimum": (Probe(_halves(torch.minimum), (0.0, 0.0)),),
    "fmax": (Probe(_halves(torch.fmax), (0.0, 0.0)),),
    "fmin": (Probe(_halves(torch.fmin), (0.0, 0.0)),),
    "amax": (Probe(torch.amax, _TIE),),
    "amin": (Probe(torch.amin, _TIE),),
    "max": (Probe(torch.max, _TIE), Probe(lambda x: torch.max(x, 0).values, _TIE)),
    "min": (Probe(torch.min, _TIE), Probe(lambda x: torch.min(x, 0).values, _TIE)),
    "aminmax": (Probe(lambda x: torch.aminmax(x).max, _TIE),),
    "cummax": (Probe(lambda x: torch.cummax(x, 0).values[-1], _TIE),),
    "cummin": (Probe(lambda x: torch.cummin(x, 0).values[-1], _TIE),),
    "sort": (Probe(lambda x: torch.sort(x).values[0], _TIE),),
    "topk": (Probe(lambda x: torch.topk(x, 1).values, _TIE),),
    "median": (Probe(torch.median, _TIE), Probe(lambda x: torch.median(x, 0).values, _TIE)),
    "kthvalue": (Probe(lambda x: torch.kthvalue(x, 2).values, _TIE),),
    "max_pool2d_with_indices": (Probe(lambda x: functional.max_pool2d(x.view(_IMAGE), 2), _TIE),),
    "max_pool3d_with_indices": (Probe(lambda x: functional.max_pool3d(x.view(1, 1, 1, 2, 2), (1, 2, 2)), _TIE),),
    "max_pool1d": (Probe(lambda x: functional.max_pool1d(x.view(1, 1, 4), 4), _TIE),),
    "adaptive_max_pool1d": (Probe(lambda x: functional.adaptive_max_pool1d(x.view(1, 1, 4), 1), _TIE),),
    "adaptive_max_pool2d": (Probe(lambda x: functional.adaptive_max_pool2d(x.view(_IMAGE), 1), _TIE),),
    "linalg_vector_norm": (
        Probe(lambda x: torch.linalg.vector_norm(x), _TIE),
        Probe(lambda x: torch.linalg.vector_norm(x, float("inf")), _TIE),
        Probe(lambda x: torch.linalg.vector_norm(x, 3.0), _TIE),
    ),
    "norm": (Probe(lambda x: torch.norm(x), _TIE),),
    "std": (Probe(torch.std, _TIE),),
    "std_mean": (Probe(lambda x: torch.std_mean(x)[0], _TIE),),
    "_cdist_forward": (Probe(lambda x: torch.cdist(x[None, :2], x[None, 2:]), _TIE),),
    "dist": (Probe(lambda x: torch.dist(x[:2], x[2:]), _TIE),),
    "multi_margin_loss": (
        Probe(lambda x: functional.multi_margin_loss(x[None], torch.zeros(1, dtype=torch.long)), (1.0, 0.0)),
    ),
}


@functools.cache
def gradients(operator: str, dtype: torch.dtype = torch.float64) -> tuple[tuple[float, ...], ...] | None:
    """What autodiff returns at each probe of an operator; None where there is no probe.

    >>> gradients("relu")
    ((0.0,),)
    """
    probes = PROBES.get(operator, PROBES.get(operator.rstrip("_")))
    if probes is None:
        return None
    found = []
    for probe in probes:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            x = torch.tensor(probe.point, dtype=dtype, requires_grad=True)
            (gradient,) = torch.autograd.grad(probe.function(x).sum(), x)
        found.append(tuple(float(entry) for entry in gradient.double()))
    return tuple(found)
