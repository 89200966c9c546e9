"""How large a step an optimizer bears: the limit on alpha times the top eigenvalue of a quadratic.

On F(theta) = lambda theta^2 / 2 each of these methods is a linear recursion; it is stable exactly while
alpha lambda stays below the limit. For lambda < 0 every one of them diverges, which is how saddles are left.
For Adam and its relatives the limit concerns P^-1 H with the preconditioner P frozen (Cohen et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StabilityLimit:
    """The limit of one method.

    limit: alpha * lambda_max must stay below this; None when the method is not covered.
    decay: added to every eigenvalue (coupled weight decay). preconditioner: "" or the name of the recorded
        vector v of second moments: P = sqrt(v) + epsilon, with v / (1 - keep^k) in place of v where `corrected`.
    method: in words. reason: why it is not covered, or "".
    """

    method: str
    limit: float | None
    decay: float = 0.0
    preconditioner: str = ""
    reason: str = ""
    epsilon: float = 0.0
    keep: float = 0.0

    @property
    def corrected(self) -> bool:
        """Whether the second moments are divided by 1 - keep^k."""
        return self.keep > 0


def stability_limit(name: str, arguments: Mapping[str, Any] | None = None) -> StabilityLimit:
    """The stability limit on alpha * lambda_max of an optimizer, by its name and PyTorch's arguments.

    Gradient descent 2; heavy ball with momentum b and dampening tau (2 + 2b) / (1 - tau), hence EMA momentum
    (tau = b) (2 + 2b) / (1 - b); Nesterov (2 + 2b) / (1 + 2b); Adam, RMSprop and Adagrad the same on P^-1 H.
    It is the limit of the full-batch method with a constant step on a quadratic.

    >>> stability_limit("SGD").limit
    2.0
    >>> stability_limit("SGD", {"momentum": 0.5, "nesterov": True}).limit
    1.5
    >>> stability_limit("Rprop").reason
    'Rprop steps by the signs of the gradient: no eigenvalue limits them'
    """
    given = dict(arguments or {})
    kind = name.rsplit(".", 1)[-1].lower()
    decay = float(given.get("weight_decay") or 0.0)
    if given.get("maximize"):
        return StabilityLimit(name, None, reason="maximize=True ascends: every positive eigenvalue is stable")
    if kind == "sgd":
        return _sgd(given, decay)
    if kind in ("adam", "adamw"):
        return _adam(kind, given, decay)
    if kind == "rmsprop":
        if given.get("centered"):
            return StabilityLimit("centered RMSprop", None, reason="the centred second moment is not covered")
        b = float(given.get("momentum") or 0.0)
        epsilon = _number(given, "eps", 1e-8)
        return StabilityLimit("RMSprop, preconditioner frozen", 2 + 2 * b, decay, "square_avg", epsilon=epsilon)
    if kind == "adagrad":
        if given.get("lr_decay"):
            return StabilityLimit("Adagrad", None, reason="a step that lr_decay shrinks is not covered")
        epsilon = _number(given, "eps", 1e-10)
        return StabilityLimit("Adagrad, preconditioner frozen", 2.0, decay, "sum", epsilon=epsilon)
    if kind == "nadam":
        return StabilityLimit("NAdam", None, reason="the momentum of NAdam changes from step to step")
    if kind == "rprop":
        return StabilityLimit(
            name, None, reason="Rprop steps by the signs of the gradient: no eigenvalue limits them"
        )
    return StabilityLimit(name, None, reason=f"no stability limit of {name} is known to tameopt")


def _sgd(given: Mapping[str, Any], decay: float) -> StabilityLimit:
    b = float(given.get("momentum") or 0.0)
    tau = float(given.get("dampening") or 0.0)
    if b == 0:
        return StabilityLimit("gradient descent", 2.0, decay)
    if not 0 < b < 1 or not 0 <= tau < 1:
        return StabilityLimit("SGD", None, reason=f"momentum {b} and dampening {tau} must lie in [0, 1)")
    if given.get("nesterov"):
        return StabilityLimit(f"Nesterov momentum {b:g}", (2 + 2 * b) / (1 + 2 * b), decay)
    if tau == b:
        return StabilityLimit(f"EMA momentum {b:g}", (2 + 2 * b) / (1 - b), decay)
    return StabilityLimit(f"heavy ball {b:g}", (2 + 2 * b) / (1 - tau), decay)


def _adam(kind: str, given: Mapping[str, Any], decay: float) -> StabilityLimit:
    b, keep = (float(beta) for beta in given.get("betas") or (0.9, 0.999))
    if not 0 <= b < 1:
        return StabilityLimit(kind, None, reason=f"beta1 must lie in [0, 1), got {b}")
    if given.get("amsgrad"):
        return StabilityLimit("AMSGrad", None, reason="the maximum of the second moments is not covered")
    if kind == "adamw" or given.get("decoupled_weight_decay"):
        # theta shrinks by 1 - lr wd: eigenvalue wd in the direction of theta, outside P; tiny, and neglected
        decay = 0.0
    return StabilityLimit(
        f"{'AdamW' if kind == 'adamw' else 'Adam'}, preconditioner frozen",
        (2 + 2 * b) / (1 - b),
        decay,
        "exp_avg_sq",
        epsilon=_number(given, "eps", 1e-8),
        keep=keep,
    )


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    """An argument that may be 0."""
    return default if given.get(name) is None else float(given[name])


# what enters a limit, or the step that it is compared with
_ENTERING = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "betas", "eps", "alpha", "maximize")


def recorded_limit(meta: Mapping[str, Any]) -> StabilityLimit:
    """The stability limit of the optimizer that a run's meta data name."""
    optimizer = meta.get("optimizer") or {}
    if not isinstance(optimizer, Mapping) or not optimizer.get("name"):
        return StabilityLimit("unknown", None, reason="the run does not say which optimizer made it")
    name = str(optimizer["name"])
    groups = optimizer.get("groups") or []
    differ = [key for key in _ENTERING if len({str(group.get(key)) for group in groups}) > 1]
    if differ:
        reason = f"the groups of parameters differ in {', '.join(differ)}: one limit for all is not covered"
        return StabilityLimit(name, None, reason=reason)
    return stability_limit(name, optimizer.get("arguments") or {})
