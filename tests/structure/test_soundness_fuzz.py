"""Random programs: whatever their certificate says must survive attempts to falsify it numerically.

Each program applies 1 to 30 random operators to theta in R^3. A certificate that replays is then attacked: values
that are not finite or below the lower bound, jumps, infinite slopes, kinks, jumps of the second derivative, backprop
against differences, midpoint convexity, homogeneity, the degree by finite differences, oscillations along a ray.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tameopt.structure import certify

_TINY = 1e-9
# numbers become vectors along this one: equal entries would make std and var pure rounding
_ALONG = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)

_UNARY = {
    "relu": torch.relu,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": torch.square,
    "cube": lambda x: x**3,
    "exp": lambda x: torch.exp(0.3 * x),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "elu": torch.nn.functional.elu,
    "selu": torch.nn.functional.selu,
    "hardswish": torch.nn.functional.hardswish,
    "leaky": lambda x: torch.nn.functional.leaky_relu(x, 0.1),
    "softshrink": torch.nn.functional.softshrink,
    "hardshrink": torch.nn.functional.hardshrink,
    "sqrt": torch.sqrt,
    "root of abs": lambda x: x.abs().sqrt(),
    "power": lambda x: x.abs() ** 1.5,
    "log": torch.log,
    "log1p of square": lambda x: torch.log1p(x * x),
    "clamped log": lambda x: x.clamp(min=0.1).log(),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.5),
    "reciprocal": torch.reciprocal,
    "clamp": lambda x: x.clamp(-1.0, 1.0),
    "sin": torch.sin,
    "cos of tanh": lambda x: torch.cos(3 * x.tanh()),
    "atan": torch.atan,
    "erf": torch.erf,
    "sign": torch.sign,
    "round": torch.round,
    "floor of clamp": lambda x: x.clamp(-2, 2).floor(),
    "step": lambda x: (x > 0.5).to(x.dtype),
    "softmax": lambda x: torch.softmax(x, 0),
    "log softmax": lambda x: torch.log_softmax(x, 0),
    "normalise": lambda x: torch.nn.functional.layer_norm(x, x.shape),
    "unit": lambda x: torch.nn.functional.normalize(x, dim=0, eps=0.1),
    "sort": lambda x: x.sort().values,
    "flip": lambda x: x.flip(0),
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(0),
    "centre": lambda x: x - x.mean(),
    "detach": lambda x: x.detach(),
    "straight through": lambda x: x + (x.round() - x).detach(),
    "scale": lambda x: -1.5 * x,
    "shift": lambda x: x + 0.5,
    "guarded root": lambda x: torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0),
    "in place": lambda x: (x * 1.0).relu_(),
    "written": lambda x: torch.cat([x[:1], torch.zeros(2, dtype=x.dtype)]).copy_(x * 2),
    "norm": lambda x: x.norm() * _ALONG,
    "std": lambda x: x.std() * _ALONG,
    "max": lambda x: x.max() * _ALONG,
    "var": lambda x: x.var() * _ALONG,
    "argmax": lambda x: x[x.argmax()] * _ALONG,
    "remainder": lambda x: torch.remainder(x, 2.0),
    "logit": lambda x: torch.logit(x, 1e-3),
}
_BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda x, y: torch.where(x > y, x, y),
    "gate": lambda x, y: x * (y > 0),
    "select": lambda x, y: torch.where(x > 0, y, -y),
    "dot": lambda x, y: (x @ y) * _ALONG,
    "outer": lambda x, y: (x[:, None] * y[None, :]).sum(1),
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "power": lambda x, y: x.abs().pow(y),
    "mse": lambda x, y: torch.nn.functional.mse_loss(x, y) * _ALONG,
    "huber": lambda x, y: torch.nn.functional.huber_loss(x, y, reduction="none"),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "gather": lambda x, y: x[y.argsort()],
}
_FINAL = [
    lambda x: x.sum(),
    lambda x: x.mean(),
    lambda x: x.square().sum(),
    lambda x: x.max(),
    lambda x: x.logsumexp(0),
    lambda x: x.norm(),
]


def _program(seed: int):
    """A random function R^3 -> R and its description."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    length = 1 + min(draw(30), draw(30), draw(30))
    steps = []
    for position in range(length):
        if draw(3) < 2:
            steps.append((list(_UNARY)[draw(len(_UNARY))], draw(position + 1), None))
        else:
            steps.append((list(_BINARY)[draw(len(_BINARY))], draw(position + 1), draw(position + 1)))
        if draw(2):
            steps[-1] = (steps[-1][0], position, steps[-1][2])
    last = draw(len(_FINAL))

    def function(theta):
        values = [theta]
        for name, left, right in steps:
            values.append(_UNARY[name](values[left]) if right is None else _BINARY[name](values[left], values[right]))
        return _FINAL[last](values[-1])

    return function, f"seed {seed}: {steps}, final {last}"


