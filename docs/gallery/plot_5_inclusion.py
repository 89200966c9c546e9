"""
Chapter 5: the subgradient flow and subgradient steps
=====================================================

The flow of a piecewise linear function is a polygon with rational corners: it reaches the valley ``y = 0`` and slides
along it. Subgradient steps cross the valley to and fro; they follow the flow at a distance of the order of the step.
"""

from matplotlib import pyplot as plt

import tameopt as tame


def F(theta):
    return theta[0].abs() + 2 * theta[1].abs() + theta[1] / 2


figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, alpha in zip(axes, (0.12, 0.03), strict=True):
    found = tame.nonsmooth.subgradient_steps(F, [1.5, 1], 2.4, alpha, names=("x", "y"))
    found.plot(ax)
    print(f"steps of {alpha}: at most {found.distance:.3f} from the flow")
for event in found.flow.events:
    print(f"t = {event.t}: at ({event.x[0]}, {event.x[1]}), velocity ({event.velocity[0]}, {event.velocity[1]})")
print(f"defect of the energy identity: {found.flow.energy_defect}")
