"""A model's graph in the few operators that the checkers know.

The model is traced once on its data; the trace is rewritten (a convolution becomes patches and a linear map at each
place), run again in NumPy, and compared with the model's own outputs at its weights and at weights near them. An
operator that is not known is named, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tameopt.kl.check_operators import forward, read_operators
from tameopt.kl.shallow import altered, beyond, copied
from tameopt.problem import Problem

# tracing runs the person's code on tensors whose values it may not read
_TRACING_FAILS = (
    RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, LookupError, AssertionError,
)  # fmt: skip
_ACTIVATIONS = {"tanh": "tanh", "sigmoid": "sigmoid", "sin": "sin", "softplus": "softplus", "gelu": "gelu"}
_KINKED = {"relu", "relu_", "leaky_relu", "hardtanh", "abs", "max_pool2d", "amax", "maximum", "prelu", "hardswish"}
_TURNS = ("t", "transpose", "numpy_T")
_VIEWS = {"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous", "clone"}


@dataclass(frozen=True)
class Operators:
    """A model as operators on its data: ops as in `check_network`; weights: every array that they name.

    trained: names of those that move; X: (n, d), Y: (n, ...) flattened, as float64 arrays.
    """

    ops: tuple[dict[str, Any], ...]
    weights: dict[str, np.ndarray]
    trained: tuple[str, ...]
    X: np.ndarray
    Y: np.ndarray

    def description(self) -> dict[str, Any]:
        """The network for a certificate, without its arrays."""
        return {"kind": "network", "ops": [dict(op) for op in self.ops], "trained": list(self.trained)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, indices and data for a certificate."""
        return {**self.weights, "X": self.X, "Y": self.Y}


