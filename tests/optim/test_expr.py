"""Tracing: the graph of a rule computes what the rule computes, and a rule that cannot be traced says why."""

import dataclasses
import math
import operator
from types import SimpleNamespace

import pytest
import torch

from tameopt import optim
from tameopt.optim import functions, keras
from tameopt.optim.expr import Graph, Symbol, linearise, trace
from tameopt.optim.fold import fold, option
from tameopt.optim.plan import Numbered
from tameopt.optim.rule import Rule, State

OPERATIONS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "less": lambda x, y: x < y,
    "greater": lambda x, y: x > y,
    "negative": lambda x: -x,
    "sqrt": functions.sqrt,
    "absolute": functions.absolute,
    "sign": functions.sign,
    "maximum": functions.maximum,
    "minimum": functions.minimum,
    "power": functions.power,
    "where": functions.where,
}


def interpret(graph: Graph, theta, g, state, numbers):
    """The graph, one instruction at a time, on tensors."""
    values = []
    for instruction in graph.instructions:
        leaf = {"theta": theta, "g": g}.get(instruction.operation)
        if instruction.operation == "state":
            leaf = state[instruction.name]
        elif instruction.operation == "coefficient":
            leaf = numbers[instruction.name]
        elif instruction.operation == "constant":
            leaf = instruction.value
        inputs = [values[i] for i in instruction.inputs]
        values.append(OPERATIONS[instruction.operation](*inputs) if leaf is None else leaf)
    return values[graph.theta], {name: values[position] for name, position in graph.outputs}


@pytest.mark.parametrize("library", [optim, keras], ids=["torch", "keras"])
def test_graph_computes_what_the_rule_does(library):
    generator = torch.Generator().manual_seed(0)
    for name in library.names():
        entry = library.entry(name)
        if entry.gradients == "closure":
            continue
        for arguments in ({}, *entry.variants.values()):
            optimizer = entry.optimizer([torch.nn.Parameter(torch.zeros(3))], **arguments)
            rule, options = optimizer._rule(), optimizer.param_groups[0]
            names = tuple(spec.name for spec in rule.states(options))
            flags = rule.flags(options)
            theta, g = torch.randn(2, 50, generator=generator)
            state = {each: torch.rand(50, generator=generator) for each in names}
            scalars = {scalar.name: scalar.initial(options) for scalar in rule.scalars}
            s = SimpleNamespace(step=3.0, first=0.0, stored=float, g_scale=0.5, g_bound=0.25, **scalars)
            numbers, _ = rule.coefficients(options, s)
            expected = rule.update(
                theta, g, SimpleNamespace(**state), SimpleNamespace(**numbers), SimpleNamespace(**flags)
            )
            graph = trace(rule, tuple(flags.items()), names)
            found = interpret(graph, theta, g, state, numbers)
            assert set(found[1]) == set(expected[1])
            for one, other in [(found[0], expected[0]), *((found[1][n], expected[1][n]) for n in found[1])]:
                assert torch.allclose(one, other, rtol=1e-6, atol=0, equal_nan=True)  # `pow` is not reproducible
            assert len(set(graph.instructions)) == len(graph.instructions)  # nothing is computed twice


def rule(update, states=("m",)):
    return Rule(
        "test",
        lambda options: tuple(State(s) for s in states),
        lambda options: {},
        lambda options, s: ({}, {}),
        update,
    )


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda theta, g, state, c, on: (theta if g > 0 else g, {}), "must not branch on a value: use `where`"),
        (lambda theta, g, state, c, on: (theta - c.lr * c.scale * g, {}), "must not multiply two scalars"),
        (lambda theta, g, state, c, on: (theta - g, {"v": g}), "rule test writes the state 'v'"),
        (lambda theta, g, state, c, on: (theta - g * "2", {}), "computes with theta, g, its states and numbers"),
    ],
)
def test_rules_that_cannot_be_traced(update, message):
    with pytest.raises(TypeError, match=message):
        trace(rule(update), (), ("m",))


def test_uniform_values_and_reads():
    theta, g, c = Symbol("theta"), Symbol("g"), Symbol("coefficient", name="c")
    graph = linearise(functions.where(c > 0.5, theta, theta * 2.0), {"m": g}, ("m", "unused"))
    assert graph.reads() == ("theta", "g")
    assert [graph.uniform(i) for i in range(len(graph.instructions))].count(True) == 4  # c, 0.5, c > 0.5, 2
    assert graph.coefficients == ("c",)


FOLDED = [
    pytest.param(entry, arguments, id=f"{label}{entry.name}-{variant}")
    for label, library in (("", optim), ("keras.", keras))
    for entry in map(library.entry, library.names())
    if entry.gradients == "dense"
    for variant, arguments in {"defaults": {}, **entry.variants}.items()
]


@pytest.mark.parametrize(("entry", "arguments"), FOLDED)
def test_a_fold_computes_the_coefficients(entry, arguments):
    """Run in double, the graph of `coefficients` gives what `coefficients` gives, at the first steps and later."""
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = entry.optimizer([p], **arguments)
    rule, options = optimizer._rule(), Numbered(optimizer.param_groups[0])
    for k in (1.0, 2.0, 3.0, 100.0):
        scalars = {scalar.name: scalar.initial(options) for scalar in rule.scalars}
        scalars |= {"step": k, "first": float(k == 1), "g_scale": 0.5, "g_bound": 2.0, "place": 3.0}
        wanted, kept = rule.coefficients(options, SimpleNamespace(**scalars, stored=lambda x: x))
        graph = fold(rule, optimizer.param_groups[0], tuple(wanted))
        values = []
        for i in graph.instructions:
            x = [values[place] for place in i.inputs]
            if i.operation == "option":
                values.append(option(options, i.name))
            elif i.operation == "scalar":
                values.append(scalars[i.name])
            else:
                values.append(i.value if i.operation == "constant" else FOLD_OPERATIONS[i.operation](*x))
        for name, place in graph.coefficients:
            assert values[place] == pytest.approx(wanted[name], rel=1e-14, abs=0, nan_ok=True)
        assert {name: values[place] for name, place in graph.kept if name != "step"} == pytest.approx(kept, rel=1e-14)


FOLD_OPERATIONS = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv,
    "power": operator.pow, "modulo": operator.mod, "negative": operator.neg, "less": operator.lt,
    "greater": operator.gt, "sqrt": math.sqrt, "maximum": max, "minimum": min, "stored": lambda x: x,
    "where": lambda condition, x, y: x if condition else y,
}  # fmt: skip


def test_a_fold_that_branches_on_a_number_is_refused():
    rule = dataclasses.replace(
        optim.entry("SGD").optimizer.rule,
        coefficients=lambda options, s: ({"lr": 1.0 if options["lr"] > 0.5 else 0.0}, {}),
    )
    with pytest.raises(TypeError, match="an update rule must not branch on a value: use `where`"):
        fold(rule, {"lr": 0.1}, ("lr",))
