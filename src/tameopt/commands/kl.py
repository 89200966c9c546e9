"""`tameopt kl`: how a run converges, or the exact KL exponent of a polynomial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tameopt.commands._common import Command, Json, Panel, Seed, emit_json, terminal


def kl(
    source: Annotated[
        str, typer.Argument(metavar="RUN or POLYNOMIAL", help='The folder of a run, or "(x - y^2)^2 + x^4".')
    ],
    at: Annotated[
        str | None, typer.Option("--at", help="The point, as in 1,1/2 (variables sorted).", metavar="X,Y,…")
    ] = None,
    to: Annotated[float | None, typer.Option("--to", help="Steps until this loss is reached.")] = None,
    lower: Annotated[
        float | None, typer.Option("--lower", help="A known lower bound of the loss (0 for most losses), of a run.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> int | None:
    """The KL inequality: rate and exponent of a recorded run, or the exact exponent of a (piecewise) polynomial."""
    if Path(source).exists():
        document, lines = _run(Path(source), to, lower, seed)
    else:
        try:
            document, lines = _polynomial(source, at)
        except ValueError as error:
            if set(source) & set("*^("):
                raise
            raise ValueError(
                f"{source!r} must be the folder of a recorded run (there is none; tameopt train records one) or a "
                f"polynomial: {error}"
            ) from error
    if as_json:
        emit_json(document)
    else:
        for line in lines:
            terminal().print(line)
    return None


def _polynomial(source: str, at: str | None) -> tuple[dict[str, Any], list[str]]:
    from tameopt.kl import bound, exponent
    from tameopt.kl.piecewise import has_kinks
    from tameopt.kl.polynomial import polynomial

    point = None if at is None else [part.strip() for part in at.split(",")]
    found = exponent(source, point)
    kinks = has_kinks(source)
    f = None if kinks else polynomial(source)
    a_priori = None if f is None else str(bound(f.degree, len(f.variables)))
    document = {
        "polynomial": source, "at": point, "theta": None if found.theta is None else str(found.theta),
        "lower": str(found.lower), "upper": str(found.upper), "verdict": str(found.verdict),
        "witness": found.witness, "rule": found.rule, "branches": list(found.branches), "a_priori": a_priori,
        "claim": found.claim, "lower_claim": found.lower_claim,
    }  # fmt: skip
    if found.theta is None:
        return document, [f"{found.verdict}  exponent between {found.lower} and {found.upper}: {found.rule}"]
    size = "dist(0, Clarke subdifferential)" if kinks else "norm(grad f)"
    lines = [f"{found.verdict}  {size} >= c abs(f - f*)^{found.theta} there, and no smaller exponent will do"]
    lines += [f"  attained on {found.witness}  ({found.rule})"]
    lines += [] if a_priori is None else [f"  any polynomial of this degree: at most {a_priori}"]
    return document, lines


def _run(path: Path, to: float | None, lower: float | None, seed: int) -> tuple[dict[str, Any], list[str]]:
    from tameopt.kl.fit import fit
    from tameopt.kl.forecast import forecast
    from tameopt.kl.gradient_law import gradient_law
    from tameopt.kl.path import path_length
    from tameopt.kl.rate_findings import exponent_finding, rate_findings, steps_finding, values_converge_finding
    from tameopt.kl.series import loss_series
    from tameopt.run import Run

    run = Run.open(path)
    series = loss_series(run)
    fitted = fit(series, lower=lower, seed=seed)
    law = gradient_law(series.tail(series.size - fitted.points), seed=seed)
    findings = [
        values_converge_finding(fitted, series),
        *rate_findings(fitted, series),
        steps_finding(fitted, series),
        exponent_finding(law, fitted),
    ]
    document: dict[str, Any] = {
        "regime": fitted.regime, "reason": fitted.reason, "first_step": fitted.first, "last_step": fitted.last,
        "F_star": fitted.F_star, "F_star_interval": fitted.F_star_interval, "factor": fitted.factor,
        "factor_interval": fitted.factor_interval, "power": fitted.power, "power_interval": fitted.power_interval,
        "theta": fitted.theta, "theta_interval": fitted.theta_interval, "c": fitted.c,
        "c_interval": fitted.c_interval,
        "theta_from_gradients": law.theta if law else None, "pieces": [str(piece) for piece in fitted.pieces],
    }  # fmt: skip
    lines = [f"{fitted.regime.upper()}  {fitted.reason}"]
    # the reason stands in the first line; several findings may say it again
    told = [f"  {one.verdict}  {one.statement.replace(fitted.reason, 'as said above')}" for one in findings]
    lines += list(dict.fromkeys(told))
    lines += [f"  {piece}" for piece in fitted.pieces]
    length = path_length(run)
    if length is not None:
        document["path_length"], document["path_looks_finite"] = length.total, length.looks_finite
        lines.append(
            f"  path length so far {length.total:.4g}, {'looks' if length.looks_finite else 'does not look'} finite"
        )
    if to is not None:
        found = forecast(series, to, lower=lower)
        low, high = found.interval
        document["steps_to"] = {
            "loss": to, "steps": None if found.reason else found.steps, "trials": list(found.trials),
            "interval": None if found.reason else [low, high], "reason": found.reason, "law": found.how,
        }  # fmt: skip
        lines.append(
            f"  UNKNOWN  when the loss reaches {to:g}: {found.reason}"
            if found.reason
            else f"  MEASURED  loss {to:g} in {found.steps:,.0f} more steps [{low:,.0f}, {high:,.0f}] ({found.how})"
        )
    return document, lines


ENTRY = Command("kl", Panel.TOOLS, kl)
