"""Attempts to contradict a certificate numerically; each says what it found, or "".

A certificate speaks of real arithmetic. Where an intermediate result leaves the range of float64, saturates
(tanh x = 1) or is nothing but rounding (a sum that is 0 exactly), the computed value says nothing, and such points
are left out: `beyond_floats` looks at the intermediate results, `Attack.steady` at the value a few roundings away.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tameopt.structure.statement import Structure

Function = Callable[[torch.Tensor], torch.Tensor]
_TINY = 1e-9
# functions whose float64 values reach the open end of their range or underflow although the real ones do not
_SATURATING = {
    "tanh", "sigmoid", "erf", "_softmax", "exp", "special_ndtr", "softplus", "expm1", "log_sigmoid_forward",
    "_log_softmax", "logaddexp", "gelu", "silu", "mish", "elu", "logsumexp", "sinh", "linalg_matrix_exp",
}  # fmt: skip
_PERIODIC = {"sin", "cos", "tan", "remainder", "fmod", "frac", "round", "floor", "trunc"}
_SPECIAL = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, -0.5, 0.0))


class _Watch(TorchDispatchMode):
    """Notices results that float64 cannot tell from infinity, from 0, or from the end of a range."""

    def __init__(self) -> None:
        super().__init__()
        self.beyond = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[-1].rstrip("_")
        read = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor) and x.is_floating_point()]
        made = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, torch.Tensor)]
        for x in [x for x in (*read, *made) if x.is_floating_point() and x.numel()]:
            size = x.abs()
            self.beyond |= bool((((size > 1e60) & (size < math.inf)) | ((size > 0) & (size < 1e-60))).any())
        if name in _SATURATING and read:
            # 1 - tanh(15) is 2e-13: above that, what is left of it is rounding
            self.beyond |= bool(((read[0].abs() > 15) & read[0].isfinite()).any())
        if name in _PERIODIC and read:
            # the argument has lost its place in the period: 1e9 is known to 1e-7 after one rounding
            self.beyond |= bool((read[0].abs() > 1e9).any())
        if name == "pow" and made and bool(torch.isinf(made[0]).any()):
            self.beyond |= bool((read[0] != 0).all())
        return out


def beyond_floats(function: Function, theta: torch.Tensor) -> bool:
    """Whether an intermediate result at theta is no float64 approximation of the real one."""
    watch = _Watch()
    with torch.no_grad(), watch:
        function(theta)
    return watch.beyond


class Attack:
    """A function R^3 -> R under attack: its values, slopes, and the random points of a seed."""

    def __init__(self, function: Function, seed: int) -> None:
        self.function = function
        self._generator = torch.Generator().manual_seed(seed)
        self.special = [torch.tensor(point, dtype=torch.float64) for point in _SPECIAL]
        self.points = [self.normal(), self.normal(0.3), self.normal(3.0)]
        direction = self.normal()
        self.direction = direction / direction.norm()

    def normal(self, scale: float = 1.0) -> torch.Tensor:
        return scale * torch.randn(3, generator=self._generator, dtype=torch.float64)

    def value(self, theta: torch.Tensor) -> float:
        with torch.no_grad():
            return float(self.function(theta))

    def values(self, thetas: list[torch.Tensor]) -> list[float]:
        """The value at each point, in one call where torch can batch the program."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says where vmap is a loop inside
            try:
                return torch.vmap(self.function)(torch.stack(thetas)).tolist()
            except RuntimeError:  # data-dependent indexing, in-place writes into constants
                return [float(self.function(theta)) for theta in thetas]

    def gradient(self, theta: torch.Tensor, create_graph: bool = False) -> tuple[torch.Tensor, torch.Tensor] | None:
        leaf = theta.clone().requires_grad_()
        value = self.function(leaf)
        if not value.requires_grad:
            return None
        (found,) = torch.autograd.grad(value, leaf, allow_unused=True, create_graph=create_graph)
        return None if found is None else (leaf, found)

    def slope(self, theta: torch.Tensor) -> float:
        found = self.gradient(theta)
        return 0.0 if found is None else float(found[1] @ self.direction)

    def curvature(self, theta: torch.Tensor) -> float:
        found = self.gradient(theta, create_graph=True)
        if found is None or not found[1].requires_grad:
            return 0.0
        try:
            (second,) = torch.autograd.grad(found[1] @ self.direction, found[0], allow_unused=True)
        except RuntimeError as missing:
            # torch has no second derivative of hardsigmoid; the values are attacked all the same
            if "is not implemented" not in str(missing):
                raise
            return 0.0
        return 0.0 if second is None else float(second @ self.direction)

    def steady(self, theta: torch.Tensor, size: float) -> bool:
        """Whether the value at theta changes by less than `size` when theta changes by a few roundings.

        Five perturbations: a sign that is a coin toss agrees in all of them for one point in 32.
        """
        base = self.value(theta)
        moves = (1e-15, -2e-15, 3e-15, -5e-15, 7e-15)
        return all(abs(self.value(theta * (1 + move) + move * 0.1) - base) <= size for move in moves)


