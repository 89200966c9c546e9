"""
Chapter 3: the KL exponent is the rate
======================================

For ``F = |x|^p`` the Kurdyka-Lojasiewicz inequality holds with the exponent theta = 1 - 1/p. Gradient descent then
converges linearly when theta = 1/2 and like ``k^(-1/(2 theta - 1))`` beyond. The exponents are computed exactly, the
rates are read off the runs.
"""

import math

import torch
from matplotlib import pyplot as plt

import tameopt as tame
from tameopt.picture import Picture, Series

curves = []
for power, alpha in ((2, 0.01), (4, 0.05), (6, 0.05)):
    exponent = tame.kl.exponent(f"x**{power}", at=(0,)).theta
    problem = tame.Problem.from_function(lambda theta, power=power: (theta**power).sum(), torch.ones(1).double())
    theta, losses = problem.theta, []
    for _ in range(1001):
        value, gradient = problem.value_and_gradient(theta)
        losses.append(float(value))
        theta = theta - alpha * gradient
    if exponent == 0.5:
        factor = losses[1000] / losses[999]
        print(f"x^{power}: theta = {exponent}, so linear; measured x{factor:.4f} a step")
    else:
        predicted = -float(1 / (2 * exponent - 1))
        slope = math.log(losses[1000] / losses[500]) / math.log(2)
        print(
            f"x^{power}: theta = {exponent}, so k^{predicted:g}; measured slope {slope:.3f} over steps 500 to 1,000"
        )
    curves.append(Series.of(f"x^{power}, theta = {exponent}", range(1, 1001), losses[1:]))

figure, ax = plt.subplots(layout="constrained")
picture = Picture("kl", "Gradient descent on |x|^p", "step k", "F - F*", tuple(curves), x_log=True, y_log=True)
tame.report.draw(picture, ax=ax)
