"""The checker of the bias lemma: from the list of operators alone, is backprop a Clarke subgradient everywhere?

**Lemma.** Let the loss be a list of operators in which every operator that reads theta is continuously
differentiable, or a kink of one input, or a maximum or minimum of two. Let autodiff's derivative at each kink point p
be a convex combination of those on its two sides, with share w_p of the left one. Let the input z of each kink have
parameters of its own, read nowhere else on the way to a kink, that can move it near p by s, the same for all entries
(z = A + b entry by entry, or A + (A' + b): *shift* b), or by c z (z = W a or W a + b: *scale* W and b), or by c z + s
(both). Let the kink points of the operator admit it: one point, or equal shares, by a shift; points != 0 whose shares
become equal when those of the negative points are turned into 1 - w, by a scaling; any two points by both. For a
maximum or minimum of two, shares 1/2, one side must have a bias of its own, and the other be known before that is
read. Then for every theta and every batch, what autodiff computes (in exact arithmetic) is a convex combination of
limits of gradients of F at points where F is differentiable, a Clarke subgradient; when all shares are 0 or 1 it is
one such limit, a Bouligand subgradient.

**Proof.** Number the kinks in the order of the sums and products z_l (for a maximum: of the side that has the bias).
Let each of them draw a pattern of sides for its points with the marginals w_p, independently: for equal shares all
left or all right; by scaling, all outward or all inward; by both, independent ones (a map c p + s takes any signs at
two points). Move the own parameters of z_l by t K^l times the move of its pattern. They are read only there, so they
move z_j only for j >= l, and z_l near p by t K^l (c p + s), of the sign wanted and not 0, up to what A_l and a do: at
most C t K^(l-1), C a Lipschitz constant near theta. For K large and t small every entry with z_l = p moves strictly
to the side drawn, and every other keeps its place. At the moved point F is a composition of C^1 functions nearby; as
t -> 0 its gradient tends to the chain rule's formula at theta with the derivatives drawn. That formula is a sum over
paths through the list, and a path meets each kink at most once, so it is linear in the derivatives of each kink; the
draws of different kinks are independent. Its expectation, a convex combination over finitely many draws, is the
formula with the expected derivatives: autodiff's. QED. The move must be one for all entries, because parameters are
shared among samples and positions.

It fails without parameters of one's own: w -> relu(w) - relu(-w) = w has derivative 0 by autodiff at 0.

There is no such lemma for max-pools, whatever biases stand around them: two windows may hold the same two patches
u, v in opposite order, and with a head of weights 1 and -1 the loss is
max(u.w + b, v.w + b) - max(v.w + b, u.w + b) = 0, whose autodiff takes the first of equals in each, u - v, at every w
where they tie. For one theta and these data a tie is settled where its entries are one function of theta
(`_margin_checker`).

This module imports none of the code that traces.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from fractions import Fraction
from typing import Any

from tameopt.nonsmooth._kink_sides import OF_ONE_INPUT, NoShare, shares

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


_OF_TWO = frozenset({"aten.maximum.default", "aten.minimum.default"})
_WEIGHTS = {  # operator -> positions where its multiplicative parameters may stand
    "aten.addmm.default": (1, 2), "aten.convolution.default": (1,), "aten.linear.default": (1,),
    "aten.native_batch_norm.default": (1,), "aten._native_batch_norm_legit.default": (1,),
    "aten._native_batch_norm_legit_no_training.default": (1,), "aten.native_layer_norm.default": (2,),
    "aten.native_group_norm.default": (1,),
    "aten.mm.default": (0, 1), "aten.mv.default": (0, 1), "aten.bmm.default": (0, 1),
}  # fmt: skip
Need = tuple[tuple[float, Fraction], ...]  # the kink points, and the share of the left side that each needs


def refusal(data: Mapping[str, Any]) -> str:
    """ "" when the lemma holds of the list of operators, else the first reason why it does not.

    data as in `shifts`.
    """
    return shifts(data)[0]


def shifts(data: Mapping[str, Any], trusted: Set[str] = frozenset()) -> tuple[str, list[tuple[str, Need]]]:
    """The reason of `refusal`, and the proof's moves in order: the parameters, and the sides that they serve.

    data: {"steps": [{"name", "op", "args", "kwargs"}], "output": name}; {"ref": name} stands for an earlier result.
    trusted: steps that the caller answers for at its point; no proof for every theta then.

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
    sides: dict[str, tuple[str, Need]] = {}
    for step in steps:
        if step["name"] not in depends or step["op"] == "parameter" or step["name"] in trusted:
            continue
        reason = _refused_step(step, by_name, uses, depends, sides)
        if reason:
            return reason, []
    moves = sorted((names.index(origin), own, need) for own, (origin, need) in sides.items())
    return "", [(str(by_name[own]["args"][0]), need) for _, own, need in moves]


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
    if op == "aten.max_pool2d_with_indices.default":
        return f"windows of {step['name']} ({op}) may tie, and the first of equals need not belong to a subgradient"
    return f"{op} is not in the table of smooth operators and kinks ({step['name']})"


