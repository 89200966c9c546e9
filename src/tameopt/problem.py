"""The objective: F(theta) = 1/n sum_i l_i(theta), for any PyTorch model, loss and data, or a plain function.

Everything downstream asks a `Problem` for values, gradients, per-sample gradients and Hessian products at a
flat theta; the person's model is never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from tameopt.batches import Batch, Batches, batches_of, require_input_and_target, rows, size_of
from tameopt.evidence import Finding
from tameopt.hessian_modes import HessianMode, HessianProducts, exact_attention, faster_mode, require_graph
from tameopt.linear_operator import SymmetricOperator
from tameopt.loss_module import BatchLoss, Function, Loss, structure_copy, trainable, unwrapped
from tameopt.parameter_vector import flattened, require_vector, shapes_of, split
from tameopt.probe import Reduction, probe, require_a_function
from tameopt.sample_gradients import gradients_of_samples
from tameopt.sharing import Sharing, total_of


class Problem:
    """F(theta) = 1/n sum_i l_i(theta) over the trainable parameters of a model, flattened to theta in R^d.

    model: any nn.Module; parameters with requires_grad=False are constants, shared ones count once; the
        module inside torch.compile or DDP is used. Its tensors are shared, never written.
    loss: loss(output, target) -> scalar or (b,) losses of the samples; called as loss(model(*inputs), target)
        with a batch (*inputs, target).
    data: tensors, Dataset, DataLoader or batches (`batches.batches_of`).
    forward: forward(model, batch) -> loss, for dict and multi-input batches; then `loss` is not called.
    reduction: what the loss returns for a batch, "mean", "sum" or "none" (one a sample); probed. With "sum",
        F is the sum of the l_i, so that its gradient is the one the optimizer sees.
    batch_size: samples evaluated at once. dtype, device: cast model and data for the analysis.
    mode: "as is" keeps each module's training flag and refuses randomness; "eval" analyses the network as it
        predicts.
    initial_law: how the model's parameters were drawn, in words ("uniform, seed 0"), "fixed" where they
        were not, "" where nobody says. Theorems on random initialisation ask for it.
    held_out: data like `data` that are not trained on, for the error there.

    Raises ValueError (NotDeterministicError for random losses) when this is not such a problem, naming what
    is at fault.

    >>> model = torch.nn.Linear(2, 1)
    >>> problem = Problem(model, torch.nn.functional.mse_loss, (torch.ones(4, 2), torch.zeros(4, 1)))
    >>> problem.dim, problem.n
    (3, 4)
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | None,
        data: Any,
        *,
        forward: Callable[[nn.Module, Batch], torch.Tensor] | None = None,
        reduction: Reduction = "mean",
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        mode: Literal["as is", "eval"] = "as is",
        name: str = "",
        initial_law: str = "",
        held_out: Any = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"model must be a torch.nn.Module, got {type(model).__name__}: wrap a plain function of "
                "theta with Problem.from_function."
            )
        if loss is None and forward is None:
            raise ValueError("a loss(output, target), or forward(model, batch) -> loss, is required; got neither.")
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}.")
        if mode not in ("as is", "eval"):
            raise ValueError(f"mode must be 'as is' or 'eval', got {mode!r}.")
        self.model = unwrapped(model)
        self.loss = loss
        self.forward = forward
        self.mode = mode
        self.name = name or type(self.model).__name__
        self.initial_law = initial_law
        self.known: tuple[Finding, ...] = ()
        self.is_function = isinstance(self.model, Function)
        self._parameters = trainable(self.model, self.name)
        first = next(iter(self._parameters.values()))
        self.dtype = dtype or first.dtype
        self.device = torch.device(device) if device is not None else first.device
        self.shapes = shapes_of(self._parameters)
        self.dim = sum(parameter.numel() for parameter in self._parameters.values())
        structure = structure_copy(self.model)
        if mode == "eval":
            structure.eval()
        self._module: nn.Module = structure if self.is_function else BatchLoss(structure, loss, forward)
        self._prefix = "" if self.is_function else "model."
        self._constants = self._cast_constants()
        self._fixed_buffers: dict[str, torch.Tensor] = {}
        self._hessian_mode: HessianMode | None = None
        self.sharing: Sharing | None = None
        self.held_out = None if held_out is None else batches_of(held_out, batch_size).to(self.dtype, self.device)
        if self.is_function:
            self.batches = Batches(1, 1, ())
            self.reduction: Reduction = "sum"
            return
        self.batches = batches_of(data, batch_size).to(self.dtype, self.device)
        if forward is None:
            require_input_and_target(next(iter(self.batches)))
        parameters = self.unflatten(self.theta)
        self.reduction = probe(
            structure, lambda batch: self.batch_output(parameters, batch), next(iter(self.batches)), reduction
        )

    @classmethod
    def from_function(
        cls,
        F: Callable[[torch.Tensor], torch.Tensor],
        theta0: torch.Tensor,
        *,
        name: str = "F",
        initial_law: str = "",
        known: tuple[Finding, ...] = (),
    ) -> Problem:
        """The problem of minimising F: (d,) tensor -> scalar tensor, from theta0: (d,) floating.

        known: what the literature has settled about this very F, as findings with their source; audits repeat them.

        >>> Problem.from_function(lambda theta: theta.square().sum(), torch.ones(3)).value()
        tensor(3.)
        """
        theta0 = torch.as_tensor(theta0)
        if theta0.ndim != 1 or not theta0.is_floating_point() or theta0.numel() == 0:
            raise ValueError(
                f"theta0 must be a non-empty floating vector, got shape {tuple(theta0.shape)} of {theta0.dtype}."
            )
        require_a_function(F, theta0)
        problem = cls(Function(F, theta0), lambda: theta0, None, name=name, initial_law=initial_law)
        problem.known = known
        return problem

    def __repr__(self) -> str:
        samples = "" if self.is_function else f", n={self.n_total:,}"
        samples += "" if self.sharing is None else f" over {self.sharing.processes} processes"
        return f"Problem({self.name}, d={self.dim:,}{samples}, {str(self.dtype).removeprefix('torch.')})"

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Problem:
        """The same problem in another dtype or on another device; the model is shared."""
        other = copy.copy(self)
        other.dtype = dtype or self.dtype
        other.device = torch.device(device) if device is not None else self.device
        other.batches = self.batches.to(other.dtype, other.device)
        other.held_out = None if self.held_out is None else self.held_out.to(other.dtype, other.device)
        other._constants = other._cast_constants()
        return other

    def shared(self, sharing: Sharing) -> Problem:
        """The problem of all processes' data, of which this one holds a share: values, gradients and Hessian products
        become sums over the processes, which all have to ask for them together."""
        other = copy.copy(self)
        other.sharing = sharing
        return other

    @property
    def n(self) -> int:
        """The number of samples that this process holds (1 for a plain function)."""
        return self.batches.n

    @property
    def n_total(self) -> int:
        """The number of samples of all processes: n, unless data are shared (`curvature.over_processes`)."""
        return self.n if self.sharing is None else self.sharing.samples

    @property
    def theta(self) -> torch.Tensor:
        """(d,) the model's parameters now, a copy in the problem's dtype and on its device."""
        return self.flatten(self._parameters)

    def flatten(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(d,) the named tensors as one vector, in the order of `shapes`."""
        return flattened(tensors, self.shapes, self.dtype, self.device)

    def unflatten(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters by name as views of theta: (d,); nothing is copied.

        Raises ValueError when theta is not (d,).
        """
        require_vector(theta, self.dim)
        return split(theta, self.shapes)

    def at(self, theta: torch.Tensor | None) -> torch.Tensor:
        """theta: (d,) in the problem's dtype and on its device, the model's own for None.

        Raises ValueError when theta is not (d,).
        """
        if theta is None:
            return self.theta
        require_vector(theta, self.dim)
        return theta.to(self.device, self.dtype)

    def load_buffers(self, buffers: Mapping[str, torch.Tensor]) -> Problem:
        """The same problem with these buffers (BatchNorm's running statistics of a recorded step, say) in place of
        the model's present ones, which are used otherwise."""
        other = copy.copy(self)
        other._fixed_buffers = {
            **self._fixed_buffers,
            **{self._prefix + key: tensor for key, tensor in buffers.items()},
        }
        return other

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self.device, self.dtype if tensor.is_floating_point() else None)

    def _cast_constants(self) -> dict[str, torch.Tensor]:
        """The parameters that are not theta: frozen ones, and those of the loss."""
        trainable = {self._prefix + key for key in self._parameters}
        return {key: self._cast(tensor) for key, tensor in self._module.named_parameters() if key not in trainable}

    def _buffers(self) -> dict[str, torch.Tensor]:
        """Copies of the buffers as they are now: a module that writes its buffers must not write the person's."""
        live = dict(self._module.named_buffers())
        live.update({self._prefix + key: tensor for key, tensor in self.model.named_buffers()})
        live.update(self._fixed_buffers)
        cast = {key: self._cast(tensor) for key, tensor in live.items()}
        return {key: tensor.clone() for key, tensor in cast.items()}

    def batch_output(
        self, parameters: dict[str, torch.Tensor], batch: Batch, outputs_only: bool = False
    ) -> torch.Tensor:
        """What the loss returns for a batch at these parameters (or the network's output); differentiable."""
        tensors = {**{self._prefix + key: tensor for key, tensor in parameters.items()}, **self._constants}
        if self.is_function:
            return functional_call(self._module, tensors, ())
        return functional_call(self._module, {**tensors, **self._buffers()}, (batch, outputs_only))

    def _batch_sum(self, parameters: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """sum of l_i over a batch."""
        output = self.batch_output(parameters, batch)
        if self.is_function or self.reduction == "sum":
            return output
        if self.reduction == "none":
            return output.sum()
        return output.reshape(()) * size_of(batch)

    @property
    def scale(self) -> float:
        """What the sum of all l_i is multiplied by to give F: 1/n over all data, or 1 for reduction "sum"."""
        return 1.0 if self.reduction == "sum" else 1.0 / self.n_total

    def __call__(self, theta: torch.Tensor) -> torch.Tensor:
        """F(theta), differentiable in theta any number of times by autograd and torch.func; scalar tensor.

        Raises ValueError where the data are shared by processes: sums over them have no derivatives here.
        """
        if self.sharing is not None:
            raise ValueError(
                f"F must be a sum over this process's data to be differentiated, {self.name} is one over "
                f"{self.sharing.processes} processes: use .value, .gradient and .hessian, or all data on one process."
            )
        with exact_attention():
            return self._full_value(theta)

    def _full_value(self, theta: torch.Tensor) -> torch.Tensor:
        parameters = self.unflatten(theta)
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        for batch in self.batches:
            total = total + self._batch_sum(parameters, batch)
        return total * self.scale

    def value(self, theta: torch.Tensor | None = None) -> torch.Tensor:
        """F(theta), an exact full-data sum weighted by batch size; scalar tensor. One value pass."""
        with torch.no_grad():
            return total_of(self.sharing, self._full_value(self.at(theta)))

    def gradient(self, theta: torch.Tensor | None = None) -> torch.Tensor:
        """(d,) grad F(theta) over all samples, as autodiff returns it. One gradient."""
        return self.value_and_gradient(theta)[1]

    def value_and_gradient(self, theta: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """F(theta) and (d,) grad F(theta). One gradient."""
        at = self.at(theta)
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        gradient = torch.zeros_like(at)
        for batch in self.batches:
            value, part = self._batch_gradient(at, batch)
            total, gradient = total + value, gradient + part
        return total_of(self.sharing, total * self.scale), total_of(self.sharing, gradient * self.scale)

    def batch_gradient(self, theta: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The value and gradient of the mean loss over one batch (the sum for reduction "sum")."""
        value, gradient = self._batch_gradient(self.at(theta), batch)
        scale = 1.0 if self.reduction == "sum" else 1.0 / size_of(batch)
        return value * scale, gradient * scale

    def _batch_gradient(self, theta: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        leaves = {key: view.detach().requires_grad_() for key, view in self.unflatten(theta).items()}
        with torch.enable_grad():
            value = require_graph(self._batch_sum(leaves, batch))
            parts = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        return value.detach(), torch.cat([part.reshape(-1) for part in parts])

    def sample_gradients(
        self, theta: torch.Tensor | None = None, indices: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(m, d) grad l_i(theta) for the samples `indices` (all by default), by vmap; m/n gradients.

        Raises ValueError for ragged data, and for a plain function, which has no samples.
        """
        if self.is_function:
            raise ValueError("a plain function has no samples: build a Problem from a model, a loss and data.")
        at = self.at(theta)
        if indices is None:
            indices = torch.arange(self.n)
        batch = self.batches.pick(indices)
        return gradients_of_samples(self._batch_sum, self.unflatten(at), batch)

    def sample_losses(self, theta: torch.Tensor | None = None) -> torch.Tensor:
        """(n,) l_i(theta) in the data's order. One value pass."""
        if self.is_function:
            return self.value(theta)[None]
        parameters = self.unflatten(self.at(theta))
        losses = []
        with torch.no_grad():
            for batch in self.batches:
                if self.reduction == "none":
                    losses.append(self.batch_output(parameters, batch))
                    continue
                losses.extend(
                    self._batch_sum(parameters, rows(batch, slice(i, i + 1)))[None] for i in range(size_of(batch))
                )
        return torch.cat(losses)

    def outputs(self, theta: torch.Tensor | None = None) -> torch.Tensor:
        """The network's outputs for all samples, concatenated along dimension 0.

        Raises ValueError when the problem was given as forward(model, batch) or a plain function.
        """
        self.require_outputs()
        parameters = self.unflatten(self.at(theta))
        with torch.no_grad():
            return torch.cat([self.batch_output(parameters, batch, True) for batch in self.batches])

    def targets(self) -> torch.Tensor:
        """The targets of all samples, concatenated along dimension 0 (ValueError as in `outputs`)."""
        self.require_outputs()
        return torch.cat([batch[-1] for batch in self.batches])

    def require_outputs(self) -> None:
        """Raises ValueError when network and loss are not given apart."""
        if self.is_function or self.forward is not None:
            raise ValueError(
                "outputs need a problem given as model, loss(output, target) and (input, target) batches; "
                f"{self.name} was given as {'a plain function' if self.is_function else 'forward(model, batch)'}."
            )

    def hessian_product(self, theta: torch.Tensor | None, block: torch.Tensor) -> torch.Tensor:
        """(d, m) grad^2 F(theta) V for V: (d, m); m Hessian-vector products.

        Forward-over-reverse or reverse-over-reverse, whichever was faster on the first batch at the first
        call; attention runs on the math backend, the only one with second derivatives. Where an operator has none
        at all, differences of gradients (`hessian_mode` says so). `hessian` is faster for many products at one theta.
        """
        return total_of(self.sharing, self._hessian_products(self.at(theta), keep=False)(block).mul_(self.scale))

    def hessian(self, theta: torch.Tensor | None = None) -> SymmetricOperator:
        """grad^2 F(theta) as an operator; nothing is computed until it is applied.

        It keeps the graph of the gradient while it lives, as far as 2 GiB reach past the first batch, so that
        repeated products cost a third less or better.
        """
        at = self.at(theta).clone()
        products: list[HessianProducts] = []

        def product(block: torch.Tensor) -> torch.Tensor:
            if not products:
                products.append(self._hessian_products(at, keep=True))
            return total_of(self.sharing, products[0](block).mul_(self.scale))

        return SymmetricOperator(self.dim, product, self.dtype, self.device, f"Hessian of {self.name}")

    def hessian_mode(self, theta: torch.Tensor | None = None) -> HessianMode:
        """How Hessian products are computed here; timed on the first batch when first asked."""
        if self._hessian_mode is None:
            at = self.at(theta)
            mode = faster_mode(self._batch_sum, self.unflatten(at), next(iter(self.batches)))
            if not bool(torch.isfinite(at).all()):
                return mode  # nothing can be checked there
            self._hessian_mode = mode
        return self._hessian_mode

    def _hessian_products(self, at: torch.Tensor, keep: bool) -> HessianProducts:
        return HessianProducts(self._batch_sum, self.unflatten(at), self.batches, self.hessian_mode(at), keep)
