"""Noise, step sizes and the ODE method: what stochastic approximation says about a run."""

from tameopt.noise.accumulation import AccumulationPoint, accumulation_points
from tameopt.noise.averaging import (
    AverageConfidence,
    average_confidence,
    batch_means_error,
    stationary_covariance,
    stationary_variance,
)
from tameopt.noise.conditions import StepConditions, step_conditions
from tameopt.noise.covariance import NoiseAt, batch_factor, noise_at
from tameopt.noise.gradient_cost import CheapGradient, cheap_gradient
from tameopt.noise.growth import GrowthModel, growth_model
from tameopt.noise.hill import TailIndex, tail_index
from tameopt.noise.interpolation import Interpolated, interpolate
from tameopt.noise.limit_interval import LimitSet, limit_set
from tameopt.noise.martingale_tests import NoiseTests, noise_tests
from tameopt.noise.ode_method import PseudoTrajectory, pseudo_trajectory
from tameopt.noise.recorded import RunNoise, recorded_noise, run_noise
from tameopt.noise.samplers import Importance, Sampler, Stratified, Uniform
from tameopt.noise.window_distance import FlowDistance, flow_distance
from tameopt.noise.windows import Window, read_window, spans

__all__ = [
    "AccumulationPoint", "AverageConfidence", "CheapGradient", "FlowDistance", "GrowthModel", "Importance",
    "Interpolated", "LimitSet", "NoiseAt", "NoiseTests", "PseudoTrajectory", "RunNoise", "Sampler",
    "StepConditions", "Stratified", "TailIndex", "Uniform", "Window", "accumulation_points", "average_confidence",
    "batch_factor", "batch_means_error", "cheap_gradient", "flow_distance", "growth_model", "interpolate",
    "limit_set", "noise_at", "noise_tests", "pseudo_trajectory", "read_window", "recorded_noise", "run_noise",
    "spans", "stationary_covariance", "stationary_variance", "step_conditions", "tail_index",
]  # fmt: skip
