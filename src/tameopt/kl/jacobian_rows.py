"""Jacobians of the network's outputs, sample by sample, and their products with vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch.func import jacrev, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from tameopt.batches import rows
from tameopt.hessian_modes import exact_attention
from tameopt.problem import Problem


def check_has_outputs(problem: Problem) -> None:
    """Raises ValueError when the problem has no outputs (a plain function, or forward(model, batch))."""
    if problem.is_function or problem.forward is not None:
        raise ValueError(
            "a tangent kernel needs a problem given as model, loss(output, target) and (input, target) batches; "
            f"{problem.name} was given as {'a plain function' if problem.is_function else 'forward(model, batch)'}."
        )


def jacobian_rows(
    problem: Problem, theta: torch.Tensor, indices: torch.Tensor, names: tuple[str, ...] | None = None
) -> torch.Tensor:
    """(m, k, d) Jacobian of the outputs of the samples `indices` (m,), flattened to k numbers each.

    names: of the parameters to differentiate by, in the order of `problem.shapes`; all by default.

    Raises ValueError when the problem has no outputs (a plain function, or forward(model, batch)).
    """
    check_has_outputs(problem)
    batch = problem.batches.pick(indices)
    leaves, form = tree_flatten(batch)
    axes = [0 if isinstance(leaf, torch.Tensor) and leaf.ndim else None for leaf in leaves]
    held = problem.unflatten(theta)
    wanted = tuple(problem.shapes) if names is None else names
    sizes = [held[name].numel() for name in wanted]

    def parameters(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = zip(wanted, flat.split(sizes), strict=True)
        return {**held, **{name: part.view(held[name].shape) for name, part in parts}}

    def output(flat: torch.Tensor, sample: list[Any]) -> torch.Tensor:
        one = [leaf if axis is None else leaf[None] for leaf, axis in zip(sample, axes, strict=True)]
        return problem.batch_output(parameters(flat), tree_unflatten(one, form), True).reshape(-1)

    flat = torch.cat([held[name].reshape(-1) for name in wanted])
    try:
        with exact_attention():
            return vmap(jacrev(output), in_dims=(None, axes))(flat, leaves)
    except (RuntimeError, NotImplementedError):
        # an operator without a batching rule: one sample at a time
        parts = []
        for i in range(len(indices)):
            leaf = flat.detach().clone().requires_grad_()
            one = problem.batch_output(parameters(leaf), rows(batch, slice(i, i + 1)), True).reshape(-1)
            parts.append(
                torch.stack([torch.autograd.grad(number, leaf, retain_graph=True)[0] for number in one]).detach()
            )
        return torch.stack(parts)


def kernel_products(
    problem: Problem, theta: torch.Tensor, indices: torch.Tensor, block: torch.Tensor
) -> torch.Tensor:
    """K V for V (n k, m) without K: a vector-Jacobian and a Jacobian-vector product a column over the samples.

    The samples go through the network together, so it must not mix them (batch statistics are no function of one
    sample).
    """
    batch = problem.batches.pick(indices)

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        return problem.batch_output(problem.unflatten(flat), batch, True).reshape(-1)

    columns = []
    with exact_attention():
        back = vjp(outputs, theta)[1]
        for j in range(block.shape[1]):
            (direction,) = back(block[:, j].contiguous())
            columns.append(jvp(outputs, (theta,), (direction,))[1])
    return torch.stack(columns, dim=1)
