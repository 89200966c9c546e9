"""`tameopt critical`: what kind of point this is, or which critical points there are."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer

from tameopt.commands._common import (
    Command,
    ExitCode,
    Json,
    Panel,
    Quiet,
    Seed,
    Target,
    emit_json,
    progress,
    say,
    terminal,
)
from tameopt.commands._pictures import PictureFile, write_pictures


def critical(
    target: Target = "digits-mlp",
    step: Annotated[
        int | None, typer.Option("--step", help="Recorded step; the last one by default.", show_default=False)
    ] = None,
    search: Annotated[int, typer.Option("--search", help="Look for critical points from this many starts.")] = 0,
    spread: Annotated[float, typer.Option("--spread", help="Standard deviation of the starts around theta.")] = 1.0,
    box: Annotated[
        float | None,
        typer.Option("--box", help="All critical points with every coordinate within this, with proof."),
    ] = None,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Minimum, saddle or neither? With --search or --box: which critical points are there?"""
    import torch

    from tameopt import curvature
    from tameopt.commands._points import as_predicted, point_of

    if box is not None and search:
        raise ValueError("--box and --search are two questions: ask one at a time.")
    if search < 0:
        raise ValueError(f"--search must be at least 1, got {search}: so many starts.")
    if box is not None and not 0 < box < math.inf:
        raise ValueError(f"--box must be > 0 and finite, got {box}.")
    if not 0 < spread < math.inf:
        raise ValueError(f"--spread must be > 0 and finite, got {spread}.")
    problem, theta, where = point_of(target, step, seed)
    generator = torch.Generator().manual_seed(seed)
    document: dict[str, Any] = {
        "problem": problem.name,
        "d": problem.dim,
        "point": where,
        "note": as_predicted(problem),
    }
    with progress(quiet) as show:
        if box is not None:
            every = curvature.critical_points_in_box(problem, [-box] * problem.dim, [box] * problem.dim, notify=show)
            document.update(_all(every, box), interrupted=every.interrupted)
            pictures = [every.picture()]
        elif search:
            drawn = torch.randn(search, problem.dim, generator=generator, dtype=torch.float64)
            found = curvature.find_critical_points(problem, theta + spread * drawn.to(theta), notify=show)
            document.update(_found(found), interrupted=found.interrupted)
            pictures = [found.picture()]
        else:
            one = curvature.classify(
                problem, theta, generator=generator, rigorous=problem.dim * problem.n <= 400, notify=show
            )
            document.update(_one(one))
            pictures = _pictures(problem, one, generator) if picture is not None else []
    if picture is not None:
        write_pictures(pictures, picture)
        say(f"written: {picture}", quiet)
    if as_json:
        emit_json(document)
    else:
        _print(document)
    return ExitCode.INTERRUPTED if document.get("interrupted") else None


def _all(every: Any, box: float) -> dict[str, Any]:
    from tameopt.curvature.index_picture import kinds_in_words

    kinds = kinds_in_words(every.kinds)
    if every.reason:
        summary = f"Found with all coordinates within {box:g}: {kinds}. There may be more: {every.reason}."
    elif every.kinds:
        summary = f"All critical points with all coordinates within {box:g}: {kinds}."
    else:
        summary = f"No critical point has all coordinates within {box:g}."
    certificate = every.certificate
    return {
        "verdict": str(every.verdict),
        "summary": summary,
        "points": [
            {"kind": kind, "index": index, "nullity": proof.nullity, "value": value, "theta": place, "starts": None}
            for kind, index, proof, value, place in zip(
                every.kinds, every.indices, every.proofs, every.values, every.points.tolist(), strict=True
            )
        ],
        "certificate": None if certificate is None else dict(certificate.data),
        "checker": None if certificate is None else certificate.checker,
    }


def _found(found: Any) -> dict[str, Any]:
    from tameopt.curvature.index_picture import kinds_in_words

    critical, flat = sum(found.counts), int(found.gradient_flat.shape[0])
    starts = critical + flat + found.unfinished
    summary = "Interrupted; this is what was found by then. " if found.interrupted else ""
    kinds = kinds_in_words([point.kind for point in found]).capitalize()
    summary += (
        f"Of {starts:,} start{'s' if starts > 1 else ''} {critical:,} ended at critical points, {flat:,} where the "
        f"gradient is not 0 but flat, {found.unfinished:,} at neither. "
        + (f"{kinds}, alike ones in one row; there may be others." if critical else "No critical point was found.")
    )
    return {
        "verdict": "MEASURED",
        "summary": summary,
        "points": [
            {
                "kind": point.kind,
                "index": point.index,
                "nullity": point.nullity,
                "value": point.value,
                "theta": point.theta.tolist() if point.theta.numel() <= 100 else None,
                "starts": count,
            }
            for point, count in zip(found, found.counts, strict=True)
        ],
        "gradient_flat": flat,
        "unfinished": found.unfinished,
    }


def _one(point: Any) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "verdict": str(point.verdict),
        "reason": point.reason,
        "index": point.index,
        "index_interval": list(point.index_interval),
        "nullity": point.nullity,
        "gradient_norm": point.gradient_norm,
        "value": point.value,
        "eigenvalues": point.spectrum.rows(),
        "certificate": None if point.proof is None else dict(point.proof.certificate.data),
        "checker": None if point.proof is None else point.proof.certificate.checker,
    }


def _pictures(problem: Any, point: Any, generator: Any) -> list[Any]:
    """The eigenvalues, and at a strict saddle how gradient descent with half the step 1/L leaves it."""
    from tameopt.curvature.point_findings import eigenvalue_picture
    from tameopt.dynamics import saddle_escape

    pictures = [eigenvalue_picture(point.spectrum)]
    if point.kind in ("strict saddle", "maximum"):
        found = point.spectrum
        escape = saddle_escape(
            problem, point.theta, 0.5 / found.norm, lambda_min=found.lambda_min, generator=generator
        )
        pictures.append(escape.picture())
    return pictures


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    console = terminal()
    count = f"{document['d']:,} parameter{'s' if document['d'] > 1 else ''}"
    console.print(f"{document['problem']}, {count}, {document['point']}", style="bold")
    if document["note"]:
        console.print(document["note"])
    if "points" not in document:
        index = document["index"]
        low, high = document["index_interval"]
        count = f"{low}" if low == high else f"{low} to {high}" if index is None else f"{index} ({low} to {high})"
        console.print(f"{document['kind']}   {document['verdict']}")
        console.print(document["reason"])
        if math.isfinite(document["value"]):
            console.print(f"F = {document['value']:.6g}; directions that curve down: {count}.")
        return
    console.print(f"{document['summary']}   {document['verdict']}")
    rows = document["points"]
    if not rows:
        return
    titles = ["F", "Kind", "Index", "Nullity", *([] if rows[0]["starts"] is None else ["Starts"])]
    where = document["d"] <= 3
    table = Table(box=None, header_style="bold")
    for title in titles + ["At"] * where:
        table.add_column(title, justify="left" if title in ("Kind", "At") else "right")
    for row in rows:
        shown = ["" if row[name.lower()] is None else str(row[name.lower()]) for name in titles[1:]]
        place = [", ".join(f"{number:.6g}" for number in row["theta"])] if where else []
        table.add_row(f"{row['value']:.6g}", *shown, *place)
    console.print(table)


ENTRY = Command("critical", Panel.TOOLS, critical)