def _jump(values: Callable[[list[torch.Tensor]], list[float]], attack: Attack, at: torch.Tensor) -> float:
    """A jump of t -> values(at + t direction), -2 < t < 2, that survives ten cuts into ten intervals, or 0."""
    a, b = -2.05, 1.95
    gaps, scale = [], 1.0
    for _ in range(10):
        grid = [a + (b - a) * k / 10 for k in range(11)]
        found = values([at + t * attack.direction for t in grid])
        if not all(math.isfinite(value) and abs(value) < 1e8 for value in found):
            return 0.0
        best = max(range(10), key=lambda k: abs(found[k + 1] - found[k]))
        a, b = grid[best], grid[best + 1]
        gaps.append(abs(found[best + 1] - found[best]))
        scale = max(abs(found[best]), abs(found[best + 1]), 1e-3)
    # 1e-4 relative: far above rounding, and a continuous function with a root singularity shrinks over 4 cuts
    if not (gaps[-1] > 1e-4 * scale and gaps[-1] > 0.98 * gaps[-5]):
        return 0.0
    ends = (at + a * attack.direction, at + b * attack.direction)
    return 0.0 if any(beyond_floats(attack.function, end) for end in ends) else gaps[-1]


def not_finite(attack: Attack, found: Structure) -> str:
    """Undefined at a point, although defined everywhere."""
    if not found.total:
        return ""
    for point in (*attack.points, *attack.special):
        if not math.isfinite(attack.value(point)) and not beyond_floats(attack.function, point):
            return f"not finite at {point.tolist()}"
    return ""


def outside_bounds(attack: Attack, found: Structure) -> str:
    low = -math.inf if found.lower_bound is None else found.lower_bound
    high = math.inf if found.upper_bound is None else found.upper_bound
    for point in (*attack.points, *attack.special):
        value = attack.value(point)
        slack = _TINY * (1 + abs(value))
        if (value < low - slack or value > high + slack) and not beyond_floats(attack.function, point):
            return f"{value} outside [{low}, {high}] at {point.tolist()}"
    return ""


def discontinuity(attack: Attack, found: Structure) -> str:
    if not found.total or found.smoothness == "discontinuous":
        return ""
    for point in (attack.points[0], attack.special[0], attack.special[2]):
        if (gap := _jump(attack.values, attack, point)) > 0:
            return f"a jump of {gap}"
    return ""


def infinite_slope(attack: Attack, found: Structure) -> str:
    """Difference quotients that grow without end towards a point."""
    if not found.total or found.smoothness in ("discontinuous", "continuous"):
        return ""
    for point in attack.special:
        base = attack.value(point)
        slopes = [abs(attack.value(point + h * attack.direction) - base) / h for h in (1e-6, 1e-8, 1e-10, 1e-12)]
        noise = 1e-13 * (1 + abs(base)) / 1e-12
        # |x|^p grows by 100^(1 - p) a step; a finite slope settles, even the 1e8 of a cosine with eps = 1e-8
        grows = slopes[3] > 30 * (slopes[0] + noise + 1e-3) and slopes[3] > 3 * slopes[2] > 9 * slopes[1]
        if grows and not beyond_floats(attack.function, point):
            return f"slopes {slopes} at {point.tolist()}"
    return ""


