"""`tameopt structure` and `tameopt lint`."""

from __future__ import annotations

import json

import pytest

from tameopt.commands import lint as lint_verb
from tameopt.commands import structure as structure_verb
from tameopt.commands.lint import Format

_BAD = """
import torch
import tameopt as tame

def bad():
    return tame.Problem.from_function(lambda t: (t * t).sqrt().sum(), torch.ones(2))
"""


def test_structure_says_the_class(capsys):
    structure_verb.ENTRY.function(target="digits-mlp", operations=True, seed=0, as_json=False)
    text = capsys.readouterr().out
    assert "R_exp" in text
    assert "PROVED" in text
    assert "relu" in text


def test_structure_as_json(capsys):
    structure_verb.ENTRY.function(target="deep-linear", operations=False, seed=0, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["definable"], document["degree"], document["verdict"]) == ("polynomial", 4, "PROVED")


@pytest.mark.parametrize("output_format", list(Format))
def test_lint_exits_1_on_a_finding(tmp_path, capsys, output_format):
    path = tmp_path / "bad.py"
    path.write_text(_BAD)
    code = lint_verb.ENTRY.function(target=f"{path}:bad", output_format=output_format, seed=0, as_json=False)
    text = capsys.readouterr().out
    assert code == 1
    assert "TAME101" in text
    assert "bad.py" in text
    if output_format is Format.TEXT:
        assert f"{path}:6:" in text
    else:
        json.loads(text)


def test_lint_is_silent_on_clean_code(capsys):
    assert lint_verb.ENTRY.function(target="digits-mlp", output_format=Format.TEXT, seed=0, as_json=False) is None
    assert "All checks passed" in capsys.readouterr().out