def operators_of(
    problem: Problem, theta: torch.Tensor | None = None, *, kinks: bool = False, samples: int | None = None
) -> Operators | str:
    """The problem's model at theta as operators, or the reason why it cannot be written so.

    kinks: whether ReLU, leaky ReLU and max-pooling are admitted. samples: only the first so many.
    """
    if problem.is_function or problem.forward is not None:
        return "the network is hidden: the problem must be given as model, loss(output, target) and (input, target)"
    if not problem.batches.indexable:
        return "the samples cannot be held in memory"
    if (changed := altered(problem.model)) and "replaced" not in changed:  # a replaced forward is traced as it is
        return changed
    batch = problem.batches.whole if samples is None else problem.batches.pick(torch.arange(min(samples, problem.n)))
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], torch.Tensor):
        return "the data must be (input, target)"
    inputs, targets = batch[0].detach(), batch[1]
    flat = problem.theta if theta is None else theta.detach().to(problem.dtype, copy=True)
    parameters = {name: tensor.detach() for name, tensor in problem.unflatten(flat).items()}
    if not inputs.is_floating_point():
        return "the inputs must be floating tensors"

    def run(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return problem.batch_output(parameters, [x, targets], True)

    try:
        with torch.no_grad():
            traced = make_fx(run, pre_dispatch=True)(parameters, inputs)
    except _TRACING_FAILS as error:
        return f"the network could not be traced: {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    arrays = {name: copied(tensor) for name, tensor in parameters.items()}
    compiler = _Compiler(traced, list(parameters), arrays, inputs.shape[0], kinks)
    reason = compiler.compile()
    if reason:
        return reason
    n = inputs.shape[0]
    found = Operators(
        tuple(compiler.ops), compiler.weights, tuple(compiler.trained), copied(inputs.reshape(n, -1)),
        copied(targets.reshape(n, -1)),
    )  # fmt: skip
    if sizes_fit := beyond({"the inputs": found.X, "the targets": found.Y, **found.weights}):
        return sizes_fit
    if sum(found.weights[name].size for name in found.trained) != problem.dim:
        return (
            "the outputs do not depend on every trained parameter, or the model shares some in a way not known here"
        )
    try:
        wrong = _disagreement(found, problem, flat, batch)
        # with kinks on a few samples alone: those are asked first, and the rest of the data has the same operators
        if not wrong and (samples is not None or not kinks):
            wrong = _cut(found, problem, flat, batch, kinks)
        return wrong or found
    except ValueError as error:  # sizes at which the checkers evaluate no activation
        return str(error)


def _cut(net: Operators, problem: Problem, flat: torch.Tensor, batch: Any, kinks: bool) -> str:
    """Why the gradient that autodiff takes is not that of the operators (something is detached, say), or "".

    A directional derivative by autodiff against a central difference in float64, along one random direction; with
    kinks at a theta near this one, where nothing is at a kink but by chance.
    """
    generator = torch.Generator().manual_seed(1)
    if kinks:
        flat = flat + 0.01 * flat.abs().mean() * torch.randn(flat.shape, generator=generator).to(flat)
    along = torch.randn(flat.shape, generator=generator, dtype=torch.float64)
    along /= along.norm()
    leaf = flat.detach().clone().requires_grad_(True)
    outputs = problem.batch_output(problem.unflatten(leaf), batch, True)
    weight = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    if not outputs.requires_grad:
        return "autodiff takes no gradient of the outputs"
    (gradient,) = torch.autograd.grad((outputs * weight.to(outputs)).sum(), leaf)
    taken = float(gradient.double().cpu() @ along)
    size, h = float(gradient.double().norm()), 1e-5 * max(1.0, float(flat.double().norm()))
    own = []
    for sign in (1, -1):
        parameters = problem.unflatten(flat.double() + sign * h * along.to(flat.device))
        arrays = {**net.arrays(), **{n: copied(parameters[n]).reshape(net.weights[n].shape) for n in net.trained}}
        ops, _, _ = read_operators(net.description(), arrays, kinks=True)
        own.append(float((forward(ops, arrays)[0][-1] * weight.reshape(len(net.X), -1).numpy()).sum()))
    found = (own[0] - own[1]) / (2 * h)
    # truncation h^2 times a third derivative, rounding eps/h of the outputs, and autodiff's own precision
    tolerance = 1e-4 * max(1.0, size, abs(own[0])) + 1e3 * torch.finfo(flat.dtype).eps * size
    if not abs(found - taken) <= tolerance:
        return "the gradient that autodiff takes is not that of the network: something on the way is detached"
    return ""


def _disagreement(net: Operators, problem: Problem, flat: torch.Tensor, batch: Any) -> str:
    """Why the operators are not what the model computes in float64, at theta and at two points near it, or ""."""
    problem, flat = problem.to(torch.float64), flat.double()
    batch = [part.double() if part.is_floating_point() else part for part in batch]
    generator = torch.Generator().manual_seed(0)
    for size in (0.0, 0.01, 0.1):
        noise = torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(flat)
        moved = flat + size * flat.abs().mean() * noise
        parameters = problem.unflatten(moved)
        weights = dict(net.weights)
        for name in net.trained:
            weights[name] = copied(parameters[name]).reshape(net.weights[name].shape)
        arrays = {**weights, "X": net.X, "Y": net.Y}
        ops, _, _ = read_operators(net.description(), arrays, kinks=True)
        own = forward(ops, arrays)[0][-1]
        with torch.no_grad():
            outputs = copied(problem.batch_output(parameters, batch, True)).reshape(own.shape[0], -1)
        # float error of the model's own evaluation, generously; another function would differ by much more
        tolerance = 1e4 * torch.finfo(problem.dtype).eps * max(1.0, float(np.abs(own).max()))
        if outputs.shape != own.shape or not float(np.abs(outputs - own).max()) <= tolerance:
            return "the model's own outputs differ from those of its traced operators"
    return ""


class _Compiler:
    """From a trace to operators: each traced tensor that depends on the data is a value with its own shape."""

    def __init__(
        self, traced: fx.GraphModule, names: list[str], parameters: dict[str, np.ndarray], n: int, kinks: bool
    ) -> None:
        self.traced, self.names, self.n, self.kinks = traced, names, n, kinks
        self.parameters = parameters
        self.ops: list[dict[str, Any]] = []
        self.weights: dict[str, np.ndarray] = {}
        self.trained: list[str] = []
        self.value: dict[str, int] = {}  # traced tensors that depend on the data: which value they are
        self.fixed: dict[str, str | np.ndarray] = {}  # the others: a parameter's name, or numbers
        self.turned: set[str] = set()  # parameters seen transposed

    def compile(self) -> str:
        """Fill ops, weights and trained; the reason why not, or ""."""
        placeholders = [node for node in self.traced.graph.nodes if node.op == "placeholder"]
        for node, name in zip(placeholders[:-1], self.names, strict=True):
            self.fixed[node.name] = name
        self.value[placeholders[-1].name] = 0
        for node in self.traced.graph.nodes:
            if node.op == "get_attr":
                self.fixed[node.name] = copied(getattr(self.traced, node.target))
            elif node.op == "call_function":
                reason = self._call(node)
                if reason:
                    return reason
            elif node.op == "output":
                out = node.args[0]
                out = out[0] if isinstance(out, (list, tuple)) else out
                if not isinstance(out, fx.Node) or out.name not in self.value:
                    return "the outputs do not depend on the data"
                if self.value[out.name] != len(self.ops):
                    return "the outputs are not the last thing that the network computes"
        return ""

    def _shape(self, node: Any) -> tuple[int, ...]:
        return tuple(node.meta["val"].shape)

    def _emit(self, node: Any, entry: dict[str, Any]) -> None:
        self.ops.append(entry)
        self.value[node.name] = len(self.ops)

    def _index(self, index: np.ndarray) -> str:
        name = f"index{len(self.ops)}"
        self.weights[name] = index.astype(np.float64).reshape(-1)
        return name

    def _parameter(self, node: Any) -> str | None:
        """The name of the array that a traced tensor without data is; it is added to the weights."""
        if not isinstance(node, fx.Node) or node.name not in self.fixed:
            return None
        found = self.fixed[node.name]
        if isinstance(found, str):
            if found not in self.weights:
                self.weights[found] = self.parameters[found]
                self.trained.append(found)
            return found
        name = f"constant {node.name}"
        self.weights[name] = found
        return name

    def _call(self, node: Any) -> str:
        name = str(node.target).removeprefix("aten.").split(".")[0]
        source = next((a for a in node.all_input_nodes if a.name in self.value), None)
        given = self.fixed.get(node.all_input_nodes[0].name) if node.all_input_nodes else None
        if "grad_enabled" in name or (name == "detach" and not isinstance(given, np.ndarray)):
            return "part of the network is cut off from gradients (no_grad or detach)"
        if source is None:
            return self._without_data(node, name)
        shape = self._shape(node)
        idle = name == "dropout" and not (node.args[1] and node.args[2])
        if idle or (name in _VIEWS and len(shape) and (shape[0] == self.n or math.prod(shape[1:]) == 0)):
            self.value[node.name] = self.value[source.name]  # row-major: the same numbers in the same order
            return ""
        handler: Callable[[Any, Any], str] | None = getattr(self, f"_on_{name}", None)
        if name in _ACTIVATIONS:
            return self._activation(node, source, name)
        if name in _KINKED and not self.kinks:
            return f"{name} is not smooth: this theorem needs a smooth network (tanh, softplus, GELU, sigmoid, sin)"
        if handler is None:
            what = "it is none of the homogeneous ones known" if self.kinks else "its bounds on a ball are not known"
            return f"not available for the operator {name}: {what} here"
        return handler(node, source)

    def _without_data(self, node: Any, name: str) -> str:
        """Only a transposed weight is known, and a buffer that is passed on."""
        given = node.all_input_nodes[0].name if len(node.all_input_nodes) == 1 else ""
        buffer = isinstance(self.fixed.get(given), np.ndarray) and name in ("detach", "to", "clone")
        if given not in self.fixed or not (buffer or name in (*_TURNS, "alias")):
            return f"not available: {name} of parameters alone (a reparametrised weight, say)"
        self.fixed[node.name] = self.fixed[given]
        self.turned |= {node.name} if name in _TURNS else set()
        return ""

    def _activation(self, node: Any, source: Any, name: str) -> str:
        if name == "softplus" and (tuple(node.args[1:]) not in ((), (1,), (1.0,), (1, 20), (1.0, 20.0))):
            return "softplus must have beta 1 and torch's threshold 20"
        if name == "gelu" and node.kwargs.get("approximate", "none") != "none":
            return "GELU must be the exact one (approximate='none')"
        self._emit(node, {"op": "activation", "in": self.value[source.name], "name": _ACTIVATIONS[name]})
        return ""

    def _affine(self, node: Any, x: Any, weight: Any, bias: Any) -> str:
        shape = self._shape(x)
        W = self._parameter(weight)
        b = None if bias is None else self._parameter(bias)
        if W is None or x.name not in self.value or (bias is not None and b is None):
            return "not available: a product of two things that depend on the data"
        if shape[0] != self.n or self.weights[W].ndim != 2 or (b is not None and self.weights[b].ndim != 1):
            return "not available: a linear layer across samples, or one that is no matrix"
        positions = math.prod(shape[1:-1])
        self._emit(node, {"op": "linear", "in": self.value[x.name], "weight": W, "bias": b, "positions": positions})
        return ""

    def _on_linear(self, node: Any, source: Any) -> str:
        x, weight, *rest = node.args
        return self._affine(node, x, weight, rest[0] if rest else None)

    def _on_matmul(self, node: Any, source: Any) -> str:
        x, weight = node.args
        if not isinstance(weight, fx.Node) or weight.name not in self.turned:
            return "not available: a product other than x @ W.T"
        return self._affine(node, x, weight, None)

    _on_mm = _on_matmul

    def _on_conv2d(self, node: Any, source: Any) -> str:
        defaults: tuple[Any, ...] = (None, [1, 1], [0, 0], [1, 1], 1)
        given = list(node.args)
        x, weight, bias, stride, padding, dilation, groups = given + list(defaults[len(given) - 2 :])
        if isinstance(padding, str) or list(dilation) != [1, 1] or groups != 1:
            return "convolutions must have dilation 1, one group and numbers as padding"
        W = self._parameter(weight)
        b = None if bias is None else self._parameter(bias)
        if W is None or (bias is not None and b is None):
            return "not available: a convolution by something that depends on the data"
        out, C, kh, kw = self._shape(weight)
        _, _, H, width = self._shape(x)
        (sh, sw), (ph, pw) = (tuple(pair) * (3 - len(pair)) for pair in (stride, padding))
        places = np.pad(
            np.arange(C * H * width).reshape(C, H, width), ((0, 0), (ph, ph), (pw, pw)), constant_values=-1
        )
        windows = np.lib.stride_tricks.sliding_window_view(places, (kh, kw), axis=(1, 2))[:, ::sh, ::sw]
        rows, columns = windows.shape[1], windows.shape[2]
        patches = windows.transpose(1, 2, 0, 3, 4).reshape(rows * columns, C * kh * kw)
        self.ops.append({"op": "gather", "in": self.value[x.name], "index": self._index(patches)})
        self.weights[W] = self.weights[W].reshape(out, C * kh * kw)
        L = rows * columns
        self.ops.append({"op": "linear", "in": len(self.ops), "weight": W, "bias": b, "positions": L})
        order = np.arange(L * out).reshape(L, out).T
        self._emit(node, {"op": "gather", "in": len(self.ops), "index": self._index(order)})
        return ""

    def _on_avg_pool2d(self, node: Any, source: Any) -> str:
        x, kernel, stride, *rest = (*node.args, None, None)[: max(3, len(node.args))]
        if any(item not in (None, False, True, 0, [0, 0]) for item in rest):
            return "average pooling must have no padding and no divisor of its own"
        windows = self._windows(x, kernel, stride or kernel)
        if windows.shape[1:3] != self._shape(node)[2:]:
            return "average pooling must divide its input (ceil_mode=False)"
        return self._mean(node, x, windows.reshape(-1, windows.shape[3] * windows.shape[4]))

    def _on_adaptive_avg_pool2d(self, node: Any, source: Any) -> str:
        if list(node.args[1]) != [1, 1]:
            return "adaptive average pooling must be to size 1"
        shape = self._shape(node.args[0])
        return self._mean(node, node.args[0], np.arange(math.prod(shape[1:])).reshape(shape[1], -1))

    def _mean(self, node: Any, x: Any, groups: np.ndarray) -> str:
        self.ops.append({"op": "gather", "in": self.value[x.name], "index": self._index(groups)})
        self._emit(node, {"op": "mean", "in": len(self.ops), "count": int(groups.shape[1])})
        return ""

    def _on_relu(self, node: Any, source: Any) -> str:
        self._emit(node, {"op": "leaky", "in": self.value[source.name], "slope": 0.0})
        return ""

    _on_relu_ = _on_relu

    def _on_leaky_relu(self, node: Any, source: Any) -> str:
        slope = float(node.args[1]) if len(node.args) > 1 else 0.01
        if not 0 <= slope <= 1:
            return f"a leaky ReLU's slope must be between 0 and 1, got {slope}"
        self._emit(node, {"op": "leaky", "in": self.value[source.name], "slope": slope})
        return ""

    _on_leaky_relu_ = _on_leaky_relu

    def _on_max_pool2d(self, node: Any, source: Any) -> str:
        x, kernel, stride, *rest = (*node.args, None, None)[: max(3, len(node.args))]
        if any(item not in (None, False, 0, [0, 0], 1, [1, 1]) for item in rest):
            return "max-pooling must have no padding and dilation 1"
        windows = self._windows(x, kernel, stride or kernel)
        if windows.shape[1:3] != self._shape(node)[2:]:
            return "max-pooling must divide its input (ceil_mode=False)"
        groups = windows.reshape(-1, windows.shape[3] * windows.shape[4])
        self.ops.append({"op": "gather", "in": self.value[x.name], "index": self._index(groups)})
        self._emit(node, {"op": "max", "in": len(self.ops), "count": int(groups.shape[1])})
        return ""

    def _windows(self, x: Any, kernel: Any, stride: Any) -> np.ndarray:
        """(C, rows, columns, kh, kw) numbers of the entries under each window."""
        (kh, kw), (sh, sw) = (tuple(pair) * (3 - len(pair)) for pair in (kernel, stride))
        _, C, H, width = self._shape(x)
        places = np.arange(C * H * width).reshape(C, H, width)
        return np.lib.stride_tricks.sliding_window_view(places, (kh, kw), axis=(1, 2))[:, ::sh, ::sw]

    def _on_add(self, node: Any, source: Any) -> str:
        left, right = node.args[:2]
        both = all(isinstance(a, fx.Node) and a.name in self.value for a in (left, right))
        if not both or node.kwargs or self._shape(left) != self._shape(right):
            return "not available: an addition other than of two values of the same shape"
        self._emit(node, {"op": "add", "in": self.value[left.name], "other": self.value[right.name]})
        return ""

    def _on_mul(self, node: Any, source: Any) -> str:
        other = [a for a in node.args if not (isinstance(a, fx.Node) and a.name == source.name)]
        if len(other) != 1 or not isinstance(other[0], (int, float)):
            return "not available: a product of two values"
        self._emit(node, {"op": "scale", "in": self.value[source.name], "factor": float(other[0])})
        return ""

    def _on_div(self, node: Any, source: Any) -> str:
        x, divisor = node.args[:2]
        if x is not source or not isinstance(divisor, (int, float)) or not divisor or math.frexp(divisor)[0] != 0.5:
            return "not available: a division by anything but a power of two (multiply instead)"
        self._emit(node, {"op": "scale", "in": self.value[source.name], "factor": 1.0 / float(divisor)})
        return ""
