"""Margin certificates of homogeneous networks."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from tameopt.analysis import Context
from tameopt.evidence import Verdict
from tameopt.kl import check, check_margin, check_operators
from tameopt.kl.findings import ANALYSES
from tameopt.kl.margin import direction_drift, homogeneous, margin_certificate
from tameopt.problem import Problem

D = torch.float64


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return x + self.layer(x)


def trained(loss="cross-entropy", steps=400, slope=None, classes=3, dtype=D) -> Problem:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.eye(classes, 6, dtype=dtype)
    y = torch.arange(12) % classes
    X = centres[y] + 0.3 * torch.randn(12, 6, dtype=dtype, generator=generator)
    activation = nn.ReLU() if slope is None else nn.LeakyReLU(slope)
    outputs = classes if loss == "cross-entropy" else 1
    model = nn.Sequential(nn.Linear(6, 16, bias=False), activation, nn.Linear(16, outputs, bias=False)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    if loss == "cross-entropy":
        problem = Problem(model, nn.CrossEntropyLoss(), (X, y))
    else:
        problem = Problem(model, nn.BCEWithLogitsLoss(), (X, (y > 0).to(dtype)[:, None]))
    theta = problem.theta
    for _ in range(steps):
        theta = theta - 0.3 * problem.gradient(theta)
    with torch.no_grad():
        for name, parameter in problem.unflatten(theta).items():
            dict(model.named_parameters())[name].copy_(parameter)
    return problem


@pytest.mark.parametrize(("loss", "slope"), [("cross-entropy", None), ("cross-entropy", 0.1), ("logistic", None)])
def test_a_separating_network_is_certified(loss, slope):
    problem = trained(loss, slope=slope)
    certificate = margin_certificate(problem)
    assert certificate.verdict is Verdict.PROVED, certificate
    assert certificate.degree == 2 and certificate.margin > 0
    assert certificate.ratio == pytest.approx(12 * float(problem.value()) / math.log(2))
    finding = certificate.finding()
    assert finding.verdict is Verdict.PROVED
    # convergence of the direction is only known for two classes
    assert ("converges" in finding.statement) is (loss == "logistic")


def test_the_promise_is_kept_by_small_steps():
    problem = trained()
    before = margin_certificate(problem)
    theta = problem.theta
    for _ in range(400):
        theta = theta - 0.1 * problem.gradient(theta)
    after = margin_certificate(problem, theta)
    assert after.ratio < 0.8 * before.ratio
    assert float(theta.norm()) > float(problem.theta.norm())
    assert after.margin >= before.margin * (1 - 1e-3)


def test_the_checker_bounds_the_total_from_above_and_tightly():
    problem = trained()
    data = margin_certificate(problem).data
    ops, _, _ = check_operators.read_operators(data["network"], data["arrays"], kinks=True)
    values, radii = check_operators.forward(ops, data["arrays"])
    outputs, radius = values[-1], radii[-1]
    assert np.abs(outputs - problem.outputs().numpy()).max() <= radius.max() + 1e-12
    assert radius.max() < 1e-12
    upper = check_margin.total_upper(outputs, radius, data["arrays"]["labels"], "cross-entropy")
    total = 12 * float(problem.value())
    assert total <= upper <= total * 1.01


def test_before_separation_the_number_is_named():
    certificate = margin_certificate(trained(steps=0))
    assert certificate.verdict is Verdict.UNKNOWN
    assert "must be below log 2" in certificate.reason
    assert "train on" in certificate.finding().evidence.remedy


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d["claims"].update(total=0.9 * d["claims"]["total"]), False),
        (lambda d: d["claims"].update(total=0.7), False),
        (lambda d: d["claims"].update(total=math.nan), False),
        (lambda d: d["arrays"].update({"0.weight": 0.5 * d["arrays"]["0.weight"]}), False),
        (lambda d: d["arrays"].update(labels=(d["arrays"]["labels"] + 1) % 3), False),
        (lambda d: d["network"]["ops"][1].update(slope=0.9), None),
        (lambda d: d.update(format="x"), "must have format"),
        (lambda d: d.update(loss="hinge"), "must be cross-entropy or logistic"),
        (lambda d: d["network"]["ops"][1].update(slope=2.0), "between 0"),
        (lambda d: d["network"]["ops"][1].update(op="activation", name="tanh"), False),
        (lambda d: d["network"].update(trained=["2.weight"]), None),
        (lambda d: d["arrays"].pop("2.weight"), "is damaged"),
        (lambda d: d["arrays"].pop("labels"), "must hold a network"),
        (lambda d: d["arrays"].update(labels=np.full(12, 7.0)), "needs labels among"),
        (lambda d: d["arrays"].update(labels=np.zeros(3)), "labels must have shape"),
        (lambda d: d["arrays"].update(X=np.full((12, 6), np.inf)), "must be finite"),
        (lambda d: d["arrays"].update(X=np.ones((12, 5))), "does not fit"),
        (lambda d: d["arrays"].update(X={"shape": [1], "base64": "!"}), "is damaged"),
    ],
)
def test_tampered_certificates(change, expected):
    data = copy.deepcopy(margin_certificate(trained(steps=300)).data)
    data["claims"]["total"] = min(data["claims"]["total"], 0.69)
    change(data)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            check_margin.check(data)
    elif expected is None:
        assert check_margin.check(data) in (True, False)
    else:
        assert check_margin.check(data) is expected


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
            "trained bias 2.bias is added to something of degree 2",
        ),
        (lambda: nn.Sequential(nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)), "tanh is not homogeneous"),
        (lambda: nn.Sequential(nn.Linear(6, 3, bias=False), nn.Softmax(1)), "operator softmax"),
        (lambda: nn.Sequential(nn.Linear(6, 3, bias=False), Skip()), "things of degrees 1 and 2 are added"),
    ],
)
def test_other_networks_are_refused(model, message):
    problem = Problem(model().double(), nn.CrossEntropyLoss(), (torch.ones(3, 6, dtype=D), torch.tensor([0, 1, 2])))
    assert message in margin_certificate(problem).reason


def test_label_smoothing_is_refused():
    problem = trained(steps=0)
    smoothed = Problem(problem.model, nn.CrossEntropyLoss(label_smoothing=0.1), problem.batches.whole)
    assert "torch's cross-entropy" in margin_certificate(smoothed).reason


def test_the_audit_says_it():
    analysis = next(analysis for analysis in ANALYSES if analysis.name == "kl.margin")
    problem = trained()
    context = Context(problem, None, problem.theta)
    assert analysis.skip(context) == ""
    (finding,) = analysis.analyse(context).findings
    assert finding.verdict is Verdict.PROVED
    biased = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    biased = Problem(biased, nn.CrossEntropyLoss(), problem.batches.whole)
    assert "bias" in analysis.skip(Context(biased, None, biased.theta))


def test_shared_weights_are_homogeneous_too():
    layer = nn.Linear(6, 6, bias=False).double()
    model = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3, bias=False).double())
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.ones(3, 6, dtype=D), torch.tensor([0, 1, 2])))
    found = homogeneous(problem)
    assert found.degree == 3
    scaled = problem.outputs(2 * problem.theta)
    assert torch.allclose(scaled, 8 * problem.outputs())


def test_convolutions_pooling_and_a_first_bias_are_certified():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3, bias=False),
    ).double()  # fmt: skip
    y = torch.arange(9) % 3
    X = torch.randn(9, 16, dtype=D)
    problem = Problem(model, nn.CrossEntropyLoss(), (X, y))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        optimizer.step()
    certificate = margin_certificate(problem, torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert certificate.verdict is Verdict.PROVED, certificate
    assert certificate.degree == 3
    theta = problem.theta
    assert torch.allclose(problem.outputs(2 * theta), 8 * problem.outputs(theta))


def test_a_frozen_layer_lowers_the_degree():
    problem = trained(steps=0)
    problem.model[0].weight.requires_grad_(False)
    assert homogeneous(Problem(problem.model, problem.loss, problem.batches.whole)).degree == 1


def test_drift_of_the_direction():
    assert direction_drift(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])) == pytest.approx(45)
    assert math.isnan(direction_drift(torch.zeros(2), torch.ones(2)))


def test_saved_and_replayed(tmp_path):
    certificate = margin_certificate(trained(steps=300))
    certificate.save(tmp_path / "margin.safetensors")
    assert check(tmp_path / "margin.safetensors") is True
