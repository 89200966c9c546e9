"""scikit-learn's handwritten digits as tensors: 1,797 images of 8x8 pixels, ten classes."""

from __future__ import annotations

import torch

from tameopt.extras import require

SOURCE = (
    "E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI; the test part, as shipped "
    "with scikit-learn"
)


def digits(n: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """((n, 64) float32 pixels in [0, 1], (n,) int64 labels), the first n of 1,797 images in their order.

    Raises ValueError when n is not in 1..1797.
    """
    bunch = require("sklearn.datasets", "the digits data").load_digits()
    images = torch.tensor(bunch.data, dtype=torch.float32) / 16.0
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    if n is None:
        return images, labels
    if not 1 <= n <= len(labels):
        raise ValueError(f"n must be between 1 and {len(labels)} digits, got {n}.")
    return images[:n], labels[:n]
