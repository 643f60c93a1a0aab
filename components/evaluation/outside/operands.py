"""What an operator of torch takes its arguments' word for, and a program from outside cannot be trusted with.

Most kernels compare sizes before they read. Some leave that to the layer of torch that usually calls them: called by a
file, they would read, and answer with, memory that is none of their arguments'. Here those sizes are compared first.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
Told = dict[str, Any]
# How much larger or smaller resizing may make an image, and the largest size: beyond, places that kernels compute
# overflow.
LARGEST_SCALE, LARGEST_SIZE = 256.0, 2**16
# Sizes are scaled in floats and rounded down.
ROUNDING = 1e-3
MOST_REPEATS = 2**24
KINDS = {"ScalarType": torch.dtype, "Layout": torch.layout, "MemoryFormat": torch.memory_format}


def checked(function: torch._ops.OpOverload, name: str) -> Function:
    """The operator called `name`, which looks at its arguments first. Errors: ValueError, TypeError."""
    arguments = function._schema.arguments
    places = [argument.name for argument in arguments if not argument.kwarg_only]
    unset = {argument.name: argument.default_value for argument in arguments if argument.has_default_value()}
    tensors = frozenset(argument.name for argument in arguments if str(argument.type) == "Tensor")
    check = CHECKS.get(name)
    kinds = {argument.name: kind for argument in arguments if (kind := _kind(str(argument.real_type)))}

    def called(*values: Any, **named: Any) -> Any:
        told = {**dict(zip(places, values, strict=False)), **named}
        if len(values) > len(places):
            raise TypeError(f"{len(values)} arguments, want at most {len(places)}")
        _require_kinds(told, tensors, kinds)
        if check is None:
            return function(*values, **named)
        told |= check({**unset, **told}) or {}
        return function(*(told[name] for name in places[: len(values)]), **{name: told[name] for name in named})

    return called


def _kind(schema: str) -> type | None:
    """What an argument has to be that torch also takes as an integer, and any integer for one."""
    return next((kind for name, kind in KINDS.items() if name in schema), None)


def _require_kinds(told: Told, tensors: frozenset[str], kinds: Mapping[str, type]) -> None:
    for name, value in told.items():
        # A number stands for a tensor; nothing does so only where the schema says it.
        if value is None and name in tensors:
            raise TypeError(f"{name}: nothing, want a tensor")
        if name in kinds and not (value is None or isinstance(value, kinds[name])):
            raise TypeError(f"{name}: {type(value).__name__}, want {kinds[name].__name__}")


def _batch_norm(told: Told) -> None:
    """Kernels of batch norm read as many weights as there are channels."""
    images = told["input"]
    if images.ndim < 2:
        raise ValueError(f"input: sizes {list(images.shape)}, want at least two dimensions")
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = told.get(name)
        if tensor is not None and tensor.shape != images.shape[1:2]:
            raise ValueError(f"{name}: sizes {list(tensor.shape)}, want [{images.shape[1]}], one for each channel")


def _group_norm(told: Told) -> None:
    """Sizes are told a second time, as numbers, and the kernel reads by them."""
    sizes = told["input"].shape
    want, numbers = (*sizes[:2], math.prod(sizes[2:])), (told["N"], told["C"], told["HxW"])
    if want != numbers:
        raise ValueError(f"N, C, HxW: {numbers}, want {want}, the sizes of input")


def _weight_norm(told: Told) -> None:
    """The kernel reads a factor for each part of the weights along `dim`; below 0 it is one for all."""
    weights, factors, dim = told["v"], told["g"], told["dim"]
    want = [size if place == dim else 1 for place, size in enumerate(weights.shape)]
    if dim >= weights.ndim or (dim >= 0 and list(factors.shape) != want) or weights.dtype != factors.dtype:
        raise ValueError(f"g: {factors.dtype} {list(factors.shape)}, want {weights.dtype} {want}")


def _attention(told: Told) -> Told:
    """Kernels of attention read keys and values by the sizes of the queries, and take features to lie side by side."""
    query, key, value, mask = told["query"], told["key"], told["value"], told.get("attn_mask", told.get("attn_bias"))
    sizes = [list(one.shape) for one in (query, key, value)]
    if any(len(one) != 4 for one in sizes) or key.shape != value.shape or sizes[0][:2] != sizes[1][:2]:
        raise ValueError(f"query, key, value: sizes {sizes}, want [N, heads, places, features], as many heads and keys")
    if query.shape[3] != key.shape[3] or not all(math.prod(one[1:]) for one in sizes):
        raise ValueError(f"query, key, value: sizes {sizes}, want the same features, and none of nothing")
    beside = {name: told[name].contiguous() for name in ("query", "key", "value") if told[name].stride(3) != 1}
    if mask is None:
        return beside
    whole = (*query.shape[:3], key.shape[2])
    fits = all(size in (1, most) for size, most in zip(mask.shape, whole[-mask.ndim :], strict=True))
    if mask.ndim not in (2, 4) or not fits:
        raise ValueError(f"attn_mask: sizes {list(mask.shape)}, want what can be expanded to {list(whole)}")
    return beside


def _resized(told: Told) -> None:
    """Kernels that resize take sizes and scales, and read where the scales say."""
    images = told["self"] if "self" in told else told["input"]
    sizes, scales = told["output_size"], told.get("scale_factors", (told.get("scales_h"), told.get("scales_w")))
    for scale in scales or ():
        if scale is not None and not 1 / LARGEST_SCALE <= scale <= LARGEST_SCALE:
            raise ValueError(f"scale {scale}, want 1/{LARGEST_SCALE:.0f} to {LARGEST_SCALE:.0f}")
    if sizes is None:
        return
    if any(not 1 <= size <= LARGEST_SIZE for size in sizes):
        raise ValueError(f"output_size: {list(sizes)}, want sizes of 1 to {LARGEST_SIZE}")
    for before, after, scale in zip(images.shape[2:], sizes, scales or (None, None), strict=True):
        if scale is not None and not -1 - ROUNDING <= after - before * scale <= ROUNDING:
            raise ValueError(f"output_size: {after} of {before}, which is not what scale {scale} gives")


def _strided(told: Told) -> None:
    """A view may go anywhere in the memory in which a tensor lies, which can be that of other images."""
    tensor, sizes, strides = told["self"], told["size"], told["stride"]
    first = tensor.storage_offset()
    begin = told["storage_offset"]
    begin = first if begin is None else begin
    last = begin + _span(sizes, strides)
    if any(stride < 0 for stride in strides) or begin < first or last > first + _span(tensor.shape, tensor.stride()):
        raise ValueError(f"size {list(sizes)}, stride {list(strides)}, offset {begin}: beyond the tensor's elements")


def _span(sizes: Any, strides: Any) -> int:
    return sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if math.prod(sizes) else -1


def _repeated(told: Told) -> None:
    """How much memory it takes stands in the values."""
    repeats = told["repeats"]
    if isinstance(repeats, Tensor) and not repeats.is_meta and repeats.numel():
        if repeats.dtype not in (torch.int32, torch.int64) or int(repeats.max()) > MOST_REPEATS:
            raise ValueError(f"repeats: more than {MOST_REPEATS}")
        if int(repeats.sum()) > MOST_REPEATS:
            raise ValueError(f"repeats: more than {MOST_REPEATS} together")


_RESIZING = """
upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa
_upsample_bicubic2d_aa
"""
_BATCH_NORM = """
native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional
"""
_ATTENTION = """
_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention
"""
# What looks at the arguments, and returns those that have to be others.
CHECKS: dict[str, Callable[[Told], Told | None]] = {
    **dict.fromkeys(_BATCH_NORM.split(), _batch_norm),
    **dict.fromkeys(_ATTENTION.split(), _attention),
    **dict.fromkeys(_RESIZING.split(), _resized),
    "native_group_norm": _group_norm,
    "_weight_norm": _weight_norm,
    "as_strided": _strided,
    "repeat_interleave": _repeated,
}
