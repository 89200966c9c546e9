"""The eager engine: the rule itself, called with tensors. It supports everything and is the reference."""

from __future__ import annotations

from typing import Any

import torch

from tameopt.optim.plan import Bucket, Inputs, Signature, Unit
from tameopt.optim.rule import Numbers, apply
from tameopt.optim.step_layout import Gradients

NAME, FOLDS = "eager", False


def unsupported(signature: Signature) -> str:
    """Why this engine cannot run the bucket; "" when it can (always)."""
    del signature
    return ""


def run(bucket: Bucket, gradients: Gradients, inputs: Inputs) -> None:
    """One step of every unit that has a gradient, in place.

    Low-precision tensors are computed in float32 and rounded once when stored, as torch's fused optimizers do.
    """
    rows, row_of = bucket.advance(gradients.present, inputs, gradients.in_step)
    signature = bucket.signature
    step = _sparse_step if signature.sparse else _followed_step if signature.differentiable else _step
    flags = {**dict(signature.flags), "storage": signature.theta}
    names = [name for name, _ in signature.states]
    for unit, gradient, row in zip(bucket.units, gradients.tensors, row_of.tolist(), strict=True):
        if gradient is not None and row >= 0:
            step(unit, signature, names, flags, gradient, rows[row])


def squared_norms(bucket: Bucket, gradients: Gradients) -> torch.Tensor:
    """Sum of the squares of each gradient (n,), in float64; 0 where there is none."""
    zero = torch.zeros((), dtype=torch.float64, device=bucket.signature.device)
    found = [zero if g is None else (_values(g).detach().to(torch.float64) ** 2).sum() for g in gradients.tensors]
    return torch.stack(found)


def _values(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _step(
    unit: Unit, signature: Signature, names: list[str], flags: dict[str, Any], gradient: torch.Tensor, row: Numbers
) -> None:
    work = signature.compute
    states = dict(zip(names, (s.to(work) for s in unit.states), strict=True))
    new_theta, new_states = apply(signature.rule, flags, unit.theta.to(work), gradient.to(work), states, row)
    unit.theta.copy_(new_theta)
    for name, state in zip(names, unit.states, strict=True):
        if name in new_states:
            state.copy_(new_states[name])


def _followed_step(
    unit: Unit, signature: Signature, names: list[str], flags: dict[str, Any], gradient: torch.Tensor, row: Numbers
) -> None:
    """The step as a differentiable function: autograd saves what it reads, so states are replaced, not written."""
    parameter = unit.parameter
    theta, g = parameter.clone(), gradient
    states = {name: unit.kept[name] for name in names}
    if parameter.is_complex():
        theta, g = torch.view_as_real(theta), torch.view_as_real(g)
        states = {name: torch.view_as_real(state) for name, state in states.items()}
    new_theta, new_states = apply(signature.rule, flags, theta, g, states, row)
    parameter.copy_(torch.view_as_complex(new_theta) if parameter.is_complex() else new_theta)
    for name, state in new_states.items():
        unit.kept[name] = torch.view_as_complex(state) if parameter.is_complex() else state


def _sparse_step(
    unit: Unit, signature: Signature, names: list[str], flags: dict[str, Any], gradient: torch.Tensor, row: Numbers
) -> None:
    """The rule on the rows that the gradient names; the others, and their states, stay as they are."""
    gradient = gradient.coalesce()  # rules are not linear in g: a row must appear once
    rows = tuple(gradient.indices())
    if gradient.values().numel() == 0:
        return
    work = signature.compute
    states = {name: state[rows].to(work) for name, state in zip(names, unit.states, strict=True)}
    new_theta, new_states = apply(
        signature.rule, flags, unit.theta[rows].to(work), gradient.values().to(work), states, row
    )
    unit.theta[rows] = new_theta.to(unit.theta.dtype)
    for name, state in zip(names, unit.states, strict=True):
        if name in new_states:
            state[rows] = new_states[name].to(state.dtype)
