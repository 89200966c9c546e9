"""
Descent leaves a saddle
=======================

``x^2/2 + y^4/4 - y^2/2`` has a strict saddle at 0 and minima at (0, 1) and (0, -1). Gradient descent with a step
below 1/L avoids the saddle from almost every start: those that end there fill the line y = 0, which has measure zero.
"""

import torch
from matplotlib import pyplot as plt

import tameopt as tame
from tameopt.picture import Image, Picture, Series

problem = tame.problems.load("saddle", start=(1.8, 1e-3))
alpha, theta, path = 0.1, problem.theta, []
for _ in range(200):
    path.append(theta.tolist())
    theta = theta - alpha * problem.gradient(theta)
print(f"ends at ({theta[0]:.6f}, {theta[1]:.6f}) with F = {problem.value(theta):.6f}")

axis = tuple(torch.linspace(-2, 2, 81).tolist())
field = tuple(tuple(float(problem.value(torch.tensor([x, y]).double())) for x in axis) for y in axis)
xs, ys = zip(*path, strict=True)
picture = Picture(
    "saddle",
    "Gradient descent from (1.8, 0.001)",
    "x",
    "y",
    (Series.of("iterates", xs, ys, "points"),),
    image=Image(axis, axis, field, "F", (-0.2, -0.1, 0.0, 0.5, 1.0)),
)
figure, ax = plt.subplots(layout="constrained")
tame.report.draw(picture, ax=ax)
