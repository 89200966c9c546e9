"""Is the loss least squares? Found out by calling it at outputs and targets of our choice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tameopt.problem import Problem

_PROBES = 6


@dataclass(frozen=True)
class LeastSquares:
    """F(theta) = scale * norm(outputs - targets)^2 as far as probing tells, or why not.

    holds: whether every probe agreed; known: whether it is torch's own mean squared error (nothing is assumed);
    scale: of the total over all samples (1/(n k) for torch's mean mse);
    error: largest relative disagreement; reason: when it does not hold.
    """

    holds: bool
    scale: float
    error: float
    reason: str = ""
    known: bool = False

    @property
    def assumption(self) -> str:
        """What a proof about F assumes of the loss, as a sentence; "" for torch's own."""
        if self.known:
            return ""
        return (
            f"This assumes that the loss is {self.scale:.4g} norm(outputs - targets)^2, which {2 * _PROBES} probes "
            "found it to be."
        )


def least_squares(problem: Problem, seed: int = 0) -> LeastSquares:
    """Probe loss(output, target) = c norm(output - target)^2 on the first samples, at random outputs.

    Six probes at scales from 1e-2 to 1e2 about the targets, all in the problem's dtype; a Huber loss shows at
    the large ones, label smoothing or class indices at once. Evidence by values: it measures, it never proves.
    """
    if problem.is_function or problem.forward is not None or problem.loss is None:
        return LeastSquares(False, float("nan"), float("nan"), "the problem has no loss(output, target) to probe")
    batch = next(iter(problem.batches))
    target = batch[-1]
    if not isinstance(target, torch.Tensor) or not target.is_floating_point():
        return LeastSquares(False, float("nan"), float("nan"), "the targets are not floating tensors")
    with torch.no_grad():
        output = problem.batch_output(problem.unflatten(problem.theta), batch, True)
    if output.shape != target.shape:
        shapes = f"{tuple(output.shape)} against {tuple(target.shape)}"
        return LeastSquares(False, float("nan"), float("nan"), f"outputs and targets differ in shape: {shapes}")
    generator = torch.Generator().manual_seed(seed)
    count = min(8, target.shape[0])
    target = target[:count]
    ratios = []
    for scale in torch.logspace(-2, 2, _PROBES).tolist():
        offset = scale * torch.randn(target.shape, generator=generator, dtype=torch.float64).to(target)
        # one entry alone as well: a loss that weighs its entries shows
        for shift in (
            offset,
            torch.zeros_like(offset).view(-1).index_fill(0, torch.tensor([0]), scale).view_as(offset),
        ):
            with torch.no_grad():
                value = problem.loss(target + shift, target)
            moved = (target + shift) - target
            ratios.append(float(value.double().sum()) / float(moved.double().square().sum()))
    spread = max(ratios) - min(ratios)
    error = spread / abs(ratios[0]) if ratios[0] else float("inf")
    eps = torch.finfo(problem.dtype).eps
    # target + shift loses the shift's low bits when the target is larger: relative error eps |target| / |shift|
    tolerance = 1e4 * eps * (1.0 + float(target.abs().max()))
    if not error < tolerance:
        return LeastSquares(False, float("nan"), error, f"loss / norm(output - target)^2 varies by {error:.2g}")
    per_batch = ratios[0]
    total = per_batch if problem.reduction != "mean" else per_batch * count / problem.n
    if problem.reduction == "none":
        total = per_batch / problem.n
    known = type(problem.loss) is torch.nn.MSELoss or problem.loss is torch.nn.functional.mse_loss
    return LeastSquares(True, total, error, known=known)
