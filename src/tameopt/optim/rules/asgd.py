"""ASGD: stochastic gradient descent with decaying steps and an average of its iterates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar, Unpack

from tameopt.optim.arguments import Extras, Parameters, hyperparameters
from tameopt.optim.catalogue_entry import Entry
from tameopt.optim.functions import Value, maximum, where
from tameopt.optim.rule import Numbers, Options, Rule, Scalar, State
from tameopt.optim.torch_optimizer import RuleOptimizer


def states(options: Options) -> tuple[State, ...]:
    """The average of the iterates."""
    return (State("ax"),)


def flags(options: Options) -> dict[str, Any]:
    """What changes the arithmetic."""
    return {"maximize": options["maximize"], "decay": options["weight_decay"] != 0}


def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
    """This step's eta and mu, and the next ones: alpha / (1 + lambda alpha k)^p and 1 / max(1, k - t0)."""
    lr, lambd = options["lr"], options["lambd"]
    return {
        "eta": s.eta,
        "shrink": 1.0 - lambd * s.eta,
        "mu": s.mu,
        "weight_decay": options["weight_decay"],
    }, {
        "eta": lr / (1.0 + lambd * lr * s.step) ** options["alpha"],
        "mu": 1.0 / maximum(s.step - options["t0"], 1.0),
    }


def update(
    theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
) -> tuple[Value, dict[str, Value]]:
    """theta = (1 - lambda eta) theta - eta g; ax moves to theta by mu."""
    if on.maximize:
        g = -g
    if on.decay:
        g = g + c.weight_decay * theta
    theta = theta * c.shrink - c.eta * g
    return theta, {"ax": where(c.mu < 1.0, state.ax + (theta - state.ax) * c.mu, theta)}


RULE = Rule(
    "ASGD",
    states,
    flags,
    coefficients,
    update,
    (Scalar("eta", lambda options: options["lr"]), Scalar("mu", lambda options: 1.0)),
)


class ASGD(RuleOptimizer):
    """Averaged stochastic gradient descent (Polyak and Juditsky 1992) with torch.optim.ASGD's arguments and numbers.

    theta_{k+1} = (1 - lambd eta_k) theta_k - eta_k g_k with eta_k = lr / (1 + lambd lr k)^alpha. The state `ax`
    averages the iterates from step t0 on and is theta before; it is never copied into the parameters, so read it
    from `optimizer.state[parameter]["ax"]`.

    lr: eta_0 >= 0; lambd: decay; alpha: power of the decay of eta; t0: step at which averaging begins;
    weight_decay: added to g as weight_decay * theta.
    """

    rule = RULE
    ranges: ClassVar = {"alpha": "any"}

    def __init__(
        self,
        params: Parameters,
        lr: Any = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(params, hyperparameters(locals()), **extras)


ENTRY = Entry(
    "ASGD",
    ASGD,
    "theta = (1 - lambda eta_k) theta - eta_k g; ax = ax + mu_k (theta - ax)",
    "Robbins and Monro 1951; Polyak and Juditsky 1992",
    variants={"averaging": {"t0": 2, "lambd": 0.01, "weight_decay": 0.1, "maximize": True}},
)
