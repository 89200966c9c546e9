"""Hooks that may change a gradient: on parameters, on nodes of autodiff's graph, on the tensors that it saves.

torch does not list the hooks of a node. But a hook that is registered joins the node's dictionary of hooks, which the
handle refers to: so one that does nothing is registered, looks for others there, and is removed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import get_gradient_edge


def hooked_parameters(model: nn.Module) -> tuple[str, ...]:
    """The parameters with a hook on their gradient: what is traced are copies, which do not have it."""
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if parameter._backward_hooks
        or getattr(parameter, "_post_accumulate_grad_hooks", None)
        or (parameter.requires_grad and _has_hooks(get_gradient_edge(parameter).node))
    )


def hooked_nodes(outputs: Iterable[torch.Tensor]) -> tuple[str, ...]:
    """The names of the nodes behind these tensors with a hook registered on the node itself."""
    return tuple(sorted({node.name() for node in _graph(outputs) if _has_hooks(node)}))


def saved_tensors_hook() -> str:
    """The name of the hook through which tensors saved for backward go now, or "".

    Those of torch's own checkpoint and save_on_cpu give back what they were given.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if hooks is None or all(str(getattr(hook, "__module__", "")).startswith("torch.") for hook in hooks[:2]):
        return ""
    return str(getattr(hooks[1], "__qualname__", hooks[1]))


def _graph(outputs: Iterable[torch.Tensor]) -> Iterator[Any]:
    stack = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        yield node
        for before, _ in node.next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                stack.append(before)


def _has_hooks(node: Any) -> bool:
    return any(_others(register) for register in (node.register_hook, node.register_prehook))


def _others(register: Any) -> bool:
    handle = register(_nothing)
    found = len(handle.hooks_dict_ref()) > 1
    handle.remove()
    return found


def _nothing(*gradients: Any) -> None:
    """A hook that changes nothing."""
