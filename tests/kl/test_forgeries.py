"""Forged certificates: whatever is changed in one, a checker that still says yes must be right.

Truth is found apart from the checkers: autodiff and dense decompositions at the changed weights and data.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tameopt.kl import (
    check_flow,
    check_margin,
    check_trap,
    flow_certificate,
    margin_certificate,
    shadow_certificate,
    trap_certificate,
)
from tameopt.kl.shallow import ShallowNetwork
from tameopt.problem import Problem

D = torch.float64
MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def data(n: int, d: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    X = nn.functional.normalize(torch.randn(n, d, dtype=D, generator=generator), dim=1)
    return X, torch.randint(0, 2, (n, 1), generator=generator).to(D) * 2 - 1


def trained(model: nn.Module, steps: int, lr: float = 0.2) -> Problem:
    problem = Problem(model, nn.functional.mse_loss, data(4, 5))
    theta = problem.theta
    for _ in range(steps):
        theta = theta - lr * problem.gradient(theta)
    nn.utils.vector_to_parameters(theta, model.parameters())
    return Problem(model, nn.functional.mse_loss, data(4, 5))


def network(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).double()


@pytest.fixture(scope="module")
def certificates() -> dict[str, Any]:
    torch.manual_seed(0)
    deep = trained(network(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)), 800)
    leaky = trained(network(nn.Linear(5, 24), nn.LeakyReLU(0.1), nn.Linear(24, 1)), 800)
    shallow = Problem(
        ShallowNetwork(5, 12, generator=torch.Generator().manual_seed(1)), nn.functional.mse_loss, data(4, 5)
    )
    model = network(nn.Linear(5, 12, bias=False), nn.ReLU(), nn.Linear(12, 2, bias=False))
    X, Y = data(4, 5)
    labels = (Y[:, 0] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), labels).backward()
        optimizer.step()
    found = {
        "deep": trap_certificate(deep),
        "shadow": shadow_certificate(shallow, most=600),
        "flow": flow_certificate(leaky),
        "margin": margin_certificate(Problem(model, nn.CrossEntropyLoss(), (X, labels))),
    }
    assert all(one.holds for one in found.values()), found
    return {name: one.data for name, one in found.items()}


@st.composite
def change(draw: st.DrawFn) -> tuple[str, int, int, float]:
    """(what, which of them, which entry, by how much)."""
    what = draw(st.sampled_from(["claim", "entry", "entry", "scale", "rows", "network", "before"]))
    amount = draw(st.sampled_from([-1.0, 1.0])) * 10.0 ** draw(st.floats(-9, 1))
    return what, draw(st.integers(0, 30)), draw(st.integers(0, 10_000)), amount


def forged(original: dict[str, Any], made: tuple[str, int, int, float]) -> dict[str, Any]:
    what, which, entry, amount = made
    copied = copy.deepcopy(original)
    arrays, claims, net = copied["arrays"], copied["claims"], copied["network"]
    name = sorted(arrays)[which % len(arrays)]
    if what == "claim":
        numbers = [key for key in sorted(claims) if isinstance(claims[key], (int, float))]
        key = numbers[which % len(numbers)]
        whole = isinstance(claims[key], int)
        claims[key] = claims[key] + round(100 * amount) if whole else claims[key] * (1 + amount)
    elif what == "entry":
        arrays[name].reshape(-1)[entry % arrays[name].size] += amount
    elif what == "scale":
        arrays[name] *= 1 + amount
    elif what == "rows":
        arrays[name][[0, -1]] = arrays[name][[-1, 0]]
    elif what == "network":
        numbers = [key for key in ("gain", "scale", "slope") if isinstance(net.get(key), float)]
        if numbers:
            net[numbers[which % len(numbers)]] *= 1 + amount
        else:
            net["trained"] = net["trained"][1:]
    elif "before" in copied:
        copied["before"] = max(0, copied["before"] + round(100 * amount))
    return copied


def accepted(check: Any, copied: dict[str, Any]) -> bool:
    try:
        return bool(check(copied))
    except ValueError:
        return False


def outputs_of(copied: dict[str, Any]) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(flat trained weights -> outputs, the weights, X, Y) of one hidden layer or of a deep one, by its names."""
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in copied["arrays"].items()}
    net = copied["network"]
    names = list(net["trained"])
    sizes = [arrays[name].numel() for name in names]

    def outputs(flat: torch.Tensor) -> torch.Tensor:
        now = dict(arrays)
        for name, part in zip(names, flat.split(sizes), strict=True):
            now[name] = part.reshape(arrays[name].shape)
        if "W" not in now:
            x = now["X"]
            for op in net["ops"]:
                if op["op"] == "linear":
                    x = x @ now[op["weight"]].T + (now[op["bias"]] if op.get("bias") else 0.0)
                else:
                    x = torch.tanh(x)
            return x.reshape(-1)
        z = net.get("gain", 1.0) * (now["X"] @ now["W"].T + now.get("b", torch.zeros(())))
        hidden = torch.tanh(z) if "activation" in net else torch.where(z > 0, z, net["slope"] * z)
        return (net["scale"] * hidden @ now["C"].T + now.get("e", torch.zeros(()))).reshape(-1)

    return outputs, torch.cat([arrays[name].reshape(-1) for name in names]), arrays["X"], arrays["Y"].reshape(-1)


