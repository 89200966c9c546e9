"""Normalisation, softmax, attention, pooling and losses."""

from __future__ import annotations

from tameopt.structure.aten._row import Row, family
from tameopt.structure.rules import extremes, losses, network

_EXP = ("R_exp", "analytic", "locally", "exact")
_MAX = ("piecewise linear", "locally Lipschitz", "globally", "an element of the Clarke subdifferential, probed")
_NORM = ("semialgebraic", "analytic for eps > 0", "locally", "exact")
_EUCLID = ("semialgebraic", "Lipschitz, analytic away from 0", "globally", "0 at 0, probed")

ROWS: tuple[Row, ...] = (
    *family("_softmax softmax _safe_softmax", network.softmax, *_EXP),
    *family("_log_softmax log_softmax", network.log_softmax, *_EXP),
    *family("logsumexp", network.logsumexp, *_EXP),
    *family(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
        "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math "
        "scaled_dot_product_attention",
        network.attention,
        *_EXP,
    ),
    *family("native_layer_norm native_group_norm layer_norm group_norm", network.layer_norm, *_NORM),
    *family("rms_norm _fused_rms_norm", network.rms_norm, *_NORM),
    *family(
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
        "_native_batch_norm_legit_functional cudnn_batch_norm _batch_norm_with_update "
        "_batch_norm_no_update batch_norm",
        network.batch_norm,
        *_NORM,
    ),
    *family("var", network.var, "polynomial of degree 2", "analytic", "locally", "exact"),
    *family("var_mean", network.var_mean, "polynomial of degree 2", "analytic", "locally", "exact"),
    *family("std", network.std, *_EUCLID),
    *family("std_mean", network.std_mean, *_EUCLID),
    *family("linalg_vector_norm norm", network.vector_norm, *_EUCLID),
    *family("_cdist_forward _euclidean_dist _pdist_forward dist cdist", network.distance, *_EUCLID),
    *family(
        "amax max max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices "
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices cummax "
        "fractional_max_pool2d",
        extremes.largest,
        *_MAX,
    ),
    *family("amin min cummin", extremes.smallest, *_MAX),
    *family("aminmax", extremes.ordered, *_MAX),
    *family("sort topk median kthvalue nanmedian", extremes.ordered, *_MAX),
    *family(
        "argmax argmin argsort searchsorted bucketize",
        extremes.index_of,
        "piecewise constant",
        "discontinuous",
        "no",
        "no derivative",
    ),
    *family("maximum fmax", extremes.pair_largest, *_MAX),
    *family("minimum fmin", extremes.pair_smallest, *_MAX),
    *family("clamp clip clamp_min clamp_max hardtanh", extremes.clamp, *_MAX),
    *family("mse_loss", losses.mse_loss, "polynomial of degree 2", "analytic", "locally", "exact"),
    *family("huber_loss smooth_l1_loss", losses.huber_like, "piecewise polynomial of degree 2", "C^1", "globally",
            "exact"),
    *family("nll_loss nll_loss_forward nll_loss2d nll_loss2d_forward nll_loss_nd", losses.nll_loss, "linear",
            "analytic", "globally", "exact"),
    *family("binary_cross_entropy_with_logits", losses.bce_with_logits, *_EXP),
    *family("binary_cross_entropy", losses.bce, "R_exp", "locally Lipschitz: the logarithm is clamped at -100",
            "locally", "not the derivative where the clamp is active"),
    *family("soft_margin_loss", losses.soft_margin, *_EXP),
    *family("multi_margin_loss multilabel_margin_loss_forward", losses.margin, *_MAX),
)  # fmt: skip
