"""
Chapter 5: subdifferentials at a kink
=====================================

At a kink there are several notions of a subgradient. For ``|x| - |y|`` at 0 Clarke's set is a square; Frechet's is
empty, because the function has no support from below in y. What backprop returns is one point: is it in the set?
"""

import torch
from matplotlib import pyplot as plt

import tameopt as tame


def F(theta):
    return theta[0].abs() - theta[1].abs() + 0.5 * torch.relu(theta[0] + theta[1])


at = torch.zeros(2, dtype=torch.float64)
clarke = tame.nonsmooth.subdifferential(F, at, kind="clarke")
frechet = tame.nonsmooth.subdifferential(F, at, kind="frechet")
theta = at.clone().requires_grad_()
(backprop,) = torch.autograd.grad(F(theta), theta)
print(f"Clarke: {len(clarke.vertices)} corners; Frechet: {'empty' if frechet.empty else frechet.vertices.tolist()}")
print(f"backprop returns {backprop.tolist()}, in Clarke's set: {clarke.contains(backprop)}")
print(f"0 is a Clarke subgradient: {clarke.contains(torch.zeros(2))}")

figure, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
clarke.plot(ax=ax)
ax.plot(*backprop, "o", color="black", label="backprop")
ax.legend()
