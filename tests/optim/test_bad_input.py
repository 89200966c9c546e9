"""Bad hyperparameters, parameters and gradients: the error names the argument and says what to do."""

import pytest
import torch

from tameopt import optim


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


def test_wrong_types():
    with pytest.raises(TypeError, match="lr must be a number, got str"):
        optim.Adam([parameter()], lr="fast")
    with pytest.raises(TypeError, match="unknown argument 'momentum'"):
        optim.Adam([parameter()], momentum=0.9)


def test_unknown_optimizer():
    with pytest.raises(AttributeError, match=r"tameopt\.optim has no optimizer 'Adams': it has ASGD, Ada"):
        _ = optim.Adams
    with pytest.raises(ValueError, match="Did you mean 'Adam'"):
        optim.entry("adam")


def test_sparse_gradient_of_a_dense_rule():
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = optim.Adam(embedding.named_parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="Adam needs dense gradients, parameter 'weight' has a sparse one: use"):
        optimizer.step()
