"""-inf among the elements, as the checker sees it: which calls may meet it, and which poolings return it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tameopt.structure.checker._fact import Fact, Reject
from tameopt.structure.checker._step import Step

# the kinds of rules that say what becomes of -inf; "same" is without the interpolations, which multiply it with 0
_KINDS = frozenset(
    """same|zeros|ones|anything|fill|or zero|together|pad|convert|copy|add|sub|rsub|sum|cumsum|total|unseen|accumulate
    gather|write|mul|div|addmm|softmax|log softmax|logsumexp|attention|nll|max|min|sort|where is|maximum|minimum|clamp
    truth|where|masked fill|numbers only|chosen""".replace("\n    ", "|").split("|")
)
_LIMIT_AT_MINUS_INF = ("exp", "sigmoid", "tanh", "relu")


def admit(s: Step, kind: str) -> None:
    """Reject a call that meets -inf where its rule does not say what becomes of it."""
    if not any(fact.masked for fact in s.facts):
        return
    interpolates = s.op.startswith(("upsample", "_upsample")) and "nearest" not in s.op
    known = kind in _KINDS and not (interpolates or "avg_pool" in s.op)
    if kind == "attention":
        known = not any(s.fact(name).masked for name in ("query", "key", "value"))
    if not known and s.op.rstrip("_") not in _LIMIT_AT_MINUS_INF:
        raise Reject(f"-inf enters {s.op}")


def border(arguments: Mapping[str, Any], nodes: Mapping[int, Any], facts: Mapping[tuple[int, int], Fact]) -> Any:
    """[before, after] by dimension, where what is pooled was padded with -inf and is real otherwise; else None."""
    reference = arguments.get("self")
    if not isinstance(reference, dict) or "node" not in reference:
        return None
    pad = nodes[reference["node"]]
    if pad["op"] == "unsqueeze" and pad["arguments"]["dim"] == -2 and "node" in pad["arguments"]["self"]:
        # a row is pooled as an image of one row
        pad = nodes[pad["arguments"]["self"]["node"]]
    inner = pad["arguments"].get("self")
    if pad["op"] != "constant_pad_nd" or pad["arguments"]["value"] != "-inf" or "node" not in inner:
        return None
    if facts[inner["node"], inner["output"]].masked or min(pad["arguments"]["pad"], default=0) < 0:
        return None
    pairs = list(zip(pad["arguments"]["pad"][::2], pad["arguments"]["pad"][1::2], strict=True))
    return list(reversed(pairs))


def reads_border_only(s: Step) -> bool:
    """Whether some window of a max pooling holds no real element, so that the result there is -inf."""
    rank = int(s.op.removeprefix("max_pool")[0])
    edges = [(0, 0)] * rank
    if given := s.arguments.get("border"):
        if len(given) > rank:
            raise Reject("a padding of more dimensions than are pooled")
        edges[rank - len(given) :] = given
    kernel = _by_dimension(s, "kernel_size", rank, None)
    stride = _by_dimension(s, "stride", rank, kernel)
    padding = _by_dimension(s, "padding", rank, [0] * rank)
    dilation = _by_dimension(s, "dilation", rank, [1] * rank)
    for d, (before, after) in enumerate(edges):
        real = range(before, s.shapes["self"][d - rank] - after)
        for window in range(s.outputs[0][d - rank]):
            first = window * stride[d] - padding[d]
            if not any(first + step * dilation[d] in real for step in range(kernel[d])):
                return True
    return False


def _by_dimension(s: Step, name: str, rank: int, otherwise: list[int] | None) -> list[int]:
    found = s.arguments.get(name)
    items = [found] if isinstance(found, int) else list(found or ())
    if len(items) == 1:
        return items * rank
    if not items and otherwise is not None:
        return otherwise
    if len(items) != rank:
        raise Reject(f"{s.op}: {name} = {items}")
    return items
