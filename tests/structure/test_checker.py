"""The checker rejects certificates that claim more than their operators allow."""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import tameopt.structure.checker as checker
from tameopt.structure import certify
from tameopt.structure.aten._table import rows
from tameopt.structure.checker._kinks import _SETS, convention_holds
from tameopt.structure.checker._rows import RULES, SCALARS
from tameopt.structure.kinks import PROBES, gradients


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    found = certify(model, functional.mse_loss, (torch.randn(5, 3), torch.zeros(5, 2)))
    return found.certificate.data


def test_a_certificate_is_json_and_replays(data):
    assert checker.check(data)
    assert checker.check(json.loads(json.dumps(data)))


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("degree", 3),
        ("piecewise", False),
        ("smooth", 1),
        ("smooth", 1000),
        ("autodiff", 0),
        ("lower", 1e-9),
        ("upper", 5.0),
        ("shape", "convex"),
        ("homogeneous", 4),
    ],
)
def test_a_stronger_claim_is_rejected(data, claim, value):
    forged = copy.deepcopy(dict(data))
    forged["claims"][claim] = value
    assert not checker.check(forged)


def test_a_weaker_claim_is_accepted(data):
    weaker = copy.deepcopy(dict(data))
    weaker["claims"].update(degree=9, smooth=-2, autodiff=4, lower=-1.0, generators=["exp"])
    assert checker.check(weaker)


@pytest.mark.parametrize("finding", ["F.C1", "F.convex", "F.analytic"])
def test_a_finding_that_does_not_follow_is_rejected(data, finding):
    assert not checker.check({**data, "finding": finding, "value": None})
    assert checker.check({**data, "finding": "F.tame", "value": None})


def test_tampering_with_the_program_is_noticed(data):
    swapped = copy.deepcopy(dict(data))
    node = next(node for node in swapped["nodes"] if node["op"] == "relu")
    node["op"] = "sin"
    assert not checker.check(swapped)
    node["op"] = "no_such_operator"
    assert not checker.check(swapped)
    node["op"] = "relu"
    node["cut"] = {"self": "detached"}
    assert not checker.check(swapped)


def test_a_wrong_convention_is_noticed(data):
    forged = copy.deepcopy(dict(data))
    forged["conventions"]["relu"] = [[2.0]]
    assert not checker.check(forged)
    del forged["conventions"]["relu"]
    assert not checker.check(forged)


def test_something_else_is_refused():
    with pytest.raises(ValueError, match="must be of kind"):
        checker.check({"kind": "other"})
    with pytest.raises(ValueError, match="must have 'nodes'"):
        checker.check({"kind": "tameopt structure 1"})


def test_the_checker_imports_nothing_of_the_producer():
    for path in Path(checker.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert not name.startswith("tameopt") or name.startswith("tameopt.structure.checker"), (path, name)
                assert not name.startswith("torch")


def test_both_tables_know_the_same_operators():
    assert set(rows()) - set(RULES) - set(SCALARS) == set()


@pytest.mark.parametrize("operator", sorted(PROBES))
def test_torch_returns_a_clarke_subgradient_at_every_probed_kink(operator):
    assert convention_holds(operator, gradients(operator))


def test_every_probe_has_its_set_and_conversely():
    assert set(PROBES) == set(_SETS)
