"""The room's pictures: the four sets, the flow against steps, graphs of proximal maps, the sparsity path."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import tameopt as tame
from tameopt.cli import main
from tameopt.nonsmooth import all_subdifferentials, prox, side_by_side, sparsity_path, subgradient_steps


def test_the_four_sets_on_one_scale():
    """The limiting set of abs(x) - abs(y) is two segments, Clarke's their hull; the others are empty."""
    axes = Figure().subplots(2, 2)
    sets = all_subdifferentials(lambda x: x[0].abs() - x[1].abs(), [0, 0])
    assert side_by_side(sets, axes, backprop=[0.0, 0.5]) is axes
    _, _, limiting, clarke = axes.flat
    assert [ax.get_title() for ax in axes.flat] == ["convex: empty", "frechet: empty", "limiting", "clarke"]
    assert len({ax.get_xlim() for ax in axes.flat}) == len({ax.get_ylim() for ax in axes.flat}) == 1
    lines = {tuple(map(tuple, line.get_xydata())) for line in limiting.lines}
    assert {((-1.0, 1.0), (1.0, 1.0)), ((-1.0, -1.0), (1.0, -1.0)), ((0.0, 0.5),)} <= lines
    assert any(len(line.get_xydata()) == 5 for line in clarke.lines)  # the square, closed


def test_the_four_sets_of_one_variable():
    axes = side_by_side(all_subdifferentials(lambda x: -x.abs().sum(), [0]))
    drawn = [[list(map(float, line.get_xdata())) for line in ax.lines if len(line.get_xdata()) == 2] for ax in axes]
    assert [-1.0, 1.0] in drawn[3] and [-1.0, 1.0] not in drawn[2]
    with pytest.raises(ValueError, match="d = 1 or 2, got d = 3"):
        side_by_side(all_subdifferentials(lambda x: x.abs().sum(), [0, 0, 0]))
    with pytest.raises(ValueError, match="need 4 axes, got 2"):
        side_by_side(all_subdifferentials(lambda x: x.abs().sum(), [0]), Figure().subplots(1, 2))


def _slide(x):
    return 2 * x[1].abs() + x[0].abs() + 0.5 * x[1]


def test_steps_follow_the_inclusion_at_order_alpha():
    """The flow slides along y = 0; shorter steps stay in proportion."""
    found = {alpha: subgradient_steps(_slide, [1.5, 1.0], 2.0, alpha) for alpha in (0.1, 0.01)}
    assert found[0.1].flow.status == "exact" and found[0.1].flow.energy_defect == 0
    for alpha, path in found.items():
        # one step across the kink: alpha times the norm of the largest gradient, (1, 2.5)
        assert path.distance <= math.hypot(1, 2.5) * alpha * (1 + 1e-9)
        assert path.distance >= alpha / 2
    ax = Figure().subplots()
    assert found[0.1].plot(ax) is ax
    flow = next(line for line in ax.lines if line.get_label() == "inclusion")
    # the corners are drawn, also those between two steps
    assert any(np.allclose(point, [1.1, 0.0]) for point in flow.get_xydata())
    assert subgradient_steps(lambda x: x.abs().sum(), [1], 2.0, 0.3).plot().get_ylabel() == "x_1"
    several = subgradient_steps(lambda x: -x.abs().sum(), [0], 1.0, 0.5).plot()
    assert "inclusion (one of several)" in {line.get_label() for line in several.lines}
    with pytest.raises(ValueError, match="0 < alpha <= time"):
        subgradient_steps(_slide, [1, 1], 1.0, 2.0)
    with pytest.raises(ValueError, match="d = 1 or 2, got d = 3"):
        subgradient_steps(lambda x: x.abs().sum(), [1, 1, 1], 1.0, 0.5).plot()


@pytest.mark.parametrize("name", [name for name in prox.names() if prox.entry(name).acts_on == "entries"])
def test_graphs_of_proximal_maps(name):
    picture = prox.entry(name).picture(0.5)
    _, graph = picture.series
    v, x = np.array(graph.x), np.array(graph.y)
    there = ~np.isnan(x)
    assert there.sum() >= 1998  # broken at no more than two jumps
    expected = prox.entry(name)(torch.tensor(v[there]), 0.5).numpy()
    np.testing.assert_allclose(x[there], expected, rtol=1e-12, atol=1e-12)
    broken = ~there.all()
    assert broken == (name in ("l0", "l_half", "l_two_thirds"))


