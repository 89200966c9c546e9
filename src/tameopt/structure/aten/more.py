"""Operators met less often: linear algebra, special functions, sampling, derivatives inside the loss."""

from __future__ import annotations

from tameopt.structure.aten._row import Row, family
from tameopt.structure.rules import linear, more

_CONSTANT = ("constant in the values", "analytic", "globally", "exact")
_REFUSED = ("not covered", "not covered", "not covered", "not covered")
_EXP = ("R_exp", "analytic", "locally", "exact")
_PARTIAL = ("semialgebraic", "analytic on its domain", "on its domain", "exact on its domain")
_LINEAR = ("linear", "analytic", "globally", "exact")
_STEP = ("piecewise polynomial on a bounded range, else not definable", "discontinuous", "no", "almost everywhere")

ROWS: tuple[Row, ...] = (
    *family(
        "arange empty full rand randn randperm scalar_tensor sym_size sym_numel sym_stride sym_storage_offset "
        "sym_is_contiguous eye linspace",
        linear.shape_only,
        *_CONSTANT,
    ),
    *family("nonzero masked_select resize_ resize _fft_r2c _fft_c2r _local_scalar_dense", more.refused, *_REFUSED),
    *family("native_dropout", more.dropout, "linear given the noise", "analytic", "globally", "exact"),
    *family("scatter_reduce", more.scatter_reduce, "linear, or piecewise linear for amax and amin",
            "analytic / Lipschitz", "globally", "exact / almost everywhere"),
    *family("_embedding_bag", more.embedding_bag, *_LINEAR),
    *family("trace", linear.linear_unbounded, *_LINEAR),
    *family("atan2 arctan2", more.atan2, "R_an", "analytic for a positive second argument, else discontinuous", "no",
            "exact off the cut"),
    *family("remainder fmod", more.remainder, *_STEP),
    *family("frac", more.fraction, *_STEP),
    *family("floor_divide", more.floor_divide, *_STEP),
    *family("tan", more.tangent, "R_an on a bounded range, else not definable", "analytic between poles", "no",
            "exact on its domain"),
    *family("grid_sampler_2d", more.grid_sample, "linear in the input, piecewise polynomial in the grid",
            "locally Lipschitz", "locally", "almost everywhere in the grid"),
    *family("_linalg_det", more.determinant, "polynomial", "analytic", "locally",
            "0 at singular matrices, which is wrong where the rank is n - 1"),
    *family("linalg_inv_ex linalg_cholesky_ex _linalg_solve_ex linalg_solve_triangular triangular_solve "
            "_linalg_slogdet linalg_lu_factor_ex linalg_lu linalg_qr linalg_lstsq inverse cholesky cholesky_solve",
            more.partial, *_PARTIAL),
    *family("_linalg_eigh _linalg_svd", more.spectrum, "semialgebraic",
            "values Lipschitz, vectors discontinuous", "values globally", "NaN at repeated values (vectors)"),
    *family("_weight_norm_interface", more.weight_norm, *_PARTIAL),
    *family("linalg_matrix_exp", more.matrix_exponential, "R_an on a bounded range, else not definable", "analytic",
            "locally", "exact"),
    *family("logaddexp logaddexp2 logcumsumexp", more.log_sum, *_EXP),
    *family("xlogy", more.x_log_y, "R_exp", "analytic for a positive second argument", "on its domain",
            "NaN at (0, 0)"),
    *family("hypot", more.hypotenuse, "semialgebraic", "Lipschitz", "globally", "NaN at 0"),
    *family("nan_to_num", more.nan_to_num, "the identity on finite numbers", "analytic where finite", "globally",
            "exact where finite"),
    *family("heaviside copysign", more.jump, "piecewise linear", "discontinuous", "no", "almost everywhere"),
    *family("logit", more.logit, "R_exp", "analytic on (0, 1)", "on its domain", "exact on its domain"),
    *family("special_ndtr special_log_ndtr", more.normal_distribution, "Pfaffian", "analytic", "globally", "exact"),
    *family("erfinv", more.inverse_error_function, "Pfaffian", "analytic on (-1, 1)", "on its domain",
            "exact on its domain"),
    *family("_ctc_loss", more.connectionist, *_EXP),
    *family("_trilinear", more.trilinear, "polynomial", "analytic", "locally", "exact"),
    *family("tanh_backward sigmoid_backward", more.polynomial_backward, "polynomial", "analytic", "locally", "exact"),
    *family("silu_backward mish_backward softplus_backward gelu_backward log_sigmoid_backward _softmax_backward_data "
            "_log_softmax_backward_data native_layer_norm_backward native_group_norm_backward", more.smooth_backward,
            "R_exp or semialgebraic; Pfaffian for gelu", "analytic", "locally", "exact"),
    *family("threshold_backward leaky_relu_backward hardtanh_backward", more.gated_backward, "piecewise linear",
            "discontinuous", "no", "almost everywhere"),
    *family("_adaptive_avg_pool2d_backward avg_pool2d_backward embedding_dense_backward upsample_nearest2d_backward "
            "upsample_bilinear2d_backward max_pool2d_with_indices_backward", more.linear_backward, *_LINEAR),
    *family("convolution_backward", more.bilinear_backward, "polynomial of degree 2", "analytic", "locally", "exact"),
)  # fmt: skip
