"""SparseAdam: Adam on the rows of an embedding that the batch has touched."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, sqrt
from tameopt.optim.rule import Numbers, Options, Rule, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """m and v."""
    return (State("exp_avg"), State("exp_avg_sq"))


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"maximize": options["maximize"]}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """alpha sqrt(1 - beta2^k) / (1 - beta1^k): the corrections leave eps uncorrected, as in Keras."""
    beta1, beta2 = options["betas"]
    return {
        "step": options["lr"] * sqrt(1.0 - beta2**s.step) / (1.0 - beta1**s.step),
        "take1": 1.0 - beta1,
        "take2": 1.0 - beta2,
        "eps": options["eps"],
    }, {}


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """Adam's step, eps added before the correction."""
    if on.maximize:
        g = -g
    m = state.exp_avg + c.take1 * (g - state.exp_avg)
    v = state.exp_avg_sq + c.take2 * (g * g - state.exp_avg_sq)
    return theta - c.step * (m / (sqrt(v) + c.eps)), {"exp_avg": m, "exp_avg_sq": v}


def sparse(options: Options) -> str:
    """Sparse gradients only."""
    return "only"


RULE = Rule("SparseAdam", states, flags, coefficients, update, sparse=sparse)


class SparseAdam(RuleOptimizer):
    """SparseAdam with torch.optim.SparseAdam's arguments, defaults and numbers.

    Only the rows that the sparse gradient names are read or written; k counts all steps, so a row that is seldom
    touched has its averages corrected as if it had been touched each time. A gradient without rows counts a step.

    lr: alpha_k > 0; betas: in [0, 1); eps > 0.
    """

    rule = RULE
    ranges: ClassVar = {"lr": "> 0", "eps": "> 0"}

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)
        for group in self.param_groups:
            for place, parameter in enumerate(group["params"]):
                if parameter.is_sparse:
                    raise ValueError(
                        f"SparseAdam needs dense parameters, number {place} is sparse: call .to_dense()."
                    )
                if parameter.is_complex():
                    raise ValueError(f"SparseAdam needs real parameters, number {place} is complex: use Adam.")


ENTRY = Entry(
    "SparseAdam",
    SparseAdam,
    "on the rows of g: m, v as Adam's; theta = theta - alpha sqrt(1-b2^k) / (1-b1^k) m / (sqrt(v) + eps)",
    "Kingma and Ba 2015; torch's masked form",
    gradients="sparse",
    variants={"maximize": {"lr": 0.1, "betas": (0.5, 0.9), "maximize": True}},
)
