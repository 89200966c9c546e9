"""L-BFGS: Newton's method with the curvature of the last steps, and a strong Wolfe line search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch

from tameopt.optim import checks
from tameopt.optim.arguments import Extras, Parameters, checked_extras
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.wolfe import strong_wolfe

# y.s must exceed this for a pair to be kept (torch's constant): below, the pair has no reliable curvature
_SMALLEST_CURVATURE = 1e-10


class LBFGS(torch.optim.Optimizer):
    """L-BFGS (Nocedal 1980; Liu and Nocedal 1989) with torch.optim.LBFGS's arguments, defaults and numbers.

    Each inner iteration moves along d = -H g, where H is the inverse Hessian that the last `history_size` pairs
    (s, y) of steps and gradient changes define, from H_0 = (y.s / y.y) I. `step(closure)` makes up to `max_iter`
    iterations and calls the closure up to about `max_eval` times.

    lr: step length (the first step is lr min(1, 1 / sum |g|)); tolerance_grad: stop at max |g| below it;
    tolerance_change: stop when the loss or theta moves less; line_search_fn: None or "strong_wolfe" (c1 = 1e-4,
    c2 = 0.9), which makes the loss decrease at every iteration when it evaluates the whole training set.

    One parameter group. Memory: (2 history_size + 3) times the parameters.
    """

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        checks.in_ranges({"lr": lr})
        if line_search_fn not in (None, "strong_wolfe"):
            raise ValueError(f"line_search_fn must be None or 'strong_wolfe', got {line_search_fn!r}: choose one.")
        self.extras = checked_extras(extras, ("auto", "eager"))
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise ValueError(
                f"LBFGS needs one parameter group, got {len(self.param_groups)}: its line search moves all "
                "parameters together. Pass one list."
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict()` of this optimizer, or of torch's, returned.

        Raises ValueError when the state belongs to another optimizer or to other parameters.
        """
        kept = next(iter(state_dict["state"].values()), None)
        if kept is not None and "n_iter" not in kept:
            raise ValueError(
                f"the state has {', '.join(kept)}, LBFGS keeps n_iter, d, ...: it belongs to another one."
            )
        size = sum(p.numel() * (2 if p.is_complex() else 1) for p in self.param_groups[0]["params"])
        if kept is not None and "d" in kept and kept["d"].numel() != size:
            raise ValueError(
                f"state 'd' must have {size} elements as the parameters, got {kept['d'].numel()}: "
                "it belongs to another model."
            )
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "extras": self.extras}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Up to `max_iter` iterations.

        closure: clears the gradients, re-evaluates the loss, calls backward and returns the loss. Returns the loss
        before the step.
        """
        if closure is None:
            raise TypeError("LBFGS.step needs a closure that re-evaluates the loss: its line search calls it.")
        closure = torch.enable_grad()(closure)
        options = self.param_groups[0]
        state = self.state[options["params"][0]]  # where torch keeps it
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first_loss = closure()
        loss, g = float(first_loss), self._gradient()
        evaluations = 1
        state["func_evals"] += 1
        if bool(g.abs().max() <= options["tolerance_grad"]):
            return first_loss
        for iteration in range(1, options["max_iter"] + 1):
            state["n_iter"] += 1
            self._update_direction(state, g, options["history_size"])
            direction = state["d"]
            previous_loss = state["prev_loss"] = loss
            state["prev_flat_grad"] = g.clone()
            lr = float(options["lr"])
            t = min(1.0, 1.0 / float(g.abs().sum())) * lr if state["n_iter"] == 1 else lr
            state["t"] = t
            slope = float(g.dot(direction))
            if slope > -options["tolerance_change"]:
                break
            used = 0
            if options["line_search_fn"] == "strong_wolfe":
                start = [p.clone(memory_format=torch.contiguous_format) for p in options["params"]]

                def evaluate(
                    length: float, start: list[torch.Tensor] = start, direction: torch.Tensor = direction
                ) -> tuple[float, torch.Tensor]:
                    self._move(length, direction)
                    value = float(closure())
                    gradient = self._gradient()
                    for p, kept in zip(options["params"], start, strict=True):
                        p.copy_(kept)
                    return value, gradient

                budget = options["max_eval"] - evaluations
                loss, g, t, used = strong_wolfe(
                    evaluate, direction, t, loss, g, slope, options["tolerance_change"], budget
                )
                state["t"] = t
                self._move(t, direction)
            else:
                self._move(t, direction)
                if iteration != options["max_iter"]:  # the loss after the last iteration is not used
                    loss, g = float(closure()), self._gradient()
                    used = 1
            evaluations += used
            state["func_evals"] += used
            if (
                evaluations >= options["max_eval"]
                or bool(g.abs().max() <= options["tolerance_grad"])
                or bool((direction * t).abs().max() <= options["tolerance_change"])
                or abs(loss - previous_loss) < options["tolerance_change"]
            ):
                break
        return first_loss

    def _update_direction(self, state: dict[str, Any], g: torch.Tensor, history: int) -> None:
        """d = -H g by the two-loop recursion (Nocedal 1980), after taking in the last pair (s, y)."""
        if state["n_iter"] == 1:
            state.update(d=-g, old_dirs=[], old_stps=[], ro=[], H_diag=1)
            return
        y, s = g - state["prev_flat_grad"], state["d"] * state["t"]
        curvature = y.dot(s)
        gradients, steps, inverse = state["old_dirs"], state["old_stps"], state["ro"]
        if bool(curvature > _SMALLEST_CURVATURE):
            if len(gradients) == history:
                for each in (gradients, steps, inverse):
                    each.pop(0)
            gradients.append(y)
            steps.append(s)
            inverse.append(1.0 / curvature)
            state["H_diag"] = curvature / y.dot(y)
        q = -g
        weights = []
        for y, s, rho in zip(reversed(gradients), reversed(steps), reversed(inverse), strict=True):
            weights.append(s.dot(q) * rho)
            q.add_(y, alpha=-weights[-1])
        d = q * state["H_diag"]
        for y, s, rho, weight in zip(gradients, steps, inverse, reversed(weights), strict=True):
            d.add_(s, alpha=weight - y.dot(d) * rho)
        state["d"] = d

    def _gradient(self) -> torch.Tensor:
        """All gradients as one vector of reals; zeros where there is none."""
        flat = []
        for p in self.param_groups[0]["params"]:
            g = torch.zeros_like(p) if p.grad is None else p.grad.to_dense() if p.grad.is_sparse else p.grad
            flat.append((torch.view_as_real(g) if g.is_complex() else g).reshape(-1))
        return torch.cat(flat)

    def _move(self, length: Any, direction: torch.Tensor) -> None:
        """theta += length * direction."""
        offset = 0
        for p in self.param_groups[0]["params"]:
            real = torch.view_as_real(p) if p.is_complex() else p
            real.add_(direction[offset : offset + real.numel()].view(real.shape), alpha=length)
            offset += real.numel()


ENTRY = Entry(
    "LBFGS",
    LBFGS,
    "d = -H g from the last pairs (s, y); theta = theta + t d with t from a strong Wolfe line search",
    "Nocedal 1980; Liu and Nocedal 1989; Nocedal and Wright 2006, algorithm 3.5 (line search)",
    gradients="closure",
    variants={"strong Wolfe": {"line_search_fn": "strong_wolfe"}, "short history": {"history_size": 3, "lr": 0.5}},
)
