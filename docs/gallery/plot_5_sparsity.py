"""
Chapter 5: sparsity paths of a network on digits
================================================

A network on real digits, trained by stochastic proximal gradient with a regulariser of growing strength: ``l1`` sets
single weights to 0, ``l2`` on the rows whole units, the nuclear norm lowers the rank. The zeros are exact. At each
strength the last passes are PALM's on all data, where the inequality that its theorem asks of the steps is checked.
"""

from matplotlib import pyplot as plt

import tameopt as tame
from tameopt.report.plots import draw

problem = tame.problems.load("digits-mlp", width=32)
strengths = {"l1": (1e-4, 1e-3, 1e-2), "l2": (1e-3, 1e-2, 5e-2), "nuclear": (1e-3, 1e-2, 5e-2)}
figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharey=True)
for ax, (name, values) in zip(axes, strengths.items(), strict=True):
    path = tame.nonsmooth.sparsity_path(problem, name, values, steps=200, passes=10)
    draw(path.picture(), ax)
    for point in path.points:
        print(
            f"{name} {point.strength:g}: {point.nonzero:.0%} of entries, {point.rows:.0%} of rows, "
            f"{point.rank:.0%} of ranks, accuracy {point.accuracy:.1%}, inequality holds: "
            f"{point.report.step_hypothesis_holds}"
        )
