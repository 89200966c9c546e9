"""The two questions that this room answers about a run: how steep is its path, and at what kind of point is it."""

from __future__ import annotations

import math

from tameopt.analysis import Analysis, Context
from tameopt.curvature.cost import product_seconds
from tameopt.curvature.path_findings import PATH_CLAIMS, analyse_path
from tameopt.curvature.point_findings import POINT_CLAIMS, analyse_point
from tameopt.evidence import Cost

# our choice: past this size a Hessian product on all data takes seconds, and the audit should be asked for it
_LARGE = 50_000_000


def _seconds(context: Context, products: float) -> float:
    """From a timed gradient; what follows a product (orthogonalisation, pictures) is small beside it."""
    one = product_seconds(context.problem, context.theta)
    return products * one if math.isfinite(one) else 0.0


def _path_cost(context: Context) -> Cost:
    points = 6 if context.run is not None else 1
    products = min(context.problem.dim, 40) * points if context.problem.dim > 50 else context.problem.dim * points
    return Cost(points, products, _seconds(context, products))


def _point_cost(context: Context) -> Cost:
    products = min(context.problem.dim, 200)
    return Cost(1, products, _seconds(context, products))


def _skip(context: Context) -> str:
    if context.problem.dim > _LARGE:
        return f"d = {context.problem.dim:,}: its eigenvalues take minutes; ask for them by `tameopt spectrum`"
    if not bool(context.theta.isfinite().all()):
        return "the last iterate is not finite: there is no point to look at"
    return ""


ANALYSES = (
    Analysis(
        name="curvature.path",
        question="How steep is the loss along the run, and does the step bear it?",
        claims=PATH_CLAIMS,
        estimate=_path_cost,
        analyse=analyse_path,
        skip=_skip,
    ),
    Analysis(
        name="curvature.point",
        question="What kind of point is the last iterate: a minimum, a saddle, or neither?",
        claims=POINT_CLAIMS,
        estimate=_point_cost,
        analyse=analyse_point,
        skip=_skip,
    ),
)
