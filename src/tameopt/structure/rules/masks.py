"""-inf among the elements: which operators take it.

A tensor is *extended* when some of its elements are -inf for every theta (a mask, the border of a max pooling). An
operator that is not named here would turn them into inf, NaN or a number that its rule does not foresee, so it is
refused. Sums keep them, maxima drop them, softmax and its relatives turn them into weights 0.
"""

from __future__ import annotations

from tameopt.structure.rules import extremes, linear, losses, more, network, products, selection
from tameopt.structure.rules._call import Call, NoRuleError

_RULES = frozenset(
    {
        linear.view, linear.shape_only, linear.zeros_like, linear.ones_like, linear.filled, linear.add, linear.sub,
        linear.rsub, linear.sum_, linear.mean, linear.cumsum, linear.join_all, linear.padded, linear.with_zero,
        linear.converted, linear.copied, linear.gathered, linear.accumulated, selection.written, selection.compared,
        selection.where, selection.masked_fill, extremes.largest, extremes.smallest, extremes.ordered,
        extremes.index_of, extremes.pair_largest, extremes.pair_smallest, extremes.clamp, network.softmax,
        network.log_softmax, network.logsumexp, losses.nll_loss, more.nan_to_num, products.mul, products.div,
        products.addmm,
    }
)  # fmt: skip
# f(-inf) is the limit, and backprop returns the limit 0 of f' there
_LIMITS = frozenset({"exp", "sigmoid", "tanh", "relu"})


def require_taken(call: Call, rule: object) -> None:
    """Refuse a call that hands -inf to an operator whose rule does not foresee it."""
    if not any(value.extended for value in call.tensors):
        return
    if rule is network.attention:
        if any(call.value(name).extended for name in ("query", "key", "value")):
            raise NoRuleError("a mask of -inf enters a product")
    elif rule not in _RULES and call.name.rstrip("_") not in _LIMITS:
        raise NoRuleError(f"a mask of -inf enters {call.name}")
