"""The checker of the exponent of a polynomial in one variable: 1 - 1/l with l the multiplicity of its zero."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any


def check(data: Mapping[str, Any]) -> bool:
    """Whether theta is the KL exponent at 0 of the polynomial with these coefficients.

    data: {"coefficients": {"2": "1", ...} from power to rational, without a constant term, "theta": "1/2"}. Near 0,
    f = a t^l (1 + O(t)) gives abs(f') = l abs(a)^(1/l) abs(f)^(1 - 1/l) (1 + O(t)), and no smaller exponent will do.
    Raises ValueError when data is no such claim.
    """
    try:
        coefficients = {int(power): Fraction(c) for power, c in data["coefficients"].items()}
        theta = Fraction(data["theta"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"an exponent's certificate must hold coefficients and theta: {error}.") from error
    if any(power < 1 for power in coefficients):
        raise ValueError("the polynomial must vanish at 0, it has a constant term or a negative power.")
    powers = [power for power, c in coefficients.items() if c]
    return bool(powers) and theta == 1 - Fraction(1, min(powers))
