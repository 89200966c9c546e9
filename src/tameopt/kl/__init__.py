"""The KL inequality: exponents, rates, and computed certificates that training reaches zero loss."""

from __future__ import annotations

from tameopt.kl.exponent import Exponent, bound, exponent
from tameopt.kl.fit import Fit, fit
from tameopt.kl.margin import MarginCertificate, margin_certificate
from tameopt.kl.ntk import TangentKernel, ntk
from tameopt.kl.pl import PathPL, pl_constant
from tameopt.kl.rates import Rate, rates
from tameopt.kl.relu_flow import FlowCertificate, flow_certificate
from tameopt.kl.shadowing import shadow_certificate
from tameopt.kl.trap import TrapCertificate, check, trap_certificate

__all__ = [
    "Exponent",
    "Fit",
    "FlowCertificate",
    "MarginCertificate",
    "PathPL",
    "Rate",
    "TangentKernel",
    "TrapCertificate",
    "bound",
    "check",
    "exponent",
    "fit",
    "flow_certificate",
    "margin_certificate",
    "ntk",
    "pl_constant",
    "rates",
    "shadow_certificate",
    "trap_certificate",
]
