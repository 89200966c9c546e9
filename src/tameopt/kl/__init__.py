"""The KL inequality: exponents, rates, and computed certificates that training reaches zero loss."""

from __future__ import annotations

from tameopt.kl.fit import Fit, fit
from tameopt.kl.ntk import TangentKernel, ntk
from tameopt.kl.trap import TrapCertificate, check, trap_certificate

__all__ = ["Fit", "TangentKernel", "TrapCertificate", "check", "fit", "ntk", "trap_certificate"]