def _refused_step(
    step: Mapping[str, Any],
    by_name: Mapping[str, Any],
    uses: Mapping[str, int],
    depends: set[str],
    sides: dict[str, tuple[str, Need]],
) -> str:
    op, args = step["op"], step["args"]
    if op not in OF_ONE_INPUT and op not in _OF_TWO:
        return smooth_refusal(step, depends)
    if step["kwargs"]:
        return f"{op} with {sorted(step['kwargs'])} has no row ({step['name']})"
    if op in _OF_TWO:
        need: Need = ((0.0, Fraction(1, 2)),)
        own, origin, reason = _own_of_two(step, by_name, uses)
    else:
        try:
            need = tuple(shares(op, args))
        except NoShare as error:
            return f"{op}: {error} ({step['name']})"
        if not need:
            return ""
        at = _origin(args[0]["ref"], by_name)
        own, reason = _own_moves(step, at, need, by_name, uses)
        origin = str(at["name"])
    if reason:
        return reason
    if own not in sides:
        sides[own] = (origin, need)
        return ""
    if sides[own] != (origin, need) or any(share not in (0, 1) for _, share in need):
        return f"two kinks share the bias {own!r} and may need it shifted in opposite directions"
    return ""


def _sources(step: Mapping[str, Any]) -> list[str]:
    return refs(step["args"]) + refs(step["kwargs"])


def _uses_before_kinks(steps: list[Any]) -> dict[str, int]:
    """How often each result is read on the way to a kink. Other readers (a weight penalty, say) move no kink."""
    uses: dict[str, int] = {step["name"]: 0 for step in steps}
    leading: set[str] = set()
    for step in reversed(steps):
        if step["op"] in OF_ONE_INPUT or step["op"] in _OF_TWO or step["name"] in leading:
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


def _own_moves(
    step: Mapping[str, Any], at: Mapping[str, Any], need: Need, by_name: Mapping[str, Any], uses: Mapping[str, int]
) -> tuple[str, str]:
    """The parameter whose move (with others of its layer) serves all kink points; or "" and why there is none."""
    shift, no_shift = _own_bias(step, at, by_name, uses)
    if shift and len({share for _, share in need}) == 1:
        return shift, ""
    scale, bare = _own_scale(at, by_name, uses)
    if scale and (shift or bare):
        outward = {share if point > 0 else 1 - share for point, share in need}
        if (len(outward) == 1 and all(point for point, _ in need)) or (shift and len(need) <= 2):
            return shift or scale, ""
    if no_shift:
        return "", no_shift
    points = ", ".join(f"{point:g}" for point, _ in need)
    return "", f"the kinks at {points} of {step['name']} ({step['op']}) need moves that its own bias cannot give"


def _own_of_two(step: Mapping[str, Any], by_name: Mapping[str, Any], uses: Mapping[str, int]) -> tuple[str, str, str]:
    """The bias that one side of a maximum has to itself, the other being known before it, and where; or why not."""
    place = {name: number for number, name in enumerate(by_name)}
    what = f"{step['name']} ({step['op']})"
    reason = f"no side of {what} has a bias of its own"
    for mine, other in (step["args"][:2], step["args"][1::-1]):
        if isinstance(mine, dict):
            origin = _origin(mine["ref"], by_name)
            own, why = _own_bias(step, origin, by_name, uses)
            if own and max(_read(other, by_name, place), default=-1) < place[origin["name"]]:
                return own, str(origin["name"]), ""
            reason = why or f"the sides of {what} are computed in no order that serves the proof"
    return "", "", reason


def _read(tree: Any, by_name: Mapping[str, Any], place: Mapping[str, int]) -> set[int]:
    """The places of all operators that an argument comes from; the values that a zeros_like reads do not count."""
    found: set[int] = set()
    stack = refs(tree)
    while stack:
        at = by_name[stack.pop()]
        if at["op"] not in ("parameter", "input", "constant") and place[at["name"]] not in found:
            found.add(place[at["name"]])
            if at["op"] in ("aten.zeros_like.default", "aten.ones_like.default"):
                found.discard(place[at["name"]])
            else:
                stack += _sources(at)
    return found


def _origin(name: str, by_name: Mapping[str, Any]) -> Mapping[str, Any]:
    """The step that computed the entries which a result moves about."""
    at: Mapping[str, Any] = by_name[name]
    while at["op"] in MOVES or (at["op"] == "getitem" and at["args"][1] == 0):
        inner = by_name[at["args"][0]["ref"]]
        if at["op"] == "getitem" and inner["op"] not in _NORMS:
            break
        at = inner
    return at


def _own_scale(at: Mapping[str, Any], by_name: Mapping[str, Any], uses: Mapping[str, int]) -> tuple[str, bool]:
    """A parameter that multiplies all of a layer's output and is read nowhere else ("" if none); has it no bias?"""
    op, args = at["op"], at["args"]
    position = _SHIFTED.get(op)
    bare = position is None or len(args) <= position or args[position] is None
    for place in _WEIGHTS.get(op, ()):
        if place < len(args) and isinstance(args[place], dict):
            name, _ = _only_here(by_name[args[place]["ref"]], by_name, uses)
            if name:
                return name, bare
    return "", bare


def _own_bias(
    step: Mapping[str, Any],
    at: Mapping[str, Any],
    by_name: Mapping[str, Any],
    uses: Mapping[str, int],
) -> tuple[str, str]:
    """The parameter that is added, entry by entry, to the input of a kink and read nowhere else; or why not."""
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
        if op == "aten.add.Tensor" and _read_once(candidate["ref"], by_name, uses):  # A + (A' + b)
            name, why = _own_bias(step, _origin(candidate["ref"], by_name), by_name, uses)
            if name:
                return name, ""
        reason = f"the input of {step['name']} ({step['op']}) has no bias of its own: {why}"
    return "", reason


def _read_once(name: str, by_name: Mapping[str, Any], uses: Mapping[str, int]) -> bool:
    """Whether a result, and those whose entries it moves about, are read in one place on the way to a kink."""
    end = _origin(name, by_name)["name"]
    while uses[name] == 1 and name != end:
        name = by_name[name]["args"][0]["ref"]
    return uses[name] == 1


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