def assert_trap(copied: dict[str, Any]) -> None:
    """The theorem's conditions hold for the changed certificate, to rounding."""
    claims, (f, theta, _, y) = copied["claims"], outputs_of(copied)
    jacobian = torch.func.jacrev(f)
    for _ in range(copied.get("before", 0)):
        theta = theta - claims["step"] * jacobian(theta).T @ (f(theta) - y)
    J = jacobian(theta)
    values = torch.linalg.svdvals(J)
    near = 1 + 1e-7
    assert claims["s0"] <= float(values[-1]) * near and claims["J0"] * near >= float(values[0])
    assert claims["u0"] * near + 1e-11 >= float((f(theta) - y).norm())
    assert claims["ell"] * claims["radius"] < claims["s0"]
    assert claims["s0"] * claims["radius"] - claims["ell"] * claims["radius"] ** 2 / 2 >= claims["u0"] / near
    assert claims["step"] * (claims["J0"] + claims["ell"] * claims["radius"]) ** 2 <= near
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        v = torch.randn(theta.shape, dtype=D, generator=generator)
        moved = jacobian(theta + claims["radius"] * v / v.norm())
        assert float(torch.linalg.matrix_norm(moved - J, 2)) <= claims["ell"] * claims["radius"] * near + 1e-12
    q = (claims["s0"] - claims["ell"] * claims["radius"]) ** 2
    assert claims["q"] <= q * near
    if claims.get("steps") is not None:
        reached = claims["u0"] * math.exp(claims["steps"] * math.log1p(-claims["step"] * claims["q"]))
        assert reached <= claims["target"] * near


@MANY
@given(change())
def test_deep_networks(certificates: dict[str, Any], made: tuple[str, int, int, float]) -> None:
    copied = forged(certificates["deep"], made)
    if accepted(check_trap.check, copied):
        assert_trap(copied)


@MANY
@given(change())
def test_shadowing(certificates: dict[str, Any], made: tuple[str, int, int, float]) -> None:
    copied = forged(certificates["shadow"], made)
    if accepted(check_trap.check, copied):
        assert_trap(copied)


@MANY
@given(change())
def test_the_flow_of_leaky_networks(certificates: dict[str, Any], made: tuple[str, int, int, float]) -> None:
    copied = forged(certificates["flow"], made)
    if not accepted(check_flow.check, copied):
        return
    f, theta, _, y = outputs_of(copied)
    J, u0 = torch.func.jacrev(f)(theta), float((f(theta) - y).norm())
    q = copied["claims"]["q"]
    assert q <= float(torch.linalg.svdvals(J)[-1]) ** 2 * (1 + 1e-9)
    # norm(u) falls at least like exp(-q t) along the flow of norm(u)^2/2; Euler with small steps is below that
    h = 0.01 / float(torch.linalg.svdvals(J)[0]) ** 2
    for _ in range(20):
        theta = theta - h * torch.func.jacrev(f)(theta).T @ (f(theta) - y)
    assert float((f(theta) - y).norm()) <= u0 * math.exp(-q * 20 * h) * (1 + 1e-3) + 1e-14


@MANY
@given(change())
def test_margins(certificates: dict[str, Any], made: tuple[str, int, int, float]) -> None:
    copied = forged(certificates["margin"], made)
    if not accepted(check_margin.check, copied):
        return
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in copied["arrays"].items()}
    outputs = torch.relu(arrays["X"] @ arrays["0.weight"].T) @ arrays["2.weight"].T
    total = float(nn.functional.cross_entropy(outputs, arrays["labels"].long(), reduction="sum"))
    assert total <= copied["claims"]["total"] * (1 + 1e-12) and copied["claims"]["total"] < math.log(2)


@pytest.mark.parametrize("name", ["deep", "shadow", "flow", "margin"])
def test_the_originals_are_accepted(certificates: dict[str, Any], name: str) -> None:
    check = {"flow": check_flow.check, "margin": check_margin.check}.get(name, check_trap.check)
    assert check(certificates[name]) is True
    if name in ("deep", "shadow"):
        assert_trap(certificates[name])
