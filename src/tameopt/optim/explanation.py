"""Which engine runs which parameters, and why: what `optimizer.explain()` returns."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from tameopt.optim.plan import Bucket


@dataclass(frozen=True)
class Chosen:
    """The engine of one bucket.

    engine: its name; parameters, elements: how many; dtypes: of theta, g and the states; compile_seconds: what making
    its kernel took, 0 without one; reasons: (engine, why it was passed over).
    """

    engine: str
    parameters: int
    elements: int
    dtypes: tuple[str, ...]
    compile_seconds: float
    reasons: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        plural = "" if self.parameters == 1 else "s"
        compiled = f", compiled in {self.compile_seconds:.3f} s" if self.compile_seconds else ""
        line = (
            f"{self.engine}: {self.parameters} parameter{plural}, {self.elements:,} elements of "
            f"{'/'.join(self.dtypes)}{compiled}"
        )
        return "".join([line, *(f"\n  not {name}: {why}" for name, why in self.reasons)])


@dataclass(frozen=True)
class Explanation:
    """What the last step of an optimizer ran on. rule: its name; choices: one a bucket."""

    rule: str
    choices: tuple[Chosen, ...]

    def __str__(self) -> str:
        if not self.choices:
            return f"{self.rule}: no step yet; the engine is chosen when there are gradients."
        return "\n".join([f"{self.rule}", *(str(choice) for choice in self.choices)])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def explain(rule: str, buckets: Sequence[Bucket]) -> Explanation:
    """The explanation of the buckets laid out last."""
    return Explanation(rule, tuple(_chosen(bucket) for bucket in buckets))


def _chosen(bucket: Bucket) -> Chosen:
    signature = bucket.signature
    dtypes = (signature.theta, signature.g, *(dtype for _, dtype in signature.states))
    return Chosen(
        bucket.choice.engine,
        len(bucket.units),
        sum(unit.theta.numel() for unit in bucket.units),
        tuple(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in dtypes)),
        float(bucket.cache.get("compile_seconds", 0.0)),
        bucket.choice.reasons,
    )