def kink(attack: Attack, found: Structure) -> str:
    """A jump of the slope of a C^1 function: of autodiff's, and of differences, which autodiff does not touch."""
    if not found.total or not found.smoothness.startswith(("C^", "analytic")):
        return ""
    if (
        found.autodiff == "classical"
        and (gap := _jump(lambda at: [attack.slope(t) for t in at], attack, attack.points[0])) > 0
    ):
        return f"the slope jumps by {gap}"
    for point in attack.special:
        base = attack.value(point)
        bends = []
        for h in (1e-3, 1e-4, 1e-5):
            ends = [attack.value(point + sign * h * attack.direction) for sign in (1, -1)]
            bends.append(abs(ends[0] + ends[1] - 2 * base) / h)
        noise = 1e-14 * (1 + abs(base)) / 1e-5
        # (f(x + h) + f(x - h) - 2 f(x)) / h tends to the difference of the one-sided slopes, and is O(h) without one
        stays = bends[2] > 1e-3 + 100 * noise and bends[2] > 0.9 * bends[0] and bends[2] > 0.9 * bends[1]
        if stays and not beyond_floats(attack.function, point):
            return f"one-sided slopes differ by {bends[2]} at {point.tolist()}"
    return ""


def not_analytic(attack: Attack, found: Structure) -> str:
    """A jump of the curvature, or Chebyshev coefficients that fall like a power: |x|^k has an error of order n^-k."""
    if not found.total or found.smoothness != "analytic":
        return ""
    if (
        found.autodiff == "classical"
        and (gap := _jump(lambda at: [attack.curvature(t) for t in at], attack, attack.points[1])) > 0
    ):
        return f"the curvature jumps by {gap}"
    # complex poles near the real line look like a kink from afar and not from near: batch norm's eps = 1e-5 puts them
    # 3e-3 away, two batch norms in a row some 1e-3; a kink looks the same at every width
    widths, nodes = (0.2, 0.02, 2e-4), np.cos(_ANGLES)
    at = [p + w * float(x) * attack.direction for p in attack.special for w in widths for x in nodes]
    values = np.array(attack.values(at)).reshape(len(attack.special), len(widths), len(nodes))
    for point, rows in zip(attack.special, values, strict=True):
        seen = [_algebraic_decay(row) for row in rows]
        if all(seen) and not beyond_floats(attack.function, point):
            return f"Chebyshev coefficients {seen} around {point.tolist()}"
    return ""


_ANGLES = np.pi * (np.arange(128) + 0.5) / 128


def _algebraic_decay(values: np.ndarray) -> str:
    """The Chebyshev coefficients of values at the nodes, if they fall like a power and not geometrically."""
    if not np.isfinite(values).all():
        return ""
    decay = np.abs(np.cos(np.outer(np.arange(_ANGLES.size), _ANGLES)) @ values) * 2 / _ANGLES.size
    scale = np.abs(values).max() + 1e-6
    # windows, because every second coefficient of an even function is 0
    first, second, third = (decay[n : n + 6].max() / scale for n in (18, 40, 86))
    # rounding does not fall at all
    falls = third > 1e-12 and third < 0.6 * second < 0.36 * first
    algebraic = falls and math.log(second / third) < 1.6 * math.log(first / second)
    return f"{first:.1e} {second:.1e} {third:.1e}" if algebraic else ""


def wrong_gradient(attack: Attack, found: Structure) -> str:
    """Backprop against directional derivatives: at generic points, and at kinks where it is the gradient."""
    if found.autodiff == "wrong":
        return ""
    at = attack.points[:2] + (attack.special if found.autodiff == "classical" and found.total else [])
    h = 1e-6
    for point in at:
        value = attack.value(point)
        if not math.isfinite(value):
            continue
        forward = {step: attack.value(point + step * attack.direction) for step in (h, -h, 10 * h, -10 * h)}
        coarse, fine = (forward[10 * h] - forward[-10 * h]) / (20 * h), (forward[h] - forward[-h]) / (2 * h)
        slope = attack.slope(point)
        size = 1 + abs(slope) + abs(fine)
        noise = 1e-15 * (1 + abs(value)) / h
        settled = abs(coarse - fine) < 1e-4 * size and noise < 1e-4 * size
        differs = settled and not abs(slope - fine) <= 1e-2 * size
        if differs and attack.steady(point, 1e-2 * h * size) and not beyond_floats(attack.function, point):
            return f"backprop {slope}, differences {fine} at {point.tolist()}"
    return ""


