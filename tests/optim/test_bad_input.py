"""Bad hyperparameters, parameters and gradients: the error names the argument and says what to do."""

import inspect

import pytest
import torch

from tameopt import optim
from tameopt.optim import keras


def parameter(*shape):
    return torch.nn.Parameter(torch.zeros(shape or (2,)))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("SGD", {"lr": -0.1}, r"lr must be >= 0, got -0\.1: choose"),
        ("SGD", {"momentum": -1.0}, r"momentum must be >= 0, got -1\.0"),
        ("SGD", {"nesterov": True}, r"nesterov needs momentum > 0 and dampening = 0, got momentum=0"),
        ("Adam", {"betas": (1.0, 0.9)}, r"betas\[0\] must be in \[0, 1\), got 1\.0"),
        ("Adam", {"betas": (0.9, -0.5)}, r"betas\[1\] must be in \[0, 1\), got -0\.5"),
        ("Adam", {"betas": (0.9,)}, r"betas must be a pair"),
        ("Adam", {"eps": -1e-8}, r"eps must be >= 0, got -1e-08"),
        ("AdamW", {"weight_decay": -1.0}, r"weight_decay must be >= 0, got -1\.0"),
        ("Adam", {"lr": float("nan")}, r"lr must be >= 0, got nan"),
        ("Adam", {"lr": torch.ones(2)}, r"lr as a tensor must have one element, got shape \(2,\)"),
        ("Adam", {"engine": "fpga"}, r"engine must be one of .*, got 'fpga'"),
    ],
)
def test_hyperparameters(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)([parameter()], **arguments)


def refusal(kind, **arguments):
    """What the constructor says, None when it takes the arguments."""
    try:
        kind([parameter()], **arguments)
    except ValueError as error:
        return str(error)
    return None


NUMBERS = [
    (name, argument)
    for name in optim.names()
    if hasattr(torch.optim, name)
    for argument, each in inspect.signature(getattr(torch.optim, name)).parameters.items()
    if isinstance(each.default, float | tuple) or argument in ("lr", "weight_decay", "momentum", "dampening")
    if not (name == "LBFGS" and argument.startswith("tolerance"))
]


@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_torchs_conditions(name, argument):
    """Refused here is what torch refuses, and the error names the argument; NaN is never taken (SGD's is)."""
    ours, theirs = getattr(optim, name), getattr(torch.optim, name)
    default = inspect.signature(theirs).parameters[argument].default
    for number in (-1.0, -1e-12, 0.0, 0.5, 1.0, 1.5, float("nan")):
        values = [(number, default[1]), (default[0], number)] if isinstance(default, tuple) else [number]
        for value in values:
            said, torch_said = refusal(ours, **{argument: value}), refusal(theirs, **{argument: value})
            assert (said is None) == (torch_said is None) or (number != number and said), (value, said, torch_said)
            assert said is None or (argument in said and ": " in said)


@pytest.mark.parametrize("name", keras.names())
def test_ranges_of_keras_arguments(name):
    for argument, each in inspect.signature(getattr(keras, name)).parameters.items():
        if type(each.default) is float:
            value = 1.0 if argument == "learning_rate_power" else -0.5
            said = refusal(getattr(keras, name), **{argument: value})
            assert said is not None and said.startswith(f"{argument} must be "), argument


def test_parameters_that_cannot_be_optimized():
    p = parameter()
    with pytest.raises(ValueError, match=r"parameter 'w' was computed from others by <MulBackward.*: Pass|detach"):
        optim.Adam([("v", p), ("w", p * 2)])
    with pytest.raises(ValueError, match="parameter 'again' is parameter number 0 again"):
        optim.Adam([("v", p), ("again", p)])
    with pytest.raises(ValueError, match="more than one parameter group: parameter number 0 of this one is in"):
        optim.Adam([{"params": [p]}, {"params": [p]}])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        optim.Adam([p, 3.0])


LIKE_ADAM = ("Adam", "AdamW", "NAdam", "RAdam", "SparseAdam")  # they keep the same averages


@pytest.mark.parametrize("name", [name for name in optim.names() if name not in LIKE_ADAM])
def test_state_of_another_optimizer(name):
    p = parameter()
    p.grad = torch.ones(2)
    adam = optim.Adam([p])
    adam.step()
    with pytest.raises(ValueError, match=f"has exp_avg, exp_avg_sq, step, {name} keeps"):
        getattr(optim, name)([p]).load_state_dict(adam.state_dict())


def test_lbfgs_state_of_another_model():
    def stepped(size):
        p = parameter(size)
        optimizer = optim.LBFGS([p])

        def closure():
            optimizer.zero_grad()
            loss = ((p - 1) ** 2).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return optimizer

    with pytest.raises(ValueError, match="state 'd' must have 3 elements as the parameters, got 2"):
        stepped(3).load_state_dict(stepped(2).state_dict())


def test_wrong_types():
    with pytest.raises(TypeError, match="lr must be a number, got str"):
        optim.Adam([parameter()], lr="fast")
    with pytest.raises(TypeError, match="unknown argument 'momentum'"):
        optim.Adam([parameter()], momentum=0.9)


def test_unknown_optimizer():
    with pytest.raises(AttributeError, match=r"tameopt\.optim has no optimizer 'Adams': it has ASGD, Ada"):
        _ = optim.Adams
    with pytest.raises(ValueError, match=r"'adam' is not one of tameopt's optimizers: ASGD, .* Did you mean 'Adam'"):
        optim.entry("adam")


def test_sparse_gradient_of_a_dense_rule():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = optim.Adam(embedding.named_parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="Adam needs dense gradients, parameter 'weight' has a sparse one: use"):
        optimizer.step()
