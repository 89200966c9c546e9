"""What the recorded settings of a run say: its sampler, its update rule, the law of its start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from tameopt.analysis import Context
from tameopt.evidence import Certificate, Finding, Scope, proved, refuted, unknown
from tameopt.noise.windows import read_window, spans
from tameopt.run import Run
from tameopt.training_mode import other_function

_CHECKER = "tameopt.noise.record_checker"


def is_full_batch(run: Run, n: int) -> bool:
    """Whether every step of the run used all n samples, as recorded."""
    size = run.meta.get("batch_size")
    if run.meta.get("sampling") == "full batch":
        return True
    return isinstance(size, int) and size >= n and run.meta.get("sampling") == "reshuffled"


# -- noise.unbiased ----------------------------------------------------------------------------------------


def unbiased(context: Context) -> Finding:
    """Whether the noise is a martingale difference, from the recorded sampler."""
    claim, run, problem = "noise.unbiased", context.run, context.problem
    if run is None:
        return unknown(claim, "No run was recorded.", missing="a recorded run", remedy="tame.audit(run)")
    sampling, n = run.meta.get("sampling", "unknown"), problem.n
    if other := other_function(problem):
        return unknown(
            claim,
            f"Whether the steps' gradients have mean grad F is not known: {other}.",
            missing="a network that trains as it predicts, or the noise of its training mode",
            remedy="put the model in eval mode before training to see the sampler's noise alone",
        )
    if is_full_batch(run, n):
        return proved(
            claim,
            "The noise is 0: every step used the whole data set, up to rounding.",
            Certificate(
                f"{_CHECKER}:check_unbiased",
                {"sampling": "full batch", "n": n, "batch_size": n, "reduction": "mean", "strata": []},
            ),
            method="recorded sampler",
            scope=Scope.RUN,
        )
    size = run.meta.get("batch_size")
    if problem.reduction == "sum" and not problem.is_function:
        return unknown(
            claim,
            "The loss is a sum over samples, so a batch gradient has mean b/n times grad F.",
            missing="a mean loss",
            remedy="Problem(model, loss, data, reduction='mean') with the loss averaged over the batch",
        )
    if sampling == "with replacement" and isinstance(size, int) and size >= 1:
        stratum = {"samples": n, "draws": size, "probability": f"1/{n}", "weight": f"1/{size}"}
        return proved(
            claim,
            f"The noise has conditional mean 0: each step drew {size:,} of {n:,} samples uniformly, with replacement "
            "(as recorded; the pseudo-random generator stands for independent draws).",
            Certificate(
                f"{_CHECKER}:check_unbiased",
                {
                    "sampling": "independent draws",
                    "n": n,
                    "batch_size": size,
                    "reduction": "mean",
                    "strata": [stratum],
                },
            ),
            method="recorded sampler; each sample's weight in the mean of the batch gradient, in exact rationals",
            scope=Scope.RUN,
        )
    if sampling == "reshuffled" and isinstance(size, int) and size < n:
        per_epoch = -(-n // size)
        return refuted(
            claim,
            f"The batches of an epoch are dependent: reshuffling visits each of the {n:,} samples once, so the last "
            f"of its {per_epoch:,} batches is determined by the others.",
            {"sampling": "reshuffled", "batches_per_epoch": per_epoch, "step": per_epoch - 1},
            method="recorded sampler",
            scope=Scope.RUN,
            remedy="draw with replacement (torch.utils.data.RandomSampler(data, replacement=True)), or use a theorem "
            "on random reshuffling (Mishchenko, Khaled and Richtarik 2020) instead of stochastic approximation",
        )
    return unknown(
        claim,
        "How the batches were drawn was not recorded.",
        missing="the sampler: 'with replacement', 'reshuffled' or 'full batch'",
        remedy="tell it: tame.watch(model, optimizer, loss, data, sampling='reshuffled')",
    )


# -- method ------------------------------------------------------------------------------------------------


def methods(context: Context) -> tuple[Finding, ...]:
    """Whether the run is plain gradient descent, or plain stochastic gradient, from the record."""
    return tuple(_method(context, claim) for claim in ("method.gradient_descent", "method.stochastic_gradient"))


def _method(context: Context, claim: str) -> Finding:
    run = context.run
    if run is None:
        return unknown(claim, "No run was recorded.", missing="a recorded run", remedy="tame.audit(run)")
    optimizer: Mapping[str, Any] = run.meta.get("optimizer") or {}
    name, arguments = optimizer.get("name"), dict(optimizer.get("arguments") or {})
    if not name:
        return unknown(
            claim,
            "The optimizer was not recorded.",
            missing="the optimizer and its arguments",
            remedy="tame.watch(model, optimizer, loss, data=loader)",
        )
    deterministic = claim == "method.gradient_descent"
    full = is_full_batch(run, context.problem.n)
    if deterministic and not full:
        size, sampling = run.meta.get("batch_size"), run.meta.get("sampling", "unknown")
        if sampling == "unknown" or not isinstance(size, int):
            return unknown(claim, "Whether steps used all samples was not recorded.", missing="the sampler")
        return refuted(
            claim,
            f"The steps used batches of {size:,} of {context.problem.n:,} samples, not the whole data.",
            {"batch_size": size, "n": context.problem.n, "sampling": sampling},
            method="recorded sampler",
            scope=Scope.RUN,
        )
    more = _departure(name, arguments)
    if more:
        return refuted(
            claim,
            f"The update is {name}'s, not a plain gradient step: {more}.",
            {"optimizer": name, "arguments": {key: str(setting) for key, setting in arguments.items()}},
            method="recorded optimizer",
            scope=Scope.RUN,
        )
    if full and (other := other_function(context.problem)):
        return unknown(
            claim,
            f"{name} without momentum or weight decay, as recorded; whether its steps followed grad F is not known: "
            f"{other}.",
            missing="a network that trains as it predicts",
        )
    certificate = Certificate(
        f"{_CHECKER}:check_rule",
        {
            "optimizer": name,
            "arguments": {key: setting if _is_plain(setting) else str(setting) for key, setting in arguments.items()},
            "full_batch": full,
            "needs_full_batch": deterministic,
        },
    )
    residual, checked, where = _residual(context, full)
    if residual is None or checked == 0:
        return unknown(
            claim,
            f"{name} without momentum or weight decay, as recorded; no consecutive iterates show that the loop did "
            "nothing else (clipping, projection, averaging).",
            missing="consecutive iterates, with the step sizes and gradients between them",
            remedy="record theta at a window of consecutive steps; tame.audit(problem) does",
        )
    if residual > 1.0:
        return refuted(
            claim,
            f"The step after {where:,} is not alpha_k times the recorded gradient: it is off by {residual:.3g} times "
            "what rounding allows, so the loop does more than the recorded settings.",
            {"step": where, "residual_over_rounding": residual},
            method="consecutive iterates against the recorded step sizes and gradients",
            scope=Scope.RUN,
        )
    return proved(
        claim,
        f"{name} without momentum or weight decay"
        + (", on the whole data set" if full else "")
        + f", as recorded; {checked:,} recorded steps agree with it to rounding.",
        certificate,
        method="recorded settings; consecutive iterates checked for contradiction",
        scope=Scope.RUN,
        sample_size=checked,
    )


def _is_plain(setting: Any) -> bool:
    return setting is None or isinstance(setting, (bool, int, float, str))


def _departure(name: str, arguments: Mapping[str, Any]) -> str:
    """What makes the recorded rule more than theta - alpha g, or ""."""
    if name not in ("SGD", "GradientDescent"):
        return "it is another method"
    if arguments.get("momentum"):
        return f"momentum {arguments['momentum']:g}"
    if arguments.get("weight_decay"):
        return f"weight decay {arguments['weight_decay']:g}, a term of its own in F"
    if arguments.get("maximize"):
        return "it maximises"
    return ""


def _residual(context: Context, full: bool) -> tuple[float | None, int, int]:
    """(largest departure of a recorded step from alpha_k g_k in units of its rounding, steps checked, where).

    With the whole data the gradient is computed anew, for a few steps; else the recorded norm of the mini-batch
    gradient is compared with norm(theta_{k+1} - theta_k)/alpha_k.
    """
    run = context.run
    assert run is not None
    found = spans(run, least=2)
    if not found:
        return None, 0, 0
    first, last = found[-1]
    window = read_window(run, first, min(last, first + 200))
    if window is None:
        return None, 0, 0
    dtype = window.thetas.dtype
    eps = torch.finfo(dtype).eps
    thetas = window.thetas.to(torch.float64)
    moves = thetas.diff(dim=0)
    # theta - alpha g is rounded to half a unit in the last place of each coordinate of theta
    rounding = eps * thetas[:-1].norm(dim=1)
    worst, checked, where = 0.0, 0, first
    if full:
        # the run's own sum over samples is rounded relative to its terms, which do not vanish with the sum
        term = _sample_gradient_size(context, window.thetas[0])
        for row in range(0, moves.shape[0], max(1, moves.shape[0] // 4)):
            gradient = context.problem.gradient(window.thetas[row].to(context.problem.dtype)).to(torch.float64).cpu()
            alpha = window.alphas[row]
            off = float((moves[row] + alpha * gradient).norm())
            allowed = float(rounding[row]) + 100 * eps * alpha * max(float(gradient.norm()), term)
            worst, where = max((worst, where), (off / allowed if allowed else 0.0, int(window.steps[row])))
            checked += 1
        return worst, checked, where
    steps, norms = run.series("gradient_norm")
    position = np.searchsorted(steps, window.steps[:-1])
    if not steps.size or position.max() >= steps.size or not np.array_equal(steps[position], window.steps[:-1]):
        return None, 0, 0
    expected = window.alphas * norms[position]
    off = (moves.norm(dim=1).numpy() - expected).__abs__()
    # the recorded norm is a sum of squares in the run's dtype: some units of relative rounding
    allowed = rounding.numpy() + 30 * eps * expected
    ratio = np.where(allowed > 0, off / np.maximum(allowed, 1e-300), 0.0)
    return float(ratio.max()), int(ratio.size), int(window.steps[int(ratio.argmax())])


def _sample_gradient_size(context: Context, theta: torch.Tensor) -> float:
    """The root mean square of norm(grad l_i) over a few samples, 0 where there are none."""
    problem = context.problem
    if problem.is_function or not problem.batches.indexable:
        return 0.0
    gradients = problem.sample_gradients(theta.to(problem.dtype), torch.arange(min(32, problem.n)))
    return float(gradients.square().sum(1).mean().sqrt()) * (problem.n if problem.reduction == "sum" else 1)


# -- init --------------------------------------------------------------------------------------------------


def initial_law(context: Context) -> Finding:
    """Whether theta_0 was drawn from a law with a density."""
    claim = "init.absolutely_continuous"
    meta = context.run.meta if context.run is not None else {}
    law = meta.get("initial_law", context.problem.initial_law if context.run is None else None)
    if not law:
        return unknown(
            claim,
            "How theta_0 was chosen was not said.",
            missing="the law of the initial parameters",
            remedy="Problem(…, initial_law=\"uniform (torch's default initialisation), seed 0\"), or 'fixed'",
        )
    if law.startswith("fixed"):
        return refuted(
            claim,
            "theta_0 is a fixed start point, so statements for almost every start do not speak of it.",
            {"initial_law": law},
            method="recorded initial law",
            scope=Scope.RUN,
            remedy="start from a random perturbation of it",
        )
    rows = _parameter_rows(context.problem.model) if not context.problem.is_function else []
    fixed = [f"{row['module']}.{row['name']}" for row in rows if row["module"] in _CONSTANT_START]
    if "default initialisation" in law.lower() and fixed:
        return refuted(
            claim,
            f"theta_0 is not random in every coordinate: {', '.join(sorted(set(fixed)))} start at fixed numbers.",
            {"initial_law": law, "fixed": sorted(set(fixed))},
            method="recorded initial law; the module's default initialisation",
            scope=Scope.RUN,
        )
    whole = "default initialisation" not in law.lower()
    certificate = Certificate(
        f"{_CHECKER}:check_law", {"law": law, "d": context.problem.dim, "parameters": [] if whole else rows}
    )
    if not certificate.replay():
        return unknown(
            claim,
            f"The recorded law of theta_0 ({law}) is not one that is known to have a density.",
            missing="a law of the whole of theta_0 with a density",
            remedy="initialise every parameter from a normal or uniform law",
        )
    return proved(
        claim,
        f"theta_0 is drawn from a law with a density: {law} (as recorded; floating point makes the grid fine, not "
        "continuous).",
        certificate,
        method="recorded initial law",
        scope=Scope.RUN,
    )


_CONSTANT_START = {
    "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm1d",
    "InstanceNorm2d", "InstanceNorm3d", "RMSNorm", "PReLU",
}  # fmt: skip


def _parameter_rows(model: nn.Module) -> list[dict[str, Any]]:
    """One row a trainable parameter: the torch module it belongs to ("" for another class), its size, its fan-in."""
    rows, seen = [], set()
    for module in model.modules():
        kind = type(module)
        known = kind.__name__ if kind.__module__.startswith("torch.nn.modules.") else ""
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            weight = getattr(module, "weight", None)
            fan_in = weight[0].numel() if isinstance(weight, torch.Tensor) and weight.ndim > 1 else 0
            rows.append({"module": known, "name": name, "size": parameter.numel(), "fan_in": fan_in})
    return rows
