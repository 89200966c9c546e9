"""The traps are found, with lines and witnesses, and guarded code is left alone."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

import tameopt as tame
from tameopt.structure.lint import lint, sarif

_T = torch.tensor([0.5, 0.7, 0.2], dtype=torch.float64)

_FIRST = torch.tensor([True, False, False])
_JORDAN = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


# function -> the rule that must be raised, and whether the run at 0 shows a gradient that is not finite
_TRAPS = [
    (lambda t: (t * t).sqrt().sum(), "TAME101", True),
    (lambda t: (t**4).sqrt().sum(), "TAME101", True),
    (lambda t: torch.where(t > 0, t.sqrt(), torch.zeros_like(t)).sum(), "TAME101", True),
    (lambda t: (t[0] - t).square().sum().sqrt(), "TAME101", True),
    (lambda t: torch.where(t == 0, torch.ones_like(t), t.sin() / t).sum(), "TAME102", True),
    (lambda t: (1 / t).sum(), "TAME102", True),
    (lambda t: (t * t.log()).sum(), "TAME103", True),
    (lambda t: (0 * t**0.5).sum(), "TAME104", True),
    (lambda t: (t**0.5).sum(), "TAME104", True),
    (lambda t: (t**t).sum(), "TAME104", False),
    (lambda t: (1 - t).acos().sum(), "TAME105", True),
    (lambda t: torch.hypot(t[0], t[1]), "TAME106", True),
    (lambda t: torch.xlogy(t, t).sum(), "TAME107", True),
    (lambda t: torch.linalg.vector_norm(t, 0.5), "TAME110", False),
    (lambda t: torch.linalg.eigh(torch.diag(t)).eigenvectors.sum(), "TAME111", True),
    (lambda t: torch.linalg.svd(torch.diag(t)).U.sum(), "TAME111", True),
    (lambda t: torch.linalg.det(torch.diag(t)), "TAME112", False),
    (lambda t: t[:1].std(), "TAME114", True),
    (lambda t: torch.where(t <= 0, t.exp(), 1 + t).sum(), "TAME115", False),
    (lambda t: (t + (t.round() - t).detach()).sum(), "TAME201", False),
    (lambda t: (t * t.detach()).sum(), "TAME201", False),
    (lambda t: _Round.apply(t).sum(), "TAME202", False),
    (lambda t: t.sum() * t.sum().item(), "TAME203", False),
    (lambda t: t.sum() if t[0] > 0 else 2 * t.sum(), "TAME203", False),
    (lambda t: t.round().sum(), "TAME204", False),
    (lambda t: torch.where(t == 0, torch.zeros_like(t), t).sum(), "TAME205", False),
    (lambda t: t.sigmoid().log().sum(), "TAME301", False),
    (lambda t: t.softmax(0).log().sum(), "TAME301", False),
    (lambda t: functional.binary_cross_entropy(t.sigmoid(), torch.ones_like(t)), "TAME302", False),
    (lambda t: functional.cross_entropy(t.softmax(0)[None], torch.tensor([1])), "TAME303", False),
    (lambda t: t.norm() ** 2, "TAME305", False),
    (lambda t: functional.normalize(t, dim=0).sum(), "TAME306", False),
    (lambda t: functional.cosine_similarity(t, torch.ones_like(t), dim=0), "TAME306", False),
    # its norms are clamped under no_grad: within eps of 0 the gradient is wrong
    (lambda t: functional.cosine_similarity(t, torch.ones_like(t), dim=0, eps=1e-3), "TAME201", False),
    (lambda t: ((t[:, None] - t[None, :]) ** 2).sqrt().sum(), "TAME101", True),
    (lambda t: torch.linalg.eigvals(t[0] * _JORDAN.T + _JORDAN).real.sum(), "TAME111", False),
    (lambda t: torch.pow(0.0, t).sum(), "TAME104", False),
    (lambda t: t[torch.zeros(3, dtype=torch.bool)].mean(), "TAME117", False),
    (lambda t: t.masked_fill(torch.ones(3, dtype=torch.bool), -torch.inf).softmax(0).sum(), "TAME113", False),
    (lambda t: (t[:, None] + t).masked_fill(_FIRST, -torch.inf).softmax(0)[0, 1], "TAME113", False),
    (lambda t: t.masked_fill(torch.ones(3, dtype=torch.bool), -torch.inf).logsumexp(0), "TAME113", False),
    (lambda t: functional.kl_div(_T.log(), t, reduction="sum"), "TAME107", True),
    (lambda t: torch.linalg.det(torch.outer(t, t)), "TAME112", False),
]


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
@pytest.mark.parametrize(
    ("function", "code", "not_finite"), _TRAPS, ids=[f"{c}-{k}" for k, (_, c, _) in enumerate(_TRAPS)]
)
def test_a_trap_is_found_on_its_line(function, code, not_finite):
    found = {one.code: one for one in lint(function, inputs=_T)}
    assert code in found
    finding = found[code]
    assert finding.file.endswith("test_lint.py")
    assert finding.line > 20
    assert finding.column > 0
    if not_finite:
        assert "not finite" in finding.witness
        assert finding.severity == "error"


_GUARDED = [
    lambda t: (t * t + 1e-8).sqrt().sum(),
    lambda t: t.clamp(min=1e-6).log().sum(),
    lambda t: torch.where(t > 0, torch.where(t > 0, t, 1.0).sqrt(), 0.0).sum(),
    lambda t: (t / (t.abs() + 1)).sum(),
    lambda t: t.norm(),
    lambda t: t.log_softmax(0).sum(),
    lambda t: functional.logsigmoid(t).sum(),
    lambda t: (1 + t.square()).log().sum(),
    lambda t: torch.log1p(t.square()).sum(),
    lambda t: (t.square().sum() + 1).rsqrt(),
    lambda t: t.abs().sum(),
    lambda t: functional.layer_norm(t, (3,)).sum(),
    lambda t: functional.normalize(t, dim=0, eps=1e-3).sum(),
    lambda t: t.std(),
    lambda t: torch.where(t <= 0, t.clamp(max=0).exp(), 1 + t).sum(),
    lambda t: (0.99 * t.tanh()).acos().sum(),
    lambda t: torch.relu(t).sum(),
    lambda t: torch.cdist(t[:, None], t[:, None]).sum(),
    lambda t: torch.linalg.inv(torch.diag(t.square() + 1)).sum(),
    lambda t: functional.kl_div(t.log_softmax(0), torch.tensor([0.0, 0.5, 0.5]).double(), reduction="sum"),
    lambda t: functional.elu(t, 2.0).sum() + t.prod(),
    lambda t: t[torch.tensor([True, False, True])].mean(),
    lambda t: torch.pow(2.0, t).sum(),
    # causal: every row keeps an entry
    lambda t: (t[:, None] + t).masked_fill(torch.ones(3, 3).triu(1).bool(), -torch.inf).softmax(-1)[1, 0],
    # a column that nobody looks at is no row
    lambda t: (t[:, None] + t).masked_fill(torch.tensor([True, False, False]), -torch.inf).softmax(-1)[0, 1],
]


@pytest.mark.parametrize("function", _GUARDED, ids=range(len(_GUARDED)))
def test_guarded_code_is_left_alone(function):
    assert lint(function, inputs=_T) == ()


def _identity_with_a_kink(t):
    return (t.relu() - (-t).relu()).sum()


def test_a_spurious_critical_point_is_reported_apart():
    (found,) = lint(_identity_with_a_kink, inputs=_T)
    assert found.code == "TAME206"
    assert found.witness == "at 0"
    assert "slope of" in found.right
    # a true critical point, a true kink, and a gradient that is not 0
    for function in (torch.square, torch.relu, torch.abs, torch.neg):
        assert lint(lambda t, function=function: function(t).sum(), inputs=_T) == ()
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert lint(model, functional.mse_loss, (torch.ones(4, 2), torch.zeros(4, 1))) == ()


def test_common_networks_and_ready_problems_are_clean():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5), nn.GELU(),
        nn.LayerNorm(5),
    )  # fmt: skip
    assert lint(net, functional.cross_entropy, (torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 4]))) == ()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert lint(layer, inputs=torch.randn(2, 3, 8)) == ()
    for name in ("digits-mlp", "digits-linear", "deep-linear", "rosenbrock"):
        assert lint(tame.problems.load(name)) == (), name


def test_all_targets_ignored_is_seen_in_the_values():
    model = nn.Linear(3, 2)
    ignored = torch.full((4,), -100)
    assert [one.code for one in lint(model, functional.cross_entropy, (torch.ones(4, 3), ignored))] == ["TAME116"]
    assert lint(model, functional.cross_entropy, (torch.ones(4, 3), torch.tensor([0, -100, 1, 1]))) == ()


def test_findings_are_sarif_and_json():
    found = lint(lambda t: (t * t).sqrt().sum(), inputs=_T)
    document = json.loads(json.dumps(sarif(found)))
    (result,) = document["runs"][0]["results"]
    assert result["ruleId"] == "TAME101"
    region = result["locations"][0]["physicalLocation"]["region"]
    assert region["startLine"] == found[0].line
    assert json.loads(json.dumps(found[0].to_json()))["column"] == found[0].column
    assert str(found[0]).startswith(f"{found[0].file}:{found[0].line}:{found[0].column}: TAME101")


def test_a_model_that_does_not_run_says_so():
    with pytest.raises(ValueError, match="the model must run on its inputs"):
        lint(nn.Linear(3, 2), inputs=torch.ones(2, 5))
