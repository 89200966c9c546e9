"""
Chapter 5: the four subdifferentials at a kink
==============================================

At a kink there are several notions of a subgradient. For ``|x| - |y| + relu(x + y) / 2`` at 0 Clarke's set is a
polygon and the limiting one a part of its outline; Frechet's is empty, because the function has no support from below
in y. What backprop returns is one point: is it in the set?
"""

import torch
from matplotlib import pyplot as plt

import tameopt as tame


def F(theta):
    return theta[0].abs() - theta[1].abs() + 0.5 * torch.relu(theta[0] + theta[1])


sets = tame.nonsmooth.all_subdifferentials(F, [0, 0])
backprop = tame.nonsmooth.check_backprop(F, torch.zeros(2, dtype=torch.float64))
for kind, found in sets.items():
    print(f"{kind}: {'empty' if found.empty else [list(map(str, corner)) for corner in found.vertices]}")
print(f"backprop returns {backprop.gradient.tolist()}: {backprop.verdict}, {backprop.reason}")
print(f"0 is a Clarke subgradient: {sets['clarke'].contains([0, 0])}")

figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), layout="constrained")
tame.nonsmooth.side_by_side(sets, axes, backprop=backprop.gradient)
