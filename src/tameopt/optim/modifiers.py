"""What may be done around any rule, in the same pass over memory: scale or bound g, shrink theta, average theta.

`modify(rule, modifiers)` is again a rule, so engines, state_dict and laws know nothing of it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from tameopt.optim.functions import Value, clip, dithered, same, stored, where
from tameopt.optim.rule import Numbers, Options, Rule, State

AVERAGE = "average"


@dataclass(frozen=True)
class Modifiers:
    """Which of them are on.

    scale: g is multiplied by the step's `g_scale` (unscaling, clipping by a norm); bound: g is moved into
    [-g_bound, g_bound]; shrink: theta -= lr * weight_decay * theta before the step, from the group's options (Keras'
    weight decay); average: keep an exponential average of theta, and write it back every so often (Keras' EMA).

    low_precision, for parameters of 16 bits: "nearest" rounds theta when it is stored; "kahan" keeps what rounding
    lost in a second 16-bit tensor; "master" keeps theta in float32 beside it; "stochastic" (bfloat16) rounds up or
    down at random, without more memory.
    """

    scale: bool = False
    bound: bool = False
    shrink: bool = False
    average: bool = False
    low_precision: str = "nearest"


_PRECISION_STATES = {
    "kahan": (State("compensation"),),
    "master": (State("master", dtype=torch.float32, copies_theta=True),),
}


@functools.cache
def modify(rule: Rule, modifiers: Modifiers) -> Rule:
    """The rule with what is on around it; the rule itself when nothing is."""
    if modifiers == Modifiers():
        return rule

    def states(options: Options) -> tuple[State, ...]:
        kept = rule.states(options)
        if modifiers.average:
            kept = (*kept, State(AVERAGE))
        return (*kept, *_PRECISION_STATES.get(modifiers.low_precision, ()))

    def flags(options: Options) -> dict[str, Any]:
        shrinks = modifiers.shrink and options["weight_decay"] != 0
        writes_back = modifiers.average and options["ema_overwrite_frequency"] is not None
        return {**rule.flags(options), "around_shrink": shrinks, "around_back": writes_back}

    def coefficients(options: Options, s: SimpleNamespace) -> tuple[Numbers, Numbers]:
        numbers, scalars = rule.coefficients(options, s)
        if modifiers.scale:
            numbers["g_scale"] = s.g_scale
        if modifiers.bound:
            numbers["g_bound"], numbers["g_minus_bound"] = s.g_bound, -s.g_bound
        if modifiers.shrink:
            numbers["around_decay"] = options["weight_decay"] * options["lr"]
        if modifiers.average:
            keep = where(s.step > 1.0, options["ema_momentum"], 0.0)
            numbers["average_begins"] = s.first
            every = options["ema_overwrite_frequency"]
            numbers["average_keep"], numbers["average_take"] = keep, 1.0 - keep
            numbers["average_back"] = 0.0 if every is None else where(s.step % every < 0.5, 1.0, 0.0)
        if modifiers.low_precision == "stochastic":
            numbers["dither_seed"] = (s.step * 7919 + s.place * 104729) % (1 << 24)
        return numbers, scalars

    def update(
        theta: Value, g: Value, state: SimpleNamespace, c: SimpleNamespace, on: SimpleNamespace
    ) -> tuple[Value, dict[str, Value]]:
        if modifiers.low_precision == "kahan":
            theta = theta + state.compensation
        elif modifiers.low_precision == "master":  # somebody who writes to the parameter means it
            theta = where(same(stored(state.master, on.storage), theta), state.master, theta)
        before = theta
        if modifiers.scale:
            g = g * c.g_scale
        if modifiers.bound:
            g = clip(g, c.g_minus_bound, c.g_bound)
        if on.around_shrink:
            theta = theta - theta * c.around_decay
        theta, new = rule.update(theta, g, state, c, on)
        if modifiers.average:
            # a parameter whose first gradient comes late has stood still, and so has its average
            mean = c.average_keep * where(c.average_begins > 0.5, before, state.average) + c.average_take * theta
            new = {**new, AVERAGE: mean}
            theta = where(c.average_back > 0.5, mean, theta) if on.around_back else theta
        if modifiers.low_precision == "kahan":
            narrow = stored(theta, on.storage)
            return narrow, {**new, "compensation": theta - narrow}
        if modifiers.low_precision == "master":
            return theta, {**new, "master": theta}
        return dithered(theta, c.dither_seed) if modifiers.low_precision == "stochastic" else theta, new

    counts = rule.counts_steps or modifiers.average or modifiers.low_precision == "stochastic"
    return Rule(
        rule.name,
        states,
        flags,
        coefficients,
        update,
        rule.scalars,
        counts,
        rule.sparse,
    )
