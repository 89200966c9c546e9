"""What is traced: a problem over its batches, a module on its inputs, or a function of theta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from tameopt.batches import tensors_of
from tameopt.loss_module import unwrapped
from tameopt.problem import Problem
from tameopt.structure.hooks import hooked_parameters
from tameopt.structure.places import module_names

Wrt = Literal["parameters", "inputs", "both"]
_MAX_BATCHES = 4  # our choice: batches traced before the rest are covered by "any data of this shape"


@dataclass(frozen=True)
class Subject:
    """A function to trace. run(leaves, part) computes part number `part` (a batch) from the leaves by name.

    hooks: parameters whose gradient a hook may change.
    """

    name: str
    leaves: Mapping[str, torch.Tensor]
    data: tuple[tuple[torch.Tensor, ...], ...]
    modules: Mapping[int, str]
    run: Callable[[Mapping[str, torch.Tensor], int], Any]
    combine: str = "tame.outputs"
    any_data: bool = False
    notes: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()

    @property
    def parts(self) -> int:
        return len(self.data)


def new_leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_()


def subject_of(target: Any, loss: Any, inputs: Any, wrt: Wrt) -> Subject:
    """What `certify(target, loss, inputs, wrt=wrt)` traces."""
    if isinstance(target, Problem):
        if wrt != "parameters":
            raise ValueError(f"a Problem is certified in its parameters, got wrt={wrt!r}: pass the model and inputs.")
        return _of_problem(target)
    if inputs is None:
        raise ValueError(
            "certify(model, inputs=...) needs the inputs the model is called with: a tensor, a tuple or a dict."
        )
    if isinstance(target, nn.Module):
        return _of_module(unwrapped(target), loss, inputs, wrt)
    if callable(target):
        return _of_problem(Problem.from_function(target, torch.as_tensor(inputs)))
    raise TypeError(f"certify needs a Problem, a module or a function of theta, got {type(target).__name__}.")


def _of_problem(problem: Problem) -> Subject:
    leaves = {name: new_leaf(view) for name, view in problem.unflatten(problem.theta).items()}
    if problem.is_function:
        return Subject(
            problem.name, leaves, ((),), module_names(problem.model), lambda parts, _: problem.batch_output(
                dict(parts), ()), "tame.total",
        )  # fmt: skip
    batches = []
    for batch in problem.batches:
        batches.append(batch)
        if len(batches) == _MAX_BATCHES + 1:
            break
    any_data = len(batches) > _MAX_BATCHES
    notes: tuple[str, ...] = ()
    if any_data:
        batches = batches[:_MAX_BATCHES]
        notes = (
            f"{_MAX_BATCHES} batches were traced; the others are covered because the certificate holds for any "
            "finite data through the same operators",
        )
    combine = "tame.total" if problem.reduction == "sum" else "tame.average"
    return Subject(
        problem.name,
        leaves,
        tuple(tuple(tensors_of(batch)) for batch in batches),
        module_names(problem._module),
        lambda parts, k: problem.batch_output(dict(parts), batches[k]),
        combine,
        any_data,
        notes,
        hooked_parameters(problem.model),
    )


def _of_module(model: nn.Module, loss: Any, inputs: Any, wrt: Wrt) -> Subject:
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a TorchScript module runs outside what can be recorded: pass the Python module it was made from."
        )
    if loss is not None and not (isinstance(inputs, (tuple, list)) and len(inputs) >= 2):
        raise ValueError("with a loss, inputs must be (*inputs, target), as a batch of a Problem.")
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if loss is not None and floating and tensors and floating[-1] is tensors[-1]:
        floating = floating[:-1]
    leaves: dict[str, torch.Tensor] = {}
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wrt in ("parameters", "both"):
        leaves.update({f"parameter {name}": new_leaf(parameter) for name, parameter in parameters.items()})
    if wrt in ("inputs", "both"):
        leaves.update({f"input {k}": new_leaf(tensor) for k, tensor in enumerate(floating)})
    if not leaves:
        quantised = [type(module).__name__ for module in model.modules() if "quantized" in type(module).__module__]
        if quantised:
            raise ValueError(
                f"quantised layers ({quantised[0]}) have no trainable parameters: certify the network before "
                "quantisation."
            )
        raise ValueError(f"nothing varies: {type(model).__name__} has no trainable parameters (wrt={wrt!r}).")
    numbers = {id(tensor): k for k, tensor in enumerate(floating)}
    buffers = dict(model.named_buffers())

    def run(parts: Mapping[str, torch.Tensor], _: int) -> Any:
        def swapped(leaf: Any) -> Any:
            return parts.get(f"input {numbers.get(id(leaf))}", leaf) if isinstance(leaf, torch.Tensor) else leaf

        batch = tree_map(swapped, inputs)
        constants = {name: buffer.clone() for name, buffer in buffers.items()}
        for name, parameter in model.named_parameters():
            constants[name] = parts.get(f"parameter {name}", parameter.detach())
        if loss is not None:
            *arguments, goal = batch
            return loss(functional_call(model, constants, tuple(arguments)), goal)
        if isinstance(batch, Mapping):
            return functional_call(model, constants, (), dict(batch))
        # a packed sequence is a named tuple, and one argument
        several = isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence)
        return functional_call(model, constants, tuple(batch) if several else (batch,))

    hooks = hooked_parameters(model) if wrt != "inputs" else ()
    return Subject(type(model).__name__, leaves, (tuple(tensors),), module_names(model), run, hooks=hooks)
