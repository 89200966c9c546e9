"""The protocol of the digits certificates: least squares on handwritten digits, standard scale."""

from __future__ import annotations

import numpy as np
import torch

from tameopt.extras import require
from tameopt.kl.shallow import ShallowNetwork
from tameopt.problem import Problem

PREPROCESSING = "pixels centred by the mean of all 1,797 images, rows scaled to unit norm, labels +-1 (even, odd)"


def digits_trap(
    n: int = 20,
    width: int = 2**15,
    gain: float = 2.0,
    activation: str = "tanh",
    seed: int = 0,
    antisymmetric: bool = True,
    trained: str = "first",
) -> Problem:
    """f(x) = C sigma(gain W x)/sqrt(width) on the first n digits, mean squared error, float64.

    antisymmetric: neurons in pairs whose outputs cancel at the start, so that norm(u_0) = sqrt(n).

    Raises ValueError unless 1 <= n <= 1797.
    """
    datasets = require("sklearn.datasets", "the handwritten digits")
    images, digits = datasets.load_digits(return_X_y=True)
    if not 1 <= n <= len(images):
        raise ValueError(f"n must be between 1 and {len(images)} digits, got {n}.")
    X = images - images.mean(axis=0)
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    y = np.where(digits % 2 == 0, 1.0, -1.0)[:, None]
    network = ShallowNetwork(
        X.shape[1],
        width,
        activation=activation,
        gain=gain,
        antisymmetric=antisymmetric,
        trained=trained,
        generator=torch.Generator().manual_seed(seed),
    )
    data = (torch.from_numpy(X[:n].copy()), torch.from_numpy(y[:n].copy()))
    return Problem(network, torch.nn.functional.mse_loss, data, name=f"digits-trap n={n} m={width}")
