"""TensorFlow's optimizers (Keras 3) for PyTorch parameters: their arguments, defaults, epsilons and decay.

`tame.optim.keras.Adam(model.parameters(), learning_rate=1e-3)` makes the steps that `keras.optimizers.Adam` makes.
One file an optimizer; `names()` lists them.

>>> from tameopt.optim import keras
>>> keras.names()
('Adadelta', 'Adagrad', 'Adam', 'AdamW', 'Adamax', 'Ftrl', 'Nadam', 'RMSprop', 'SGD')
"""

from __future__ import annotations

from typing import Any

from tameopt import catalogue


def names() -> tuple[str, ...]:
    """The optimizers' names, sorted."""
    return catalogue.names(__name__)


def entry(name: str) -> Any:
    """What the catalogue knows of an optimizer. Raises ValueError with the nearest name when there is none."""
    return catalogue.entry(__name__, name, "Keras optimizers")


def __getattr__(name: str) -> Any:
    if name[:1].isupper():
        found = catalogue.entries(__name__)
        if name in found:
            return found[name].optimizer
        raise AttributeError(f"tameopt.optim.keras has no optimizer {name!r}: it has {', '.join(found)}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*names(), "entry", "names"])
