"""Gauss-Newton and gradient covariance against dense matrices, with ragged batches and every reduction."""

import pytest
import torch
from torch import nn

import tameopt as tame
from tameopt.probe import NotDeterministicError
from tameopt.problem import Problem

F64 = torch.float64
G = torch.Generator().manual_seed(0)
X, TARGET, LABELS = torch.randn(11, 3, generator=G).double(), torch.randn(11, 2, generator=G).double(), None
LABELS = torch.randint(0, 2, (11,), generator=G)


def mean_of_rows(output, target):
    return (output - target).square().mean()


CASES = [
    (mean_of_rows, TARGET, "mean"),
    (nn.functional.cross_entropy, LABELS, "mean"),
    (nn.CrossEntropyLoss(reduction="sum"), LABELS, "sum"),
    (nn.CrossEntropyLoss(reduction="none"), LABELS, "none"),
]


def network(loss, target, reduction, hidden=True):
    torch.manual_seed(1)
    layers = [nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)] if hidden else [nn.Linear(3, 2)]
    return Problem(nn.Sequential(*layers).double(), loss, (X, target), reduction=reduction, batch_size=4)


@pytest.mark.parametrize("loss, target, reduction", CASES)
def test_gauss_newton_is_the_hessian_where_outputs_are_linear(loss, target, reduction):
    problem = network(loss, target, reduction, hidden=False)
    assert torch.allclose(tame.curvature.gauss_newton(problem).dense(), problem.hessian().dense(), atol=1e-12)


@pytest.mark.parametrize("loss, target, reduction", CASES)
def test_gauss_newton_of_a_network_against_its_jacobians(loss, target, reduction):
    problem = network(loss, target, reduction)
    theta = problem.theta

    def outputs(t):
        return problem.batch_output(problem.unflatten(t), (X, target), True)

    J = torch.func.jacrev(outputs)(theta)

    def total(output):
        value = loss(output, target)
        return value * 11 if reduction == "mean" else value.sum()

    H = torch.func.hessian(total)(outputs(theta)).reshape(22, 22)
    flat = J.reshape(22, -1)
    expected = flat.T @ H @ flat * problem.scale
    found = tame.curvature.gauss_newton(problem)
    assert torch.allclose(found.dense(), expected, atol=1e-12)
    assert torch.linalg.eigvalsh(found.dense()).min() > -1e-12


@pytest.mark.parametrize("centered", [True, False])
def test_gradient_covariance_is_that_of_sample_gradients(centered, monkeypatch):
    problem = network(*CASES[1])
    gradients = problem.sample_gradients()
    expected = gradients.T @ gradients / 11
    if centered:
        mean = gradients.mean(dim=0)
        expected = expected - torch.outer(mean, mean)
    assert torch.allclose(
        tame.curvature.gradient_covariance(problem, centered=centered).dense(), expected, atol=1e-12
    )
    import tameopt.curvature.operators as operators

    monkeypatch.setattr(operators, "_HELD_BYTES", 0)
    streamed = tame.curvature.gradient_covariance(problem, centered=centered, chunk=4)
    assert torch.allclose(streamed.dense(), expected, atol=1e-12)


def test_a_layer_is_a_restriction():
    problem = network(*CASES[1])
    weight = tame.curvature.coordinates(problem, "0.weight")
    assert weight.tolist() == list(range(6))
    block = problem.hessian().restrict(weight)
    assert torch.allclose(block.dense(), problem.hessian().dense()[:6, :6], atol=1e-12)
    assert tame.curvature.coordinates(problem, ["*.bias"]).tolist() == [6, 7, 12, 13]
    with pytest.raises(ValueError, match="names must match parameters"):
        tame.curvature.coordinates(problem, "conv*")


def test_plain_functions_have_neither():
    plain = Problem.from_function(lambda t: (t**2).sum(), torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="outputs need a problem given as model"):
        tame.curvature.gauss_newton(plain)
    with pytest.raises(ValueError, match="a plain function has no samples"):
        tame.curvature.gradient_covariance(plain)


