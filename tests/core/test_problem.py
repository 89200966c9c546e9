"""Problem against independent channels: torch.autograd, dense Hessians, sums done by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from tameopt import Problem
from tameopt.hessian_modes import HessianMode
from tameopt.probe import NotDeterministicError

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (23,), generator=torch.Generator().manual_seed(1))


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class Tied(nn.Module):
    """One weight used twice, one frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)
        self.head.bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x[..., None])).mean(1))


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)),
        nn.Conv2d(1, 3, 2, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3, 3),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "tied and frozen": Tied,
    "attention": Attention,
    "conv, batchnorm": conv,
}


def reference(problem: Problem, model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and flat gradient by plain autograd on a float64 copy of the model in eval mode."""
    model = model.double().eval()
    value = nn.functional.cross_entropy(model(X.double()), Y)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = torch.autograd.grad(value, parameters)
    return value.detach(), torch.cat([part.reshape(-1) for part in parts])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [None, 7])
def test_values_gradients_and_hessians_agree_with_autograd(name: str, batch_size: int | None) -> None:
    problem = Problem(
        MODELS[name](), nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64, mode="eval", batch_size=batch_size
    )
    value, gradient = reference(problem, MODELS[name]())
    # float64 sums of 23 samples: rounding is below 1e-14 of the operands
    assert torch.allclose(problem.value(), value, rtol=1e-13)
    assert torch.allclose(problem.gradient(), gradient, rtol=1e-11, atol=1e-14)
    assert torch.allclose(problem.sample_gradients().mean(0), gradient, rtol=1e-11, atol=1e-14)
    assert torch.allclose(problem.sample_losses().mean(), value, rtol=1e-13)
    hessian = torch.autograd.functional.hessian(problem, problem.theta)
    assert torch.allclose(problem.hessian().dense(), hessian, rtol=1e-10, atol=1e-13)
    for mode in ("forward over reverse", "reverse over reverse"):
        problem._hessian_mode = HessianMode.always(mode)
        block = torch.randn(problem.dim, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        assert torch.allclose(problem.hessian() @ block, hessian @ block, rtol=1e-10, atol=1e-12), mode


def test_the_persons_model_is_never_changed() -> None:
    model = conv()
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    problem = Problem(model, nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64, mode="eval")
    problem.gradient(), problem.sample_gradients(), problem.hessian() @ problem.theta
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_theta_follows_the_live_model() -> None:
    model = mlp()
    problem = Problem(model, nn.CrossEntropyLoss(), (X, Y))
    before = problem.value()
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert not torch.equal(before, problem.value())
    assert torch.equal(problem.unflatten(problem.theta)["0.weight"], model[0].weight)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_reduction_is_probed_and_right(reduction: str) -> None:
    problem = Problem(
        mlp(), nn.CrossEntropyLoss(reduction=reduction), (X, Y), reduction=reduction, batch_size=5,
        dtype=torch.float64,
    )  # fmt: skip
    mean = Problem(mlp(), nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64)
    factor = len(Y) if reduction == "sum" else 1
    assert torch.allclose(problem.value(), mean.value() * factor, rtol=1e-12)
    assert torch.allclose(problem.gradient(), mean.gradient() * factor, rtol=1e-10, atol=1e-13)
    assert torch.allclose(problem.sample_losses(), mean.sample_losses(), rtol=1e-12)


class Stream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(list(zip(X, Y, strict=True)))


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(X, Y), batch_size=6),
        Stream(),
        [(X[:10], Y[:10]), (X[10:], Y[10:])],
        iter([(X[:10], Y[:10]), (X[10:], Y[10:])]),
    ],
    ids=["tuple", "list", "dataset", "shuffled dropping loader", "loader", "iterable", "batches", "generator"],
)
def test_every_form_of_data_gives_the_same_full_sum(data: object) -> None:
    problem = Problem(mlp(), nn.CrossEntropyLoss(), data, dtype=torch.float64)
    expected = Problem(mlp(), nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64)
    assert problem.n == 23
    assert torch.allclose(problem.value(), expected.value(), rtol=1e-13)
    assert torch.allclose(problem.gradient(), expected.gradient(), rtol=1e-11, atol=1e-14)


def test_dict_batches_and_forward() -> None:
    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch["x"]), batch["label"])

    problem = Problem(mlp(), None, {"x": X, "label": Y}, forward=forward, dtype=torch.float64, batch_size=9)
    expected = Problem(mlp(), nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64)
    assert torch.allclose(problem.gradient(), expected.gradient(), rtol=1e-11, atol=1e-14)
    assert torch.allclose(problem.sample_gradients(), expected.sample_gradients(), rtol=1e-9, atol=1e-13)
    with pytest.raises(ValueError, match=r"outputs need a problem given as model"):
        problem.outputs()


def test_ragged_batches_are_summed_and_not_indexed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 3))

    def forward(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch["x"].mean(1, keepdim=True)), batch["y"])

    batches = [{"x": X[:8, :2], "y": Y[:8]}, {"x": X[8:], "y": Y[8:]}]
    problem = Problem(model, None, batches, forward=forward, dtype=torch.float64)
    with torch.no_grad():
        by_hand = sum(
            float(forward(model.double(), {"x": b["x"].double(), "y": b["y"]})) * len(b["y"]) for b in batches
        )
    assert float(problem.value()) == pytest.approx(by_hand / 23, rel=1e-12)
    with pytest.raises(ValueError, match="cannot be picked by number"):
        problem.sample_gradients()


def test_compiled_and_parallel_wrappers_are_looked_through() -> None:
    model = mlp()
    problem = Problem(nn.DataParallel(model), nn.CrossEntropyLoss(), (X, Y))
    assert problem.model is model


def test_a_plain_function() -> None:
    problem = Problem.from_function(lambda theta: (theta**4).sum(), torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert problem.value() == 17
    assert torch.equal(problem.gradient(), torch.tensor([4.0, -32.0], dtype=torch.float64))
    assert torch.equal(problem.hessian().dense(), torch.diag(torch.tensor([12.0, 48.0], dtype=torch.float64)))
    with pytest.raises(ValueError, match="no samples"):
        problem.sample_gradients()


def test_a_linear_loss_has_a_zero_hessian() -> None:
    problem = Problem.from_function(lambda theta: theta.sum(), torch.ones(3))
    for mode in ("forward over reverse", "reverse over reverse"):
        problem._hessian_mode = HessianMode.always(mode)
        assert not problem.hessian().dense().any()


class Stateful(nn.Module):
    """Noise without a dropout module."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x + torch.randn_like(x))


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "dropout": (
        lambda: Problem(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), nn.CrossEntropyLoss(), (X, Y)),
        r"draw random numbers: 1 \(Dropout\)",
    ),
    "batchnorm": (
        lambda: Problem(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.CrossEntropyLoss(), (X, Y)),
        r"batch statistics.* 1 \(BatchNorm1d\)",
    ),
    "noise": (lambda: Problem(Stateful(), nn.CrossEntropyLoss(), (X, Y)), "no dropout module was found"),
    "nan data": (
        lambda: Problem(mlp(), nn.CrossEntropyLoss(), (torch.where(X[3, 2] == X, torch.nan, X), Y)),
        r"data must be finite, got nan in sample 3, position \[2\]",
    ),
    "empty": (lambda: Problem(mlp(), nn.CrossEntropyLoss(), (X[:0], Y[:0])), "at least one sample, got none"),
    "lengths": (lambda: Problem(mlp(), nn.CrossEntropyLoss(), (X, Y[:5])), "one leading dimension"),
    "shapes": (lambda: Problem(mlp(), nn.CrossEntropyLoss(), (X[:, :3], Y)), "must run on the data"),
    "no parameters": (lambda: Problem(nn.ReLU(), nn.CrossEntropyLoss(), (X, Y)), "must have trainable parameters"),
    "vector loss": (
        lambda: Problem(mlp(), lambda output, target: output, (X, Y)),
        r"scalar or one number a sample",
    ),
    "float loss": (lambda: Problem(mlp(), lambda output, target: 1.0, (X, Y)), "must return a tensor, got float"),
    "weights": (
        lambda: Problem(mlp(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0, 30.0])), (X, Y)),
        "class weights or ignore_index",
    ),
    "sum as mean": (
        lambda: Problem(mlp(), nn.CrossEntropyLoss(reduction="sum"), (X, Y)),
        r"pass reduction='sum'",
    ),
    "coupled": (
        lambda: Problem(mlp(), lambda output, target: output.sum() ** 2 + 1, (X, Y)),
        "mean or the sum over its samples",
    ),
    "dict without forward": (
        lambda: Problem(mlp(), nn.CrossEntropyLoss(), {"x": X, "y": Y}),
        r"with keys \['x', 'y'\]: pass forward=",
    ),
    "no loss": (lambda: Problem(mlp(), None, (X, Y)), "got neither"),
    "mode": (lambda: Problem(mlp(), nn.CrossEntropyLoss(), (X, Y), mode="test"), "mode must be"),
    "batch size": (lambda: Problem(mlp(), nn.CrossEntropyLoss(), (X, Y), batch_size=0), "at least 1, got 0"),
    "theta": (lambda: Problem(mlp(), nn.CrossEntropyLoss(), (X, Y)).value(torch.ones(3)), r"shape \(43,\)"),
    "function shape": (lambda: Problem.from_function(lambda t: t, torch.ones(2)), "scalar tensor"),
    "function start": (lambda: Problem.from_function(lambda t: t.sum(), torch.ones(2, 2)), "non-empty floating"),
    "complex": (
        lambda: Problem(nn.Linear(4, 3, dtype=torch.complex64), nn.CrossEntropyLoss(), (X, Y)),
        "must be real",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_was_required(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_that_is_no_module_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got function"):
        Problem(lambda x: x, nn.CrossEntropyLoss(), (X, Y))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got int"):
        Problem(mlp(), nn.CrossEntropyLoss(), 3)


def test_random_losses_are_a_kind_of_their_own() -> None:
    with pytest.raises(NotDeterministicError):
        Problem(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), nn.CrossEntropyLoss(), (X, Y))


def test_operator_algebra_against_matrices() -> None:
    problem = Problem(mlp(), nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64)
    hessian = problem.hessian()
    dense = hessian.dense()
    vector = torch.randn(problem.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    indices = torch.tensor([0, 3, 7])
    assert torch.allclose((2 * hessian + hessian.shift(3.0) - hessian) @ vector, 2 * dense @ vector + 3 * vector)
    assert torch.allclose(hessian.restrict(indices).dense(), dense[indices][:, indices], atol=1e-14)
    assert torch.allclose(torch.as_tensor(hessian.to_scipy() @ vector.numpy()), dense @ vector, atol=1e-13)
    with pytest.raises(ValueError, match="takes vectors of shape"):
        hessian @ torch.ones(3)


def test_running_statistics_are_the_present_ones_in_every_dtype() -> None:
    model = conv()
    problem = Problem(model, nn.CrossEntropyLoss(), (X, Y), dtype=torch.float64, mode="eval")
    before = problem.value()
    model.train()
    model(X)  # moves the running statistics
    recorded = {key: tensor.clone() for key, tensor in model.named_buffers()}
    after = problem.value()
    assert not torch.equal(before, after)
    model(X)
    assert torch.equal(problem.load_buffers(recorded).value(), after)
    assert not torch.equal(problem.value(), after)


def test_the_reduction_of_a_loss_of_rounding_is_taken_as_declared() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = (model(x) + 1e-15).detach()
    problem = Problem(model, lambda out, y: (out - y).square().sum(), (x, target), reduction="sum")
    assert problem.reduction == "sum"


def test_a_function_that_draws_random_numbers_is_refused():
    with pytest.raises(NotDeterministicError, match="F must be one number for one theta, but two evaluations gave"):
        Problem.from_function(lambda t: t.square().sum() + torch.rand(()), torch.ones(2))
    assert Problem.from_function(lambda t: torch.sqrt(t).sum(), -torch.ones(2)).value().isnan()  # NaN is no chance
