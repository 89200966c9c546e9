"""`tameopt spectrum`: the Hessian's eigenvalues, each with its error."""

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


def spectrum(
    target: Target = "digits-mlp",
    k: Annotated[int, typer.Option("-k", help="Eigenvalues at each end.")] = 10,
    step: Annotated[
        int | None, typer.Option("--step", help="Recorded step; the last one by default.", show_default=False)
    ] = None,
    density: Annotated[bool, typer.Option("--density", help="Also where the bulk lies, with error bands.")] = False,
    tolerance: Annotated[float, typer.Option("--tolerance", help="Residual, relative to the largest.")] = 1e-5,
    picture: PictureFile = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> int | None:
    """Eigenvalues of the Hessian at both ends, with error bars, and what kind of point it is."""
    import torch

    from tameopt import curvature
    from tameopt.commands._points import as_predicted, point_of
    from tameopt.curvature.finite import not_finite, operator_of, until_interrupted

    problem, theta, where = point_of(target, step, seed)
    generator = torch.Generator().manual_seed(seed)
    with progress(quiet) as show:
        stopped: list[bool] = []
        hessian = until_interrupted(operator_of(problem, theta), stopped)
        found = curvature.spectrum(hessian, k=k, tolerance=tolerance, generator=generator, notify=show)
        failure = found.failure and "; ".join(filter(None, (found.failure, not_finite(problem, theta))))
        if stopped:
            failure = "interrupted, these are the values up to there"
        bulk = None
        if density and not stopped:
            bulk = curvature.density(hessian, generator=generator, notify=show)
            if stopped:  # half a density has nothing to show
                bulk, failure = None, "interrupted before the density was done"
        value, gradient = problem.value_and_gradient(theta)
    if picture is not None:
        from tameopt.curvature.point_findings import eigenvalue_picture

        drawn = [eigenvalue_picture(found)] if bulk is None else [curvature.density_picture(bulk, ends=found)]
        write_pictures(drawn, picture)
        say(f"written: {picture}", quiet)
    document: dict[str, Any] = {
        "problem": problem.name,
        "d": problem.dim,
        "point": where,
        "note": as_predicted(problem),
        "eigenvalues": found.rows(),
        "complete": found.complete,
        "missed_99": found.missed,
        "value": float(value),
        "gradient_norm": float(gradient.norm()),
        "products": found.products,
        "failure": failure,
        "interrupted": bool(stopped),
    }
    if bulk is not None:
        grid, height, error = bulk.on_grid(200)
        document["density"] = {"grid": grid, "density": height, "standard_error": error}
        document["trace"] = bulk.trace_of(lambda values: values)
        # a bulk of zeros, which networks have, is blurred to both sides of 0: count what is clearly below
        document["clearly_negative_below"] = -0.01 * found.norm
        document["share_clearly_negative"] = bulk.share_below(-0.01 * found.norm)
    if as_json:
        emit_json(document)
    else:
        _print(document, k)
    return ExitCode.INTERRUPTED if stopped else None


def _print(document: dict[str, Any], k: int) -> None:
    from rich.table import Table

    console = terminal()
    count = f"{document['d']:,} parameter{'s' if document['d'] > 1 else ''}"
    console.print(f"{document['problem']}, {count}, {document['point']}", style="bold")
    table = Table(box=None, header_style="bold")
    for title in ("Eigenvalue", "Error", ""):
        table.add_column(title, justify="right")
    rows = list(reversed(document["eigenvalues"]))
    if len(rows) > 2 * k + 5:  # all of them are known: the document has them
        rows = [*rows[:k], None, *rows[-k:]]
    elif not document["complete"]:
        rows.insert((len(rows) + 1) // 2, None)
    for row in rows:
        if row is None:
            table.add_row("…", "", "")
        else:
            table.add_row(
                f"{row['eigenvalue']:.6g}", f"{row['error']:.1e}", "" if row["converged"] else "not converged"
            )
    console.print(table)
    if document["note"]:
        console.print(document["note"])
    if document["complete"] and None in rows:
        console.print(f"All {len(document['eigenvalues']):,} eigenvalues are in the --json document.")
    if not document["complete"]:
        console.print(f"Beyond either end at most {document['missed_99']:.2g} was missed (99%).")
    spent = f"{document['products']} Hessian product{'s' if document['products'] != 1 else ''}"
    console.print(f"norm(grad F) = {document['gradient_norm']:.3g}; {spent}.")
    if "trace" in document:
        trace, share = document["trace"], document["share_clearly_negative"]
        low, high = trace.interval
        least, most = (100 * min(max(end, 0.0), 1.0) for end in share.interval)
        console.print(
            f"Trace {trace.value:.4g}, 95% interval {low:.4g} to {high:.4g}; {100 * share.value:.1f}% "
            f"({least:.1f}% to {most:.1f}%) of the eigenvalues are below {document['clearly_negative_below']:.2g}."
        )
    if not math.isfinite(document["value"]):
        console.print(f"F is {document['value']} at this point: these numbers say nothing about F.")
    if document["failure"]:
        console.print(f"Not finished: {document['failure']}.")


ENTRY = Command("spectrum", Panel.TOOLS, spectrum)