def unbounded_gradient(attack: Attack, found: Structure) -> str:
    """An element of a conservative gradient is a finite vector, at kinks too."""
    if found.autodiff not in ("conservative", "Clarke") or not found.total or not found.locally_lipschitz:
        return ""
    for point in attack.special:
        slope = attack.slope(point)
        if not math.isfinite(slope) and not beyond_floats(attack.function, point):
            return f"backprop gives {slope} at {point.tolist()}"
    return ""


def not_convex(attack: Attack, found: Structure) -> str:
    if not found.total or found.shape not in ("convex", "affine"):
        return ""
    for _ in range(4):
        a, b = attack.normal(2.0), attack.normal(2.0)
        middle, chord = attack.value(0.5 * (a + b)), 0.5 * (attack.value(a) + attack.value(b))
        if middle > chord + _TINY * (1 + abs(chord)):
            return f"not convex: {middle} > {chord}"
    return ""


def not_homogeneous(attack: Attack, found: Structure) -> str:
    if not found.total or found.homogeneous is None:
        return ""
    a = attack.normal()
    left, right = attack.value(2 * a), 2.0**found.homogeneous * attack.value(a)
    size = abs(left) + abs(right) + 1e-6
    if (
        abs(left - right) > 1e-6 * size
        and attack.steady(a, 1e-7 * size)
        and not beyond_floats(attack.function, 2 * a)
    ):
        return f"not homogeneous: {left} and {right}"
    return ""


def not_of_degree(attack: Attack, found: Structure) -> str:
    if not found.total or found.definable != "polynomial" or found.degree is None or found.degree > 8:
        return ""
    order = found.degree + 1
    samples = [attack.value(attack.points[0] + 0.3 * k * attack.direction) for k in range(order + 1)]
    difference = sum((-1) ** k * math.comb(order, k) * samples[k] for k in range(order + 1))
    size = sum(math.comb(order, k) * abs(samples[k]) for k in range(order + 1)) + 1
    return f"not of degree {found.degree}: {difference}" if abs(difference) > 1e-9 * size else ""


def oscillations(attack: Attack, found: Structure) -> str:
    """Turns along a ray to infinity, and towards a point on steps that shrink geometrically."""
    if not found.tame:
        return ""
    away = [0.5 * k * attack.direction for k in range(150)]
    # 25 points a factor 10: sin(1/t) and sin(log t) turn more often than any of these programs
    steps = [10 ** (-k / 25) for k in range(150)]
    lines = [away, *([p + t * attack.direction for t in steps] for p in attack.special[:2])]
    everything = attack.values([theta for line in lines for theta in line])
    for number, line in enumerate(lines):
        values = everything[150 * number : 150 * (number + 1)]
        finite = [abs(value) for value in values if math.isfinite(value)]
        size = max(finite, default=0.0) - min(finite, default=0.0)
        if size < 1e-6:
            continue
        signs = [b > a for a, b in itertools.pairwise(values) if abs(b - a) > 1e-3 * size]
        if _turns(signs) <= 40:
            continue
        steady = [
            value
            for theta, value in zip(line, values, strict=True)
            if attack.steady(theta, 1e-4 * size) and not beyond_floats(attack.function, theta)
        ]
        turns = _turns([b > a for a, b in itertools.pairwise(steady) if abs(b - a) > 1e-3 * size])
        if turns > 40:
            return f"{turns} turns on line {number}"
    return ""


def _turns(signs: list[bool]) -> int:
    return sum(a != b for a, b in itertools.pairwise(signs))


_CHEAP = (not_finite, outside_bounds, wrong_gradient, unbounded_gradient, not_convex, not_homogeneous, not_of_degree)
_COSTLY = (discontinuity, infinite_slope, kink, not_analytic, oscillations)


def falsify(function: Function, found: Structure, seed: int, thorough: bool) -> str:
    """What contradicts the certificate, or ""; a costly attack is run for every third program, or all."""
    return next(_contradictions(Attack(function, seed), found, seed, thorough), "")


def _contradictions(attack: Attack, found: Structure, seed: int, thorough: bool) -> Iterator[str]:
    for position, attempt in enumerate((*_CHEAP, *_COSTLY)):
        if (attempt in _CHEAP or thorough or (seed + position) % 3 == 0) and (reason := attempt(attack, found)):
            yield f"{attempt.__name__}: {reason}"
