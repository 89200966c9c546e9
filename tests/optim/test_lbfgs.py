"""L-BFGS against torch's, against a closed form, and what its line search promises."""

import copy
import itertools

import pytest
import torch

from tameopt import optim
from tameopt.optim.wolfe import CURVATURE, SUFFICIENT_DECREASE, Trial, cubic_minimum, strong_wolfe


def rosenbrock(p):
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def stretched(p):
    return (torch.arange(1.0, p.numel() + 1, dtype=p.dtype) * (p - 1) ** 2).sum() + (p**4).sum() / 10


def run(library, loss, start, steps, middle=None, **arguments):
    p = torch.nn.Parameter(start.clone())
    optimizer = library.LBFGS([p], **arguments)

    def closure():
        optimizer.zero_grad()
        value = loss(p)
        value.backward()
        return value

    losses = []
    for k in range(steps):
        if k == middle:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = (torch.optim if library is optim else optim).LBFGS([p], **arguments)
            optimizer.load_state_dict(saved)
        losses.append(optimizer.step(closure).item())
    return p.detach(), losses, optimizer.state[p]["func_evals"]


STARTS = [(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64)), (stretched, torch.zeros(30).double())]


@pytest.mark.parametrize(
    "arguments",
    [
        {"line_search_fn": "strong_wolfe"},
        {"line_search_fn": "strong_wolfe", "history_size": 3, "max_iter": 7, "lr": 0.5},
        {"line_search_fn": "strong_wolfe", "max_eval": 5},
        {"lr": 1e-3},
        {"lr": 1e-3, "max_iter": 3, "history_size": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("loss", "start"), STARTS, ids=["rosenbrock", "stretched"])
def test_same_path_as_torch(loss, start, arguments):
    ours, our_losses, our_calls = run(optim, loss, start, 4, **arguments)
    theirs, their_losses, their_calls = run(torch.optim, loss, start, 4, **arguments)
    assert our_calls == their_calls
    # rounding differs in the last digit of each dot product and Rosenbrock's valley amplifies it
    assert our_losses == pytest.approx(their_losses, rel=1e-6, abs=1e-12)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("library", [optim, torch.optim], ids=["from tameopt", "from torch"])
def test_state_crosses_over(library):
    arguments = {"line_search_fn": "strong_wolfe", "max_iter": 3}
    crossed, losses, _ = run(library, stretched, STARTS[1][1], 4, middle=2, **arguments)
    straight, reference, _ = run(torch.optim, stretched, STARTS[1][1], 4, **arguments)
    assert losses == pytest.approx(reference, rel=1e-9)
    assert torch.allclose(crossed, straight, rtol=1e-8)


def test_reaches_the_minimum_of_rosenbrock():
    p, losses, _ = run(optim, rosenbrock, STARTS[0][1], 10, line_search_fn="strong_wolfe", tolerance_change=1e-16)
    assert torch.allclose(p, torch.ones(2).double(), atol=1e-6)
    assert all(b <= a for a, b in itertools.pairwise(losses))


def test_complex_parameters():
    target = torch.tensor([1 + 2j, -3j], dtype=torch.complex128)
    p, _, _ = run(
        optim, lambda p: ((p - target).abs() ** 2).sum(), torch.zeros_like(target), 3, line_search_fn="strong_wolfe"
    )
    assert torch.allclose(p, target, atol=1e-6)


def test_line_search_satisfies_both_conditions():
    direction = torch.ones(1, dtype=torch.float64)

    def evaluate(t):
        x = torch.tensor([t], dtype=torch.float64, requires_grad=True)
        value = -x / (x * x + 2)  # Moré and Thuente's first test function
        value.backward()
        return value.item(), x.grad

    value, g = evaluate(0.0)
    for first in (1e-3, 0.1, 1.0, 10.0):
        loss, gradient, t, used = strong_wolfe(evaluate, direction, first, value, g, g.item(), 1e-9, 25)
        assert loss <= value + SUFFICIENT_DECREASE * t * g.item()
        assert abs(gradient.item()) <= CURVATURE * abs(g.item())
        assert used <= 26


def test_line_search_from_far_away_ends_where_torchs_does():
    """From t = 1000 torch's bracket keeps an end that decreases too little; the drop-in does the same."""
    from torch.optim.lbfgs import _strong_wolfe

    def loss_and_gradient(t):
        return -t / (t * t + 2), torch.tensor([(t * t - 2) / (t * t + 2) ** 2], dtype=torch.float64)

    value, g = loss_and_gradient(0.0)
    direction = torch.ones(1, dtype=torch.float64)
    for first in (1e-3, 0.1, 1.0, 10.0, 1000.0):
        ours = strong_wolfe(loss_and_gradient, direction, first, value, g, g.item(), 1e-9, 25)
        theirs = _strong_wolfe(
            lambda x, t, d: loss_and_gradient(float(t)), None, first, direction, value, g, g.dot(direction)
        )
        assert ours[2] == pytest.approx(float(theirs[2]), rel=1e-12)
        assert ours[3] == theirs[3]


def test_cubic_minimum_is_exact_for_a_cubic():
    def trial(x):
        return Trial(x, x**3 - 3 * x, torch.zeros(1), 3 * x**2 - 3)

    assert cubic_minimum(trial(0.0), trial(3.0)) == pytest.approx(1.0)
    assert cubic_minimum(trial(3.0), trial(0.0)) == pytest.approx(1.0)
    assert cubic_minimum(trial(2.0), trial(3.0)) == 2.0  # the minimum lies outside: its nearer end


def test_bad_input():
    p = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="LBFGS needs one parameter group, got 2"):
        optim.LBFGS([{"params": [p]}, {"params": [torch.nn.Parameter(torch.zeros(1))]}])
    with pytest.raises(ValueError, match="line_search_fn must be None or 'strong_wolfe', got 'armijo': choose"):
        optim.LBFGS([p], line_search_fn="armijo")
    with pytest.raises(TypeError, match=r"LBFGS\.step needs a closure"):
        optim.LBFGS([p]).step(None)
    with pytest.raises(ValueError, match="engine must be one of auto, eager, got 'cpu'"):
        optim.LBFGS([p], engine="cpu")