def _values(function, thetas):
    with torch.no_grad():
        return [float(function(theta)) for theta in thetas]


def _slope(function, theta, direction):
    leaf = theta.clone().requires_grad_()
    value = function(leaf)
    if not value.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return 0.0 if gradient is None else float(gradient @ direction)


def _curvature(function, theta, direction):
    leaf = theta.clone().requires_grad_()
    value = function(leaf)
    if not value.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    if not gradient.requires_grad:
        return 0.0
    (second,) = torch.autograd.grad(gradient @ direction, leaf, allow_unused=True)
    return 0.0 if second is None else float(second @ direction)


def _jump(values, theta, direction, span=1.0):
    """A jump of t -> values(theta + t direction) that survives bisection, or 0."""
    grid = [span * (k / 10 - 0.5123) for k in range(11)]
    found = [values(theta + t * direction) for t in grid]
    if not all(math.isfinite(value) and abs(value) < 1e8 for value in found):
        return 0.0
    best = max(range(10), key=lambda k: abs(found[k + 1] - found[k]))
    a, b, left, right = grid[best], grid[best + 1], found[best], found[best + 1]
    gaps = []
    for _ in range(34):
        middle = 0.5 * (a + b)
        at = values(theta + middle * direction)
        if not math.isfinite(at):
            return 0.0
        if abs(at - left) >= abs(right - at):
            b, right = middle, at
        else:
            a, left = middle, at
        gaps.append(abs(right - left))
    scale = max(abs(left), abs(right), 1e-3)
    # 1e-4 relative: far above rounding, and a continuous function with a root singularity shrinks over 12 halvings
    return gaps[-1] if gaps[-1] > 1e-4 * scale and gaps[-1] > 0.98 * gaps[-13] else 0.0


