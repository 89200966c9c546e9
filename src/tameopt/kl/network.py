"""Smooth networks of any depth as the list of operators that the checker of trap certificates knows.

The model is traced once on its data; the trace is rewritten in the few operators of `check_network` (a convolution
becomes patches and a linear map at each place), run again in NumPy, and compared with the model's own outputs at its
weights and at weights near them. An operator that is not known is named, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from tameopt.kl.check_ball import Ball, reach_of
from tameopt.kl.check_network import NetworkBounds, forward, network_bounds, read_operators
from tameopt.kl.shallow import has_hooks
from tameopt.problem import Problem

# tracing runs the person's code on tensors whose values it may not read
_TRACING_FAILS = (
    RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, LookupError, AssertionError,
)  # fmt: skip
_MOST_ENTRIES = 1 << 26  # of the Jacobian: 512 MiB, and as much again while its error is bounded
_ACTIVATIONS = {"tanh": "tanh", "sigmoid": "sigmoid", "sin": "sin", "softplus": "softplus", "gelu": "gelu"}
_KINKED = {"relu", "relu_", "leaky_relu", "hardtanh", "abs", "max_pool2d", "amax", "maximum", "prelu", "hardswish"}
_VIEWS = {
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "contiguous",
    "clone",
    "detach",
    "alias",
    "to",
}


@dataclass(frozen=True)
class Network:
    """A network as operators, with weights and data as float64 arrays.

    ops: as in `check_network`; weights: every array that they name; trained: those that move; X: (n, d), Y: (n, k).
    """

    ops: tuple[dict[str, Any], ...]
    weights: dict[str, np.ndarray]
    trained: tuple[str, ...]
    X: np.ndarray
    Y: np.ndarray
    bounds: list[NetworkBounds] = field(default_factory=list, repr=False, compare=False)

    @property
    def words(self) -> str:
        """What it is, for a person."""
        layers = [op for op in self.ops if op["op"] == "linear"]
        kinds = sorted({op["name"] for op in self.ops if op["op"] == "activation"})
        widths = "-".join(str(self.weights[op["weight"]].shape[0]) for op in layers)
        places = " (convolutions among them)" if any(op["positions"] > 1 for op in layers) else ""
        return f"{len(layers)} layers of widths {widths}{places}, {', '.join(kinds) or 'linear'}"

    @property
    def count(self) -> int:
        """Number of trained parameters."""
        return sum(self.weights[name].size for name in self.trained)

    def description(self) -> dict[str, Any]:
        """The network for a certificate, without its arrays."""
        return {"kind": "network", "ops": [dict(op) for op in self.ops], "trained": list(self.trained)}

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, indices and data for a certificate."""
        return {**self.weights, "X": self.X, "Y": self.Y}

    def obstacle(self, radius: float) -> str:
        """Why the module differs from the function certified somewhere in the ball of that radius, or ""."""
        if not any(op.get("name") == "softplus" for op in self.ops):
            return ""
        ball = self.bounds[0].ball if self.bounds else network_bounds(self.description(), self.arrays()).ball
        if reach_of(ball, radius, "softplus") < 20:
            return ""
        return "torch's softplus is the identity past 20, which the ball reaches"


@dataclass(frozen=True)
class NetworkNumbers:
    """`kantorovich.Numbers` of a network: the checker's own bounds, so that claims never miss by rounding."""

    s0: float
    J0: float
    u0: float
    noise: float
    ball: Ball
    bounds: NetworkBounds

    def ell(self, radius: float) -> float:
        """A Lipschitz constant of J on the ball."""
        return self.bounds.ell(radius)


def affordable(problem: Problem) -> bool:
    """Whether the Jacobian of all outputs is small enough to be held."""
    return int(problem.targets().numel()) * problem.dim <= _MOST_ENTRIES


def network_numbers(net: Network) -> NetworkNumbers | str:
    """The numbers of the trap theorem, or why they cannot be had.

    Cost: n k adjoints and the Gram matrix of the Jacobian, O(n^2 k^2 p).
    """
    rows = net.X.shape[0] * net.Y.shape[1]
    if rows * net.count > _MOST_ENTRIES:
        return (
            f"the Jacobian of {rows:,} outputs by {net.count:,} parameters has more than {_MOST_ENTRIES:,} entries: "
            "fewer samples, or a network with one hidden layer, whose kernel is streamed"
        )
    found = network_bounds(net.description(), net.arrays())
    net.bounds[:] = [found]
    noise = 8 * np.finfo(np.float64).eps * math.sqrt(rows) * found.J0**2
    return NetworkNumbers(max(found.s0, 0.0), found.J0, found.u0, noise, found.ball, found)


