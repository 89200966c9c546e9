"""The checker of certificates about recorded settings: what the sampler, the update rule and the initial law are.

These prove what follows from the settings as recorded, in exact arithmetic, with the pseudo-random generator
taken for the random numbers it stands for. They import nothing that produced them.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any


def check_unbiased(data: Mapping[str, Any]) -> bool:
    """Whether the batch gradient's conditional mean is grad F, F = 1/n sum l_i.

    data: {"sampling": "full batch" | "independent draws", "n", "batch_size", "reduction": "mean", "strata": [
    {"samples", "draws", "probability", "weight"}]}: each sample of a stratum (there are "samples" of them) is taken
    by each of "draws" independent draws a step with "probability", and its gradient enters the sum with "weight". A
    draw chooses among the samples of its own stratum (their probabilities sum to 1), or all strata share the same
    draws (all probabilities sum to 1).
    The mean is grad F exactly when draws * probability * weight = 1/n for every sample.
    """
    try:
        n, batch_size = int(data["n"]), int(data["batch_size"])
        strata = [
            (int(row["samples"]), int(row["draws"]), Fraction(row["probability"]), Fraction(row["weight"]))
            for row in data["strata"]
        ]
        if data["reduction"] != "mean" or n < 1:
            return False
        if data["sampling"] == "full batch":
            return batch_size == n and not strata
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a certificate of sampling: {error!r}.") from error
    if data["sampling"] != "independent draws" or not strata:
        return False
    if any(samples < 1 or draws < 1 or probability <= 0 for samples, draws, probability, _ in strata):
        return False
    own = all(samples * probability == 1 for samples, _, probability, _ in strata)
    own = own and sum(draws for _, draws, *_ in strata) == batch_size
    shared = sum(samples * probability for samples, _, probability, _ in strata) == 1
    shared = shared and all(draws == batch_size for _, draws, *_ in strata)
    whole = sum(samples for samples, *_ in strata) == n
    return whole and (own or shared) and all(draws * p * weight == Fraction(1, n) for _, draws, p, weight in strata)


_PLAIN = {"SGD", "GradientDescent"}
_MUST_BE_ZERO = ("momentum", "weight_decay", "dampening")
_MUST_BE_FALSE = ("nesterov", "maximize")
_HARMLESS = ("lr", "foreach", "differentiable", "fused", "engine", "capturable")


def check_rule(data: Mapping[str, Any]) -> bool:
    """Whether the recorded settings are theta_{k+1} = theta_k - alpha_k g_k and nothing else.

    data: {"optimizer": name, "arguments": {…}, "lr_positive": true, "full_batch": bool, "needs_full_batch": bool}.
    """
    try:
        name, arguments = data["optimizer"], dict(data["arguments"])
        if data["needs_full_batch"] and not data["full_batch"]:
            return False
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a certificate of an update rule: {error!r}.") from error
    if name not in _PLAIN:
        return False
    for key, setting in arguments.items():
        if key in _MUST_BE_ZERO and setting != 0:
            return False
        if key in _MUST_BE_FALSE and setting is not False:
            return False
        if key not in (*_MUST_BE_ZERO, *_MUST_BE_FALSE, *_HARMLESS):
            return False
    return True


# torch's reset_parameters: these draw every entry of these parameters from a law with a density
_DRAWN = {
    "Linear": ("weight", "bias"),
    "Conv1d": ("weight", "bias"),
    "Conv2d": ("weight", "bias"),
    "Conv3d": ("weight", "bias"),
    "ConvTranspose1d": ("weight", "bias"),
    "ConvTranspose2d": ("weight", "bias"),
    "Bilinear": ("weight", "bias"),
}


def check_law(data: Mapping[str, Any]) -> bool:
    """Whether theta_0's recorded law has a density on R^d.

    data: {"law": words, "d": int, "parameters": [{"module", "name", "size", "fan_in"}]}. A normal law, or a uniform
    law on a box, of the whole vector has one ("parameters" empty); torch's default initialisation has one when
    every parameter belongs to a module that draws all its entries independently and without degeneracy.
    """
    try:
        law, d, parameters = str(data["law"]).lower(), int(data["d"]), list(data["parameters"])
        rows = [(str(row["module"]), str(row["name"]), int(row["size"]), int(row["fan_in"])) for row in parameters]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a certificate of an initial law: {error!r}.") from error
    if d < 1:
        return False
    if "default initialisation" in law:
        drawn = all(name in _DRAWN.get(module, ()) and size >= 1 and fan > 0 for module, name, size, fan in rows)
        return drawn and sum(size for *_, size, _ in rows) == d
    return not rows and law.split(",")[0].strip() in ("normal", "standard normal", "gaussian", "uniform on a box")
