"""Traces as the checkers of this room read them: operators in JSON, and the arrays that go in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tameopt.nonsmooth.graph import Graph, Ref


def certificate_steps(graph: Graph) -> dict[str, Any]:
    """The trace as JSON, as the checkers of this room read it."""

    def plain(tree: Any) -> Any:
        if isinstance(tree, Ref):
            return {"ref": tree.name}
        if isinstance(tree, (tuple, list)):
            return [plain(leaf) for leaf in tree]
        if isinstance(tree, Mapping):
            return {key: plain(leaf) for key, leaf in tree.items()}
        return tree if isinstance(tree, (int, float, str, bool)) or tree is None else str(tree)

    return {
        "steps": [
            {"name": step.name, "op": step.op, "args": plain(step.args), "kwargs": plain(dict(step.kwargs))}
            for step in graph
        ],
        "output": graph.output,
    }


def array_of(step: Any, parameters: Mapping[str, torch.Tensor], leaves: list[Any], graph: Graph) -> Any:
    """The values of a parameter, input or constant of the trace, as numpy holds them exactly."""
    if step.op == "constant":
        tensor = graph.constants[step.name]
    else:
        tensor = parameters[step.args[0]] if step.op == "parameter" else leaves[step.args[0]]
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor.long()).numpy()
