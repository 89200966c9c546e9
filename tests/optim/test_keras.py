"""Keras' optimizers against a transcription of Keras' formulas in float64, its golden values, and its errors."""

import numpy as np
import pytest
import torch

from tameopt.optim import keras


class Transcription:
    """Keras 3's update steps in numpy, one variable at a time: the independent channel."""

    def __init__(self, name, start, **options):
        self.name, self.x, self.k, self.memory = name, [x.copy() for x in start], 0, [{} for _ in start]
        self.o = options
        self.product = 1.0

    def apply(self, gradients):
        o, k = self.o, self.k + 1
        if "loss_scale_factor" in o:
            gradients = [None if g is None else g / o["loss_scale_factor"] for g in gradients]
        if "clipvalue" in o:
            gradients = [None if g is None else np.clip(g, -o["clipvalue"], o["clipvalue"]) for g in gradients]
        if "clipnorm" in o:
            c = o["clipnorm"]
            gradients = [None if g is None else g * c / max(np.sqrt((g * g).sum()), c) for g in gradients]
        if "global_clipnorm" in o:
            c, norm = o["global_clipnorm"], np.sqrt(sum((g * g).sum() for g in gradients if g is not None))
            gradients = [None if g is None else g * (c * min(1 / norm, 1 / c)) for g in gradients]
        self.product *= o.get("beta_1", 0.9) * (1 - 0.5 * 0.96**k)
        lr = o.get("learning_rate", 0.01 if self.name == "SGD" else 0.001)
        decay = o.get("weight_decay", 0.004 if self.name == "AdamW" else 0.0)
        for i, g in enumerate(gradients):
            if g is not None:
                self.x[i] = self.x[i] - self.x[i] * decay * lr
                self.x[i] = getattr(self, self.name)(self.x[i], g, self.memory[i], lr, k)
            if o.get("use_ema"):
                keep = 0.0 if k == 1 else o["ema_momentum"]
                mean = keep * self.memory[i].get("mean", 0.0) + (1 - keep) * self.x[i]
                self.memory[i]["mean"] = mean
                if k % o["ema_overwrite_frequency"] == 0:
                    self.x[i] = mean
        self.k = k

    def SGD(self, x, g, s, lr, k):
        mu = self.o.get("momentum", 0.0)
        if mu == 0:
            return x - g * lr
        s["v"] = s.get("v", 0.0) * mu - g * lr
        return x + (s["v"] * mu - g * lr if self.o.get("nesterov") else s["v"])

    def Adam(self, x, g, s, lr, k):
        b1, b2, eps = self.o.get("beta_1", 0.9), self.o.get("beta_2", 0.999), self.o.get("epsilon", 1e-7)
        alpha = lr * np.sqrt(1 - b2**k) / (1 - b1**k)
        s["m"] = s.get("m", 0.0) + (g - s.get("m", 0.0)) * (1 - b1)
        s["v"] = s.get("v", 0.0) + (g**2 - s.get("v", 0.0)) * (1 - b2)
        v = s["v"]
        if self.o.get("amsgrad"):
            v = s["hat"] = np.maximum(s.get("hat", 0.0), v)
        return x - s["m"] * alpha / (np.sqrt(v) + eps)

    AdamW = Adam

    def Adamax(self, x, g, s, lr, k):
        b1, b2, eps = self.o.get("beta_1", 0.9), self.o.get("beta_2", 0.999), self.o.get("epsilon", 1e-7)
        s["m"] = s.get("m", 0.0) + (g - s.get("m", 0.0)) * (1 - b1)
        s["u"] = np.maximum(b2 * s.get("u", 0.0), np.abs(g))
        return x - lr * s["m"] / ((1 - b1**k) * (s["u"] + eps))

    def Nadam(self, x, g, s, lr, k):
        b1, b2, eps = self.o.get("beta_1", 0.9), self.o.get("beta_2", 0.999), self.o.get("epsilon", 1e-7)
        u, u_next = b1 * (1 - 0.5 * 0.96**k), b1 * (1 - 0.5 * 0.96 ** (k + 1))
        s["m"] = s.get("m", 0.0) + (g - s.get("m", 0.0)) * (1 - b1)
        s["v"] = s.get("v", 0.0) + (g**2 - s.get("v", 0.0)) * (1 - b2)
        m_hat = u_next * s["m"] / (1 - self.product * u_next) + (1 - u) * g / (1 - self.product)
        return x - m_hat * lr / (np.sqrt(s["v"] / (1 - b2**k)) + eps)

    def Adagrad(self, x, g, s, lr, k):
        s["n"] = s.get("n", self.o.get("initial_accumulator_value", 0.1)) + g**2
        return x - lr * g / np.sqrt(s["n"] + self.o.get("epsilon", 1e-7))

    def Adadelta(self, x, g, s, lr, k):
        rho, eps = self.o.get("rho", 0.95), self.o.get("epsilon", 1e-7)
        s["v"] = rho * s.get("v", 0.0) + (1 - rho) * g**2
        delta = -np.sqrt(s.get("u", 0.0) + eps) * g / np.sqrt(s["v"] + eps)
        s["u"] = rho * s.get("u", 0.0) + (1 - rho) * delta**2
        return x + lr * delta

    def RMSprop(self, x, g, s, lr, k):
        rho, mu, eps = self.o.get("rho", 0.9), self.o.get("momentum", 0.0), self.o.get("epsilon", 1e-7)
        s["v"] = rho * s.get("v", 0.0) + (1 - rho) * g**2
        below = s["v"] + eps
        if self.o.get("centered"):
            s["g"] = rho * s.get("g", 0.0) + (1 - rho) * g
            below = s["v"] - s["g"] ** 2 + eps
        s["step"] = mu * s.get("step", 0.0) + lr * g / np.sqrt(below)
        return x - s["step"]

    def Ftrl(self, x, g, s, lr, k):
        o = self.o
        p, l1 = o.get("learning_rate_power", -0.5), o.get("l1_regularization_strength", 0.0)
        l2 = o.get("l2_regularization_strength", 0.0) + o.get("beta", 0.0) / (2 * lr)
        old = s.get("n", o.get("initial_accumulator_value", 0.1))
        new = s["n"] = old + g**2
        used = g + 2 * o.get("l2_shrinkage_regularization_strength", 0.0) * x
        z = s["z"] = s.get("z", 0.0) + used - (new**-p - old**-p) / lr * x
        return (np.clip(z, -l1, l1) - z) / (new**-p / lr + 2 * l2)


