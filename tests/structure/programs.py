"""Random programs: 1 to 30 operators applied to theta in R^3, chosen by a seed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

# numbers become vectors along this one: equal entries would make std and var pure rounding
_ALONG = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
_MATRIX = torch.tensor([[1.0, 0.5, 0.0], [-0.5, 1.0, 2.0], [0.25, 0.0, -1.0]], dtype=torch.float64)
_SIGNS = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
_OTHER_SIGNS = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
_ORDER, _OTHER_ORDER = torch.tensor([1, 2, 0]), torch.tensor([2, 0, 1])
_TARGET = torch.tensor([0.2, 1.0, 0.7], dtype=torch.float64)

UNARY: dict[str, Callable] = {
    "relu": torch.relu,
    "abs": torch.abs,
    "neg": torch.neg,
    "square": torch.square,
    "cube": lambda x: x**3,
    "zeroth": lambda x: x**0 * x,
    "exp": lambda x: torch.exp(0.3 * x),
    "expm1": lambda x: torch.expm1(-x.abs()),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "logsigmoid": functional.logsigmoid,
    "gelu": functional.gelu,
    "gelu tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "elu": functional.elu,
    "elu 2": lambda x: functional.elu(x, 2.0),
    "celu": lambda x: functional.celu(x, 0.5),
    "selu": functional.selu,
    "relu6": functional.relu6,
    "hardtanh": functional.hardtanh,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "leaky": lambda x: functional.leaky_relu(x, 0.1),
    "prelu": lambda x: functional.prelu(x, torch.full((1,), 0.3, dtype=x.dtype)),
    "threshold": lambda x: functional.threshold(x, 0.5, 0.5),
    "threshold jump": lambda x: functional.threshold(x, 0.5, 0.0),
    "softshrink": functional.softshrink,
    "hardshrink": functional.hardshrink,
    "sqrt": torch.sqrt,
    "root of abs": lambda x: x.abs().sqrt(),
    "power": lambda x: x.abs() ** 1.5,
    "power 2.5": lambda x: x.abs() ** 2.5,
    "cube root": lambda x: x.square() ** (1 / 3),
    "log": torch.log,
    "log1p of square": lambda x: torch.log1p(x * x),
    "clamped log": lambda x: x.clamp(min=0.1).log(),
    "rsqrt": lambda x: torch.rsqrt(x * x + 0.5),
    "reciprocal": torch.reciprocal,
    "guarded reciprocal": lambda x: 1 / (x.abs() + 0.2),
    "clamp": lambda x: x.clamp(-1.0, 1.0),
    "clamp tensor": lambda x: x.clamp(min=-_ALONG.abs()),
    "sin": torch.sin,
    "cos of tanh": lambda x: torch.cos(3 * x.tanh()),
    "tan of tanh": lambda x: torch.tan(x.tanh()),
    "atan": torch.atan,
    "acos": lambda x: torch.acos(x.tanh()),
    "asin of clamp": lambda x: torch.asin(x.clamp(-1, 1)),
    "erf": torch.erf,
    "ndtr": torch.special.ndtr,
    "lgamma": lambda x: torch.lgamma(x.square() + 0.5),
    "sinh": lambda x: torch.sinh(0.3 * x),
    "asinh": torch.asinh,
    "sign": torch.sign,
    "round": torch.round,
    "trunc": lambda x: x.clamp(-2, 2).trunc(),
    "fraction": torch.frac,
    "floor of clamp": lambda x: x.clamp(-2, 2).floor(),
    "step": lambda x: (x > 0.5).to(x.dtype),
    "softmax": lambda x: torch.softmax(x, 0),
    "log softmax": lambda x: torch.log_softmax(x, 0),
    "log cumulative": lambda x: torch.logcumsumexp(x, 0),
    # torch's eps of 1e-5, nested, puts complex poles 1e-5 from the real line: analytic, and no float64 can tell
    "normalise": lambda x: functional.layer_norm(x, x.shape, eps=0.05),
    "rms": lambda x: functional.rms_norm(x, x.shape, eps=0.1),
    "batch norm": lambda x: functional.batch_norm(x[:, None], None, None, training=True, eps=0.05)[:, 0],
    "unit": lambda x: functional.normalize(x, dim=0, eps=0.1),
    "sort": lambda x: x.sort().values,
    "median": lambda x: x.median() * _ALONG,
    "second": lambda x: x.kthvalue(2).values * _ALONG,
    "top": lambda x: torch.cat([x.topk(2).values, x[:1]]),
    "cummax": lambda x: x.cummax(0).values,
    "flip": lambda x: x.flip(0),
    "roll": lambda x: x.roll(1),
    "cumsum": lambda x: x.cumsum(0),
    "cumprod": lambda x: x.cumprod(0),
    "prod": lambda x: x.prod() * _ALONG,
    "centre": lambda x: x - x.mean(),
    "linear": lambda x: _MATRIX @ x,
    "convolve": lambda x: functional.conv1d(x[None, None], _ALONG[None, None], padding=1)[0, 0],
    "pool": lambda x: functional.max_pool1d(x[None, None], 2, 1, 1)[0, 0, :3],
    "average pool": lambda x: functional.avg_pool1d(x[None, None], 3, 1, 1)[0, 0],
    "enlarge": lambda x: functional.interpolate(x[None, None], size=5, mode="linear")[0, 0, 1:4],
    "detach": lambda x: x.detach(),
    "straight through": lambda x: x + (x.round() - x).detach(),
    "scale": lambda x: -1.5 * x,
    "shift": lambda x: x + 0.5,
    "guarded root": lambda x: torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), 0.0),
    "root in where": lambda x: torch.where(x > 0, x.sqrt(), 0.0),
    "in place": lambda x: (x * 1.0).relu_(),
    "written": lambda x: torch.cat([x[:1], torch.zeros(2, dtype=x.dtype)]).copy_(x * 2),
    "masked": lambda x: x.masked_fill(x < -0.5, 1.0),
    "masked constant": lambda x: x.masked_fill(_ALONG < 0, 2.0),
    "scattered": lambda x: torch.zeros(3, dtype=x.dtype).scatter_add(0, torch.tensor([0, 0, 2]), x),
    "norm": lambda x: x.norm() * _ALONG,
    "norm 1": lambda x: x.norm(p=1) * _ALONG,
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3) * _ALONG,
    "norm max": lambda x: torch.linalg.vector_norm(x, float("inf")) * _ALONG,
    "std": lambda x: x.std() * _ALONG,
    "max": lambda x: x.max() * _ALONG,
    "min": lambda x: x.amin() * _ALONG,
    "var": lambda x: x.var() * _ALONG,
    "argmax": lambda x: x[x.argmax()] * _ALONG,
    "remainder": lambda x: torch.remainder(x, 2.0),
    "fmod": lambda x: torch.fmod(x.clamp(-3, 3), 2.0),
    "logit": lambda x: torch.logit(x, 1e-3),
    "numbers only": lambda x: torch.nan_to_num(x, 0.0),
    "bce": lambda x: functional.binary_cross_entropy_with_logits(x, _TARGET, reduction="none"),
    "cross entropy": lambda x: functional.cross_entropy(x[None], torch.tensor([1])) * _ALONG,
    "hinge": lambda x: functional.multi_margin_loss(x[None], torch.tensor([1])) * _ALONG,
    "smooth l1": lambda x: functional.smooth_l1_loss(x, _TARGET, reduction="none"),
    "determinant": lambda x: torch.linalg.det(torch.outer(x, x) + _MATRIX) * _ALONG,
    "matrix exponential": lambda x: torch.matrix_exp(torch.diag(x.tanh())).diagonal(),
}


def _stale_views(x: torch.Tensor) -> torch.Tensor:
    """The product of two views that were taken before a write into what they view."""
    y = x * 1.0
    left, right = y[:2], y[1:]
    y.add_(0.25)
    return torch.cat([left * right, x[:1]])


def _padded_pool(x: torch.Tensor) -> torch.Tensor:
    padded = functional.pad(x[None, None], (1, 1), value=float("-inf"))
    return functional.max_pool1d(padded, 2, 1)[0, 0, :3]


UNARY |= {
    "two orders": lambda x: x[_ORDER] * x[_OTHER_ORDER],
    "two signs": lambda x: (x * _SIGNS) * (x * _OTHER_SIGNS),
    "order": lambda x: x[_ORDER],
    "other order": lambda x: x[_OTHER_ORDER],
    "stale views": _stale_views,
    "masked softmax": lambda x: x.masked_fill(_SIGNS < 0, float("-inf")).softmax(0),
    "masked log sum": lambda x: x.masked_fill(_SIGNS < 0, float("-inf")).logsumexp(0) * _ALONG,
    "masked sigmoid": lambda x: x.masked_fill(_SIGNS < 0, float("-inf")).sigmoid(),
    "masked exp": lambda x: (0.3 * x).masked_fill(_SIGNS < 0, float("-inf")).exp(),
    "masked max": lambda x: x.masked_fill(_SIGNS < 0, float("-inf")).amax() * _ALONG,
    "masked clamp": lambda x: (x.sigmoid() + 2).masked_fill(_SIGNS < 0, float("-inf")).clamp(min=0.5),
    "padded pool": _padded_pool,
    "branch": lambda x: x.square() if x.sum() > 0.3 else -x,
    "guard": lambda x: x if torch.isfinite(x).all() else x.sin(),
    "settled branch": lambda x: x.exp().log1p() if (x.square() >= 0).all() else x.sin(),
}
BINARY: dict[str, Callable] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "guarded div": lambda x, y: x / (y.square() + 0.3),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "where": lambda x, y: torch.where(x > y, x, y),
    "gate": lambda x, y: x * (y > 0),
    "soft gate": lambda x, y: x * torch.sigmoid(y),
    "select": lambda x, y: torch.where(x > 0, y, -y),
    "dot": lambda x, y: (x @ y) * _ALONG,
    "outer": lambda x, y: (x[:, None] * y[None, :]).sum(1),
    "bilinear": lambda x, y: torch.outer(x, y) @ _ALONG,
    "attend": lambda x, y: functional.scaled_dot_product_attention(
        x[None, :, None], y[None, :, None], x[None, :, None]
    )[0, :, 0],
    "atan2": torch.atan2,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "xlogy": torch.xlogy,
    "power": lambda x, y: x.abs().pow(y),
    "positive power": lambda x, y: (x.square() + 0.5).pow(y.tanh()),
    "mse": lambda x, y: functional.mse_loss(x, y) * _ALONG,
    "l1": lambda x, y: functional.l1_loss(x, y) * _ALONG,
    "huber": lambda x, y: functional.huber_loss(x, y, reduction="none"),
    # torch's eps of 1e-8 makes slopes of 1e8, and nested ones that float64 cannot tell from jumps
    "cosine": lambda x, y: functional.cosine_similarity(x, y, dim=0, eps=0.05) * _ALONG,
    "distance": lambda x, y: torch.cdist(x[:, None], y[:, None]).sum(0),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp by": lambda x, y: torch.lerp(x, _ALONG, y),
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=-0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y.abs() + 0.5),
    "gather": lambda x, y: x[y.argsort()],
    "stack": lambda x, y: torch.stack([x, y]).amax(0),
    "copy slice": lambda x, y: torch.cat([x[:2], y[2:]]),
    "index put": lambda x, y: x.index_put((torch.tensor([1]),), y[:1]),
}
FINAL: list[Callable] = [
    lambda x: x.sum(),
    lambda x: x.mean(),
    lambda x: x.square().sum(),
    lambda x: x.max(),
    lambda x: x.logsumexp(0),
    lambda x: x.norm(),
]


def program(seed: int) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """A random function R^3 -> R and its description."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=generator))

    length = 1 + min(draw(30), draw(30), draw(30))
    steps: list[tuple[str, int, int | None]] = []
    for position in range(length):
        left, right = draw(position + 1), draw(position + 1)
        if draw(3) < 2:
            name, second = list(UNARY)[draw(len(UNARY))], None
        else:
            name, second = list(BINARY)[draw(len(BINARY))], right
        steps.append((name, position if draw(2) else left, second))
    last = draw(len(FINAL))

    def function(theta: torch.Tensor) -> torch.Tensor:
        values = [theta]
        for name, left, right in steps:
            values.append(UNARY[name](values[left]) if right is None else BINARY[name](values[left], values[right]))
        return FINAL[last](values[-1])

    return function, f"seed {seed}: {steps}, final {last}"