class OnceDifferentiable(torch.autograd.Function):
    """x^3 whose backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return 3 * ctx.saved_tensors[0] ** 2 * grad


def test_differences_of_gradients_take_over_and_say_so() -> None:
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    problem = Problem.from_function(lambda t: OnceDifferentiable.apply(t).sum(), theta)
    # central differences of a quadratic gradient are exact but for rounding, eps / step = eps^(2/3)
    assert torch.allclose(problem.hessian().dense(), torch.diag(6 * theta), atol=1e-8)
    assert problem.hessian_mode().narrow == "differences of gradients"
    assert "reverse over reverse: " in problem.hessian_mode().reason


class HalfOnceDifferentiable(nn.Module):
    """x times the sum of a^3, without a second derivative in torch, and of b^2, with one."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (OnceDifferentiable.apply(self.a).sum() + (self.b**2).sum())


def test_one_parameter_without_a_second_derivative_is_not_taken_for_linear() -> None:
    x = torch.ones(3, 1, dtype=torch.float64)
    problem = Problem(HalfOnceDifferentiable(), lambda output, target: output.mean(), (x, x))
    expected = torch.diag(torch.tensor([6.0, -12.0, 2.0], dtype=torch.float64))
    assert torch.allclose(problem.hessian().dense(), expected, atol=1e-8)


class Tanh(torch.autograd.Function):
    """tanh by a person's own hand, differentiable once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0].tanh() ** 2)


class LeavesTheGraph(torch.autograd.Function):
    """The same; its derivative is computed outside of the graph, and nothing says so."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = 1 - x.detach().tanh() ** 2
        return x.tanh()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class With(nn.Module):
    def __init__(self, act):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.act = nn.Linear(4, 3).double(), nn.Linear(3, 1).double(), act

    def forward(self, x):
        return self.second(self.act(self.first(x)))


