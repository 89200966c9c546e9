"""The checker of the bias lemma: from the list of operators alone, is backprop a Clarke subgradient everywhere?

**Lemma.** Let the loss be a list of operators in which every operator that reads theta is continuously
differentiable, or a one-sided kink (relu, leaky relu, ...) whose autodiff derivative at the kink is that of one of
its two sides. Let the input of each kink be z = A + b, entry by entry one entry of b added to the rest A, where b
is a trainable parameter that is read nowhere else. Then for every theta and every batch, what autodiff computes
(in exact arithmetic) is a limit of gradients of F at points where F is differentiable: a Bouligand, hence a Clarke,
subgradient.

**Proof.** Number the additions z_l = A_l + b_l in the order of the list. b_l is read only there, so it moves z_j
only for j >= l, and z_l itself by exactly its own shift. Shift each b_l by t K^l towards the side whose derivative
autodiff uses at that kink. Near theta, A_l moves by at most C t K^(l-1) with C a Lipschitz constant, so for K > C
and t small every entry with z = 0 moves strictly to the side autodiff uses and every other keeps its sign. At
the shifted point F is a composition of C^1 functions nearby, the same ones that autodiff composes at theta; let
t -> 0. The kink's side must be one for all entries, because b is shared among samples and positions. QED.

It fails without biases: w -> relu(w) - relu(-w) = w has derivative 0 by autodiff at 0.

This module imports none of the code that traces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# Continuously differentiable wherever they are defined, and differentiated exactly by autograd.
SMOOTH = frozenset(
    f"aten.{name}"
    for name in (
        "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor", "neg.default",
        "mul.Tensor", "mul.Scalar", "mm.default", "bmm.default", "addmm.default", "baddbmm.default",
        "addbmm.default", "mv.default", "dot.default", "matmul.default", "linear.default", "convolution.default",
        "sum.default", "sum.dim_IntList", "mean.default", "mean.dim", "cumsum.default", "tanh.default",
        "sigmoid.default", "exp.default", "sin.default", "cos.default", "erf.default", "atan.default",
        "gelu.default", "silu.default", "mish.default", "log_sigmoid_forward.default", "var.correction",
        "_softmax.default", "_log_softmax.default", "logsumexp.default", "nll_loss_forward.default",
        "nll_loss2d_forward.default", "mse_loss.default", "binary_cross_entropy_with_logits.default",
        "smooth_l1_loss.default", "huber_loss.default", "native_batch_norm.default",
        "_native_batch_norm_legit.default", "_native_batch_norm_legit_no_training.default",
        "native_layer_norm.default", "native_group_norm.default", "avg_pool2d.default", "avg_pool1d.default",
        "_adaptive_avg_pool2d.default", "upsample_nearest2d.vec", "zeros_like.default", "ones_like.default",
        "square.default", "embedding.default",
        "index.Tensor", "index_select.default", "_scaled_dot_product_flash_attention_for_cpu.default",
    )
)  # fmt: skip
# They only move entries about, each result entry is one input entry.
MOVES = frozenset(
    f"aten.{name}"
    for name in (
        "view.default", "_unsafe_view.default", "reshape.default", "t.default", "transpose.int",
        "permute.default", "clone.default", "alias.default", "expand.default", "squeeze.default", "squeeze.dim",
        "squeeze.dims", "squeeze_.dim", "unsqueeze.default", "slice.Tensor", "select.int", "narrow.default",
        "contiguous.memory_format", "flatten.using_ints", "unbind.int", "split.Tensor",
        "split_with_sizes.default", "chunk.default", "repeat.default", "flip.default", "roll.default",
        "_to_copy.default",
    )
)  # fmt: skip
_JOINS = frozenset({"aten.cat.default", "aten.stack.default", "aten.constant_pad_nd.default", "getitem"})
_NORMS = {  # operator -> position of its additive shift among the arguments
    "aten.native_batch_norm.default": 2,
    "aten._native_batch_norm_legit.default": 2,
    "aten._native_batch_norm_legit_no_training.default": 2,
    "aten.native_layer_norm.default": 3,
    "aten.native_group_norm.default": 2,
}
_SHIFTED = {"aten.addmm.default": 0, "aten.convolution.default": 2, "aten.linear.default": 2, **_NORMS}


def _one_sided(op: str, args: list[Any]) -> str:
    """ "" for an operator with one kink, at 0 or at a scalar bound; else why it is not one."""
    if op in ("aten.relu.default", "aten.leaky_relu.default", "aten._prelu_kernel.default"):
        return ""
    if op == "aten.elu.default":
        return ""
    if op == "aten.threshold.default":
        return "" if args[1:3] == [0, 0] or args[1:3] == [0.0, 0.0] else "it is a jump unless value = threshold = 0"
    if op == "aten.clamp_min.default" or (op == "aten.clamp.default" and len(args) == 2):
        return "" if isinstance(args[1], (int, float)) else "its bound is not a number"
    return "it has no row"


ONE_SIDED = frozenset(
    {
        "aten.relu.default", "aten.leaky_relu.default", "aten._prelu_kernel.default", "aten.elu.default",
        "aten.threshold.default", "aten.clamp_min.default", "aten.clamp.default",
    }
)  # fmt: skip


def _side(op: str, args: list[Any]) -> int:
    """-1 or +1: the side whose derivative autograd returns at the kink, found by asking it; 0 for neither."""
    kink = 0.0
    if op in ("aten.clamp_min.default", "aten.clamp.default"):
        kink = float(args[1])
    tail: list[Any] = [arg for arg in args[1:] if not isinstance(arg, dict)]
    if op == "aten._prelu_kernel.default":
        tail = [torch.full((), 0.25, dtype=torch.float64)]
    name, _, overload = op.removeprefix("aten.").partition(".")
    function = getattr(getattr(torch.ops.aten, name), overload)

    def derivative(at: float) -> float:
        x = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(function(x, *tail), x)
        return float(slope)

    h = 2.0**-40
    left, at, right = derivative(kink - h), derivative(kink), derivative(kink + h)
    if left == right:
        return 0
    if op == "aten.elu.default":  # the left piece is curved: its slope at the kink is a limit
        alpha, scale, inner = (list(map(float, args[1:4])) + [1.0, 1.0, 1.0][len(args) - 1 :])[:3]
        left = alpha * scale * inner
    return -1 if at == left else 1 if at == right else 0


def refusal(data: Mapping[str, Any]) -> str:
    """ "" when the lemma holds of the list of operators, else the first reason why it does not.

    data as in `shifts`.
    """
    return shifts(data)[0]


def shifts(data: Mapping[str, Any]) -> tuple[str, list[tuple[str, int]]]:
    """The reason of `refusal`, and the proof's shifts in order: the parameters and the sides they move to.

    data: {"steps": [{"name", "op", "args", "kwargs"}], "output": name}; {"ref": name} stands for an earlier result.

    Raises ValueError when `data` is not such a list.
    """
    try:
        steps, output = list(data["steps"]), data["output"]
        names = [step["name"] for step in steps]
        by_name = {step["name"]: step for step in steps}
    except (KeyError, TypeError) as error:
        raise ValueError(f"a bias certificate must hold steps and an output, it lacks {error}.") from error
    if len(set(names)) != len(names) or output not in by_name:
        raise ValueError("a bias certificate must name every step once, and its output among them.")
    depends: set[str] = set()
    known: set[str] = set()
    for step in steps:
        sources = _sources(step)
        if any(source not in known for source in sources):
            raise ValueError(f"step {step['name']!r} reads a result that comes later, or never.")
        if step["op"] == "parameter" or any(source in depends for source in sources):
            depends.add(step["name"])
        known.add(step["name"])
    uses = _uses_before_kinks(steps)
    sides: dict[str, int] = {}
    for step in steps:
        if step["name"] not in depends or step["op"] == "parameter":
            continue
        reason = _refused_step(step, by_name, uses, depends, sides)
        if reason:
            return reason, []
    return "", [(str(by_name[name]["args"][0]), side) for name, side in sides.items()]


def smooth_refusal(step: Mapping[str, Any], depends: set[str]) -> str:
    """ "" when a theta-dependent step is C^1 and autograd differentiates it exactly, else why that is not known."""
    op, args = step["op"], step["args"]
    if op in ("aten.div.Tensor", "aten.div.Scalar"):
        return f"{step['name']} divides by something that depends on theta" if set(refs(args[1:])) & depends else ""
    if op == "aten.pow.Tensor_Scalar":
        exponent = args[1]
        whole = isinstance(exponent, (int, float)) and float(exponent).is_integer() and exponent >= 1
        return "" if whole else f"{step['name']} is a power {exponent}, smooth only away from 0"
    if op in _NORMS:
        eps = step["kwargs"].get("eps", args[-1])
        return "" if isinstance(eps, float) and eps > 0 else f"{step['name']} normalises without a positive eps"
    if op == "aten.embedding.default" and (len(args) > 2 or step["kwargs"]):
        return f"{step['name']} is an embedding with a padding index or scaled gradients, which autodiff alters"
    if op == "aten.smooth_l1_loss.default" and [*args, 1, 1.0][3] == 0:
        return f"{step['name']} is a smooth l1 loss with beta 0, which is the l1 loss"
    if op == "aten._to_copy.default":
        return f"{step['name']} changes the floating-point type, which rounds"
    if op == "parameter" or op in SMOOTH or op in MOVES or op in _JOINS:
        return ""
    return f"{op} is not in the table of smooth operators and one-sided kinks ({step['name']})"


def _refused_step(
    step: Mapping[str, Any],
    by_name: Mapping[str, Any],
    uses: Mapping[str, int],
    depends: set[str],
    sides: dict[str, int],
) -> str:
    op, args = step["op"], step["args"]
    if op not in ONE_SIDED:
        return smooth_refusal(step, depends)
    why = _one_sided(op, args)
    if why:
        return f"{op}: {why} ({step['name']})"
    side = _side(op, args)
    if side == 0:
        return f"{op}: autodiff's derivative at the kink is that of neither side ({step['name']})"
    shift, reason = _own_bias(step, by_name, uses)
    if reason:
        return reason
    if sides.setdefault(shift, side) != side:
        return f"two kinks share the bias {shift!r} and need it shifted in opposite directions"
    return ""


def _sources(step: Mapping[str, Any]) -> list[str]:
    return refs(step["args"]) + refs(step["kwargs"])


def _uses_before_kinks(steps: list[Any]) -> dict[str, int]:
    """How often each result is read on the way to a kink. Other readers (a weight penalty, say) move no kink."""
    uses: dict[str, int] = {step["name"]: 0 for step in steps}
    leading: set[str] = set()
    for step in reversed(steps):
        if step["op"] in ONE_SIDED or step["name"] in leading:
            for source in _sources(step):
                uses[source] += 1
                leading.add(source)
    return uses


def refs(tree: Any) -> list[str]:
    """The names of the results that an argument tree reads."""
    if isinstance(tree, dict):
        return [tree["ref"]] if set(tree) == {"ref"} else [name for leaf in tree.values() for name in refs(leaf)]
    if isinstance(tree, list):
        return [name for leaf in tree for name in refs(leaf)]
    return []


def _own_bias(step: Mapping[str, Any], by_name: Mapping[str, Any], uses: Mapping[str, int]) -> tuple[str, str]:
    """The parameter that is added, entry by entry, to the input of a kink and read nowhere else; or why not."""
    at = by_name[step["args"][0]["ref"]]
    while at["op"] in MOVES or (at["op"] == "getitem" and at["args"][1] == 0):
        inner = by_name[at["args"][0]["ref"]]
        if at["op"] == "getitem" and inner["op"] not in _NORMS:
            break
        at = inner
    op, args = at["op"], at["args"]
    if op in _SHIFTED:
        position = _SHIFTED[op]
        shift = args[position] if len(args) > position else None
        if op == "aten.addmm.default" and at["kwargs"].get("beta", 1) != 1:
            return "", f"the bias of {at['name']} is scaled"
        candidates = [shift]
    elif op == "aten.add.Tensor" and at["kwargs"].get("alpha", 1) == 1:
        candidates = args[:2]
    else:
        return "", f"the input of {step['name']} ({step['op']}) has no additive bias of its own: it comes from {op}"
    reason = f"the input of {step['name']} ({step['op']}) has no trainable bias"
    for candidate in candidates:
        if not isinstance(candidate, dict):
            continue
        name, why = _only_here(by_name[candidate["ref"]], by_name, uses)
        if name:
            return name, ""
        reason = f"the input of {step['name']} ({step['op']}) has no bias of its own: {why}"
    return "", reason


def _only_here(start: Mapping[str, Any], by_name: Mapping[str, Any], uses: Mapping[str, int]) -> tuple[str, str]:
    at = start
    while True:
        if uses[at["name"]] != 1:
            return "", f"{at['name']} is read in {uses[at['name']]} places"
        if at["op"] == "parameter":
            return at["name"], ""
        if at["op"] not in MOVES:
            return "", f"it comes from {at['op']}, not from a trainable parameter"
        at = by_name[at["args"][0]["ref"]]


def check(data: Mapping[str, Any]) -> bool:
    """True when the lemma holds of every form of batch, so that backprop is a Clarke subgradient everywhere.

    data: {"forms": [list of operators, ...]}. The biases must come in one order in all of them.
    """
    forms = data.get("forms")
    if not isinstance(forms, list) or not forms:
        raise ValueError("a bias certificate must hold the forms of batch, got none.")
    found = [shifts(form) for form in forms]
    # one vector of shifts must serve all batches at once
    return all(reason == "" and order == found[0][1] for reason, order in found)
