"""What is said of a step's stability against what a step does: the method in training, preconditioner frozen.

The method runs on gradients of the loss as trained, less their value at the recorded point, from a small displacement
along the steepest direction. That must shrink where the step is called stable and grow where it is called unstable.
"""

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.analysis import Context
from tameopt.curvature.path_findings import analyse_path
from tameopt.evidence import Verdict
from tameopt.run import Run
from tameopt.training_mode import as_trained

F64 = torch.float64
STATE = {"Adam": "exp_avg_sq", "AdamW": "exp_avg_sq", "RMSprop": "square_avg", "Adagrad": "sum", "SGD": None}


def network(kind):
    torch.manual_seed(3)
    middle = {
        "batch norm": [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh()],
        "dropout": [nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.3)],
        "both": [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2)],
        "plain": [nn.Linear(4, 5, bias=False), nn.Tanh()],
    }[kind]
    return nn.Sequential(*middle, nn.Linear(5, 1)).double()


def recorded(kind, optimizer, arguments, batch_size=None, steps=40):
    """Train as people do, in training mode; (problem, theta, moments) at the end."""
    model = network(kind)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 4, generator=generator, dtype=F64)
    y = torch.sin(x[:, :1] * 2) + x[:, 1:2]
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.003, **arguments)
    for _ in range(steps):
        chosen = torch.randperm(48, generator=generator)[: batch_size or 48]
        made.zero_grad()
        nn.functional.mse_loss(model(x[chosen]), y[chosen]).backward()
        made.step()
    problem = tame.Problem(model, nn.functional.mse_loss, (x, y), mode="eval")
    name = STATE[optimizer]
    moments = torch.cat([made.state[p][name].reshape(-1) for p in model.parameters()]) if name else None
    return problem, problem.theta, moments


def claimed(folder, problem, theta, moments, optimizer, arguments, alpha, batch_size=None, steps=40):
    meta = {
        "optimizer": {"name": optimizer, "arguments": arguments},
        "sampling": "with replacement" if batch_size else "full batch",
        "batch_size": batch_size or problem.n,
    }
    with Run.create(folder, meta) as run:
        run.record(steps - 1, {"lr": alpha})
        run.save_vectors(steps, {"theta": theta, **({STATE[optimizer]: moments} if moments is not None else {})})
    answer = analyse_path(Context(problem, Run.open(folder), theta))
    return next(finding for finding in answer.findings if finding.claim == "step.stable")


def growth(problem, theta, moments, optimizer, arguments, alpha, batch_size=None, steps=40, iterations=80):
    """How much a displacement of size 1e-6 along the steepest direction is left of, on draws of its own."""
    random = any(isinstance(module, nn.Dropout) for module in problem.model.modules())
    draws = [as_trained(problem, batch_size, seed) for seed in range(500, 512 if random or batch_size else 501)]
    decay = 0.0 if optimizer == "AdamW" else arguments.get("weight_decay", 0.0)

    def gradient(at):
        return sum(one.gradient(at) for one in draws) / len(draws) + decay * at

    scale = torch.ones_like(theta)
    if moments is not None:
        v = moments / (1 - 0.999**steps) if "exp" in STATE[optimizer] else moments
        scale = 1 / (v.sqrt() + arguments.get("eps", 1e-8))
    hessian = sum(one.hessian(theta).dense() for one in draws) / len(draws) + decay * torch.eye(
        problem.dim, dtype=F64
    )
    top = torch.linalg.eigh(scale.sqrt()[:, None] * hessian * scale.sqrt())[1][:, -1]
    momentum = 0.9 if "Adam" in optimizer else 0.0
    start = gradient(theta)
    e = 1e-6 * scale.sqrt() * top / float((scale.sqrt() * top).norm())
    m, first = torch.zeros_like(e), float(top @ (e / scale.sqrt()))
    part = first
    for _ in range(iterations):
        m = momentum * m + (1 - momentum) * (gradient(theta + e) - start)
        e = e - alpha * scale * m
        part = float(top @ (e / scale.sqrt()))
        rest = float((e / scale.sqrt() - part * top).norm())
        # negative curvature takes over in the end, out of rounding, and then the loss is no quadratic: what counts is
        # the part along the steepest direction until there
        if abs(part) > 1e3 * abs(first) or rest > 10 * abs(first):
            break
    return abs(part) / abs(first)


