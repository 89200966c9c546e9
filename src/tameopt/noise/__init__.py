"""Noise, step sizes and the ODE method: what stochastic approximation says about a run."""
