"""Noise, step sizes and the ODE method: what stochastic approximation says about a run."""

from tameopt.noise.conditions import StepConditions, step_conditions
from tameopt.noise.covariance import NoiseAt, batch_factor, noise_at
from tameopt.noise.interpolation import Interpolated, interpolate
from tameopt.noise.limit_set import LimitSet, limit_set
from tameopt.noise.ode_method import PseudoTrajectory, pseudo_trajectory
from tameopt.noise.pseudo_trajectory import FlowDistance, flow_distance
from tameopt.noise.windows import Window, read_window, spans

__all__ = [
    "FlowDistance",
    "Interpolated",
    "LimitSet",
    "NoiseAt",
    "PseudoTrajectory",
    "StepConditions",
    "Window",
    "batch_factor",
    "flow_distance",
    "interpolate",
    "limit_set",
    "noise_at",
    "pseudo_trajectory",
    "read_window",
    "spans",
    "step_conditions",
]
