"""Keras' AdamW: its Adam with weight decay on."""

from __future__ import annotations

from typing import Unpack

from tameopt.optim.arguments import Parameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.keras._base import LearningRate, WithoutDecay
from tameopt.optim.keras.adam import Adam


class AdamW(Adam):
    """AdamW as `keras.optimizers.AdamW`: theta shrinks by 1 - alpha * weight_decay, then Keras' Adam.

    Arguments as in Keras' Adam, weight_decay in second place and 0.004.
    """

    def __init__(
        self,
        params: Parameters,
        learning_rate: LearningRate = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **common: Unpack[WithoutDecay],
    ) -> None:
        if weight_decay is None:
            raise ValueError("weight_decay must be a number, got None: use Adam to leave it out.")
        super().__init__(params, learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay=weight_decay, **common)


ENTRY = Entry(
    "AdamW",
    AdamW,
    "theta = (1 - alpha lambda) theta, then Keras' Adam",
    "Loshchilov and Hutter 2019",
    variants={"averaged": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3}},
)
