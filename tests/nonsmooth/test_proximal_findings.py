"""The theorem of proximal gradient and PALM on recorded runs: where it applies, and near misses."""

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.analysis import Context
from tameopt.evidence import Certificate, Evidence, Finding, Outcome, Scope, Verdict
from tameopt.integrations._optimizer import arguments_of
from tameopt.nonsmooth.palm import PALM
from tameopt.nonsmooth.prox import names
from tameopt.nonsmooth.proximal_checker import STRUCTURES, check
from tameopt.nonsmooth.proximal_findings import ANALYSIS, METHOD, PENALTY, STEP
from tameopt.nonsmooth.proximal_gradient import ProximalGradient
from tameopt.run import Run
from tameopt.theorems import entry, judge


class Product(nn.Module):
    """A rank-one factorisation: two blocks, whose moduli are known."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = nn.Parameter(torch.rand(4, 1, dtype=torch.float64, generator=generator) + 0.5)
        self.y = nn.Parameter(torch.rand(1, 3, dtype=torch.float64, generator=generator) + 0.5)

    def forward(self, rows):
        return (rows @ self.x) @ self.y


TARGET = torch.arange(12, dtype=torch.float64).view(4, 3) / 6


def _loss(out, target):
    return (out - target).square().sum(1).mean() / 2


def _closure(model, optimizer, data):
    def closure():
        optimizer.zero_grad()
        value = _loss(model(data[0]), data[1])
        if not isinstance(optimizer, PALM):
            value.backward()
        return value

    return closure


def _recorded(tmp_path, make, steps=30, after=None):
    """A recorded run on the product, as `watch` writes it with every step sampled, and the context of its audit."""
    model, data = Product(), (torch.eye(4, dtype=torch.float64), TARGET)
    optimizer = make(model)
    problem = tame.Problem(model, _loss, data)
    groups = [
        arguments_of(group, {id(p): key for key, p in model.named_parameters()}) for group in optimizer.param_groups
    ]
    settings = {"name": type(optimizer).__name__, "arguments": groups[0], "groups": groups}
    run = Run.create(tmp_path / "run", {"optimizer": settings, "dtype": "float64"})
    flat = lambda: torch.cat([p.detach().reshape(-1) for p in model.parameters()])  # noqa: E731
    run.save_vectors(0, {"theta": flat()})
    for k in range(steps):
        optimizer.step(_closure(model, optimizer, data))
        if after is not None:
            after(model)
        alphas = [float(group["lr"]) for group in optimizer.param_groups]
        columns = {"lr" if i == 0 else f"lr of group {i}": alpha for i, alpha in enumerate(alphas)}
        run.record(k, {name: alpha for name, alpha in columns.items() if name == "lr" or alpha != alphas[0]})
        run.save_vectors(k + 1, {"theta": flat()})
    return Context(problem, run, flat())


def _judged(context):
    found = {finding.claim: finding for finding in ANALYSIS.analyse(context).findings}
    rest = [
        Finding(claim, Verdict.PROVED, "taken for granted", evidence(), Scope.GLOBAL)
        for claim in ("F.tame", "F.bounded_below", "F.C2", "iterates.bounded")
    ]
    return found, judge(entry("proximal-alternating"), [*found.values(), *rest])


def evidence():
    return Evidence(method="test", certificate=Certificate("tameopt.tests:never_run", {}))


def _blocks(model, **more):
    return [{"params": [p], "prox": "nonnegative", **more} for p in (model.x, model.y)]


def test_palm_with_computed_moduli_applies(tmp_path):
    def make(model):
        groups = _blocks(model)
        groups[0]["lipschitz"] = lambda: float(model.y.detach().square().sum()) / 4
        groups[1]["lipschitz"] = lambda: float(model.x.detach().square().sum()) / 4
        return PALM(groups, gamma=1.1)

    found, judgement = _judged(_recorded(tmp_path, make))
    assert found[METHOD].verdict is Verdict.MEASURED, found[METHOD].statement
    assert found[PENALTY].verdict is Verdict.PROVED
    assert found[STEP].verdict is Verdict.MEASURED
    assert found[STEP].evidence.estimate == pytest.approx(1 / 1.1, rel=2e-3)  # a quadratic in each block
    assert judgement.outcome is Outcome.AS_MEASURED


def test_palm_with_a_modulus_that_is_too_small_is_refuted(tmp_path):
    """Both blocks step by 1.6 / L: too long for the theorem, and still a descent."""

    def make(model):
        groups = _blocks(model)
        groups[0]["lipschitz"] = lambda: float(model.y.detach().square().sum()) / 4 / 1.6
        groups[1]["lipschitz"] = lambda: float(model.x.detach().square().sum()) / 4 / 1.6
        return PALM(groups, gamma=1.0)

    found, judgement = _judged(_recorded(tmp_path, make))
    assert found[METHOD].verdict is Verdict.MEASURED
    assert found[STEP].verdict is Verdict.REFUTED
    assert found[STEP].evidence.estimate == pytest.approx(1.6, rel=2e-3)
    assert judgement.outcome is Outcome.FAILS


def test_a_loss_with_kinks_is_outside(tmp_path):
    """The proof compares gradients at consecutive iterates: a descent inequality alone does not carry it."""
    context = _recorded(tmp_path, lambda model: PALM(_blocks(model)))
    kinks = Finding("F.C2", Verdict.REFUTED, "a relu", Evidence(method="test", witness={"at": 0}), Scope.GLOBAL)
    rest = [
        Finding(claim, Verdict.PROVED, "taken for granted", evidence(), Scope.GLOBAL)
        for claim in ("F.tame", "F.bounded_below", "iterates.bounded")
    ]
    judgement = judge(entry("proximal-alternating"), [*ANALYSIS.analyse(context).findings, *rest, kinks])
    assert judgement.outcome is Outcome.FAILS


def test_inertia_is_another_theorems(tmp_path):
    found, judgement = _judged(_recorded(tmp_path, lambda model: PALM(_blocks(model), inertia=0.3)))
    assert found[METHOD].verdict is Verdict.REFUTED
    assert judgement.outcome is Outcome.FAILS


def test_a_loop_that_does_more_is_refuted(tmp_path):
    def clip(model):
        with torch.no_grad():
            model.x.mul_(0.999)

    found, _ = _judged(_recorded(tmp_path, lambda model: PALM(_blocks(model)), after=clip))
    assert found[METHOD].verdict is Verdict.REFUTED
    assert "otherwise than by the proximal step" in found[METHOD].statement


@pytest.mark.parametrize("lr", [0.2, 2.0])
def test_proximal_gradient(tmp_path, lr):
    def make(model):
        return ProximalGradient(
            [{"params": [model.x], "prox": "l1"}, {"params": [model.y], "prox": "box", "options": {"high": 2.0}}],
            lr=lr,
            strength=0.01,
        )

    context = _recorded(tmp_path, make)
    found, judgement = _judged(context)
    assert found[METHOD].verdict is Verdict.MEASURED, found[METHOD].statement
    wanted = (Verdict.MEASURED, Outcome.AS_MEASURED) if lr == 0.2 else (Verdict.REFUTED, Outcome.FAILS)
    assert (found[STEP].verdict, judgement.outcome) == wanted


def test_other_optimizers_make_no_proximal_step(tmp_path):
    found, judgement = _judged(_recorded(tmp_path, lambda model: torch.optim.SGD(model.parameters(), lr=0.01), 5))
    assert found[METHOD].verdict is Verdict.REFUTED
    assert found[STEP].verdict is found[PENALTY].verdict is Verdict.UNKNOWN
    assert judgement.outcome is Outcome.FAILS


def test_a_watched_palm_run_is_judged(tmp_path):
    model, data = Product(), (torch.eye(4, dtype=torch.float64), TARGET)
    optimizer = PALM(_blocks(model))
    with tame.watch(model, optimizer, _loss, data, out=tmp_path, name="run", budget=0.9) as watching:
        for _ in range(40):
            optimizer.step(_closure(model, optimizer, data))
    problem = tame.Problem(model, _loss, data)
    context = Context(problem, watching.run, problem.theta)
    found, _ = _judged(context)
    assert watching.run.meta["optimizer"]["groups"][1]["parameters"] == ["y"]
    assert found[PENALTY].verdict is Verdict.PROVED
    assert found[METHOD].verdict is not Verdict.REFUTED  # which steps were recorded depends on the clock
    assert found[STEP].verdict is not Verdict.REFUTED


def test_the_table_of_penalties_is_whole():
    assert set(STRUCTURES) == {*names(), "none"}
    assert check({"penalties": [["l1", 0.1], ["none", 1.0]]})
    assert not check({"penalties": [["l1", -0.1]]})
    assert not check({"penalties": [["custom", 1.0]]})
    assert not check({"penalties": []})
    with pytest.raises(ValueError, match="not a certificate of penalties"):
        check({"penalties": [["l1"]]})
