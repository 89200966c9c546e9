"""Networks with one hidden layer: the module of the over-parameterised trap, and recognising one in a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tameopt.kl.check_arrays import LARGEST
from tameopt.problem import Problem
from tameopt.structure.hooks import hooked_parameters
from tameopt.structure.shared_memory import shared_memory


class Sine(nn.Module):
    """sin, as a module."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """sin(z)."""
        return torch.sin(z)


class ShallowNetwork(nn.Module):
    """f(x) = scale * C sigma(gain * W x), W and C with the usual Gaussian and sign initialisation.

    d, m, outputs: sizes. activation: "tanh", "sigmoid", "softplus", "gelu", "sin". scale: 1/sqrt(m) by default.
    trained: "first" (W alone, C a constant) or "both". antisymmetric: pair the neurons so that the output is 0 at the
    start. W ~ N(0, 1), C = +-1, from `generator`.

    Raises ValueError for another activation, or an odd width that should be antisymmetric.
    """

    def __init__(
        self,
        d: int,
        m: int,
        *,
        outputs: int = 1,
        activation: str = "tanh",
        gain: float = 1.0,
        scale: float | None = None,
        trained: str = "first",
        antisymmetric: bool = False,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if activation not in _FUNCTIONS:
            raise ValueError(f"activation must be one of {', '.join(_FUNCTIONS)}, got {activation!r}.")
        if trained not in ("first", "both"):
            raise ValueError(f"trained must be 'first' or 'both', got {trained!r}.")
        if antisymmetric and m % 2:
            raise ValueError(f"an antisymmetric network needs an even width, got {m}.")
        drawn = m // 2 if antisymmetric else m
        W = torch.randn(drawn, d, generator=generator, dtype=dtype)
        C = torch.randint(0, 2, (outputs, drawn), generator=generator).to(dtype) * 2 - 1
        if antisymmetric:
            W, C = torch.cat([W, W]), torch.cat([C, -C], dim=1)
        self.W = nn.Parameter(W)
        if trained == "both":
            self.C: torch.Tensor = nn.Parameter(C)
        else:
            self.register_buffer("C", C)
        self.activation, self.gain = activation, gain
        self.scale = 1 / math.sqrt(m) if scale is None else scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, d) -> (n, outputs)."""
        hidden = _FUNCTIONS[self.activation](self.gain * (x @ self.W.T))
        return self.scale * (hidden @ self.C.T)


_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": nn.functional.softplus,
    "gelu": nn.functional.gelu,
    "sin": torch.sin,
}
_MODULES: dict[type[nn.Module], str] = {
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.Softplus: "softplus",
    nn.GELU: "gelu",
    Sine: "sin",
}


@dataclass(frozen=True)
class Shallow:
    """f(x) = scale C sigma(gain (W x + b)) + e with the data, as float64 arrays.

    W: (m, d), C: (k, m), b: (m,) or None, e: (k,) or None, X: (n, d), Y: (n, k); trained: names among W, b, C, e.
    """

    W: np.ndarray
    C: np.ndarray
    b: np.ndarray | None
    e: np.ndarray | None
    X: np.ndarray
    Y: np.ndarray
    activation: str
    gain: float
    scale: float
    trained: tuple[str, ...]

    @property
    def words(self) -> str:
        """What it is, for a person."""
        return f"1 hidden layer, m={self.W.shape[0]:,}, {self.activation}, trained {'+'.join(self.trained)}"

    @property
    def count(self) -> int:
        """Number of trained parameters."""
        m, k = self.W.shape[0], self.C.shape[0]
        sizes = {"W": self.W.size, "b": m, "C": self.C.size, "e": k}
        return sum(sizes[name] for name in self.trained)

    @property
    def symmetry(self) -> Literal["", "odd"]:
        """Whether f(-x) = -f(x) for all weights."""
        return "odd" if self.activation in ("tanh", "sin") and self.b is None and self.e is None else ""

    def description(self) -> dict[str, Any]:
        """The network for a certificate, without its arrays."""
        return {
            "kind": "one hidden layer", "activation": self.activation, "gain": self.gain, "scale": self.scale,
            "trained": list(self.trained),
        }  # fmt: skip

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights and data for a certificate."""
        found = {"W": self.W, "C": self.C, "X": self.X, "Y": self.Y, "b": self.b, "e": self.e}
        return {name: array for name, array in found.items() if array is not None}

    def obstacle(self, radius: float) -> str:
        """Why the module differs from the function certified somewhere in the ball of that radius, or ""."""
        if self.activation != "softplus":
            return ""
        longest = float(np.linalg.norm(self.X, axis=1).max())
        reach = self.gain * radius * math.hypot(longest, 1.0 if "b" in self.trained else 0.0)
        if float(self.pre_activations().max()) + reach < 20:
            return ""
        return "torch's softplus is the identity past 20, which the ball reaches"

    def pre_activations(self) -> np.ndarray:
        """(m, n) gain (W x + b)."""
        z = self.W @ self.X.T
        return self.gain * (z if self.b is None else z + self.b[:, None])

    def outputs(self) -> np.ndarray:
        """(n, k) f(X) in float64."""
        hidden = _FUNCTIONS[self.activation](torch.from_numpy(self.pre_activations())).numpy()
        result: np.ndarray = self.scale * (self.C @ hidden).T + (0.0 if self.e is None else self.e)
        return result


def leaf_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that a plain Sequential runs one after the other; a model that is none is one leaf."""
    if type(model) is nn.Sequential:
        return [leaf for child in model for leaf in leaf_modules(child)]
    return [model]


