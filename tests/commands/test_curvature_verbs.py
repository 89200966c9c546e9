"""`tameopt spectrum`, `critical` and `basins`: text, JSON, and what they refuse."""

import json

import pytest
import torch

from tameopt.cli import main
from tameopt.curvature import critical
from tameopt.run import Run


@pytest.fixture
def text_of(capsys):
    def call(*words):
        assert main([*words, "-q"]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def document_of(text_of):
    return lambda *words: json.loads(text_of(*words, "--json"))


def test_spectrum_of_a_function_and_of_a_network(document_of, text_of):
    small = document_of("spectrum", "rosenbrock")
    assert small["complete"] and len(small["eigenvalues"]) == 2
    assert document_of("spectrum", "rosenbrock", "--density")["trace"]["standard_error"] > 0
    large = document_of("spectrum", "digits-linear", "-k", "2")
    assert len(large["eigenvalues"]) == 4 and large["missed_99"] > 0
    text = text_of("spectrum", "rosenbrock")
    assert "Eigenvalue" in text and "Hessian products" in text


NETWORK = """
import torch
from tameopt import Problem

def factory(seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2)]
    data = (torch.randn(20, 6), torch.randint(2, (20,)))
    return Problem(torch.nn.Sequential(*layers), torch.nn.functional.cross_entropy, data, mode="eval")
"""


def test_both_ends_of_a_small_network_and_that_training_steps_on_another_function(tmp_path, document_of, text_of):
    (tmp_path / "net.py").write_text(NETWORK)
    target = f"{tmp_path / 'net.py'}:factory"
    text = text_of("spectrum", target, "-k", "3")
    values = sorted((row["eigenvalue"] for row in document_of("spectrum", target)["eigenvalues"]), reverse=True)
    shown = [
        line.split()[0] for line in text.splitlines() if line.strip().endswith(tuple(f"e-{n}" for n in range(9, 20)))
    ]
    assert shown == [f"{value:.6g}" for value in [*values[:3], *values[-3:]]]
    assert f"All {len(values)} eigenvalues" in text
    for verb in ("spectrum", "critical"):
        assert "these modules differ in training: 1 (BatchNorm1d)" in " ".join(text_of(verb, target).split())
    assert document_of("critical", "rosenbrock")["note"] == ""


def test_critical_proves_what_is_small(document_of, text_of):
    one = document_of("critical", "rosenbrock")
    assert (one["kind"], one["verdict"]) == ("not critical", "PROVED")
    every = document_of("critical", "saddle", "--box", "2")
    assert every["verdict"] == "PROVED"
    assert sorted(point["kind"] for point in every["points"]) == ["minimum", "minimum", "strict saddle"]
    found = document_of("critical", "saddle", "--search", "20")
    assert sum(point["starts"] for point in found["points"]) <= 20
    words = text_of("critical", "saddle", "--box", "2")
    assert "within 2: 2 minima, 1 strict saddle." in words and "0, -1" in words


def test_an_interrupted_search_is_shown_and_exits_with_130(monkeypatch, capsys):
    monkeypatch.setattr(critical._Search, "models", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["critical", "saddle", "--search", "3", "-q"]) == 130
    words = " ".join(capsys.readouterr().out.split())
    assert "Interrupted; this is what was found by then." in words and "No critical point was found" in words


def test_critical_points_are_pictured_by_index(tmp_path, document_of):
    for question in (("--box", "2"), ("--search", "20")):
        found = document_of("critical", "saddle", *question, "--picture", str(tmp_path / "c.svg"))
        assert {point["index"] for point in found["points"]} == {0, 1}
        assert "directions that curve down" in (tmp_path / "c.svg").read_text()
    none = document_of("critical", "saddle", "--box", "0.25", "--picture", str(tmp_path / "none.svg"))
    assert none["summary"] == "All critical points with all coordinates within 0.25: 1 strict saddle."


def test_basins_with_a_picture(tmp_path, document_of, text_of):
    found = document_of("basins", "saddle", "--points", "12", "--picture", str(tmp_path / "b.svg"))
    assert [attractor["share"] for attractor in found["attractors"]] == [0.5, 0.5]
    assert "stable curve" in (tmp_path / "b.svg").read_text()
    assert "Goes to" in text_of("basins", "saddle", "--points", "10")


def test_a_saddle_is_pictured_with_its_escape(tmp_path, document_of):
    with Run.create(tmp_path / "run", {"target": "saddle", "d": 2}) as run:
        run.save_vectors(0, {"theta": torch.zeros(2, dtype=torch.float64)})
    found = document_of("critical", str(tmp_path / "run"), "--picture", str(tmp_path / "c.svg"))
    assert found["kind"] == "strict saddle" and "Escape from a saddle" in (tmp_path / "c.svg").read_text()


def test_basins_of_other_than_two_parameters_are_sampled(document_of, capsys):
    found = document_of("basins", "quadratic", "--points", "30")
    (one,) = found["attractors"]
    assert one["share"] == 1.0 and one["interval"][0] == pytest.approx(0.025 ** (1 / 30))
    assert found["starts"] == 30 and found["boundary_share"] is None
    assert main(["basins", "quadratic", "--points", "30", "-q"]) == 0
    words = capsys.readouterr().out
    assert "30 random starts within 2" in words and "(0, 0, 0, 0)" in words and "0.884 to 1.000" in words
    assert main(["basins", "saddle", "--points", "4", "--steps", "8", "--alpha", "1e-12", "-q"]) == 0
    assert "with a tiny step (--alpha) that happens anywhere" in " ".join(capsys.readouterr().out.split())


def test_a_recorded_step_is_looked_at(tmp_path, document_of, capsys):
    with Run.create(tmp_path / "run", {"target": "saddle", "d": 2}) as run:
        run.save_vectors(7, {"theta": torch.zeros(2, dtype=torch.float64)})
    at = document_of("critical", str(tmp_path / "run"), "--step", "7")
    assert at["point"] == "step 7" and at["kind"] == "strict saddle" and at["verdict"] == "PROVED"
    # the starts lie around the recorded step, where the problem's own parameters lead elsewhere
    near = document_of("critical", str(tmp_path / "run"), "--search", "5", "--spread", "0.01")
    assert [point["kind"] for point in near["points"]] == ["strict saddle"]
    with Run.create(tmp_path / "other", {"target": "saddle", "d": 2}) as run:
        run.save_vectors(7, {"theta": torch.tensor([0.0, -1.0], dtype=torch.float64)})
    other = document_of("critical", str(tmp_path / "other"), "--search", "5", "--spread", "0.01")
    assert [point["kind"] for point in other["points"]] == ["minimum"]
    assert main(["critical", str(tmp_path / "run"), "--step", "9", "-q"]) == 2
    assert "the nearest is --step 7" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "words, message",
    [
        (("basins", "digits-linear"), "basins are found for up to 100 parameters"),
        (("basins", "saddle", "--points", "1"), "--points must be at least 2"),
        (("basins", "saddle", "--steps", "0"), "--steps at least 1, got 200, 2.0 and 0"),
        (("basins", "saddle", "--extent", "inf"), "finite and --steps"),
        (("basins", "quadratic", "--picture", "x.png"), "a picture of basins needs two parameters, quadratic has 4"),
        (("critical", "saddle", "--search", "2", "--box", "2"), "two questions: ask one at a time"),
        (("critical", "saddle", "--search", "-2"), "--search must be at least 1"),
        (("critical", "saddle", "--search", "2", "--spread", "nan"), "--spread must be > 0 and finite"),
        (("critical", "saddle", "--box", "inf"), "--box must be > 0 and finite"),
        (("critical", "digits-mlp", "--box", "1"), "for up to 30 parameters, got 4,810"),
        (("critical", "saddle", "--box", "-1"), "--box must be > 0"),
        (("spectrum", "saddle", "--step", "3"), "--step needs the folder of a recorded run"),
        (("spectrum", "sadle"), "Did you mean 'saddle'"),
    ],
)
def test_refusals(words, message, capsys):
    assert main([*words, "-q"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