CASES = [
    ("batch norm", "Adam", {}, None),
    ("batch norm", "Adam", {"eps": 1e-16}, None),
    pytest.param("batch norm", "Adam", {}, 12, marks=pytest.mark.slow),
    ("batch norm", "SGD", {}, None),
    ("batch norm", "AdamW", {"weight_decay": 0.1}, None),
    ("batch norm", "RMSprop", {}, None),
    pytest.param("dropout", "Adam", {}, 12, marks=pytest.mark.slow),
    pytest.param("both", "Adagrad", {}, 12, marks=pytest.mark.slow),
    ("plain", "Adam", {"weight_decay": 0.05, "eps": 1e-16}, None),
    ("plain", "Adagrad", {}, None),
]


@pytest.mark.parametrize("kind, optimizer, arguments, batch_size", CASES)
def test_what_is_said_of_a_step_is_what_it_does(tmp_path, kind, optimizer, arguments, batch_size):
    problem, theta, moments = recorded(kind, optimizer, arguments, batch_size)
    given = (problem, theta, moments, optimizer, arguments)
    long = claimed(tmp_path / "long", *given, 100.0, batch_size)
    assert long.verdict is Verdict.REFUTED
    at_limit = 100.0 / long.evidence.witness["ratio_at_least"]
    above = claimed(tmp_path / "above", *given, 1.5 * at_limit, batch_size)
    assert above.verdict is Verdict.REFUTED, above
    assert growth(*given, 1.5 * at_limit, batch_size) > 100
    below = claimed(tmp_path / "below", *given, at_limit / 2.5, batch_size)
    assert below.verdict is Verdict.MEASURED and 0.2 < below.value < 1, below
    assert growth(*given, at_limit / 2.5, batch_size) < 0.5
    assert ("as trained" in below.statement) is (kind != "plain")


def test_groups_that_differ_and_changing_momentum_are_not_judged_by_one_limit():
    from tameopt.curvature.stability import recorded_limit

    groups = [{"lr": 0.1, "params": ["a"]}, {"lr": 0.2, "params": ["b"]}]
    found = recorded_limit({"optimizer": {"name": "SGD", "arguments": {"lr": 0.1}, "groups": groups}})
    assert found.limit is None and "differ in lr" in found.reason
    assert recorded_limit({"optimizer": {"name": "SGD", "groups": groups[:1]}}).limit == 2.0
    assert "momentum of NAdam changes" in recorded_limit({"optimizer": {"name": "NAdam"}}).reason
    assert "lr_decay" in recorded_limit({"optimizer": {"name": "Adagrad", "arguments": {"lr_decay": 0.1}}}).reason


def test_masks_are_those_of_the_seed_and_differ_between_batches():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1)).double()
    x = torch.ones(8, 3, dtype=F64) + 1e-3 * torch.arange(8, dtype=F64)[:, None]
    problem = tame.Problem(model, nn.functional.mse_loss, (x, x[:, :1]), mode="eval")
    state = torch.random.get_rng_state()
    one, again, other = (as_trained(problem, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(one.sample_losses(), again.sample_losses())
    assert not torch.equal(one.sample_losses(), other.sample_losses())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sum(len(batch[0]) for batch in one.batches) == 8 and len({float(b[0][0, 0]) for b in one.batches}) == 4
    h = 1e-6
    v = torch.ones(problem.dim, dtype=F64)
    difference = (one.gradient(problem.theta + h * v) - one.gradient(problem.theta - h * v)) / (2 * h)
    assert torch.allclose(one.hessian(problem.theta) @ v, difference, atol=1e-6)
