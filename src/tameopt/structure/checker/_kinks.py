"""The Clarke subdifferentials at the probed kinks, for checking what autodiff returned there."""

from __future__ import annotations

from collections.abc import Sequence

_TOLERANCE = 1e-6  # a float32 gradient of a sum of four equal terms is off by less

# operator -> one set for each probe: a box (lo, hi) for one number, "simplex" at a tie, "zero" where only 0 is
# accepted (a norm at 0, where 0 is in the subdifferential), "maximum norm" for the dual ball of the maximum norm
_SETS: dict[str, tuple[tuple[float, float] | str, ...]] = {
    "relu": ((0, 1),),
    "threshold": ((0, 1),),
    "abs": ((-1, 1),),
    "relu6": ((0, 1), (0, 1)),
    "hardsigmoid": ((0, 1 / 6), (0, 1 / 6)),
    "hardswish": ((-0.5, 0), (1, 1.5)),
    "leaky_relu": ((0.25, 1),),
    "rrelu_with_noise": ((0.25, 1),),
    "rrelu_with_noise_functional": ((0.25, 1),),
    "elu": ((0.5, 1),),
    "selu": ((1.05, 1.7581),),
    "softshrink": ((0, 1), (0, 1)),
    "prelu": ((0.25, 1),),
    "_prelu_kernel": ((0.25, 1),),
    "clamp": ((0, 1), (0, 1), (0, 1), (0, 1)),
    "clamp_min": ((0, 1),),
    "clamp_max": ((0, 1),),
    "hardtanh": ((0, 1), (0, 1)),
    **dict.fromkeys(
        (
            "maximum", "minimum", "fmax", "fmin", "amax", "amin", "aminmax", "cummax", "cummin", "sort", "topk",
            "kthvalue", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d", "adaptive_max_pool1d",
            "adaptive_max_pool2d",
        ),
        ("simplex",),
    ),
    **dict.fromkeys(("max", "min", "median"), ("simplex", "simplex")),
    "linalg_vector_norm": ("zero", "maximum norm", "zero"),
    **dict.fromkeys(("norm", "std", "std_mean", "_cdist_forward", "dist"), ("zero",)),
    "multi_margin_loss": ("margin",),
}  # fmt: skip


def convention_holds(operator: str, gradients: Sequence[Sequence[float]]) -> bool:
    """Whether every probed gradient is a Clarke subgradient."""
    sets = _SETS.get(operator) or _SETS.get(operator.rstrip("_"))
    if sets is None or len(sets) != len(gradients):
        return False
    return all(_inside(kind, gradient) for kind, gradient in zip(sets, gradients, strict=True))


def _inside(kind: tuple[float, float] | str, gradient: Sequence[float]) -> bool:
    if any(entry != entry for entry in gradient):
        return False
    if isinstance(kind, tuple):
        return all(kind[0] - _TOLERANCE <= entry <= kind[1] + _TOLERANCE for entry in gradient)
    if kind == "simplex":
        return abs(sum(gradient) - 1) <= _TOLERANCE and min(gradient) >= -_TOLERANCE
    if kind == "maximum norm":
        return sum(abs(entry) for entry in gradient) <= 1 + _TOLERANCE
    if kind == "margin":
        # max(0, 1 - x_y + x_j) / 2 at its kink: between 0 and (-1/2, 1/2)
        return abs(sum(gradient)) <= _TOLERANCE and -0.5 - _TOLERANCE <= gradient[0] <= _TOLERANCE
    return all(entry == 0 for entry in gradient)
