"""Operators that are linear in their tensor arguments."""

from __future__ import annotations

from tameopt.structure.aten._row import Row, family
from tameopt.structure.rules import linear, selection

_WORDS = ("linear", "analytic", "globally", "exact")

ROWS: tuple[Row, ...] = (
    *family(
        "alias clone contiguous detach view _unsafe_view _reshape_alias reshape t transpose permute movedim expand "
        "squeeze unsqueeze slice select narrow diagonal unfold as_strided flip roll rot90 repeat tile "
        "unbind split split_with_sizes unsafe_split unsafe_split_with_sizes chunk lift_fresh lift "
        "lift_fresh_copy view_copy expand_copy permute_copy slice_copy select_copy squeeze_copy unsqueeze_copy "
        "t_copy transpose_copy unbind_copy split_copy alias_copy detach_copy diagonal_copy "
        "unfold_copy as_strided_copy "
        "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle flatten unflatten swapaxes "
        "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "_pad_circular real view_as _conj_physical resolve_conj resolve_neg positive split_with_sizes_copy "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d "
        "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d",
        linear.view, *_WORDS,
    ),
    *family(
        "upsample_linear1d upsample_bilinear2d upsample_trilinear3d _upsample_bilinear2d_aa adaptive_avg_pool1d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d",
        linear.interpolated, *_WORDS,
    ),
    *family("upsample_bicubic2d _upsample_bicubic2d_aa", linear.linear_unbounded, *_WORDS),
    *family("avg_pool1d avg_pool2d avg_pool3d", linear.averaged, *_WORDS),
    *family("copy _copy_from", linear.copied, "linear between floating types, piecewise constant to integers",
            "analytic / discontinuous", "globally / no", "exact / 0"),
    *family("_to_copy to", linear.converted, "linear between floating types, piecewise constant to integers",
            "analytic / discontinuous", "globally / no", "exact / 0"),
    *family("add", linear.add, *_WORDS),
    *family("sub subtract", linear.sub, *_WORDS),
    *family("rsub", linear.rsub, *_WORDS),
    *family("sum", linear.sum_, *_WORDS),
    *family("mean", linear.mean, *_WORDS),
    *family("cumsum", linear.cumsum, *_WORDS),
    *family("cat stack concat hstack vstack block_diag _stack", linear.join_all, *_WORDS),
    *family("constant_pad_nd", linear.padded, *_WORDS),
    *family("tril triu diag_embed slice_backward select_backward", linear.with_zero,
            *_WORDS),
    *family("scatter_add index_add col2im", linear.accumulated, *_WORDS),
    *family("im2col", linear.with_zero, *_WORDS),
    *family("lerp", linear.lerp, "linear in the ends, bilinear with the weight", "analytic", "locally", "exact"),
    *family("fill full_like new_full", linear.filled, *_WORDS),
    *family("zeros_like new_zeros zero", linear.zeros_like, "constant", "analytic", "globally", "exact"),
    *family("ones_like new_ones", linear.ones_like, "constant", "analytic", "globally", "exact"),
    *family(
        "empty_like new_empty new_empty_strided rand_like randn_like randint_like empty_strided",
        linear.shape_only, "constant in the values", "analytic", "globally", "exact",
    ),
    *family(
        "gather index index_select embedding take take_along_dim", linear.gathered,
        "linear in the values, piecewise in the index", "analytic / discontinuous", "globally / no", "exact / 0",
    ),
    *family(
        "index_put _unsafe_index_put scatter masked_scatter slice_scatter select_scatter index_copy diagonal_scatter",
        selection.written, *_WORDS,
    ),
    *family("_unsafe_index", linear.gathered, *_WORDS),
    *family(
        "floor ceil round trunc fix", linear.rounded, "not definable on R; piecewise constant on a bounded range",
        "discontinuous", "no", "0",
    ),
)  # fmt: skip