CASES = [
    pytest.param(name, arguments, id=f"{name}-{variant}")
    for name in keras.names()
    for variant, arguments in {"defaults": {}, **keras.entry(name).variants}.items()
]


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_same_numbers_as_the_transcription(name, arguments):
    """Six steps in float64; the second parameter gets its first gradient at the third."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in ((7, 3), (5,), (2, 2, 2))]
    params = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start]
    optimizer = getattr(keras, name)(params, **arguments)
    reference = Transcription(name, start, **arguments)
    for k in range(6):
        gradients = [None if i == 1 and k < 2 else rng.standard_normal(x.shape) for i, x in enumerate(start)]
        for p, g in zip(params, gradients, strict=True):
            p.grad = None if g is None else torch.from_numpy(g)
        optimizer.step()
        reference.apply(gradients)
    for p, x in zip(params, reference.x, strict=True):
        # Nadam's product of momenta is kept in float32, as Keras keeps it for float32 variables
        assert np.allclose(p.detach().numpy(), x, rtol=0, atol=1e-8 if name == "Nadam" else 1e-12)


@pytest.mark.parametrize(
    ("name", "arguments", "golden"),
    [
        (
            "Adadelta",
            {"learning_rate": 1.0, "rho": 0.8, "epsilon": 1e-6},
            [0.9978, 0.9947, 0.9915, 0.9882, 0.9849],
        ),
        ("RMSprop", {"centered": True}, [0.9967, 0.9933, 0.9908, 0.9885, 0.9864]),
    ],
)
def test_golden_values_of_keras_own_tests(name, arguments, golden):
    """x = 1; gradients 0.01 everywhere, then (0.1, ..., 1) four times; Keras' tolerance."""
    p = torch.nn.Parameter(torch.ones(10))
    optimizer = getattr(keras, name)([p], **arguments)
    gradients = [torch.full((10,), 0.01), *[torch.arange(1, 11) / 10] * 4]
    for g, value in zip(gradients, golden, strict=True):
        p.grad = g.clone()
        optimizer.step()
        assert torch.allclose(p, torch.full((10,), value), rtol=5e-4, atol=5e-4)


def test_schedule_and_averages():
    p = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = keras.SGD([p], learning_rate=lambda k: 1.0 / (k + 1), use_ema=True, ema_momentum=0.5)
    for _ in range(3):
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    # theta = -1, -1.5, -1.8333; average = -1, -1.25, -1.541667
    assert p.item() == pytest.approx(-11 / 6)
    assert optimizer.iterations == 3
    optimizer.finalize_variable_values()
    assert p.item() == pytest.approx(-37 / 24)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("SGD", {"momentum": 1.5}, ValueError, r"momentum must be in \[0, 1\], got 1.5"),
        ("Adam", {"learning_rate": -1.0}, ValueError, "learning_rate must be >= 0, got -1.0"),
        ("Adam", {"clipnorm": 1.0, "clipvalue": 1.0}, ValueError, "only one of clipnorm, clipvalue, global_clipnorm"),
        ("Adam", {"gradient_accumulation_steps": 4}, ValueError, "PyTorch accumulates in .grad"),
        ("Adam", {"ema_momentum": 2.0}, ValueError, r"ema_momentum must be in \[0, 1\], got 2.0"),
        ("Adam", {"ema_overwrite_frequency": 0}, ValueError, "ema_overwrite_frequency must be a whole number >= 1"),
        ("Adam", {"lr": 0.1}, TypeError, "unknown argument 'lr': Keras' Adam takes beta_1"),
        ("AdamW", {"weight_decay": None}, ValueError, "weight_decay must be a number, got None"),
        ("Ftrl", {"learning_rate_power": 0.1}, ValueError, "learning_rate_power must be <= 0, got 0.1"),
        ("Ftrl", {"l1_regularization_strength": -0.1}, ValueError, "l1_regularization_strength must be >= 0"),
    ],
)
def test_errors(name, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(keras, name)([torch.nn.Parameter(torch.zeros(2))], **arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_same_numbers_as_keras(name, arguments, monkeypatch):
    """Against Keras itself, where it is installed: its learning rate is float32, hence the tolerance."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    theirs = pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in ((7, 3), (5,))]
    params = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start]
    variables = [theirs.Variable(x, dtype="float64") for x in start]
    optimizer, reference = getattr(keras, name)(params, **arguments), getattr(theirs.optimizers, name)(**arguments)
    for _ in range(5):
        gradients = [rng.standard_normal(x.shape) for x in start]
        for p, g in zip(params, gradients, strict=True):
            p.grad = torch.from_numpy(g)
        optimizer.step()
        reference.apply([torch.from_numpy(g) for g in gradients], variables)
    for p, x in zip(params, variables, strict=True):
        assert np.allclose(p.detach().numpy(), x.numpy(), rtol=0, atol=1e-6)
