"""PALM and iPALM: proximal alternating linearized minimization, its hypotheses checked at every step.

    x_i <- prox_{t_i f_i}(y_i - t_i grad_i H(.., y_i, ..)),  t_i = 1 / (gamma L_i),  y_i = x_i + beta (x_i - x_i^old)

over the blocks i in turn, for H(x_1, .., x_p) + sum f_i(x_i). With H of block-Lipschitz gradients, F tame and
bounded iterates, the trajectory has finite length and converges to a critical point (Bolte, Sabach & Teboulle 2014,
Theorem 1; beta > 0: Pock & Sabach 2016). L_i is computed from the other blocks where a formula is given; otherwise
the step is halved until the descent inequality, which is all that the proof asks of L_i, holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from tameopt.nonsmooth.proximal_gradient import as_shape, name_of, regularised, resolved


@dataclass(frozen=True)
class PalmReport:
    """What the steps of PALM have verified so far.

    steps: block steps made. violations: block steps at which the descent inequality of the block failed (0: the
        hypothesis on the step holds along the run). least_modulus, largest_modulus: the range of L_i used.
    length: sum of norm(x_{k+1} - x_k); last_move: its last term. recent_ratio: last_move over the one ten passes
        before, to the power 1/10: below 1 the tail is a geometric series as far as seen.
    """

    steps: int
    violations: int
    least_modulus: float
    largest_modulus: float
    length: float
    last_move: float
    recent_ratio: float

    @property
    def step_hypothesis_holds(self) -> bool:
        """Every block step satisfied its descent inequality."""
        return self.steps > 0 and self.violations == 0

    def __repr__(self) -> str:
        words = "descent inequality holds" if self.step_hypothesis_holds else f"{self.violations} violations"
        return (
            f"PalmReport({self.steps} block steps, {words}, L in [{self.least_modulus:.3g}, "
            f"{self.largest_modulus:.3g}], length {self.length:.4g}, last move {self.last_move:.2e})"
        )


class PALM(Optimizer):
    """Proximal alternating linearized minimization over parameter groups; each group is one block.

    params: groups {"params": [...], "prox": name or entry, "strength": lam, "options": {...}, "lipschitz": f};
        `lipschitz`: () -> L_i, the Lipschitz constant of grad_i H for the other blocks as they are now, None to
        find it by backtracking.
    gamma: > 1 (or >= 1 for convex blocks): the step is 1 / (gamma L_i). inertia: beta in [0, 1), iPALM; with
        beta > 0 the descent inequality is checked at the extrapolated point.

    `step(closure)` needs a closure that returns the smooth part H and makes no backward call; it is called once a
    block for the gradient, and once for each step tried, to test the descent inequality. A formula that is no upper
    bound is not corrected, its steps count as violations in `report()`.

    >>> x = torch.nn.Parameter(torch.tensor([3.0])); y = torch.nn.Parameter(torch.tensor([2.0]))
    >>> blocks = [{"params": [x], "prox": "nonnegative"}, {"params": [y], "prox": "nonnegative"}]
    >>> optimizer = PALM(blocks)
    >>> for _ in range(200): _ = optimizer.step(lambda: ((x * y - 1) ** 2).sum())
    >>> round(float((x * y).detach()), 4)
    1.0
    """

    def __init__(self, params: Iterable[Any], *, gamma: float = 1.01, inertia: float = 0.0) -> None:
        if not gamma >= 1:
            raise ValueError(f"gamma must be >= 1, got {gamma}: the step 1 / (gamma L) may not exceed 1 / L.")
        if not 0 <= inertia < 1:
            raise ValueError(f"inertia must be in [0, 1), got {inertia}.")
        defaults: dict[str, Any] = {"prox": None, "strength": 1.0, "options": {}, "lipschitz": None}
        super().__init__(params, defaults)
        for group in self.param_groups:
            group["prox"] = resolved(group["prox"])
            # for the record of a run: the settings, and the step of the last pass
            group |= {"penalty": name_of(group["prox"]), "gamma": gamma, "momentum": inertia, "lr": math.nan}
        self.gamma, self.inertia = gamma, inertia
        self._moduli = [1.0] * len(self.param_groups)
        self._history: dict[str, Any] = {"steps": 0, "violations": 0, "least": math.inf, "largest": 0.0, "moves": []}

    def step(self, closure: Callable[[], torch.Tensor] | None = None) -> torch.Tensor:  # type: ignore[override]
        """One pass over the blocks; returns H before the pass.

        Raises TypeError without a closure.
        """
        if closure is None:
            raise TypeError("PALM needs a closure that returns the smooth part H: a block's gradient is taken there.")
        first: torch.Tensor | None = None
        moved = 0.0
        for number, group in enumerate(self.param_groups):
            value, move = self._block(number, group, closure)
            first = value if first is None else first
            moved += move
        self._history["moves"].append(math.sqrt(moved))
        assert first is not None
        return first

    def _block(
        self, number: int, group: dict[str, Any], closure: Callable[[], torch.Tensor]
    ) -> tuple[torch.Tensor, float]:
        params = group["params"]
        old = [p.detach().clone() for p in params]
        if self.inertia:
            with torch.no_grad():
                for p in params:
                    p.add_(p - self.state[p].get("previous", p), alpha=self.inertia)
        base = [p.detach().clone() for p in params]
        with torch.enable_grad():
            value = closure()
            gradients = torch.autograd.grad(value, params, materialize_grads=True)
        given = group["lipschitz"]
        # Without a formula start a little below the last modulus, so that it can also shrink.
        modulus = float(given()) if given is not None else 0.7 * self._moduli[number]
        modulus = max(modulus, 1e-12)
        while True:
            holds, clear = self._try(group, base, gradients, modulus, float(value.detach()), closure)
            if holds and not clear and given is None and modulus < self._moduli[number]:
                modulus = self._moduli[number]  # below rounding nothing speaks for a smaller one
                continue
            if holds or given is not None or modulus > 1e30:
                break
            modulus *= 2
        self._note(number, modulus, holds)
        group["lr"] = 1 / (self.gamma * modulus)
        move = 0.0
        for p, before in zip(params, old, strict=True):
            self.state[p]["previous"] = before
            move += float((p.detach() - before).square().sum())
        return value.detach(), move

    @torch.no_grad()
    def _try(
        self,
        group: dict[str, Any],
        base: list[torch.Tensor],
        gradients: tuple[torch.Tensor, ...],
        modulus: float,
        value: float,
        closure: Callable[[], torch.Tensor],
    ) -> tuple[bool, bool]:
        """Make the block step with this modulus; whether H(new) <= H + <g, d> + L norm(d)^2 / 2 at the step d, and
        whether rounding leaves that clear."""
        t = 1 / (self.gamma * modulus)
        linear = square = 0.0
        for p, at, g in zip(group["params"], base, gradients, strict=True):
            new = at - t * g
            if group["prox"] is not None:
                new = regularised(new, group["prox"], t * group["strength"], group["options"])
            p.copy_(new)
            linear += float((g * (new - at)).sum())
            square += float((new - at).square().sum())
        after = float(closure())
        slack = 64 * torch.finfo(base[0].dtype).eps * (abs(value) + abs(after))
        quadratic = modulus * square / 2
        return after <= value + linear + quadratic + slack, slack <= 1e-3 * quadratic

    def _note(self, number: int, modulus: float, holds: bool) -> None:
        self._moduli[number] = modulus
        history = self._history
        history["steps"] += 1
        history["violations"] += not holds
        history["least"], history["largest"] = min(history["least"], modulus), max(history["largest"], modulus)

    def report(self) -> PalmReport:
        """What has been verified so far."""
        moves = self._history["moves"]
        last = moves[-1] if moves else 0.0
        ratio = (last / moves[-11]) ** 0.1 if len(moves) > 10 and moves[-11] > 0 else math.nan
        return PalmReport(
            self._history["steps"],
            self._history["violations"],
            self._history["least"],
            self._history["largest"],
            float(sum(moves)),
            last,
            ratio,
        )

    @torch.no_grad()
    def regularizer(self) -> torch.Tensor:
        """sum of lam f_i over the blocks."""
        total = torch.zeros(())
        for group in self.param_groups:
            prox = group["prox"]
            for p in group["params"] if prox is not None else []:
                total = total + group["strength"] * prox.evaluate(as_shape(p, prox), **group["options"]).cpu()
        return total
