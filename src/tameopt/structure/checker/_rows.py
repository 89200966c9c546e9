"""The checker's own table of operators: for each, the rule to apply and its constants.

A `Scalar` is an elementwise function: image (a name known to `_rules`), needs (generator), degree of the pieces (None
if not polynomial), kinks, bend (smoothness and autodiff level at the kinks), domain (lo, hi, lo_open, hi_open), edge
(smoothness at a closed end of the domain), shape and slope for convexity, ray (positively homogeneous), bounded
(definable only where the argument is bounded), wild_outside (finite and not definable outside the domain).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

INF = math.inf


@dataclass(frozen=True)
class Scalar:
    """An elementwise function."""

    image: str
    needs: str = ""
    degree: int | None = None
    kinks: tuple[float, ...] = ()
    bend: tuple[int, int] = (1000, 0)
    domain: tuple[float, float, bool, bool] = (-INF, INF, False, False)
    edge: int = 1000
    shape: str = ""
    slope: int = 0
    ray: bool = False
    bounded: bool = False
    wild_outside: bool = False


_RIGHT = (0.0, INF, True, False)
_BEND, _JUMP = (0, 2), (-2, 3)

SCALARS: dict[str, Scalar] = {
    "relu": Scalar("relu", degree=1, kinks=(0.0,), bend=_BEND, shape="convex", slope=1, ray=True),
    "abs": Scalar("abs", degree=1, kinks=(0.0,), bend=_BEND, shape="convex", ray=True),
    "relu6": Scalar("[0,6]", degree=1, kinks=(0.0, 6.0), bend=_BEND, slope=1),
    "hardsigmoid": Scalar("[0,1]", degree=1, kinks=(-3.0, 3.0), bend=_BEND, slope=1),
    "hardswish": Scalar("dip:-0.3750001", degree=2, kinks=(-3.0, 3.0), bend=_BEND),
    "exp": Scalar("exp", "exp", shape="convex", slope=1),
    "exp2": Scalar("exp2", "exp", shape="convex", slope=1),
    "expm1": Scalar("expm1", "exp", shape="convex", slope=1),
    "log": Scalar("log", "exp", domain=_RIGHT, shape="concave", slope=1),
    "log2": Scalar("log2", "exp", domain=_RIGHT, shape="concave", slope=1),
    "log10": Scalar("log10", "exp", domain=_RIGHT, shape="concave", slope=1),
    "log1p": Scalar("log1p", "exp", domain=(-1.0, INF, True, False), shape="concave", slope=1),
    "sigmoid": Scalar("sigmoid", "exp", slope=1),
    "log_sigmoid": Scalar("log_sigmoid", "exp", shape="concave", slope=1),
    "log_sigmoid_forward": Scalar("log_sigmoid", "exp", shape="concave", slope=1),
    "tanh": Scalar("tanh", "exp", slope=1),
    "silu": Scalar("dip:-0.2784646", "exp"),
    "mish": Scalar("dip:-0.3088492", "exp"),
    "sinh": Scalar("sinh", "exp", slope=1),
    "cosh": Scalar("cosh", "exp", shape="convex"),
    "asinh": Scalar("asinh", "exp", slope=1),
    "acosh": Scalar("acosh", "exp", domain=(1.0, INF, False, False), edge=-1, shape="concave", slope=1),
    "atanh": Scalar("atanh", "exp", domain=(-1.0, 1.0, True, True), slope=1),
    "sqrt": Scalar("sqrt", "algebraic", domain=(0.0, INF, False, False), edge=-1, shape="concave", slope=1),
    "rsqrt": Scalar("rsqrt", "algebraic", domain=_RIGHT, shape="convex", slope=-1),
    "square": Scalar("square", degree=2, shape="convex"),
    "neg": Scalar("neg", degree=1, shape="affine", slope=-1, ray=True),
    "sin": Scalar("[-1,1]", "analytic", bounded=True),
    "cos": Scalar("[-1,1]", "analytic", bounded=True),
    "sinc": Scalar("[-1,1]", "analytic", bounded=True),
    "atan": Scalar("atan", "analytic", slope=1),
    "asin": Scalar("asin", "analytic", domain=(-1.0, 1.0, False, False), edge=-1, slope=1),
    "acos": Scalar("acos", "analytic", domain=(-1.0, 1.0, False, False), edge=-1, slope=-1),
    "erf": Scalar("erf", "pfaffian", slope=1),
    "erfc": Scalar("erfc", "pfaffian", slope=-1),
    "lgamma": Scalar("lgamma", "gamma", domain=_RIGHT, shape="convex", wild_outside=True),
    "digamma": Scalar("any", "gamma", domain=_RIGHT, shape="concave", slope=1, wild_outside=True),
    "sign": Scalar("[-1,1]", degree=0, kinks=(0.0,), bend=_JUMP, slope=1),
    "sgn": Scalar("[-1,1]", degree=0, kinks=(0.0,), bend=_JUMP, slope=1),
}


def _table(text: str) -> dict[str, str]:
    """ "rule: operator operator" lines as operator -> rule."""
    found: dict[str, str] = {}
    for line in text.strip().splitlines():
        rule, _, names = line.partition(":")
        for name in names.split():
            if name in found:
                raise TypeError(f"the checker's table names {name!r} twice.")
            found[name] = rule.strip()
    return found


RULES: dict[str, str] = _table(
    """
