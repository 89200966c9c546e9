"""The checker of margin certificates: a homogeneous network whose total loss is below log 2.

**What is proved.** f(theta; x) is a network of linear maps, convolutions, ReLUs or leaky ReLUs, max- and average-
pooling and sums, positively homogeneous of degree L >= 1 in its trained weights, and the sum over the stored
samples of the cross-entropy (several classes) or logistic loss (one output, labels +-1) is below log 2. Then (Lyu
and Li 2020, theorems 4.1 and A.8 with assumptions A1, A2, B3, B4; f is locally Lipschitz, semialgebraic hence with
a chain rule, and homogeneous) the gradient flow of that sum from the stored weights drives it to 0 with
norm(theta) to infinity, and every limit of theta/norm(theta) is a KKT point of the margin problem. Rescaling the
loss by a constant (its mean) only rescales time.

It shares no code with what makes certificates. The operators are piecewise linear, so only sums round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tameopt.kl.check_activations import exp_of_minus
from tameopt.kl.check_arithmetic import gamma
from tameopt.kl.check_arrays import array_of
from tameopt.kl.check_operators import Op, forward, read_operators

FORMAT = "tameopt margin certificate 2"
LOG2_BELOW = 0.693147180559945  # < log 2


def check(data: Mapping[str, Any]) -> bool:
    """Whether the certificate holds: homogeneous, the claimed total an upper bound of the total loss, below log 2.

    data: {"format", "loss": "cross-entropy" | "logistic", "network": {"ops", "trained"}, "arrays": {weights, "X",
    "labels"}, "claims": {"total"}}. labels: class numbers, or +-1.
    Raises ValueError when data is no such certificate.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f"a margin certificate must have format {FORMAT!r}.")
    if data.get("loss") not in ("cross-entropy", "logistic"):
        raise ValueError(f"the loss must be cross-entropy or logistic, got {data.get('loss')!r}.")
    try:
        arrays = {name: array_of(name, entry) for name, entry in data["arrays"].items()}
        ops, trained, outputs = read_operators(data["network"], arrays, kinks=True)
        labels, claimed = arrays["labels"], float(data["claims"]["total"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a margin certificate must hold a network, X, labels and a total: {error!r}.") from error
    degree = degree_of(ops, trained)
    if isinstance(degree, str) or degree < 1:
        return False
    values, radii = forward(ops, arrays)
    assert values[-1].shape[1] == outputs
    upper = total_upper(values[-1], radii[-1], labels, str(data["loss"]))
    return bool(upper <= claimed < LOG2_BELOW)


def degree_of(ops: Sequence[Op], trained: Sequence[str]) -> int | str:
    """The degree of positive homogeneity of the outputs in the trained weights, or why there is none.

    The data has degree 0; a trained linear map adds 1; a bias must have the degree of what it is added to.
    """
    degrees = [0]
    for op in ops:
        degree = degrees[op.source]
        if op.kind == "linear":
            degree += op.weight in trained
            if op.bias and (op.bias in trained) != degree:
                what = "trained bias" if op.bias in trained else "fixed bias"
                return (
                    f"the {what} {op.bias} is added to something of degree {degree}: the network is not homogeneous"
                )
        elif op.kind == "activation" and degree:
            return f"{op.name} is not homogeneous"
        elif op.kind == "add" and degrees[op.other] != degree:
            return f"things of degrees {degree} and {degrees[op.other]} are added"
        degrees.append(degree)
    return degrees[-1]


def total_upper(outputs: np.ndarray, radius: np.ndarray, labels: np.ndarray, loss: str) -> float:
    """An upper bound of the summed loss; infinity when a sample may be misclassified.

    With S the sum of exp(-margin) over the other classes, the loss log(1 + S) <= S - S^2/2 + S^3/3 for 0 <= S <= 1.
    Raises ValueError when the labels do not fit.
    """
    n, k = outputs.shape
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {labels.shape}.")
    if loss == "logistic":
        if k != 1 or not np.all(np.abs(labels) == 1):
            raise ValueError("the logistic loss needs one output and labels +-1.")
        margins = (labels * outputs[:, 0] - radius[:, 0])[:, None]
    else:
        classes = labels.astype(np.int64)
        if k < 2 or not np.all((classes == labels) & (classes >= 0) & (classes < k)):
            raise ValueError(f"cross-entropy needs labels among 0 .. {k - 1} and at least two outputs.")
        own = outputs[np.arange(n), classes]
        own_radius = radius[np.arange(n), classes]
        gaps = own[:, None] - outputs
        gaps = gaps - (own_radius[:, None] + radius + 2.0**-52 * np.abs(gaps))
        margins = gaps[np.arange(k)[None] != classes[:, None]].reshape(n, k - 1)
    # roundings of the differences above: a few u of their size
    margins = margins - 2.0**-50 * np.abs(margins)
    if not np.all(margins >= 0):
        return float("inf")
    S = (exp_of_minus(margins) * (1 + 2e-14) + 1e-290).sum(axis=1) * (1 + 2 * gamma(k + 4))
    if np.any(S > 1):
        return float("inf")
    losses = S - S**2 / 2 + S**3 / 3
    return float(losses.sum() * (1 + 2 * gamma(n + 16)) + 1e-280)
