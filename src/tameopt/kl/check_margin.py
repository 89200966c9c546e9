"""The checker of margin certificates: a homogeneous network whose total loss is below log 2.

**What is proved.** For f(x) = W_L s(W_{L-1} ... s(W_1 x)) with s a ReLU or leaky ReLU, without biases, the sum over
the stored samples of the cross-entropy (several classes) or logistic loss (one output, labels +-1) is below log 2.
Then (Lyu and Li 2020, theorems 4.1 and A.8 with assumptions A1, A2, B3, B4; f is locally Lipschitz, semialgebraic
hence with a chain rule, and homogeneous of degree L in the weights) the gradient flow of that sum from the stored
weights drives it to 0 with norm(theta) to infinity, and every limit of theta/norm(theta) is a KKT point of the margin
problem. Rescaling the loss by a constant (its mean) only rescales time.

It shares no code with what makes certificates. Activations are piecewise linear, so only sums round.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from tameopt.kl.check_activations import exp_of_minus
from tameopt.kl.check_arithmetic import gamma

FORMAT = "tameopt margin certificate 1"
LOG2_BELOW = 0.693147180559945  # < log 2
_LARGEST = 1e30


def check(data: Mapping[str, Any]) -> bool:
    """Whether the certificate holds: the claimed total is an upper bound of the total loss, and below log 2.

    data: {"format", "loss": "cross-entropy" | "logistic", "slopes": [of the activation after each layer but the
    last], "arrays": {"W1", ..., "X", "labels"}, "claims": {"total"}}. labels: class numbers, or +-1.
    Raises ValueError when data is no such certificate.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f"a margin certificate must have format {FORMAT!r}.")
    if data.get("loss") not in ("cross-entropy", "logistic"):
        raise ValueError(f"the loss must be cross-entropy or logistic, got {data.get('loss')!r}.")
    try:
        arrays = {name: _array(name, entry) for name, entry in data["arrays"].items()}
        weights = [arrays[f"W{layer + 1}"] for layer in range(len(data["slopes"]) + 1)]
        X, labels, slopes = arrays["X"], arrays["labels"], [float(slope) for slope in data["slopes"]]
        claimed = float(data["claims"]["total"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"a margin certificate must hold weights, X, labels, slopes and a total: {error!r}."
        ) from error
    if any(not 0 <= slope <= 1 for slope in slopes):
        raise ValueError(f"activation slopes must be between 0 (ReLU) and 1, got {slopes}.")
    outputs, radius = propagate(weights, slopes, X)
    upper = total_upper(outputs, radius, labels, str(data["loss"]))
    return bool(upper <= claimed < LOG2_BELOW)


def _array(name: str, entry: Any) -> np.ndarray:
    if isinstance(entry, np.ndarray):
        array = np.ascontiguousarray(entry, dtype=np.float64)
    else:
        try:
            array = np.frombuffer(base64.b64decode(entry["base64"], validate=True), dtype="<f8").reshape(
                entry["shape"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"array {name!r} of the certificate is damaged: {error}.") from error
    if not np.all(np.abs(array) <= _LARGEST):
        raise ValueError(f"array {name!r} of the certificate must be finite and below {_LARGEST:g}, it is not.")
    return array


def propagate(weights: list[np.ndarray], slopes: list[float], X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) outputs in float64 and (n, k) bounds of their distance to the exact ones.

    A layer of width m adds gamma_m |h| |W|^T for its sums, and carries the radius by |W|; a slope s <= 1 rounds once.
    Raises ValueError when the shapes do not fit.
    """
    h, radius = X, np.zeros_like(X)
    for layer, W in enumerate(weights):
        if W.ndim != 2 or h.ndim != 2 or W.shape[1] != h.shape[1]:
            raise ValueError(f"layer {layer + 1} of shape {W.shape} does not fit its inputs {h.shape}.")
        size = np.abs(W)
        width = W.shape[1]
        z = h @ W.T
        error = gamma(width + 2) * (np.abs(h) @ size.T) + radius @ size.T
        # the bound itself is a sum of nonnegative terms, within gamma of its exact value
        radius = error * (1 + 4 * gamma(width + 8)) + 1e-290
        h = z
        if layer < len(slopes):
            s = slopes[layer]
            h = np.where(z > 0, z, s * z)
            radius = radius + 2.0**-52 * np.abs(h)
    return h, radius


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