def altered(model: nn.Module) -> str:
    """Why a module may compute, or pass back, something other than its class does, or ""."""
    for module in model.modules():
        name = type(module).__name__
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name} has forward hooks, which may change what it computes"
        if module._backward_hooks or module._backward_pre_hooks:
            return f"{name} has backward hooks, which may change its gradient"
        if "forward" in vars(module) or "__call__" in vars(module):
            return f"the forward of one {name} was replaced by another"
    hooked = hooked_parameters(model)
    return f"a hook on {hooked[0]} may change its gradient" if hooked else shared_memory(model)


def recognise(problem: Problem, theta: torch.Tensor | None = None) -> Shallow | str:
    """The problem's network as a Shallow at theta, or the reason why it is none.

    Known: `ShallowNetwork`, and Sequential(Linear, activation, Linear) with Flatten or Identity anywhere. Types are
    compared exactly, hooks refused, and the arrays' outputs compared with the model's own.
    """
    if problem.is_function or problem.forward is not None:
        return "the network is hidden: the problem must be given as model, loss(output, target) and (input, target)"
    if not problem.batches.indexable:
        return "the samples cannot be held in memory"
    model = problem.model
    changed = altered(model)
    if changed:
        return changed
    # a private copy, so that the arrays, which share its memory, stay what they are
    flat = problem.theta if theta is None else theta.detach().to(problem.dtype, copy=True)
    parameters = problem.unflatten(flat)
    batch = problem.batches.whole
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return "the data must be (input, target)"
    inputs, targets = batch
    n = inputs.shape[0]
    found = _from_shallow(model, parameters) or _from_sequential(model, parameters)
    if isinstance(found, str):
        return found
    X = _array(inputs.reshape(n, -1).clone())
    Y = _array(targets.reshape(n, -1).clone())
    sizes_fit = beyond({"the inputs": X, "the targets": Y, "W": found[0], "C": found[1]})
    if sizes_fit:
        return sizes_fit
    W, C, b, e, activation, gain, scale, trained = found
    if X.shape[1] != W.shape[1] or Y.shape[1] != C.shape[0]:
        return f"inputs {X.shape} and targets {Y.shape} do not fit the layers {W.shape} and {C.shape}"
    shallow = Shallow(W, C, b, e, X, Y, activation, gain, scale, trained)
    sizes = {"W": W.size, "b": W.shape[0], "C": C.size, "e": C.shape[0]}
    if sum(sizes[name] for name in trained) != problem.dim:
        return "the model has trained parameters besides its layers' own, or shares some between layers"
    return _disagreement(shallow, problem, parameters) or shallow


def beyond(arrays: Mapping[str, np.ndarray]) -> str:
    """Why numbers of this size cannot be certified in float64, or ""."""
    for name, array in arrays.items():
        largest = float(np.abs(array).max(initial=0.0))
        if not largest < LARGEST:
            return f"{name} must be finite and below {LARGEST:g} in size to be bounded in float64, got {largest:.3g}"
    inputs = float(np.abs(arrays["the inputs"]).max(initial=0.0))
    if 0.0 < inputs < 1 / LARGEST:
        return f"the inputs must be above {1 / LARGEST:g} in size or 0, got {inputs:.3g}: scale the data"
    return ""


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None, str, float, float, tuple[str, ...]]


