"""Numbers as a person reads them: three sensible digits, thousands apart, no "-0.0", units."""

from __future__ import annotations

import math

from tameopt.evidence import Evidence


def pretty(number: float, digits: int = 3) -> str:
    """A number with `digits` significant digits; numbers below a million keep their whole part.

    >>> pretty(0.041234), pretty(1797), pretty(-1e-20), pretty(-0.0), pretty(123456.7)
    ('0.0412', '1,797', '-1e-20', '0', '123,457')
    >>> pretty(float("nan")), pretty(float("-inf"))
    ('not a number', '-infinity')
    """
    if math.isnan(number):
        return "not a number"
    if math.isinf(number):
        return "infinity" if number > 0 else "-infinity"
    if number == 0:
        return "0"
    if float(number).is_integer() and abs(number) < 1e6:
        return f"{int(number):,}"
    exponent = math.floor(math.log10(abs(number)))
    if -4 <= exponent < 6:
        text = f"{number:,.{max(0, digits - 1 - exponent)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, power = f"{number:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(power)}"


def aligned(number: float, beside: float, digits: int = 2) -> str:
    """A number rounded where its error `beside` has `digits` significant digits.

    >>> aligned(12.41234, 0.3), aligned(0.0412345, 0.0006)
    ('12.41', '0.04123')
    """
    if not (math.isfinite(number) and math.isfinite(beside)) or beside == 0 or number == 0:
        return pretty(number)
    exponent = math.floor(math.log10(abs(number)))
    significant = max(2, min(12, exponent - math.floor(math.log10(abs(beside))) + digits))
    return pretty(number, significant)


def interval(low: float, high: float) -> str:
    """An interval whose ends show as many digits as tell them apart.

    >>> interval(12.0712, 12.7234), interval(0.0, float("inf"))
    ('[12.07, 12.72]', '[0, infinity]')
    """
    width = abs(high - low)
    if not math.isfinite(width) or width == 0:
        return f"[{pretty(low, 4)}, {pretty(high, 4)}]"
    return f"[{aligned(low, width)}, {aligned(high, width)}]"


def seconds(duration: float) -> str:
    """A duration.

    >>> seconds(0.0381), seconds(1.44), seconds(125), seconds(7260), seconds(0)
    ('38 ms', '1.4 s', '2 min 5 s', '2 h 1 min', '0 s')
    """
    if duration <= 0:
        return "0 s"
    if duration < 0.0005:
        return "under 1 ms"
    if duration < 0.9995:
        return f"{1000 * duration:.0f} ms"
    if duration < 60:
        return f"{pretty(duration, 2)} s"
    minutes, rest = divmod(round(duration), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def estimate(evidence: Evidence) -> str:
    """The number of a finding with its unit, interval and sample size; "" when it has none.

    >>> estimate(Evidence("Lanczos", 12.41, (12.1, 12.7), "95% interval", sample_size=40))
    '12.41, 95% interval [12.1, 12.7], sample size 40'
    """
    if evidence.estimate is None:
        return ""
    unit = f" {evidence.unit}" if evidence.unit else ""
    parts = []
    if evidence.interval is not None:
        low, high = evidence.interval
        parts.append(f"{aligned(evidence.estimate, high - low)}{unit}")
        parts.append(f"{evidence.error_kind or 'interval'} {interval(low, high)}")
    else:
        parts.append(f"{pretty(evidence.estimate, 4)}{unit}")
        if evidence.error_kind:
            parts.append(evidence.error_kind)
    if evidence.sample_size is not None:
        parts.append(f"sample size {evidence.sample_size:,}")
    return ", ".join(parts)
