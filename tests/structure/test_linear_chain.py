"""Deep linear networks: recognised whatever their shape, and nothing else taken for one."""

import itertools

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.analysis import Context
from tameopt.evidence import Verdict
from tameopt.kl.linear_data import linear_data
from tameopt.kl.linear_findings import ANALYSIS
from tameopt.structure.linear_chain import linear_chain
from tameopt.theorems import entry
from tameopt.theorems._theorem import Known

F64 = torch.float64


def data(n=20, inputs=4, outputs=3, rank=None, shape=()):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, inputs, generator=generator, dtype=F64)
    if rank is not None:
        x = x[:, :rank] @ torch.randn(rank, inputs, generator=generator, dtype=F64)
    return (x.reshape(n, *shape) if shape else x), torch.randn(n, outputs, generator=generator, dtype=F64)


def chain_of(*widths, bias=False):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths))).double()


def problem(model, given=None, **options):
    return tame.Problem(model.double(), nn.MSELoss(), given or data(), **options)


@pytest.mark.parametrize("widths", [(4, 3), (4, 5, 3), (4, 2, 3), (4, 6, 2, 5, 3), (4, 1, 1, 1, 3)])
def test_chains_of_any_depth_and_width_are_recognised(widths):
    found = linear_chain(problem(chain_of(*widths)))
    assert found.widths == widths and len(found.layers) == len(widths) - 1
    assert found.wide is (min(widths) == min(widths[0], widths[-1]))


def test_dropout_that_is_off_and_a_flattened_input_change_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Dropout(0.5), nn.Linear(3, 3, bias=False))
    assert linear_chain(problem(model, data(shape=(2, 2)), mode="eval")).widths == (4, 3, 3)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(4, 3, bias=False), nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.middle(self.middle(self.first(x)))


class Residual(Shared):
    def forward(self, x):
        x = self.first(x)
        return x + self.middle(x)


class Summed(Shared):
    def forward(self, x):
        return self.middle(self.first(x)) + 0 * self.first(x)


class HiddenActivation(Shared):
    def forward(self, x):
        return torch.where(x.sum() > 1e9, self.middle(self.first(x)), self.middle(torch.tanh(self.first(x))))


class Branch(Shared):
    def forward(self, x):
        x = self.first(x)
        return self.middle(x if x.abs().max() < 1e6 else x.relu())


class Frozen(Shared):
    def __init__(self, which):
        super().__init__()
        self.last = nn.Linear(3, 3, bias=False)
        getattr(self, which).weight.requires_grad_(False)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


class Clamped(Shared):
    def forward(self, x):
        return self.middle(self.first(x).clamp(-1e8, 1e8))


NOT_CHAINS = {
    "bias": chain_of(4, 5, 3, bias=True),
    "relu": nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)),
    "tanh": HiddenActivation(),
    "a clamp that is never reached": Clamped(),
    "a branch that is never taken": Branch(),
    "weight shared": Shared(),
    "residual": Residual(),
    "a sum": Summed(),
    "frozen first": Frozen("first"),
    "frozen middle": Frozen("middle"),
    "frozen last": Frozen("last"),
    "layer norm": nn.Sequential(nn.Linear(4, 3, bias=False), nn.LayerNorm(3, elementwise_affine=False)),
}


@pytest.mark.parametrize("name", NOT_CHAINS)
def test_nothing_else_is_taken_for_one(name):
    found = linear_chain(problem(NOT_CHAINS[name]))
    assert found.layers == () and found.reason
    # linear in each weight as it is: not refuted, only not recognised
    unseen = ("a clamp that is never reached", "a branch that is never taken", "a sum")
    assert (found.broken is None) is (name in unseen or name.startswith("frozen"))


class OneBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.down = nn.Linear(4, 3, bias=False), nn.Linear(3, 3)

    def forward(self, x):
        return self.down(self.lift(x))


def test_a_bias_is_named():
    assert linear_chain(problem(NOT_CHAINS["bias"])).reason == "it adds the bias 0.bias"
    found = linear_chain(problem(OneBias()))
    assert found.reason == "it adds the bias down.bias" and found.broken is not None


@pytest.mark.parametrize("widths, rank, expected", [
    ((4, 5, 3), None, "MEASURED MEASURED MEASURED"),
    ((4, 3, 3), 2, "MEASURED REFUTED MEASURED"),
    ((4, 2, 3), None, "MEASURED MEASURED MEASURED"),
    ((4, 2, 3), 2, "MEASURED REFUTED UNKNOWN"),
    ((4, 2, 7, 3), 3, "MEASURED REFUTED UNKNOWN"),
])  # fmt: skip
def test_the_hypotheses_are_told_apart(widths, rank, expected):
    subject = problem(chain_of(*widths), data(rank=rank))
    answer = ANALYSIS.analyse(Context(subject, None, subject.theta))
    assert " ".join(str(one.verdict) for one in answer.findings) == expected
    assert ANALYSIS.skip(Context(subject, None, subject.theta)) == ""


@pytest.mark.parametrize("widths, rank", [((4, 5, 3), None), ((4, 2, 3), None), ((4, 3, 2, 3), 2), ((4, 1, 3), None)])
def test_the_least_value_is_what_training_reaches(widths, rank):
    subject = problem(chain_of(*widths), data(rank=rank))
    found = linear_data(subject, linear_chain(subject))
    theta = subject.theta.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], max_iter=600, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = subject(theta)
        value.backward()
        return value

    optimizer.step(closure)
    assert float(subject.value(theta.detach())) == pytest.approx(found.least / 60, rel=1e-6)


def test_strictness_is_said_of_two_layers_and_full_rank_only():
    theorem = entry("deep-linear")
    for widths, rank, words in [
        ((4, 5, 3), None, "every other critical point is a strict saddle"),
        ((4, 5, 3), 2, "not said"),
        ((4, 5, 5, 3), None, "saddles without negative curvature"),
        ((4, 3), None, "convex"),
    ]:
        subject = problem(chain_of(*widths), data(rank=rank))
        findings = ANALYSIS.analyse(Context(subject, None, subject.theta)).findings
        assert words in theorem.qualify(Known(findings))
        assert findings[0].verdict is Verdict.MEASURED
        if len(widths) > 3:
            assert "is a strict saddle" not in theorem.qualify(Known(findings))


def test_the_audit_applies_the_theorem(tmp_path):
    done = tame.audit(problem(chain_of(4, 3, 3, 3)), steps=40, lr=0.05, batch_size="full", out=tmp_path / "run")
    judged = next(one for one in done.judgements if one.theorem == "deep-linear")
    assert "APPLIES" in judged.outcome.name or "MEASURED" in judged.outcome.name
    assert "3 layers" in str(judged)