def small(act=torch.tanh, **settings):
    x = torch.randn(11, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Problem(With(act), nn.functional.mse_loss, (x, x[:, :1].sin()), batch_size=4, **settings)


@pytest.mark.parametrize(
    "function, why", [(Tanh, "differentiable once"), (LeavesTheGraph, "far from differences of gradients")]
)
def test_a_derivative_that_is_lost_within_the_network_is_noticed(function, why) -> None:
    """The product would be that of the Gauss-Newton matrix, or 0, without any error of torch's."""
    problem, exact = small(function.apply), small()
    found = problem.hessian().dense()
    assert torch.allclose(found, exact.hessian().dense(), atol=1e-7)
    assert why in problem.hessian_mode().reason


def test_gauss_newton_of_a_squared_loss() -> None:
    problem = small()
    at = problem.theta
    everything = problem.batches.whole
    rows = torch.func.jacrev(lambda theta: problem.batch_output(problem.unflatten(theta), everything, True))(at)
    rows = rows.reshape(problem.n, -1)
    assert torch.allclose(tame.curvature.gauss_newton(problem).dense(), 2 * rows.T @ rows / problem.n, atol=1e-12)
    nothing = small(lambda x: 0 * x)
    nothing.model.second.weight.data.zero_()
    assert torch.equal(tame.curvature.gauss_newton(nothing).dense()[:-1, :-1], torch.zeros(18, 18).double())


def test_a_transformer_layer_in_eval_mode() -> None:
    """In eval mode torch takes a fused kernel for it, which has no forward derivative."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    data = (x, torch.tensor([0, 1, 1, 0, 1]))
    problem = Problem(model, nn.functional.cross_entropy, data, batch_size=2, mode="eval")
    v = torch.randn(problem.dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h, at = 1e-5, problem.theta
    difference = (problem.gradient(at + h * v) - problem.gradient(at - h * v)) / (2 * h)
    assert torch.allclose(problem.hessian() @ v, difference, atol=1e-6)
    assert float(v @ (tame.curvature.gauss_newton(problem) @ v)) >= 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_what_an_operator_does_not_take_is_told_at_once() -> None:
    problem = small()
    A = problem.hessian()
    whole = A.dense()
    chosen = torch.tensor([3, 0, 7])
    mask = torch.zeros(problem.dim, dtype=torch.bool)
    mask[chosen] = True
    assert torch.equal(A.restrict(chosen).dense(), whole[chosen][:, chosen])
    assert torch.equal(A.restrict(mask).dense(), whole[mask][:, mask])
    for wrong in ([0, problem.dim], [-1], [1, 1]):
        with pytest.raises(ValueError, match="must be different coordinates in"):
            A.restrict(torch.tensor(wrong))
    for wrong in (torch.tensor([]), torch.tensor([1.0]), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="indices must be a non-empty vector of whole numbers"):
            A.restrict(wrong)
    with pytest.raises(TypeError, match=r"takes another one in \+ and -, got int: A \+ sigma I is A.shift"):
        A + 1
    with pytest.raises(TypeError, match="factor of an operator must be a real number, got SymmetricOperator"):
        A * A
    with pytest.raises(TypeError, match="takes tensors, got list"):
        A @ [1.0]
    with pytest.raises(TypeError, match="theta must be a real tensor"):
        problem.hessian(torch.zeros(problem.dim, dtype=torch.complex128))
    for call in (tame.curvature.spectrum, tame.curvature.trace, tame.curvature.gauss_newton):
        with pytest.raises(TypeError, match=r"Problem.* required, got Linear"):
            call(nn.Linear(2, 1))


def test_a_loss_that_is_cut_from_its_parameters_is_told() -> None:
    x = torch.ones(3, 2)
    problem = Problem(nn.Linear(2, 1), lambda output, target: (output > target).float().mean(), (x, x[:, :1]))
    for call in (problem.gradient, lambda: tame.curvature.spectrum(problem)):
        with pytest.raises(ValueError, match="must depend on the parameters by operations that have derivatives"):
            call()


def test_randomness_that_the_probe_did_not_meet_is_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x):
            output = super().forward(x)
            return torch.where(x[:, :1] > 1.5, output + torch.randn_like(output), output)

    x = torch.cat([torch.zeros(40, 2), 2 * torch.ones(8, 2)])
    problem = Problem(Noisy(2, 1), nn.functional.mse_loss, (x, x[:, :1]))
    with pytest.raises(NotDeterministicError, match="two passes over all data gave"):
        tame.curvature.spectrum(problem)


def test_where_it_is_not_finite_is_said() -> None:
    x = torch.tensor([[1.0], [2.0], [-1.0], [3.0]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    for reduction, name in (("none", "sample 2"), ("mean", "batch 1")):
        problem = Problem(
            model,
            lambda output, target, r=reduction: output.sqrt()[:, 0] if r == "none" else output.sqrt().mean(),
            (x, x),
            batch_size=2,
            reduction=reduction,
        )
        assert f"the loss of {name} is nan at theta" in tame.curvature.spectrum(problem).failure
        assert f"the loss of {name} is nan" in tame.curvature.density(problem).failure
        assert torch.isnan(tame.curvature.diagonal(problem).standard_errors).all()
        with pytest.raises(ValueError, match=f"log det is not known: .*the loss of {name}"):
            tame.curvature.log_determinant(problem, shift=1.0)
        with pytest.raises(ValueError, match="no density is known"):
            tame.curvature.density(problem).on_grid()
    fine = small()
    finite_products = Problem(model, lambda output, target: output.log().mean(), (x, x))
    found = tame.curvature.spectrum(finite_products)
    assert found.lambda_max < 0 and "the loss of batch 0 is nan" in found.failure
    found = tame.curvature.spectrum(fine, torch.full((fine.dim,), torch.nan))
    assert "theta is not finite in 19 of 19 coordinates" in found.failure


def test_ctrl_c_keeps_the_eigenvalues_found_so_far() -> None:
    from tameopt.curvature.finite import until_interrupted
    from tameopt.linear_operator import SymmetricOperator

    diagonal, calls = torch.arange(1.0, 401.0, dtype=torch.float64), []

    def product(block):
        calls.append(block.shape[1])
        if len(calls) == 30:
            raise KeyboardInterrupt
        return diagonal[:, None] * block

    stopped: list[bool] = []
    operator = SymmetricOperator(400, product, torch.float64, torch.device("cpu"))
    found = tame.curvature.spectrum(until_interrupted(operator, stopped), k=5, tolerance=1e-12)
    assert stopped == [True] and found.failure and len(calls) == 30
    assert 390 < found.lambda_max <= 400.001 and 0.999 <= found.lambda_min < 10
