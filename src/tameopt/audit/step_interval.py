"""Which step sizes suit this point: from curvature, from gradient noise, as a whole and group by group.

Curvature and noise are those of the loss as trained: dropout draws masks and BatchNorm normalises by its batch.
Everything here is local: it is true of the quadratic model of F at one theta, and curvature moves as training goes
on. The statements say so, and nothing here proves anything about later steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tameopt.audit.best_step import BestStep, best_step
from tameopt.curvature import stability_limit
from tameopt.curvature.eigenvalues import DENSE_BELOW
from tameopt.curvature.trained import TrainedLoss, inverse_root, top_curvature
from tameopt.evidence import Cost
from tameopt.linear_operator import SymmetricOperator
from tameopt.problem import Problem

_GROUP_RESIDUAL = 1e-2  # our choice: a Ritz value's error is quadratic in its residual, so some four digits
# our choice: once four eigenvalues have converged from one vector, what the top may lie beyond is some tenth of it
_SOUGHT = 4
_MOST_GROUPS = 8  # our choice: each costs a Lanczos run; the largest groups are measured, the others named


@dataclass(frozen=True)
class GroupSteps:
    """The steps that one group of parameters bears when the others stand still.

    name, size: of the group. lambda_max: largest eigenvalue of its diagonal block of the Hessian, lower bound up to
    rounding, or of 95% confidence for a loss that differs from draw to draw; lambda_upper: not exceeded except with
    probability 1% (inf when unknown), 5% for such a loss. descent: 1/lambda_max; limit: (low, high), where the
    stability limit lies, inf when it curves nowhere up, both with weight decay.
    """

    name: str
    size: int
    lambda_max: float
    lambda_upper: float
    descent: float
    limit: tuple[float, float]


@dataclass(frozen=True)
class StepInterval:
    """What is known about the step at theta.

    method: whose stability limit this is; factor: alpha lambda_max must stay below it, None when the method has no
    such limit (reason says why). whole: all parameters as one group; groups: the largest of them.
    left_out: names of groups that were not measured. function: what the curvature is of where that is not F; varies:
    whether it differs from draw to draw. decay: coupled weight decay, added to every eigenvalue. preconditioned:
    lambda_max is that of P^-1 (H + decay). noisy: steps are taken with mini-batches, whose noise no limit counts.
    interrupted: by Ctrl-C, after the whole was measured; what is missing is in left_out, or is `best`.
    """

    method: str
    factor: float | None
    reason: str
    whole: GroupSteps
    groups: tuple[GroupSteps, ...]
    left_out: tuple[str, ...]
    best: BestStep | None
    gradient_norm: float
    cost: Cost
    function: str = ""
    varies: bool = False
    decay: float = 0.0
    preconditioned: bool = False
    noisy: bool = False
    interrupted: bool = False

    def sentences(self) -> tuple[str, ...]:
        """The answer in words, most useful first."""
        said = [*self._about_the_limit()]
        if self.factor is None or self.factor == 2:  # else a step of 1/lambda_max is no descent step of the method
            said.extend(self._about_descent())
        if self.best is not None:
            said.append(self._about_noise(self.best))
        if self.function:
            said.append(f"All of this is measured on {self.function}: F as the network predicts is another function.")
        if self.interrupted:
            said.append("Interrupted: this is what had been measured by then.")
        return tuple(said)

    def _about_the_limit(self) -> tuple[str, ...]:
        low, high = self.whole.limit
        if self.factor is None:
            return (f"No stability limit of {self.method.partition(',')[0]} is given: {self.reason}.",)
        sure = "95%, the curvature differs from draw to draw" if self.varies else "99%"
        sure += ", noise of mini-batches left out" if self.noisy else ""
        if math.isinf(high):
            if self.varies and self.whole.lambda_upper > 0:
                return (
                    f"Whether curvature sets a limit is not known: lambda_max lies between "
                    f"{self.whole.lambda_max:.3g} and {self.whole.lambda_upper:.3g} (95%), it differs from draw to "
                    f"draw. A step below {low:.3g} is stable on the local quadratic.",
                )
            if self.varies:
                return ("The loss curves up in no direction found, in none of the draws: no limit was found.",)
            return ("The loss curves up in no direction found: curvature sets no limit here.",)
        of = " of P^-1 H, P frozen," if self.preconditioned else ""
        top = "lambda_max"
        if self.decay and not self.preconditioned:
            top = f"(lambda_max + {self.decay:g})"
        first = (
            f"A step above {high:.3g} is unstable here: {self.method.partition(',')[0]} needs alpha {top} < "
            f"{self.factor:.4g}, and lambda_max{of} is at least {self.whole.lambda_max:.4g}"
            f"{' (95%)' if self.varies else ''}."
        )
        if not low > 0:
            return (first, "How small a step has to be for stability is not known: larger eigenvalues may be missed.")
        if low > 0.98 * high:  # our choice: two percent of a step are not worth a sentence
            return (first, f"A step below {low:.3g} is stable on the local quadratic ({sure}).")
        return (
            first,
            f"A step below {low:.3g} is stable on the local quadratic ({sure}); between the two nothing is known.",
        )

    def _about_descent(self) -> tuple[str, ...]:
        if self.preconditioned or math.isinf(self.whole.descent):
            return ()
        upper = self.whole.lambda_upper + self.decay
        name = f"1/(lambda_max + {self.decay:g})" if self.decay else "1/lambda_max"
        if math.isfinite(upper) and upper > 0:
            below, sure = 1 / upper, " (95%)" if self.varies else " (99%)"
        else:
            below, sure = self.whole.descent, ", as far as lambda_max was found"
        words = "lowers the local quadratic" if not self.varies else "lowers the local quadratic in expectation"
        return (f"Below {name} = {below:.3g} each full-batch gradient step {words}{sure}.",)

    def _about_noise(self, best: BestStep) -> str:
        if not math.isfinite(best.alpha):
            return f"No best step along the gradient is given: {best.reason}."
        low, high = best.interval
        noise = ""
        if best.samples and best.without_noise > 0 and math.isfinite(best.without_noise):
            noise = f"; without noise it would be {best.without_noise:.3g}"
        once = " (once: repeated, it would be unstable)" if best.alpha > self.whole.limit[1] else ""
        batches = f"With batches of {best.batch_size:,} the" if best.samples else "The"
        span = f" [{low:.3g}, {high:.3g}]" if best.samples else ""
        return (
            f"{batches} single step that lowers the local quadratic most in expectation is "
            f"{best.alpha:.3g}{span}{noise}{once}."
        )


def step_interval(
    problem: Problem,
    theta: torch.Tensor | None = None,
    *,
    optimizer: str = "SGD",
    arguments: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    replacement: bool = True,
    moments: torch.Tensor | None = None,
    seed: int = 0,
) -> StepInterval:
    """The steps that suit theta: (d,), by default the model's parameters now.

    optimizer, arguments: whose stability limit is wanted, with PyTorch's argument names. batch_size: None is the full
    batch; replacement: how batches are drawn. moments: (d,) the optimizer's second moments at theta, bias-corrected,
    for the limit of Adam and its relatives. Costs some tens of Hessian products a group and for the noise.

    Where modules behave otherwise in training, some eight times as many, over draws of masks and batches.

    Raises ValueError for a theta at which F, its gradient or its curvature is not finite.

    >>> problem = Problem.from_function(lambda t: 5 * t[0] ** 2 + t[1] ** 2, torch.ones(2).double())
    >>> found = step_interval(problem)
    >>> round(found.whole.descent, 6), round(found.whole.limit[1], 6)
    (0.1, 0.2)
    """
    begun = time.perf_counter()
    at = problem.theta if theta is None else theta
    trained = TrainedLoss.of(problem, batch_size, seed)
    value, gradient = trained.draws[0].value_and_gradient(at)
    if not (bool(torch.isfinite(value)) and bool(torch.isfinite(gradient).all())):
        raise ValueError(f"F and its gradient must be finite at theta, F is {float(value):.4g}: no step can be told.")
    limit = stability_limit(optimizer, arguments)
    factor, reason, scaling = limit.limit, limit.reason, None
    if limit.preconditioner and moments is None:
        reason = f"it depends on the state of {optimizer} ({limit.preconditioner}); ask about a recorded run"
        factor = None
    elif limit.preconditioner and moments is not None:
        scaling = inverse_root(trained, at, moments.to(problem.device), limit.decay, limit.epsilon)
    generator = torch.Generator().manual_seed(seed)
    scene = _Scene(trained, at, trained.hessian(at), scaling, limit.decay, factor, generator)
    whole, products = scene.group("all parameters", None, None)
    groups, left_out = _groups(problem)
    parts: list[GroupSteps] = []
    best, interrupted = None, False
    try:
        for name, chosen in groups:
            part, used = scene.group(name, chosen, _GROUP_RESIDUAL)
            parts.append(part)
            products += used
        # with momentum or a preconditioner the update is not along the mini-batch gradient
        if limit.method == "gradient descent":
            best, used = best_step(trained, problem, at, scene.hessian, limit.decay, replacement, generator)
            products += used
    except KeyboardInterrupt:
        interrupted = True
        left_out = (*(name for name, _ in groups[len(parts) :]), *left_out)
    cost = Cost(1.0, float(products), time.perf_counter() - begun)
    return StepInterval(
        limit.method, factor, reason, whole, tuple(parts), left_out, best, float(gradient.norm()), cost,
        trained.words, bool(trained.fresh), limit.decay, scaling is not None, trained.batch_size is not None,
        interrupted,
    )  # fmt: skip


@dataclass(frozen=True)
class _Scene:
    """Where the groups are measured: of which loss, at which theta, for which method."""

    trained: TrainedLoss
    theta: torch.Tensor
    hessian: SymmetricOperator
    scaling: torch.Tensor | None
    decay: float
    factor: float | None
    generator: torch.Generator

    def group(self, name: str, coordinates: torch.Tensor | None, tolerance: float | None) -> tuple[GroupSteps, int]:
        """The steps of one group (None: of all), and the Hessian products used."""
        top = top_curvature(
            self.trained,
            self.theta,
            hessian=self.hessian,
            scaling=self.scaling,
            decay=self.decay,
            coordinates=coordinates,
            sought=_SOUGHT if coordinates is None else 1,
            block_size=1 if coordinates is None else 2,
            tolerance=tolerance,
            dense_below=DENSE_BELOW if coordinates is None else 16,
            max_products=None,
            generator=self.generator,
        )
        if not math.isfinite(top.most):
            why = top.found.failure or "below the rounding of its products"
            raise ValueError(f"the curvature of {name} is not known at theta ({why}): no step can be told.")
        least, most, factor = top.least, top.most + top.missed, self.factor
        limits = (0.0, math.inf)
        if factor is not None:
            limits = (factor / most if 0 < most < math.inf else 0.0, factor / least if least > 0 else math.inf)
        descent = 1.0 / least if least > 0 else math.inf
        size = self.hessian.dim if coordinates is None else coordinates.numel()
        added = self.decay if self.scaling is None else 0.0
        return GroupSteps(name, size, least - added, most - added, descent, limits), top.products


def _groups(problem: Problem) -> tuple[list[tuple[str, torch.Tensor]], tuple[str, ...]]:
    """The coordinates of each module's own parameters, the largest modules; and the names of the others."""
    members: dict[str, list[torch.Tensor]] = {}
    start = 0
    for key, shape in problem.shapes.items():
        size = math.prod(shape)
        module = key.rpartition(".")[0] or key
        members.setdefault(module, []).append(torch.arange(start, start + size))
        start += size
    if len(members) < 2:
        return [], ()
    joined = {name: torch.cat(parts) for name, parts in members.items()}
    ranked = sorted(joined, key=lambda name: -joined[name].numel())
    kept = set(ranked[:_MOST_GROUPS])
    return [(name, joined[name]) for name in joined if name in kept], tuple(ranked[_MOST_GROUPS:])