def copied(tensor: torch.Tensor) -> np.ndarray:
    """A float64 array of its own."""
    array: np.ndarray = _array(tensor).copy()
    return array


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().double().contiguous().numpy()
    return array


def _from_shallow(model: nn.Module, parameters: dict[str, torch.Tensor]) -> _Parts | None:
    if type(model) is not ShallowNetwork or model.activation not in _FUNCTIONS:
        return None
    W = parameters["W"] if "W" in parameters else model.W.detach().clone()
    C = parameters["C"] if "C" in parameters else model.C.clone()
    trained = tuple(name for name in ("W", "C") if name in parameters)
    return _array(W), _array(C), None, None, model.activation, float(model.gain), float(model.scale), trained


def _from_sequential(model: nn.Module, parameters: dict[str, torch.Tensor]) -> _Parts | str:
    leaves = [leaf for leaf in leaf_modules(model) if type(leaf) not in (nn.Flatten, nn.Identity)]
    kinds = [type(leaf).__name__ for leaf in leaves]
    if len(leaves) != 3 or type(leaves[0]) is not nn.Linear or type(leaves[2]) is not nn.Linear:
        return f"the network must be Linear, a smooth activation, Linear; it is {', '.join(kinds[:6])}"
    first, middle, last = leaves
    if type(middle) not in _MODULES:
        return (
            f"the activation {type(middle).__name__} is not smooth enough for this theorem: "
            f"use one of {', '.join(kind.__name__ for kind in _MODULES)}"
        )
    if type(middle) is nn.Softplus and (middle.beta != 1 or middle.threshold < 20):
        return "softplus must have beta 1 and torch's threshold 20"
    if type(middle) is nn.GELU and middle.approximate != "none":
        return "GELU must be the exact one (approximate='none')"
    parts = sequential_parts(model, first, last, parameters)
    if isinstance(parts, str):
        return parts
    weights, trained = parts
    return (
        weights["W"], weights["C"], weights.get("b"), weights.get("e"), _MODULES[type(middle)], 1.0, 1.0, trained,
    )  # fmt: skip


def sequential_parts(
    model: nn.Module, first: nn.Module, last: nn.Module, parameters: dict[str, torch.Tensor]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]] | str:
    """(arrays W, b, C, e as far as they exist, names of the trained ones) of two Linear layers, or why not."""
    tensors = [tensor for layer in (first, last) for tensor in (layer.weight, layer.bias) if tensor is not None]
    if len({id(tensor) for tensor in tensors}) < len(tensors):
        return "the layers share parameters"
    names = {id(module): name for name, module in model.named_modules()}
    weights: dict[str, np.ndarray] = {}
    trained: list[str] = []
    for letter, module, kind in (
        ("W", first, "weight"),
        ("b", first, "bias"),
        ("C", last, "weight"),
        ("e", last, "bias"),
    ):
        stored = getattr(module, kind)
        if stored is None:
            continue
        name = f"{names[id(module)]}.{kind}".lstrip(".")
        if name in parameters:
            trained.append(letter)
        weights[letter] = _array(parameters.get(name, stored.detach().clone()))
    return weights, tuple(trained)


def _disagreement(shallow: Shallow, problem: Problem, parameters: dict[str, torch.Tensor]) -> str:
    """Why the arrays are not what the model computes in float64, or ""."""
    problem = problem.to(torch.float64)
    parameters = {name: tensor.double() for name, tensor in parameters.items()}
    count = min(8, shallow.X.shape[0])
    batch = problem.batches.pick(torch.arange(count))
    with torch.no_grad():
        outputs = _array(problem.batch_output(parameters, batch, True).reshape(count, -1))
    own = replace(shallow, X=shallow.X[:count], Y=shallow.Y[:count]).outputs()
    size = float(np.abs(own).max()) + float(np.abs(shallow.C).sum(axis=1).max()) * shallow.scale
    tolerance = 1e4 * torch.finfo(problem.dtype).eps * max(size, 1.0)
    if outputs.shape != own.shape or not float(np.abs(outputs - own).max()) <= tolerance:
        return "the model's own outputs differ from those of its layers run one after the other"
    return ""
