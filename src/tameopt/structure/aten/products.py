"""Products, powers and quotients: polynomial and rational operators."""

from __future__ import annotations

from tameopt.structure.aten._row import Row, family
from tameopt.structure.rules import products

_POLYNOMIAL = ("polynomial", "analytic", "locally", "exact")
_RATIONAL = ("rational", "analytic where the denominator is not 0", "on its domain", "exact on its domain")

ROWS: tuple[Row, ...] = (
    *family("mul multiply", products.mul, *_POLYNOMIAL),
    *family("mm bmm mv dot vdot inner", products.matmul, *_POLYNOMIAL),
    *family("addmm baddbmm addmv addbmm", products.addmm, *_POLYNOMIAL),
    *family("addcmul", products.addcmul, *_POLYNOMIAL),
    *family(
        "convolution _convolution convolution_overrideable mkldnn_convolution", products.convolution, *_POLYNOMIAL
    ),
    *family("prod", products.product_of, *_POLYNOMIAL),
    *family("cumprod", products.cumprod, *_POLYNOMIAL),
    *family("div divide true_divide", products.div, *_RATIONAL),
    *family("addcdiv", products.addcdiv, *_RATIONAL),
    *family("reciprocal", products.reciprocal, *_RATIONAL),
    *family(
        "pow",
        products.power,
        "polynomial for an integer exponent, semialgebraic for a rational one, R_exp otherwise",
        "analytic for an integer exponent or a positive base, else C^floor(p)",
        "for p >= 1 or a positive base",
        "infinite or NaN at 0 for p < 1",
    ),
    *family(
        "prelu _prelu_kernel",
        products.prelu,
        "piecewise polynomial of degree 2",
        "locally Lipschitz",
        "locally",
        "an element of the Clarke subdifferential, probed",
    ),
)
