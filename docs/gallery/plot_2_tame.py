"""
Chapter 2: tame, and not
========================

A ReLU network, a sigmoid and a softplus are definable in an o-minimal structure: along every line they are
monotone after finitely many turns. ``x^2 sin(1/x)`` turns for ever. The certificate reads this off the operators.
"""

import numpy as np
import torch
from matplotlib import pyplot as plt

import tameopt as tame

functions = {
    "relu(x + 1) - 2 relu(x)": lambda x: torch.relu(x + 1) - 2 * torch.relu(x),
    "softplus(-x) + x^2 / 9": lambda x: torch.nn.functional.softplus(-x) + x**2 / 9,
    "x^2 sin(1/x)": lambda x: x**2 * torch.sin(1 / x),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
line = torch.linspace(-3, 3, 400)
for ax, (name, F) in zip(axes, functions.items(), strict=True):
    found = tame.structure.certify(lambda theta, F=F: F(theta).sum(), inputs=torch.tensor([0.7]))
    print(f"{name:26} {found.definable}, {found.smoothness}, {found.verdict}")
    x = line if "sin" not in name else line / 15
    ax.plot(x, F(x))
    ax.set_title(f"{name}\n{found.definable}")

# %%
# The proof is not a picture: projections of semialgebraic sets are semialgebraic (Tarski and Seidenberg), and the
# projection of the circle is computed exactly.

from tameopt.structure.semialgebraic import Set  # noqa: E402

circle = Set("x**2 + y**2 <= 1")
points = np.linspace(-1.5, 1.5, 61)
inside = [[circle.contains({"x": float(x), "y": float(y)}) for x in points] for y in points]
figure, ax = plt.subplots(figsize=(3.5, 3.5), layout="constrained")
ax.contourf(points, points, np.array(inside, dtype=float), levels=[0.5, 1.5])
ax.plot([-1, 1], [-1.4, -1.4], linewidth=3, color="black", label="projection: -1 <= x <= 1")
ax.legend(loc="upper right")