same: alias clone contiguous detach view _unsafe_view _reshape_alias reshape t transpose permute movedim expand
same: squeeze unsqueeze slice select narrow diagonal unfold as_strided flip roll rot90 repeat tile
same: unbind split split_with_sizes unsafe_split unsafe_split_with_sizes chunk lift_fresh lift lift_fresh_copy
same: view_copy expand_copy permute_copy slice_copy select_copy squeeze_copy unsqueeze_copy t_copy transpose_copy
same: unbind_copy split_copy alias_copy detach_copy diagonal_copy unfold_copy as_strided_copy pixel_shuffle
same: pixel_unshuffle channel_shuffle native_channel_shuffle flatten unflatten swapaxes reflection_pad1d
same: reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular real
same: view_as _conj_physical resolve_conj resolve_neg positive split_with_sizes_copy upsample_nearest1d
same: upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
same: _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa
same: adaptive_avg_pool1d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d mean
zeros: zeros_like new_zeros zero
ones: ones_like new_ones
anything: empty_like new_empty new_empty_strided rand_like randn_like randint_like empty_strided
fill: fill full_like new_full
linear: upsample_bicubic2d _upsample_bicubic2d_aa
or zero: tril triu diag_embed slice_backward select_backward im2col
average: avg_pool1d avg_pool2d avg_pool3d
together: cat stack concat hstack vstack block_diag _stack tame.mix tame.average tame.outputs
pad: constant_pad_nd
convert: _to_copy to
copy: copy _copy_from
add: add
sub: sub subtract
rsub: rsub
sum: sum
cumsum: cumsum
total: tame.total
unseen: tame.unseen
chosen: tame.branches
accumulate: scatter_add index_add col2im
lerp: lerp
gather: gather index index_select embedding take take_along_dim _unsafe_index
write: index_put _unsafe_index_put scatter masked_scatter slice_scatter select_scatter index_copy diagonal_scatter
round: floor ceil round trunc fix
mul: mul multiply
matmul: mm bmm mv dot vdot inner
addmm: addmm baddbmm addmv addbmm
addcmul: addcmul
addcdiv: addcdiv
convolution: convolution _convolution convolution_overrideable mkldnn_convolution
prod: prod
cumprod: cumprod
div: div divide true_divide
reciprocal: reciprocal
pow: pow
prelu: prelu _prelu_kernel
softmax: _softmax softmax _safe_softmax
log softmax: _log_softmax log_softmax
logsumexp: logsumexp
attention: _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
attention: _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
attention: _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math
attention: scaled_dot_product_attention
normalise: native_layer_norm native_group_norm layer_norm group_norm
rms: rms_norm _fused_rms_norm
batch norm: native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
batch norm: _native_batch_norm_legit_functional cudnn_batch_norm _batch_norm_with_update _batch_norm_no_update
batch norm: batch_norm
var: var var_mean
std: std std_mean
norm: linalg_vector_norm norm
distance: _cdist_forward _euclidean_dist _pdist_forward dist cdist
max: amax max max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d
max: adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices cummax fractional_max_pool2d
min: amin min cummin
sort: aminmax sort topk median kthvalue nanmedian
where is: argmax argmin argsort searchsorted bucketize
maximum: maximum fmax
minimum: minimum fmin
clamp: clamp clip clamp_min clamp_max hardtanh
mse: mse_loss
huber: huber_loss smooth_l1_loss
nll: nll_loss nll_loss_forward nll_loss2d nll_loss2d_forward nll_loss_nd
bce logits: binary_cross_entropy_with_logits
bce: binary_cross_entropy
soft margin: soft_margin_loss
margin: multi_margin_loss multilabel_margin_loss_forward
truth: eq ne lt le gt ge isnan isinf isfinite isposinf isneginf logical_and logical_or logical_not logical_xor
truth: bitwise_and bitwise_or bitwise_not bitwise_xor any all signbit
where: where
masked fill: masked_fill
threshold: threshold
gelu: gelu
softplus: softplus
elu: elu celu selu
leaky relu: leaky_relu
softshrink: softshrink
hardshrink: hardshrink
glu: glu
rrelu: rrelu_with_noise rrelu_with_noise_functional
anything: arange empty full rand randn randperm scalar_tensor sym_size sym_numel sym_stride sym_storage_offset
anything: sym_is_contiguous eye linspace
never: nonzero masked_select resize_ resize _fft_r2c _fft_c2r _local_scalar_dense
dropout: native_dropout
scatter reduce: scatter_reduce
bag: _embedding_bag
trace: trace
angle: atan2 arctan2
remainder: remainder fmod
fraction: frac
whole quotient: floor_divide
tan: tan
grid: grid_sampler_2d
determinant: _linalg_det
partial: linalg_inv_ex linalg_cholesky_ex _linalg_solve_ex linalg_solve_triangular triangular_solve _linalg_slogdet
partial: linalg_lu_factor_ex linalg_lu linalg_qr linalg_lstsq inverse cholesky cholesky_solve _weight_norm_interface
spectrum: _linalg_eigh _linalg_svd
matrix exp: linalg_matrix_exp
log sum: logaddexp logaddexp2 logcumsumexp
x log y: xlogy
hypot: hypot
numbers only: nan_to_num
jump: heaviside copysign
logit: logit
normal: special_ndtr special_log_ndtr
erfinv: erfinv
alignments: _ctc_loss
three: _trilinear
polynomial backward: tanh_backward sigmoid_backward
smooth backward: silu_backward mish_backward softplus_backward gelu_backward log_sigmoid_backward
smooth backward: _softmax_backward_data _log_softmax_backward_data native_layer_norm_backward
smooth backward: native_group_norm_backward
gated backward: threshold_backward leaky_relu_backward hardtanh_backward
linear backward: _adaptive_avg_pool2d_backward avg_pool2d_backward embedding_dense_backward
linear backward: upsample_nearest2d_backward upsample_bilinear2d_backward max_pool2d_with_indices_backward
bilinear backward: convolution_backward
"""
)
