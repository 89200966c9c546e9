"""Optimizers as update rules, and step-size schedules as data."""
