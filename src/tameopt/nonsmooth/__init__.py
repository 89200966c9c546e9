"""Nonsmooth losses: what autodiff computes at kinks, the right sets, and how far a point is from critical.

>>> from tameopt.nonsmooth import min_norm
>>> min_norm([[1, 0], [0, 1]]).squared_distance
Fraction(1, 2)
"""

from tameopt.nonsmooth import prox
from tameopt.nonsmooth.backprop import Backprop, check_backprop
from tameopt.nonsmooth.chain_rule import ChainRule, chain_rule
from tameopt.nonsmooth.clarke_distance import ClarkeDistance, clarke_distance
from tameopt.nonsmooth.goldstein import Goldstein, goldstein
from tameopt.nonsmooth.kink_influence import KinkInfluence, kink_influence
from tameopt.nonsmooth.kinks import Census, census
from tameopt.nonsmooth.min_norm import MinNorm, min_norm
from tameopt.nonsmooth.safe_gradient import SafeGradient, safe_gradient
from tameopt.nonsmooth.side_by_side import side_by_side
from tameopt.nonsmooth.sparsity_path import SparsityPath, sparsity_path
from tameopt.nonsmooth.subdifferential import Subdifferential, all_subdifferentials, subdifferential
from tameopt.nonsmooth.subgradient_steps import SubgradientSteps, subgradient_steps

__all__ = [
    "Backprop",
    "Census",
    "ChainRule",
    "ClarkeDistance",
    "Goldstein",
    "KinkInfluence",
    "MinNorm",
    "SafeGradient",
    "SparsityPath",
    "Subdifferential",
    "SubgradientSteps",
    "all_subdifferentials",
    "census",
    "chain_rule",
    "check_backprop",
    "clarke_distance",
    "goldstein",
    "kink_influence",
    "min_norm",
    "prox",
    "safe_gradient",
    "side_by_side",
    "sparsity_path",
    "subdifferential",
    "subgradient_steps",
]
