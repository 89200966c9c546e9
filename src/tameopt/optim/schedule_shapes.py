"""Schedules given by one formula: powers, exponentials, steps, cosines, one cycle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from tameopt.optim.schedule import (
    Real,
    Schedule,
    require,
    require_at_least,
    require_positive,
    require_whole,
    short,
)


@dataclass(frozen=True)
class Constant(Schedule):
    """alpha_k = a.

    >>> Constant(0.05)(1_000)
    0.05
    """

    a: Real
    kind: ClassVar[str] = "constant"

    def __post_init__(self) -> None:
        require_positive("a", self.a)

    def _at(self, k: int) -> float:
        return float(self.a)

    def __str__(self) -> str:
        return f"constant {short(self.a)}"


@dataclass(frozen=True)
class Power(Schedule):
    """alpha_k = a / (k + shift)^p, p >= 0.

    >>> Power(1.0, Fraction(1, 2))(3)
    0.5
    """

    a: Real
    p: Real
    shift: Real = 1
    kind: ClassVar[str] = "power"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_at_least("p", self.p, 0, "steps that grow without bound follow no schedule of the theory")
        require_positive("shift", self.shift, "the first step divides by shift^p")

    def _at(self, k: int) -> float:
        return float(self.a) * float(k + self.shift) ** -float(self.p)

    def __str__(self) -> str:
        return f"{short(self.a)} / (k+{short(self.shift)})^{short(self.p)}"


@dataclass(frozen=True)
class PowerLog(Schedule):
    """alpha_k = a (k+1)^-p log(k+e)^-r, bounded: p > 0, or p = 0 and r >= 0.

    >>> PowerLog(1.0, p=0, r=1)(0)
    1.0
    """

    a: Real
    p: Real
    r: Real
    kind: ClassVar[str] = "powerlog"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_at_least("p", self.p, 0, "steps that grow without bound follow no schedule of the theory")
        if self.p == 0:
            require_at_least("r", self.r, 0, "with p = 0 the steps would grow without bound")
        require_at_least("r", self.r, -1_000, "the power of the logarithm is a number")

    def _at(self, k: int) -> float:
        return float(self.a) * (k + 1.0) ** -float(self.p) * math.log(k + math.e) ** -float(self.r)

    def __str__(self) -> str:
        return f"{short(self.a)} (k+1)^-{short(self.p)} log(k+e)^-{short(self.r)}"


@dataclass(frozen=True)
class Step(Schedule):
    """alpha_k = a factor^floor(k / every), 0 < factor <= 1.

    >>> Step(1.0, every=10, factor=0.5)(25)
    0.25
    """

    a: Real
    every: int
    factor: Real
    kind: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_whole("every", self.every)
        _require_factor(self.factor)

    def _at(self, k: int) -> float:
        return float(self.a) * float(self.factor) ** (k // self.every)

    def __str__(self) -> str:
        return f"{short(self.a)}, times {short(self.factor)} every {self.every:,} steps"


@dataclass(frozen=True)
class MultiStep(Schedule):
    """alpha_k = a factor^(number of milestones <= k); constant after the last.

    >>> MultiStep(1.0, milestones=(10, 20), factor=0.5)(15)
    0.5
    """

    a: Real
    milestones: tuple[int, ...]
    factor: Real
    kind: ClassVar[str] = "multistep"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        for milestone in self.milestones:
            require_whole("a milestone", milestone)
        require(
            list(self.milestones) == sorted(self.milestones),
            "milestones must increase",
            self.milestones,
            "steps pass",
        )
        _require_factor(self.factor)

    def _at(self, k: int) -> float:
        return float(self.a) * float(self.factor) ** sum(milestone <= k for milestone in self.milestones)

    def __str__(self) -> str:
        where = ", ".join(f"{milestone:,}" for milestone in self.milestones)
        return f"{short(self.a)}, times {short(self.factor)} at steps {where}"


@dataclass(frozen=True)
class Exponential(Schedule):
    """alpha_k = a factor^k, 0 < factor <= 1.

    >>> Exponential(1.0, 0.5)(3)
    0.125
    """

    a: Real
    factor: Real
    kind: ClassVar[str] = "exponential"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        _require_factor(self.factor)

    def _at(self, k: int) -> float:
        return float(self.a) * float(self.factor) ** k

    def __str__(self) -> str:
        return f"{short(self.a)} * {short(self.factor)}^k"


@dataclass(frozen=True)
class Linear(Schedule):
    """From start_factor a to end_factor a in a straight line over `steps` steps, then held.

    >>> Linear(1.0, steps=10, start_factor=0.5)(5)
    0.75
    """

    a: Real
    steps: int
    start_factor: Real
    end_factor: Real = 1
    kind: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_whole("steps", self.steps)
        require_positive("start_factor", self.start_factor)
        require_at_least("end_factor", self.end_factor, 0, "a step size is never negative")

    def _at(self, k: int) -> float:
        share = min(k, self.steps) / self.steps
        return float(self.a) * (float(self.start_factor) * (1 - share) + float(self.end_factor) * share)

    def __str__(self) -> str:
        ends = f"from {short(self.start_factor)} to {short(self.end_factor)}"
        return f"{short(self.a)} times a line {ends} in {self.steps:,} steps"


@dataclass(frozen=True)
class Polynomial(Schedule):
    """alpha_k = a_min + (a - a_min) (1 - k/steps)^power for k <= steps, then a_min for ever.

    >>> Polynomial(1.0, steps=10, power=2)(5)
    0.25
    """

    a: Real
    steps: int
    power: Real = 1
    a_min: Real = 0
    kind: ClassVar[str] = "polynomial"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_whole("steps", self.steps)
        require_positive("power", self.power, "the steps come down")
        require_at_least("a_min", self.a_min, 0, "a step size is never negative")
        require(self.a_min <= self.a, "a_min must be <= a", f"{self.a_min} > {self.a}", "the steps come down")

    def _at(self, k: int) -> float:
        left = max(0.0, 1.0 - k / self.steps)
        return float(self.a_min) + float(self.a - self.a_min) * left ** float(self.power)

    def __str__(self) -> str:
        ends = f"from {short(self.a)} to {short(self.a_min)}"
        return f"polynomial of degree {short(self.power)} {ends} in {self.steps:,} steps"


@dataclass(frozen=True)
class Cosine(Schedule):
    """Linear warm-up to a, half a cosine down to a_min at k = steps, then a_min for ever.

    alpha_k = a (k+1) / warmup for k < warmup; a_min + (a - a_min) (1 + cos(pi (k - warmup)/(steps - warmup))) / 2
    for warmup <= k <= steps. With a_min = 0 the steps past the end are 0.

    >>> Cosine(0.1, steps=100, warmup=10)(9)
    0.1
    """

    a: Real
    steps: int
    warmup: int = 0
    a_min: Real = 0
    kind: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_whole("steps", self.steps)
        require_whole("warmup", self.warmup, 0)
        require(self.warmup < self.steps, "warmup must be < steps", f"{self.warmup} of {self.steps}", "it ends first")
        require_at_least("a_min", self.a_min, 0, "a step size is never negative")
        require(self.a_min <= self.a, "a_min must be <= a", f"{self.a_min} > {self.a}", "the cosine comes down")

    def _at(self, k: int) -> float:
        if k < self.warmup:
            return float(self.a) * (k + 1) / self.warmup
        if k >= self.steps:
            return float(self.a_min)
        share = (k - self.warmup) / (self.steps - self.warmup)
        return float(self.a_min) + float(self.a - self.a_min) * 0.5 * (1.0 + math.cos(math.pi * share))

    def __str__(self) -> str:
        warm = f", warm-up {self.warmup:,}" if self.warmup else ""
        return f"cosine from {short(self.a)} to {short(self.a_min)} in {self.steps:,} steps{warm}"


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Half cosines from a to a_min, again and again: period, growth period, growth^2 period, … steps long.

    >>> CosineRestarts(1.0, period=10, growth=2)(10)
    1.0
    """

    a: Real
    period: int
    growth: int = 1
    a_min: Real = 0
    kind: ClassVar[str] = "restarts"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_whole("period", self.period)
        require_whole("growth", self.growth)
        require_at_least("a_min", self.a_min, 0, "a step size is never negative")
        require(self.a_min <= self.a, "a_min must be <= a", f"{self.a_min} > {self.a}", "the cosine comes down")

    def _at(self, k: int) -> float:
        length = self.period
        if self.growth == 1:
            k %= length
        while k >= length:
            k, length = k - length, length * self.growth
        return float(self.a_min) + float(self.a - self.a_min) * 0.5 * (1.0 + math.cos(math.pi * k / length))

    def __str__(self) -> str:
        grow = f", each {self.growth} times longer" if self.growth > 1 else ""
        ends = f"from {short(self.a)} to {short(self.a_min)}"
        return f"cosines {ends}, restarted after {self.period:,} steps{grow}"


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Cosine from a/divisor up to a over the share `rise` of the steps, down to a/(divisor final_divisor), held.

    >>> OneCycle(1.0, steps=101, rise=Fraction(1, 2), divisor=4)(0)
    0.25
    """

    a: Real
    steps: int
    rise: Real = Fraction(3, 10)
    divisor: Real = 25
    final_divisor: Real = 10_000
    kind: ClassVar[str] = "onecycle"

    def __post_init__(self) -> None:
        require_positive("a", self.a)
        require_whole("steps", self.steps, 2)
        require_positive("rise", self.rise, "the steps rise first")
        require(self.rise <= 1, "rise must be <= 1", self.rise, "it is a share of the steps")
        require_at_least("divisor", self.divisor, 1, "the cycle starts below its top")
        require_at_least("final_divisor", self.final_divisor, 1, "the cycle ends at or below its start")

    def _at(self, k: int) -> float:
        # PyTorch's phases: the first ends at rise * steps - 1, the second at steps - 1
        top, low = float(self.a), float(self.a) / float(self.divisor)
        turn, end = float(self.rise * self.steps) - 1.0, self.steps - 1.0
        if k <= turn:
            return top + (low - top) * 0.5 * (1.0 + math.cos(math.pi * k / turn)) if turn > 0 else top
        last = low / float(self.final_divisor)
        share = 1.0 if k >= end else (k - turn) / (end - turn)
        return last + (top - last) * 0.5 * (1.0 + math.cos(math.pi * share))

    def __str__(self) -> str:
        return f"one cycle up to {short(self.a)} in {self.steps:,} steps"


def _require_factor(factor: Real) -> None:
    require_positive("factor", factor)
    require(
        factor <= 1, "factor must be <= 1", factor, "steps that grow without bound follow no schedule of the theory"
    )
