"""
Chapter 1: the surface that leads into a saddle
===============================================

Of three directions at this strict saddle two lead in and one leads out. The starts that end at the saddle fill its
stable manifold, a surface: computed as a power series, carried on by the inverse of gradient descent. It has no
volume, and a start beside it escapes along the third direction, at the rate that the negative eigenvalue gives.
"""

import torch
from matplotlib import pyplot as plt

import tameopt as tame


def F(theta):
    x, y, z = theta
    return x**2 / 2 + 0.4 * y**2 + z**4 / 4 - z**2 / 2 + 0.6 * z * (x**2 - y**2)


alpha = 0.2
T = tame.dynamics.GradientMap(F, alpha)
saddle = torch.zeros(3, dtype=torch.float64)
manifold = tame.dynamics.stable_manifold(T, saddle, order=12, residual=1e-6)
surface = tame.dynamics.globalised_surface(manifold, T, num_steps=3, angles=40)
print(manifold)

figure = plt.figure(figsize=(9, 4), layout="constrained")
left = figure.add_subplot(1, 2, 1, projection="3d")
left.plot_surface(*surface.permute(2, 0, 1).numpy(), rstride=1, cstride=1, cmap="viridis", alpha=0.8)
for side in (-1e-3, 1e-3):
    theta, path = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64), []
    near = (surface - theta).norm(dim=2).nan_to_num(9.0)
    theta = surface.flatten(0, 1)[near.argmin()] + torch.tensor([0.0, 0.0, side], dtype=torch.float64)
    for _ in range(80):
        path.append(theta)
        theta = T(theta)
    left.plot(*torch.stack(path).T.numpy(), color="black")
left.set(title="Stable manifold, and two runs beside it", xlabel="x", ylabel="y", zlabel="z")

problem = tame.Problem.from_function(F, saddle)
escape = tame.dynamics.saddle_escape(problem, saddle, alpha, lambda_min=-1.0)
tame.report.draw(escape.picture(), ax=figure.add_subplot(1, 2, 2))
