"""
Chapter 4: stochastic gradient follows the gradient flow
========================================================

With steps that shrink, the iterates interpolated on the clock of the summed steps come close to the solution of
``theta' = -grad F(theta)`` (the ODE method). With a constant step they stay in a neighbourhood instead.
"""

import torch
from matplotlib import pyplot as plt

import tameopt as tame

eigenvalues = torch.tensor([0.3, 1.0], dtype=torch.float64)
start = torch.tensor([2.0, 2.0], dtype=torch.float64)


def F(theta):
    return 0.5 * (eigenvalues * theta**2).sum()


figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
schedules = {"constant 0.2": tame.schedules.Constant(0.2), "0.5 / (k+1)^0.75": tame.schedules.Power(0.5, 0.75)}
for ax, (name, alpha) in zip(axes, schedules.items(), strict=True):
    conditions = tame.noise.step_conditions(alpha)
    generator = torch.Generator().manual_seed(0)
    theta, path, clock = start.clone(), [start.tolist()], 0.0
    for k in range(600):
        noise = torch.randn(2, generator=generator, dtype=torch.float64)
        theta = theta - alpha(k) * (eigenvalues * theta + noise)
        clock += alpha(k)
        path.append(theta.tolist())
    flow = tame.dynamics.gradient_flow(F, start, torch.linspace(0, clock, 200, dtype=torch.float64))
    print(f"{name}: Robbins-Monro {conditions.robbins_monro}; at the end {theta.norm():.3f} from the minimum")
    ax.plot(*zip(*path, strict=True), linewidth=0.7, label="stochastic gradient")
    ax.plot(*flow.states.T, color="black", label="gradient flow")
    ax.set_title(name)
    ax.legend()
