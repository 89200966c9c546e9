"""The room's verbs, as typed."""

import json

import pytest

from tameopt.cli import main
from tameopt.nonsmooth.expression import parse


@pytest.fixture
def run(capsys):
    def call(*words):
        code = main(list(words))
        return code, *capsys.readouterr()

    return call


def test_clarke_of_the_lectures_example(run):
    code, out, err = run("clarke", "--json", "-q", "--", "-abs(x)")
    assert code == 0, err
    assert err == ""
    document = json.loads(out)
    assert document["convex"]["pieces"] == document["frechet"]["pieces"] == []
    assert document["limiting"]["pieces"] == [[["-1"]], [["1"]]]
    assert document["clarke"]["pieces"] == [[["-1"], ["1"]]]
    assert document["distance_to_0"] == 0


def test_clarke_in_words_and_a_picture(run, tmp_path):
    code, out, err = run("clarke", "relu(y - abs(x))", "--at", "0,0", "--plot", str(tmp_path / "sets.svg"))
    assert code == 0, err
    assert "hull of (-1, 1), (0, 0), (1, 1)" in out
    assert (tmp_path / "sets.svg").stat().st_size > 1000


def test_a_flow_is_told_with_its_estimate_or_bound(run):
    words = ("clarke", "-q", "relu(x**2 + y**2 - 1) + x", "--at", "0,2", "--flow", "1")
    code, out, err = run(*words)
    assert code == 0, err
    assert "(integrated, estimated error " in out
    code, out, err = run("clarke", "-q", "exp(x) + abs(x)", "--at", "0", "--flow", "1")
    assert code == 0, err
    assert "(bundle, within " in out and "if F is convex)" in out


def test_clarke_of_backprop_that_is_wrong(run):
    assert "REFUTED" in run("clarke", "relu(x) - relu(-x)")[1]


def test_clarke_of_a_problem(run):
    code, out, err = run("clarke", "saddle")
    assert code == 0, err
    assert "No operator of the loss has a kink" in " ".join(out.split())


def test_prox_listed_and_computed(run):
    assert "nuclear" in run("prox")[1]
    assert json.loads(run("prox", "l1", "3,-0.5", "--json")[1])["x"] == [2.0, 0.0]
    assert "lam=1.0" in run("prox", "mcp")[1]
    assert "not unique: 2 has the minimisers 0.0 and 2.0" in run("prox", "l0", "2,3", "--t", "2")[1]
    assert json.loads(run("prox", "rank", "2;0", "--t", "2", "--json")[1])["several"]["v"][1] == [[2.0], [0.0]]
    computed = json.loads(run("prox", "s_sparse", "3,-0.5,1", "--set", "s=2", "--json")[1])
    assert computed["x"] == [3.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "words,said",
    [
        (("prox", "l3", "1"), "not one of tameopt's prox"),
        (("prox", "l1", "a,b"), "numbers separated by commas"),
        (("clarke", "abs(x) + foo(y)"), "is not understood"),
        (("clarke", "abs(x)", "--at", "1,2"), "--at must have 1 numbers"),
        (("clarke", "sqrt(x)"), "need not be Lipschitz"),
    ],
)
def test_bad_words(run, words, said):
    code, _, err = run(*words)
    assert code == 2
    assert said in " ".join(err.split())


def test_formulas_that_are_not_understood():
    for text, words in (("abs(x", "must be a formula"), ("3", "must have a variable"), ("x**y", "must be whole")):
        with pytest.raises(ValueError, match=words):
            parse(text)
