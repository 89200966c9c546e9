"""From a small network to its formula and its pieces, against torch's own values."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

import tameopt as tame
from tameopt.structure import certify
from tameopt.structure.derivation import as_data, derivation, lines
from tameopt.structure.plane_pieces import plane_pieces
from tameopt.structure.semialgebraic import Function, parse
from tameopt.structure.semialgebraic.linear import feasible


def _network(hidden: int = 2, samples: int = 3) -> tame.Problem:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 1)).double()
    x = torch.tensor([[1.0], [-2.0], [0.5], [3.0]]).double()[:samples]
    return tame.Problem(net, functional.mse_loss, (x, x.flip(0).square()))


def _at(function: Function, theta: torch.Tensor) -> Fraction:
    return function(dict(zip(function.variables, map(Fraction, theta.tolist()), strict=True)))


def test_a_relu_network_is_its_formula():
    problem = _network(samples=2)
    f = Function.from_problem(problem)
    # two lines w x + b = 0 through 0 cut the plane of each hidden unit into four pieces
    assert len(f.pieces) == 16
    assert f.degree == certify(problem).degree == 4
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        theta = torch.randint(-8, 9, (problem.theta.numel(),), generator=generator).double() / 4
        assert float(_at(f, theta)) == pytest.approx(float(problem.value(theta)), abs=1e-13, rel=1e-13)


def test_the_formula_does_not_round():
    f = Function.from_problem(tame.Problem.from_function(lambda t: (t * 3).sum() - 2 * t.sum(), torch.ones(1)))
    ((_, polynomial),) = f.pieces
    assert str(polynomial) == "theta0"
    assert _at(f, torch.tensor([2.0**-60], dtype=torch.float64)) == Fraction(1, 2**60)
    # 1/3 is 1/3, not the nearest float
    model = nn.Linear(1, 1, bias=False).double()
    data = (torch.ones(3, 1).double(), torch.zeros(3, 1).double())
    problem = tame.Problem(model, lambda out, y: functional.l1_loss(out, y), data)
    assert {str(polynomial) for _, polynomial in Function.from_problem(problem).pieces} == {"theta0", "-theta0"}


_KINDS = [
    lambda t: t.abs().sum(),
    lambda t: torch.maximum(t[0], t[1]) - t[2].clamp(-1, 1),
    lambda t: functional.leaky_relu(t, 0.25).square().sum(),
    lambda t: functional.huber_loss(t, torch.zeros_like(t)),
    lambda t: functional.smooth_l1_loss(t, torch.ones_like(t), beta=0.5, reduction="sum"),
    lambda t: torch.where(t > 0.5, t, -2 * t).sum() + (t >= 1).to(t.dtype).sum(),
    lambda t: t.amax() * t.min() + t.sign().sum(),
    lambda t: functional.hardtanh(t[:2].view(2, 1) @ t[1:].view(1, 2)).mean(),
    lambda t: torch.cat([t[:1], t[1:] ** 3]).mean() / 3,
    lambda t: functional.relu6(4 * t).sum() - torch.stack([t, 1 - t]).amax(0).sum(),
    lambda t: (t.relu() - 1).relu().sum() * 0.5,
]


@pytest.mark.parametrize("function", _KINDS, ids=range(len(_KINDS)))
def test_every_operator_means_what_torch_means(function):
    start = torch.tensor([0.5, -0.75, 1.0], dtype=torch.float64)
    problem = tame.Problem.from_function(function, start)
    f = Function.from_problem(problem)
    for entries in itertools.product((-1.5, -0.5, 0.0, 0.5, 1.0), repeat=3):
        theta = torch.tensor(entries, dtype=torch.float64)
        assert float(_at(f, theta)) == pytest.approx(float(problem.value(theta)), abs=1e-13)


def test_along_a_line_the_pieces_are_intervals():
    problem = tame.Problem.from_function(lambda t: (t[0].relu() - t[1].relu()).abs(), torch.zeros(2).double())
    f = Function.from_problem(problem, along={"s": [1, 0]}, theta=torch.tensor([0.0, 1.0], dtype=torch.float64))
    found = {str(polynomial) for _, polynomial in f.pieces}
    assert f.variables == ("s",)
    assert found == {"s - 1", "-s + 1", "1"}


def test_what_has_no_exact_form_is_named():
    smooth = tame.Problem.from_function(lambda t: t.exp().sum(), torch.ones(2))
    with pytest.raises(ValueError, match="exp has none here"):
        Function.from_problem(smooth)
    with pytest.raises(ValueError, match="divides by something that varies"):
        Function.from_problem(tame.Problem.from_function(lambda t: t[0] / t[1], torch.ones(2)))
    with pytest.raises(ValueError, match="at most 3 pieces are listed"):
        Function.from_problem(tame.Problem.from_function(lambda t: t.abs().sum(), torch.ones(3)), max_pieces=3)
    with pytest.raises(ValueError, match="must be recorded as one formula"):
        Function.from_problem(tame.Problem.from_function(lambda t: t.sum() if t[0] > 0 else -t.sum(), torch.ones(2)))
    with pytest.raises(ValueError, match="a direction must have 2 entries"):
        Function.from_problem(tame.Problem.from_function(lambda t: t.sum(), torch.ones(2)), along={"s": [1]})


def test_linear_conditions_are_decided_exactly():
    assert not feasible(parse("x + y > 1 and x < 1/3 and y < 2/3").parts)
    assert feasible(parse("x + y >= 1 and x <= 1/3 and y <= 2/3").parts)
    assert not feasible(parse("x == y and y == z and x > z").parts)
    # nonlinear conditions are left out
    assert feasible(parse("x**2 < 0 and x > 1").parts)


def test_the_pieces_on_a_plane_are_those_of_the_formula():
    problem = tame.Problem.from_function(lambda t: (t[0] - t[1]).relu() + t.sum().abs(), torch.zeros(2).double())
    found = plane_pieces(problem, directions=torch.eye(2), points=10)
    # the lines s = t and s = -t
    assert found.count == 4
    f = Function.from_problem(problem, along={"s": [1, 0], "t": [0, 1]})
    for row, t in enumerate(found.axis):
        for column, s in enumerate(found.axis):
            value = f(s=s, t=t)
            assert found.values[row][column] == value
            assert found.polynomials[found.labels[row][column]].at({"s": s, "t": t}) == value
    picture = found.picture()
    assert picture.image is not None
    assert picture.image.categorical == tuple(str(polynomial) for polynomial in found.polynomials)


def test_neighbouring_pieces_have_different_colours():
    found = plane_pieces(_network(hidden=2, samples=2), points=13, radius=4)
    assert found.count > 6
    z = found.picture().image.z
    for row, labels in zip(z, found.labels, strict=True):
        for (a, b), (left, right) in zip(itertools.pairwise(row), itertools.pairwise(labels), strict=True):
            assert (a != b) == (left != right)
    with pytest.raises(ValueError, match="took more than"):
        plane_pieces(_network(), points=13, seconds=0.0)
    with pytest.raises(ValueError, match=r"directions must have shape \(2, 7\)"):
        plane_pieces(_network(), directions=torch.eye(3))


def test_the_derivation_is_a_tree_of_modules():
    found = certify(_network())
    tree = derivation(found)
    assert tree.result == f"{found.definable} of degree {found.degree}, {found.smoothness}"
    assert tree.kinks == 1
    text = "\n".join(lines(tree))
    assert "relu" in text
    assert "1 not smooth" in text
    data = as_data(tree)
    assert [child["name"] for child in data["children"]] == ["model", "BatchLoss"]
    assert as_data(tree, most=2) is None


def test_only_a_problem_has_a_formula():
    with pytest.raises(TypeError, match=r"needs a tameopt.Problem, got Linear: make one"):
        Function.from_problem(nn.Linear(2, 1))