def trace_network(problem: Problem, theta: torch.Tensor | None = None) -> Network | str:
    """The problem's network at theta as operators, or the reason why it is none that the checker knows."""
    if problem.is_function or problem.forward is not None:
        return "the network is hidden: the problem must be given as model, loss(output, target) and (input, target)"
    if not problem.batches.indexable:
        return "the samples cannot be held in memory"
    if has_hooks(problem.model):
        return "the model has forward hooks, which may change what it computes"
    batch = problem.batches.whole
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], torch.Tensor):
        return "the data must be (input, target)"
    inputs, targets = batch
    flat = problem.theta if theta is None else theta.detach().to(problem.dtype, copy=True)
    parameters = {name: tensor.detach() for name, tensor in problem.unflatten(flat).items()}
    inputs = inputs.detach()
    if not inputs.is_floating_point():
        return "the inputs must be floating tensors"

    def run(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return problem.batch_output(parameters, [x, targets], True)

    try:
        with torch.no_grad():
            traced = make_fx(run, pre_dispatch=True)(parameters, inputs)
    except _TRACING_FAILS as error:
        return f"the network could not be traced: {type(error).__name__}: {str(error).strip().splitlines()[:1]}"
    compiler = _Compiler(
        traced, list(parameters), {name: _array(p) for name, p in parameters.items()}, inputs.shape[0]
    )
    reason = compiler.compile()
    if reason:
        return reason
    n = inputs.shape[0]
    net = Network(
        tuple(compiler.ops), compiler.weights, tuple(compiler.trained), _array(inputs.reshape(n, -1)),
        _array(targets.reshape(n, -1)),
    )  # fmt: skip
    if net.count != problem.dim:
        return (
            "the outputs do not depend on every trained parameter, or the model shares some in a way not known here"
        )
    return _disagreement(net, problem, flat) or net


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().double().contiguous().numpy().copy()
    return array


def _disagreement(net: Network, problem: Problem, flat: torch.Tensor) -> str:
    """Why the operators are not what the model computes, at theta and at two points near it, or ""."""
    generator = torch.Generator().manual_seed(0)
    for size in (0.0, 0.01, 0.1):
        noise = torch.randn(flat.shape, generator=generator, dtype=torch.float64).to(flat)
        moved = flat + size * flat.abs().mean() * noise
        parameters = problem.unflatten(moved)
        weights = dict(net.weights)
        for name in net.trained:
            weights[name] = _array(parameters[name]).reshape(net.weights[name].shape)
        arrays = {**weights, "X": net.X, "Y": net.Y}
        ops, _ = read_operators(net.description(), arrays)
        own = forward(ops, arrays)[0][-1]
        with torch.no_grad():
            outputs = _array(problem.outputs(moved)).reshape(own.shape[0], -1)
        # float error of the model's own evaluation, generously; another function would differ by much more
        tolerance = 1e4 * torch.finfo(problem.dtype).eps * max(1.0, float(np.abs(own).max()))
        if outputs.shape != own.shape or not float(np.abs(outputs - own).max()) <= tolerance:
            return "the model's own outputs differ from those of its traced operators"
    return ""


class _Compiler:
    """From a trace to operators: each traced tensor that depends on the data is a value with its own shape."""

    def __init__(self, traced: fx.GraphModule, names: list[str], parameters: dict[str, np.ndarray], n: int) -> None:
        self.traced, self.names, self.n = traced, names, n
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
                self.fixed[node.name] = _array(getattr(self.traced, node.target))
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

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(node.meta["val"].shape)

    def _emit(self, node: fx.Node, entry: dict[str, Any]) -> None:
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

    def _call(self, node: fx.Node) -> str:
        name = str(node.target).removeprefix("aten.").split(".")[0]
        source = next((a for a in node.all_input_nodes if a.name in self.value), None)
        if source is None:
            return self._without_data(node, name)
        shape = self._shape(node)
        if name in _VIEWS and len(shape) and (shape[0] == self.n or math.prod(shape[1:]) == 0):
            self.value[node.name] = self.value[source.name]  # row-major: the same numbers in the same order
            return ""
        handler: Callable[[fx.Node, fx.Node], str] | None = getattr(self, f"_on_{name}", None)
        if name in _ACTIVATIONS:
            return self._activation(node, source, name)
        if name in _KINKED:
            return f"{name} is not smooth: this theorem needs a smooth network (tanh, softplus, GELU, sigmoid, sin)"
        if handler is None:
            return f"not available for the operator {name}: its bounds on a ball are not known here"
        return handler(node, source)

    def _without_data(self, node: fx.Node, name: str) -> str:
        """Only a transposed weight is known."""
        inputs = node.all_input_nodes
        given = inputs[0] if len(inputs) == 1 else None
        if given is not None and given.name in self.fixed and name in ("t", "transpose", "detach", "alias"):
            self.fixed[node.name] = self.fixed[given.name]
            if name in ("t", "transpose"):
                self.turned.add(node.name)
            return ""
        return f"not available: {name} of parameters alone (a reparametrised weight, say)"

    def _activation(self, node: fx.Node, source: fx.Node, name: str) -> str:
        if name == "softplus" and (tuple(node.args[1:]) not in ((), (1,), (1.0,), (1, 20), (1.0, 20.0))):
            return "softplus must have beta 1 and torch's threshold 20"
        if name == "gelu" and node.kwargs.get("approximate", "none") != "none":
            return "GELU must be the exact one (approximate='none')"
        self._emit(node, {"op": "activation", "in": self.value[source.name], "name": _ACTIVATIONS[name]})
        return ""

    def _affine(self, node: fx.Node, x: Any, weight: Any, bias: Any) -> str:
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

    def _on_linear(self, node: fx.Node, source: fx.Node) -> str:
        x, weight, *rest = node.args
        return self._affine(node, x, weight, rest[0] if rest else None)

    def _on_matmul(self, node: fx.Node, source: fx.Node) -> str:
        x, weight = node.args
        if not isinstance(weight, fx.Node) or weight.name not in self.turned:
            return "not available: a product other than x @ W.T"
        return self._affine(node, x, weight, None)

    _on_mm = _on_matmul

    def _on_conv2d(self, node: fx.Node, source: fx.Node) -> str:
        defaults: tuple[Any, ...] = (None, [1, 1], [0, 0], [1, 1], 1)
        x, weight, bias, stride, padding, dilation, groups = (*node.args, *defaults[len(node.args) - 2 :])
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

    def _on_avg_pool2d(self, node: fx.Node, source: fx.Node) -> str:
        x, kernel, stride, *rest = (*node.args, None, None)[: max(3, len(node.args))]
        if any(item not in (None, False, True, 0, [0, 0]) for item in rest):
            return "average pooling must have no padding and no divisor of its own"
        kh, kw = tuple(kernel) * (3 - len(kernel))
        sh, sw = tuple(stride or kernel) * (3 - len(stride or kernel))
        _, C, H, width = self._shape(x)
        places = np.arange(C * H * width).reshape(C, H, width)
        windows = np.lib.stride_tricks.sliding_window_view(places, (kh, kw), axis=(1, 2))[:, ::sh, ::sw]
        if windows.shape[1:3] != self._shape(node)[2:]:
            return "average pooling must divide its input (ceil_mode=False)"
        return self._mean(node, x, windows.reshape(-1, kh * kw))

    def _on_adaptive_avg_pool2d(self, node: fx.Node, source: fx.Node) -> str:
        if list(node.args[1]) != [1, 1]:
            return "adaptive average pooling must be to size 1"
        shape = self._shape(node.args[0])
        return self._mean(node, node.args[0], np.arange(math.prod(shape[1:])).reshape(shape[1], -1))

    def _mean(self, node: fx.Node, x: Any, groups: np.ndarray) -> str:
        self.ops.append({"op": "gather", "in": self.value[x.name], "index": self._index(groups)})
        self._emit(node, {"op": "mean", "in": len(self.ops), "count": int(groups.shape[1])})
        return ""

    def _on_add(self, node: fx.Node, source: fx.Node) -> str:
        left, right = node.args[:2]
        both = all(isinstance(a, fx.Node) and a.name in self.value for a in (left, right))
        if not both or node.kwargs or self._shape(left) != self._shape(right):
            return "not available: an addition other than of two values of the same shape"
        self._emit(node, {"op": "add", "in": self.value[left.name], "other": self.value[right.name]})
        return ""

    def _on_mul(self, node: fx.Node, source: fx.Node) -> str:
        other = [a for a in node.args if not (isinstance(a, fx.Node) and a.name == source.name)]
        if len(other) != 1 or not isinstance(other[0], (int, float)):
            return "not available: a product of two values"
        self._emit(node, {"op": "scale", "in": self.value[source.name], "factor": float(other[0])})
        return ""

    def _on_div(self, node: fx.Node, source: fx.Node) -> str:
        x, divisor = node.args[:2]
        if x is not source or not isinstance(divisor, (int, float)) or not divisor or math.frexp(divisor)[0] != 0.5:
            return "not available: a division by anything but a power of two (multiply instead)"
        self._emit(node, {"op": "scale", "in": self.value[source.name], "factor": 1.0 / float(divisor)})
        return ""
