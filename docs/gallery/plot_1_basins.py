"""
Chapter 1: who goes where
=========================

Gradient descent is a map. Almost every start of this double well ends in one of its two minima; those that end at the
strict saddle between them fill the stable manifold of the saddle, a curve, which has measure zero. Here the curve is
computed as a power series and carried on by the inverse of the map.
"""

import torch
from matplotlib import pyplot as plt

import tameopt as tame


def F(theta):
    x, y = theta
    return (x**2 - 1) ** 2 / 4 + (y - 0.3 * x**2) ** 2 / 2 + 0.15 * x * y


T = tame.dynamics.GradientMap(F, 0.15)
axis = torch.linspace(-2, 2, 60, dtype=torch.float64)
found = tame.dynamics.basins(T, (axis, axis))
for attractor, share in zip(found.attractors, found.fractions, strict=True):
    x, y = attractor.point.tolist()
    print(f"{100 * share:.1f}% of the starts go to ({x:.3f}, {y:.3f})")

figure, ax = plt.subplots(layout="constrained")
saddle = torch.zeros(2, dtype=torch.float64)  # grad F(0) = 0, and the Hessian there has one negative eigenvalue
tame.report.draw(tame.dynamics.portrait(found, T, [saddle], "Basins of gradient descent"), ax=ax)
