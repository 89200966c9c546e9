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

    antisymmetric: neurons in pairs whose outputs cancel at the start, so that norm(u_0) = sqrt(n). The digits after
    the first n are held out.

    Raises ValueError unless 1 <= n <= 1797.
    """
    X, y = parity_of_digits()
    if not 1 <= n <= len(X):
        raise ValueError(f"n must be between 1 and {len(X)} digits, got {n}.")
    network = ShallowNetwork(
        X.shape[1],
        width,
        activation=activation,
        gain=gain,
        antisymmetric=antisymmetric,
        trained=trained,
        generator=torch.Generator().manual_seed(seed),
    )
    data = (X[:n].clone(), y[:n].clone())
    rest = (X[n:], y[n:]) if n < len(X) else None
    loss = torch.nn.functional.mse_loss
    return Problem(network, loss, data, name=f"digits-trap n={n} m={width}", held_out=rest)


def parity_of_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """(X (1797, 64), y (1797, 1)) in float64, prepared as `PREPROCESSING` says."""
    datasets = require("sklearn.datasets", "the handwritten digits")
    images, digits = datasets.load_digits(return_X_y=True)
    X = images - images.mean(axis=0)
    X = X / np.linalg.norm(X, axis=1, keepdims=True)
    y = np.where(digits % 2 == 0, 1.0, -1.0)[:, None]
    return torch.from_numpy(X), torch.from_numpy(y)