def test_a_graph_needs_entries():
    with pytest.raises(ValueError, match="acts on matrices"):
        prox.nuclear.picture()


def test_a_path_sparsifies_and_is_checked():
    """Stronger is sparser, PALM's inequality holds, and the zeros are those of the parameters that it names."""
    problem = tame.problems.load("digits-linear", n=300)
    path = sparsity_path(problem, "l1", (1e-3, 1e-2, 1e-1), steps=40, passes=10)
    shares = [point.nonzero for point in path.points]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.3 > shares[-1]
    assert all(point.report.step_hypothesis_holds for point in path.points)
    assert all(math.isfinite(point.loss) and 0 <= point.accuracy <= 1 for point in path.points)
    assert path.parameters == ("weight",)
    assert path.points[0].accuracy > 0.7
    picture = path.picture()
    assert {series.label for series in picture.series} == {"entries not 0", "rows not 0", "accuracy, held out"}
    again = sparsity_path(problem, "l1", (1e-3, 1e-2, 1e-1), steps=40, passes=10)
    assert again.points == path.points  # the same seed
    low = sparsity_path(problem, "nuclear", (1e-1,), steps=40, passes=10)
    assert low.points[0].rank < 1 and low.points[0].nonzero == 1
    assert {series.label for series in low.picture().series} == {"rank", "accuracy, held out"}


def test_a_path_without_regulariser_on_a_tensor_leaves_it_alone():
    problem = tame.problems.load("digits-mlp", width=8, n=100)
    path = sparsity_path(problem, "l2", (0.5,), parameters=["2.weight"], steps=30, passes=5)
    assert path.points[0].rows == 0
    theta = problem.theta
    assert torch.equal(theta, tame.problems.load("digits-mlp", width=8, n=100).theta)  # the model is not written


def test_bad_paths():
    problem = tame.problems.load("digits-linear", n=50)
    with pytest.raises(ValueError, match="strengths must be positive and grow"):
        sparsity_path(problem, "l1", (1e-2, 1e-3))
    with pytest.raises(ValueError, match="parameters must be among weight, bias"):
        sparsity_path(problem, "l1", parameters=["wieght"])
    with pytest.raises(ValueError, match="Did you mean"):
        sparsity_path(problem, "l11")
    with pytest.raises(ValueError, match="steps and passes must be >= 1"):
        sparsity_path(problem, "l1", steps=0)
    with pytest.raises(ValueError, match="no samples to pick by number"):
        sparsity_path(tame.problems.load("saddle"), "l1")


def test_the_commands(capsys, tmp_path):
    words = ["clarke", "abs(x) + 2*abs(y) + y/2", "--at", "3/2,1", "--flow", "2"]
    assert main([*words, "--json", "--plot", str(tmp_path / "flow.png")]) == 0
    flow = json.loads(capsys.readouterr().out)["flow"]
    assert flow["unique"] and flow["energy_defect"] == 0 and len(flow["events"]) == 3
    assert main(["clarke", "--flow", "1", "--plot", str(tmp_path / "sets.png"), "--", "-abs(x)"]) == 0
    assert "one of several solutions" in capsys.readouterr().out
    assert main(["prox", "mcp", "--picture", str(tmp_path / "prox.png")]) == 0
    target = ["prox", "l1", "--path", "digits-linear", "--steps", "5", "--strengths", "1e-3,1e-1"]
    assert main([*target, "--picture", str(tmp_path / "path.png")]) == 0
    assert "descent inequality: yes" in " ".join(capsys.readouterr().out.split())
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("flow", "sets", "prox", "path"))
    assert main(["prox", "--path", "digits-linear"]) == 2
    assert "needs the name of a regulariser" in capsys.readouterr().err
    assert main([*target[:-1], "1e-1,1e-3"]) == 2
