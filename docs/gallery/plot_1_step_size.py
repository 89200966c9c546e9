"""
Steps below 1/L, between 1/L and 2/L, and above
===============================================

On a quadratic with eigenvalues 1, 2, 5, 10, gradient descent falls monotonically in every direction below 1/L = 0.1,
oscillates along the steepest one up to 2/L = 0.2, and diverges beyond.
"""

from matplotlib import pyplot as plt

import tameopt as tame
from tameopt.picture import Picture, Series

problem = tame.problems.load("quadratic")
curves = []
for alpha in (0.05, 0.15, 0.19, 0.21):
    theta, losses = problem.theta, []
    for _ in range(80):
        losses.append(float(problem.value(theta)))
        theta = theta - alpha * problem.gradient(theta)
    curves.append(Series.of(f"alpha = {alpha}", range(80), losses))
    print(f"alpha = {alpha}: F after 80 steps = {tame.report.pretty(losses[-1])}")

figure, ax = plt.subplots(layout="constrained")
tame.report.draw(Picture("steps", "Four step sizes", "step k", "F", tuple(curves), y_log=True), ax=ax)
