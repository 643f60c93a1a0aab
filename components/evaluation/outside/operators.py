"""The operators that a program from outside may use: those that exported vision models consist of, and no others.

Each returns what it computes from its arguments, or writes into its first one. None reads or writes files, and none
takes an index or a size without checking it: where torch does not, `operands` does. Torch has hundreds more, some of
which trust their arguments: an index that such a file chooses would be written to wherever it points.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from components.evaluation.outside.operands import checked
from components.foundation.errors import InputError

# Operators that also exist in place, with an underscore behind the name.
_ELEMENTWISE = """
abs add addcdiv addcmul atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor ceil celu clamp clamp_max
clamp_min copy cos detach div dropout elu eq erf erfc exp expm1 fill floor floor_divide fmod ge gelu gt hardshrink
hardsigmoid hardswish hardtanh le leaky_relu lerp log log10 log1p log2 logical_and logical_not logical_or logical_xor lt
masked_fill mish mul nan_to_num ne neg pow prelu reciprocal relu relu6 remainder round rsqrt selu sigmoid sign silu
sin softplus softshrink sqrt square squeeze sub tan tanh threshold transpose tril triu trunc unsqueeze where zero
"""
_FUNCTIONAL = """
conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution linear matmul mm bmm mv dot addmm baddbmm einsum
outer vdot bilinear cdist cosine_similarity _weight_norm
batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit
_native_batch_norm_legit_functional native_batch_norm layer_norm
native_layer_norm group_norm native_group_norm instance_norm rms_norm
glu log_sigmoid softmax _softmax log_softmax _log_softmax logsumexp
avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool2d_with_indices adaptive_avg_pool1d
adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d feature_dropout alpha_dropout native_dropout
rsub maximum minimum isnan isinf isfinite
sum mean amax amin max min prod std var std_mean var_mean argmax argmin cumsum cumprod norm linalg_vector_norm
topk sort argsort any all
view view_as reshape flatten unflatten permute t mT expand expand_as repeat repeat_interleave tile cat concat stack
split split_with_sizes chunk unbind select slice narrow index index_select index_put gather scatter
take_along_dim embedding one_hot flip roll rot90
pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im unfold as_strided movedim swapaxes
contiguous clone alias lift_fresh_copy _unsafe_view slice_scatter select_scatter diagonal
to _to_copy type_as
full full_like zeros zeros_like ones ones_like new_zeros new_ones new_full arange scalar_tensor linspace eye
meshgrid
rand randn randint rand_like randn_like bernoulli
scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
_scaled_dot_product_flash_attention
upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa
_upsample_bicubic2d_aa
sym_size sym_numel _assert_tensor_metadata _assert_scalar _assert_async
"""
# What shapes are computed with.
_ARITHMETIC = "add sub mul floordiv mod neg getitem eq ne lt le gt ge"
ELEMENTWISE, FUNCTIONAL, ARITHMETIC = (frozenset(names.split()) for names in (_ELEMENTWISE, _FUNCTIONAL, _ARITHMETIC))
LARGEST_NUMBER = 2**62
SHOWN = 80

Function = Callable[..., Any]


def is_in_place(target: str) -> bool:
    """Whether an operator writes into its first argument."""
    return target.startswith("torch.ops.") and target.split(".")[3].endswith("_")


def operator_of(target: object, where: str) -> Function:
    """The function that a program calls `target`. Error: one that is not on the list."""
    text = target if isinstance(target, str) else ""
    if (match := re.fullmatch(r"_operator\.([a-z]+)", text)) and match[1] in ARITHMETIC:
        return _arithmetic(match[1])
    if match := re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", text):
        name, overload = match.groups()
        packet = getattr(torch.ops.aten, name, None) if _is_listed(name) else None
        # Those of TorchScript's own interpreter take whatever they are given.
        function = None if overload.startswith("prim_") else getattr(packet, overload, None)
        if isinstance(function, torch._ops.OpOverload) and _writes_only_in_place(function, name):
            return checked(function, name)
    shown = repr(target)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    raise InputError(f"{where}: operator {shown} (allowed: those of torch.ops.aten that vision models are made of)")


def _is_listed(name: str) -> bool:
    return name in FUNCTIONAL or name.removesuffix("_") in ELEMENTWISE


def _writes_only_in_place(function: torch._ops.OpOverload, name: str) -> bool:
    """Whether an overload writes nothing, or its first argument, as its name says: no `out`."""
    arguments = function._schema.arguments
    written = [index for index, one in enumerate(arguments) if one.alias_info is not None and one.alias_info.is_write]
    return not written or (written == [0] and name.endswith("_"))


def _arithmetic(name: str) -> Function:
    """Arithmetic of numbers that stay in 63 bits, and the parts of a list."""
    function = getattr(operator, name)

    def computed(*values: Any) -> Any:
        listed = isinstance(values[0], list | tuple) if name == "getitem" and len(values) == 2 else False
        if not all(isinstance(value, int | float) for value in values[listed:]):
            raise TypeError(f"{name} of {', '.join(type(value).__name__ for value in values)}, want numbers")
        if isinstance(found := function(*values), int) and abs(found) > LARGEST_NUMBER:
            raise OverflowError(f"{name} gives a number of over 62 bits")
        return found

    return computed
