"""The verbs kl, certify and ntk."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from tameopt.cli import main
from tameopt.run import Run


def test_the_exponent_of_a_polynomial(capsys):
    pytest.importorskip("flint")
    assert main(["kl", "(x - y^2)^2 + x^4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["theta"] == "7/8"
    assert main(["kl", "(x*y - 1)^2", "--at", "2,1/2"]) == 0
    assert "^1/2" in capsys.readouterr().out


def test_what_is_neither_run_nor_polynomial(capsys):
    assert main(["kl", "no such run"]) == 2
    assert "must be an expression" in capsys.readouterr().err
    assert main(["kl", "runs/none"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "must be the folder of a recorded run (there is none; tameopt train records one)" in told
    assert main(["kl", "(x - sin(y))^2"]) == 2
    assert "folder" not in capsys.readouterr().err


def test_the_claim_of_an_exponent_is_in_the_document(capsys):
    pytest.importorskip("flint")
    from tameopt.kl import check_exponent

    assert main(["kl", "(y^2 - x^3)^2 + x^7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "PROVED" and check_exponent.check(found["claim"])


def test_the_rate_of_a_run(tmp_path, capsys):
    folder = tmp_path / "run"
    with Run.create(folder, {"sampling": "full batch"}) as run:
        for k in range(0, 600, 10):
            run.record(k, {"full_loss": 0.3 + 0.99**k, "full_gradient_norm": 0.99 ** (k / 2)})
    assert main(["kl", str(folder), "--to", "0.3001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["regime"] == "linear"
    assert found["factor"] == pytest.approx(0.99, abs=1e-9)
    assert main(["kl", str(folder)]) == 0
    assert "LINEAR" in capsys.readouterr().out


def test_a_lower_bound_is_respected_and_a_reason_is_said_once(tmp_path, capsys):
    folder = tmp_path / "run"
    with Run.create(folder, {"sampling": "full batch"}) as run:
        for k in range(0, 600, 10):
            run.record(k, {"full_loss": 3.0 / (1 + k) ** 0.25})
    assert main(["kl", str(folder), "--json"]) == 0
    free = json.loads(capsys.readouterr().out)
    assert main(["kl", str(folder), "--lower", "0", "--json"]) == 0
    bounded = json.loads(capsys.readouterr().out)
    assert bounded["F_star"] >= 0 and (bounded["F_star_interval"][0] or 0.0) >= 0
    assert main(["kl", str(folder)]) == 0
    assert " ".join(capsys.readouterr().out.split()).count(free["reason"]) == 1


def test_certify_saves_checks_and_rejects(tmp_path, capsys):
    path = tmp_path / "trap.safetensors"
    options = ["--samples", "5", "--width", "2048", "--save", str(path), "--json", "--quiet"]
    assert main(["certify", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "PROVED" and found["h"] <= 0.5
    assert main(["certify", "--check", str(path)]) == 0
    assert "PROVED" in capsys.readouterr().out
    with safe_open(path, framework="numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**arrays, "W": 0.3 * arrays["W"]}, path, metadata=metadata)
    assert main(["certify", "--check", str(path)]) == 1
    assert "REJECTED" in capsys.readouterr().out
    assert main(["certify", "--check", str(tmp_path / "absent")]) == 2


def test_certify_says_which_number_fails(capsys):
    assert main(["certify", "--samples", "5", "--width", "4", "--quiet"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "must be at most 1/2" in told and "what would help: about" in told
    assert main(["certify", "digits-mlp", "--quiet"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "is added to something of degree 2" in told and "what would help: bias=False" in told


def test_ntk_of_a_problem(capsys):
    assert main(["ntk", "digits-linear", "--samples", "4", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 4 and found["lambda_min"] <= found["lambda_max"]
    assert main(["ntk", "digits-linear", "--samples", "0", "--quiet"]) == 2
    assert "at least 1" in capsys.readouterr().err


def test_drift_needs_the_same_samples():
    from tameopt import problems
    from tameopt.kl.ntk import kernel_drift, ntk

    problem = problems.load("digits-linear")
    left, right = ntk(problem, indices=torch.tensor([0, 1])), ntk(problem, indices=torch.tensor([2, 3]))
    assert kernel_drift(left, left) == 0.0
    with pytest.raises(ValueError, match="same samples"):
        kernel_drift(left, right)