def _falsify(function, found, seed, thorough):
    """What contradicts the certificate, or ""; each costly attack is run for every third program, or all."""
    generator = torch.Generator().manual_seed(seed)

    def attacked(kind):
        return thorough or seed % 3 == kind

    def normal(scale=1.0):
        return scale * torch.randn(3, generator=generator, dtype=torch.float64)

    def value(theta):
        with torch.no_grad():
            return float(function(theta))

    special = [
        torch.zeros(3).double(),
        torch.tensor([1.0, 1.0, 1.0]).double(),
        torch.tensor([0.5, -0.5, 0.0]).double(),
    ]
    points = [normal(), normal(0.3), normal(3.0), *special]
    values = _values(function, points)
    if found.total and not all(map(math.isfinite, values)):
        return f"not finite: {values}"
    if found.lower_bound is not None and any(v < found.lower_bound - _TINY * (1 + abs(v)) for v in values):
        return f"below the bound {found.lower_bound}: {values}"
    if found.upper_bound is not None and any(v > found.upper_bound + _TINY * (1 + abs(v)) for v in values):
        return f"above the bound {found.upper_bound}: {values}"
    if not found.total:
        return ""
    direction = normal()
    direction = direction / direction.norm()
    smooth = found.smoothness
    if smooth != "discontinuous" and attacked(0):
        for point in (points[0], special[0], special[2]):
            if (gap := _jump(value, point, direction, 4.0)) > 0:
                return f"a jump of {gap}"
    if smooth not in ("discontinuous", "continuous") and attacked(1):
        for point in special:
            base = value(point)
            slopes = [abs(value(point + h * direction) - base) / h for h in (1e-4, 1e-8)]
            noise = 1e-15 * (1 + abs(base)) / 1e-8
            if slopes[1] > 30 * (slopes[0] + noise + 1e-3):
                return f"slopes {slopes} at {point.tolist()}"
    if smooth.startswith(("C^", "analytic")) and found.autodiff == "classical" and attacked(1):
        if (gap := _jump(lambda t: _slope(function, t, direction), points[0], direction, 4.0)) > 0:
            return f"the slope jumps by {gap}"
        if (
            smooth == "analytic"
            and (gap := _jump(lambda t: _curvature(function, t, direction), points[1], direction, 4.0)) > 0
        ):
            return f"the curvature jumps by {gap}"
    if found.autodiff != "wrong":
        everywhere = found.autodiff == "classical"
        for point in points[:2] + (special if everywhere else []):
            h = 1e-6
            coarse = (value(point + 10 * h * direction) - value(point - 10 * h * direction)) / (20 * h)
            fine = (value(point + h * direction) - value(point - h * direction)) / (2 * h)
            slope = _slope(function, point, direction)
            size = 1 + abs(slope) + abs(fine)
            noise = 1e-15 * (1 + abs(value(point))) / h
            settled = abs(coarse - fine) < 1e-4 * size
            if settled and noise < 1e-4 * size and abs(slope - fine) > 1e-2 * size:
                return f"backprop {slope}, differences {fine} at {point.tolist()}"
    if found.shape in ("convex", "affine"):
        for _ in range(4):
            a, b = normal(2.0), normal(2.0)
            middle, chord = value(0.5 * (a + b)), 0.5 * (value(a) + value(b))
            if middle > chord + _TINY * (1 + abs(chord)):
                return f"not convex: {middle} > {chord}"
    if found.homogeneous is not None:
        a = normal()
        left, right = value(2 * a), 2.0**found.homogeneous * value(a)
        if abs(left - right) > 1e-6 * (abs(left) + abs(right) + 1e-6):
            return f"not homogeneous: {left} and {right}"
    if found.definable == "polynomial" and found.degree <= 8:
        order = found.degree + 1
        samples = [value(points[0] + 0.3 * k * direction) for k in range(order + 1)]
        difference = sum((-1) ** k * math.comb(order, k) * samples[k] for k in range(order + 1))
        size = sum(math.comb(order, k) * abs(samples[k]) for k in range(order + 1)) + 1
        if abs(difference) > 1e-9 * size:
            return f"not of degree {found.degree}: {difference}"
    if found.tame and attacked(2):
        ray = _values(function, [0.5 * k * direction for k in range(150)])
        steps = [b - a for a, b in itertools.pairwise(ray) if math.isfinite(a) and math.isfinite(b)]
        size = max((abs(v) for v in ray if math.isfinite(v)), default=1.0)
        signs = [step > 0 for step in steps if abs(step) > 1e-3 * size]
        turns = sum(a != b for a, b in itertools.pairwise(signs))
        if turns > 40 and size > 1e-6:
            return f"{turns} turns along a ray"
    return ""


def _run(seeds, thorough=True):
    replayed, tame, failures = 0, 0, []
    for seed in seeds:
        function, text = _program(seed)
        theta = torch.randn(3, generator=torch.Generator().manual_seed(seed + 10**6), dtype=torch.float64)
        with torch.no_grad():
            if not bool(torch.isfinite(function(theta))):
                continue
        found = certify(function, inputs=theta)
        if not found.replayed:
            stops = {item.kind for item in found.obstructions}
            if not stops:
                failures.append(f"the checker rejected {text}: {found}")
            continue
        replayed += 1
        tame += found.tame
        reason = _falsify(function, found, seed, thorough)
        if reason:
            failures.append(f"{reason}: {found.summary}; {text}")
    return replayed, tame, failures


@pytest.mark.timeout(600)
def test_five_hundred_random_programs_do_not_falsify_their_certificates():
    replayed, tame, failures = _run(range(500), thorough=False)
    assert not failures, "\n".join(failures[:5])
    # most programs are certified at all, or the test would be empty
    assert replayed > 250
    assert tame > 150


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_thousand_random_programs_do_not_falsify_their_certificates():
    replayed, _, failures = _run(range(1000, 21_000))
    assert not failures, "\n".join(failures[:20])
    assert replayed > 10_000
