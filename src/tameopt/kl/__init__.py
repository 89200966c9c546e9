"""The KL inequality: exponents, rates, and computed certificates that training reaches zero loss."""

from __future__ import annotations

from tameopt.kl.fit import Fit, fit
from tameopt.kl.ntk import TangentKernel, ntk

__all__ = ["Fit", "TangentKernel", "fit", "ntk"]
