"""The checker of trap certificates: it replays the proof from the stored weights and data alone.

It shares no code with what makes certificates (`trap.py`). Every inequality is in float64 with a-priori error bounds
(`check_arithmetic`, `check_activations`) or in exact rationals; library functions other than IEEE arithmetic, matrix
products and square roots are not trusted.

**What is proved.** f(theta) is the network's outputs on the stored inputs, y the targets, u = f - y, J = Df. If J is
ell-Lipschitz on the ball of radius R about theta_0, sigma_min(J(theta_0)) >= s0, norm(J(theta_0)) <= J0,
norm(u_0) <= u0, and

    ell R <= s0,    s0 R - ell R^2/2 >= u0,    eta (J0 + ell R)^2 <= 1,

then exact gradient descent theta <- theta - eta J^T u from theta_0 stays in the ball, and
norm(u_k) <= (1 - eta q)^k u0 with q = (s0 - ell R)^2. (Kantorovich trap: with S the path length,
norm(u_{k+1}) <= norm(u_k) - int_{S_k}^{S_{k+1}} (s0 - ell s) ds.) With "before" steps the statement is about exact
gradient descent from the stored weights: theta_0 above is its iterate after so many steps, which `check_shadowing`
encloses in a ball.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from tameopt.kl.check_arithmetic import exact, power_at_most, up
from tameopt.kl.check_arrays import array_of
from tameopt.kl.check_network import NetworkBounds, network_bounds
from tameopt.kl.check_shadowing import shadow
from tameopt.kl.check_shallow import Bounds, one_hidden_layer_bounds

FORMAT = "tameopt trap certificate 1"
_CLAIMS = ("ell", "s0", "J0", "u0", "radius", "step", "q")
_KINDS: dict[str, Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], Bounds | NetworkBounds]] = {
    "one hidden layer": one_hidden_layer_bounds,
    "network": network_bounds,
}


def check(data: Mapping[str, Any]) -> bool:
    """Whether the certificate's every step holds.

    data: {"format", "network": {...}, "arrays": {name: {"shape", "base64"}}, "claims": {...}}; arrays are float64,
    little-endian. Returns False for a proof that fails. Raises ValueError when data is no trap certificate.
    """
    network, arrays, claims = _read(data)
    numbers = {name: exact(claims[name]) for name in _CLAIMS}
    if not _inequalities(numbers, claims):
        return False
    kind = network.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"this checker knows networks of kind {', '.join(map(repr, _KINDS))}, not {kind!r}.")
    before, distance = data.get("before", 0), 0.0
    if before != 0:
        if kind != "one hidden layer":
            raise ValueError(f"shadowing is known for one hidden layer, not for {kind!r}.")
        found = shadow(network, arrays, claims["step"], before)
        arrays, distance = found.arrays, found.distance
        if not math.isfinite(distance):
            return False
    bounds = _KINDS[str(kind)](network, arrays)
    if not (math.isfinite(bounds.s0) and math.isfinite(bounds.J0) and math.isfinite(bounds.u0)):
        return False
    ell = bounds.ell(up(claims["radius"] + distance))
    if not math.isfinite(ell):
        return False
    # at a point within `distance` of the one where the bounds were found
    d, lipschitz = exact(distance), exact(ell)
    return (
        numbers["ell"] >= lipschitz
        and numbers["s0"] <= exact(bounds.s0) - lipschitz * d
        and numbers["J0"] >= exact(bounds.J0) + lipschitz * d
        and numbers["u0"] >= exact(bounds.u0) + (exact(bounds.J0) + lipschitz * d) * d
    )


def _inequalities(c: Mapping[str, Fraction], claims: Mapping[str, Any]) -> bool:
    """The theorem's conditions and conclusions, in exact rationals."""
    if min(c[name] for name in _CLAIMS) < 0 or c["s0"] <= 0 or c["step"] <= 0 or c["radius"] <= 0 or c["q"] <= 0:
        return False
    slack = c["s0"] - c["ell"] * c["radius"]
    if slack <= 0 or c["s0"] * c["radius"] - c["ell"] * c["radius"] ** 2 / 2 < c["u0"]:
        return False
    if c["step"] * (c["J0"] + c["ell"] * c["radius"]) ** 2 > 1 or c["q"] > slack**2:
        return False
    target, steps = claims.get("target"), claims.get("steps")
    if target is None and steps is None:
        return True
    if not isinstance(steps, int) or target is None or steps < 0:
        return False
    return power_at_most(1 - c["step"] * c["q"], steps, exact(float(target)) / c["u0"]) if c["u0"] else True


def _read(data: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, np.ndarray], Mapping[str, Any]]:
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise ValueError(f"a trap certificate must have format {FORMAT!r}, this has {_format_of(data)!r}.")
    network, claims = data.get("network"), data.get("claims")
    if (
        not isinstance(network, Mapping)
        or not isinstance(claims, Mapping)
        or not isinstance(data.get("arrays"), Mapping)
    ):
        raise ValueError("a trap certificate must have a network, arrays and claims; it is damaged.")
    assert isinstance(network, Mapping) and isinstance(claims, Mapping)
    for name in _CLAIMS:
        if not isinstance(claims.get(name), (int, float)) or isinstance(claims.get(name), bool):
            raise ValueError(f"a trap certificate must claim a number {name!r}, got {claims.get(name)!r}.")
    arrays = {name: array_of(name, entry) for name, entry in data["arrays"].items()}
    return network, arrays, {**claims, **{name: float(claims[name]) for name in _CLAIMS}}


def _format_of(data: Any) -> Any:
    return data.get("format") if isinstance(data, Mapping) else type(data).__name__
