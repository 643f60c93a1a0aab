"""A call of every operator that a program may use, and calls that are wrong in one argument or in two.

As a module of its own (`python -m tests.parts.operator_calls`) it carries out all of them and says which of them read
memory that is not their arguments'. A tensor lies in the middle of memory that holds one thing the first time and
another the second: an answer that differs comes from outside. The name of a call is written before it begins, since
one that reads far away kills the process.
"""

import ctypes
import random
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from components.evaluation.outside.operands import CHECKS
from components.evaluation.outside.operators import ELEMENTWISE, FUNCTIONAL, operator_of

# Elements of other memory before and behind every tensor, and what they hold the first and the second time.
AROUND = 2**11
OTHERS = {True: (float("nan"), 1234.0), False: (1, 3)}
# What malloc fills new memory with: an answer of memory that nobody wrote differs, too.
FILLINGS, PERTURB = (0x5A, 0x3C), -6
MOST_BYTES, MOST_MEMORY = 2**26, 2**33
# Stands behind a call: what is wrong with it. Before an operator: as torch has it, without our checks.
WRONG, TRUSTED = " :: ", "unchecked:"
WRITES = "writes into other memory"
FEW, SOME = 3, 15
ODD_NUMBERS = (0, -1, 1, 3, 7, 2**31, -(2**62))


class T(NamedTuple):
    """A tensor: its sizes, its type, and how it differs from a fresh one."""

    sizes: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    form: str = "plain"
    fill: int | None = None

    def made(self, other: float) -> tuple[Tensor, Tensor]:
        """The tensor, and the memory in which it lies."""
        plain = torch.arange(max(1, torch.Size(self.sizes).numel())) % 5
        if self.fill is not None:
            plain = torch.full_like(plain, self.fill)
        plain = plain[: torch.Size(self.sizes).numel()].view(self.sizes)
        value = plain / 4 if self.dtype.is_floating_point else plain % 2 if self.fill is None else plain
        value = value.to(self.dtype)
        if self.form == "transposed" and value.ndim > 1:
            value = value.transpose(-1, -2).contiguous().transpose(-1, -2)
        if self.form == "expanded":
            value = value.flatten()[:1].reshape([1] * value.ndim).expand(value.shape) if value.numel() else value
        if self.form == "channels_last" and value.ndim == 4:
            value = value.contiguous(memory_format=torch.channels_last)
        span = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        span = span if value.numel() else 0
        memory = torch.full((span + 2 * AROUND,), other).to(self.dtype)
        laid = memory.as_strided(value.shape, value.stride(), AROUND)
        if value.numel():
            memory.as_strided((span,), (1,), AROUND).copy_(value.as_strided((span,), (1,), 0))
        return laid, memory


def i(*sizes: int) -> T:
    return T(sizes, torch.int64)


def b(*sizes: int) -> T:
    return T(sizes, torch.bool)


def f(*sizes: int) -> T:
    return T(sizes)


IMAGES, VECTOR, LINES, MATRIX = f(2, 4, 6, 6), f(4), f(2, 4, 6), f(4, 6)
NORM = (IMAGES, VECTOR, VECTOR, VECTOR, VECTOR)
QUERY = f(2, 2, 5, 8)
PLANES = f(2, 4, 3, 6, 6)
KERNEL = f(4, 2, 3, 3)
# Where one cannot be made from the schema alone: operators and their arguments, those that have names at the end.
CALLS: dict[str, tuple[Any, ...]] = {
    **{f"bitwise_{name}.{kind}": (i(3, 4), other) for name in ("and", "or", "xor")
       for kind, other in (("Tensor", i(3, 4)), ("Scalar", 1))},
    **{f"bitwise_{name}.Scalar_Tensor": (1, i(3, 4)) for name in ("and", "or", "xor")},
    "bitwise_not.default": (i(3, 4),),
    "clamp.default": (IMAGES, 0.1, 0.5),
    "fill.Tensor": (IMAGES, f()),
    "masked_fill.Scalar": (IMAGES, b(2, 4, 6, 6), 1),
    "masked_fill.Tensor": (IMAGES, b(2, 4, 6, 6), f()),
    "prelu.default": (IMAGES, VECTOR),
    "where.self": (b(2, 4, 6, 6), IMAGES, IMAGES),
    "where.ScalarOther": (b(4), VECTOR, 1),
    "where.ScalarSelf": (b(4), 1, VECTOR),
    "where.Scalar": (b(4), 1, 2),
    **{f"{name}.default": (IMAGES, [2, 2]) for name in
       ("_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")},
    "adaptive_avg_pool1d.default": (LINES, [2]),
    "_native_batch_norm_legit_functional.default": (*NORM, True, 0.1, 1e-5),
    "_native_batch_norm_legit_no_training.default": (*NORM, 0.1, 1e-5),
    "native_batch_norm.default": (*NORM, False, 0.1, 1e-5),
    "batch_norm.default": (*NORM, False, 0.1, 1e-5, False),
    "instance_norm.default": (*NORM, True, 0.1, 1e-5, False),
    "group_norm.default": (IMAGES, 2, VECTOR, VECTOR, 1e-5, False),
    "native_group_norm.default": (IMAGES, VECTOR, VECTOR, 2, 4, 36, 2, 1e-5),
    "layer_norm.default": (IMAGES, [6, 6], f(6, 6), f(6, 6), 1e-5, False),
    "native_layer_norm.default": (IMAGES, [6, 6], f(6, 6), f(6, 6), 1e-5),
    "rms_norm.default": (IMAGES, [6, 6], f(6, 6), 1e-5),
    "_scaled_dot_product_flash_attention_for_cpu.default":
        (QUERY, QUERY, QUERY, 0.0, False, {"attn_mask": f(2, 2, 5, 5), "scale": 0.5}),
    "scaled_dot_product_attention.default": (QUERY, QUERY, QUERY, f(2, 2, 5, 5), 0.0, False, {"scale": 0.5}),
    "_unsafe_view.default": (IMAGES, [8, 36]),
    "view.default": (IMAGES, [8, 36]),
    "reshape.default": (IMAGES, [8, 36]),
    **{f"{name}.default": (IMAGES, [9, 9], False, 1.5, 1.5) for name in
       ("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "upsample_bilinear2d")},
    **{f"{name}.vec": (IMAGES, None, False, [1.5, 1.5]) for name in
       ("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "upsample_bicubic2d", "upsample_bilinear2d")},
    **{f"{name}.default": (IMAGES, [9, 9], 1.5, 1.5) for name in ("_upsample_nearest_exact2d", "upsample_nearest2d")},
    **{f"{name}.vec": (IMAGES, None, [1.5, 1.5]) for name in ("_upsample_nearest_exact2d", "upsample_nearest2d")},
    "addmm.default": (f(4, 3), MATRIX, f(6, 3)),
    "avg_pool1d.default": (LINES, [2], [2], [1], True, False),
    "avg_pool2d.default": (IMAGES, [3, 3], [2, 2], [1, 1], True, False, None),
    "avg_pool3d.default": (PLANES, [3, 3, 3], [2, 2, 2], [1, 1, 1], True, False, None),
    "max_pool1d.default": (LINES, [2], [2], [1], [1], True),
    "max_pool2d.default": (IMAGES, [3, 3], [2, 2], [1, 1], [1, 1], True),
    "max_pool2d_with_indices.default": (IMAGES, [3, 3], [2, 2], [1, 1], [1, 1], True),
    "baddbmm.default": (f(2, 4, 3), LINES, f(2, 6, 3)),
    "bmm.default": (LINES, f(2, 6, 3)),
    "mm.default": (MATRIX, f(6, 3)),
    "mv.default": (MATRIX, f(6)),
    "dot.default": (VECTOR, VECTOR),
    "linear.default": (LINES, f(3, 6), f(3)),
    "matmul.default": (LINES, f(6, 3)),
    "einsum.default": ("bij,bjk->bik", [LINES, f(2, 6, 3)]),
    "constant_pad_nd.default": (IMAGES, [1, -1, 2, 0], 0.5),
    "pad.default": (IMAGES, [1, 1, 2, 2], "reflect", None),
    "reflection_pad1d.default": (LINES, [1, 2]),
    "replication_pad1d.default": (LINES, [1, 2]),
    "reflection_pad2d.default": (IMAGES, [1, 2, 3, 0]),
    "replication_pad2d.default": (IMAGES, [1, 2, 3, 0]),
    "conv1d.default": (LINES, f(4, 2, 3), VECTOR, [1], [1], [1], 2),
    "conv1d.padding": (LINES, f(4, 2, 3), VECTOR, [1], "same", [1], 2),
    "conv2d.default": (IMAGES, KERNEL, VECTOR, [1, 2], [1, 0], [1, 2], 2),
    "conv2d.padding": (IMAGES, KERNEL, VECTOR, [1, 1], "same", [1, 2], 2),
    "conv3d.default": (PLANES, f(4, 2, 3, 3, 3), VECTOR, [1, 1, 1], [1, 1, 1], [1, 1, 1], 2),
    "conv3d.padding": (PLANES, f(4, 2, 3, 3, 3), VECTOR, [1, 1, 1], "same", [1, 1, 1], 2),
    "conv_transpose1d.default": (LINES, f(4, 2, 3), VECTOR, [2], [1], [1], 2, [1]),
    "conv_transpose2d.input": (IMAGES, KERNEL, VECTOR, [2, 2], [1, 1], [1, 1], 2, [1, 1]),
    "convolution.default": (IMAGES, KERNEL, VECTOR, [1, 1], [1, 1], [1, 1], False, [0, 0], 2),
    "embedding.default": (f(5, 3), i(2, 4), -1, False, False),
    "expand.default": (f(1, 4), [3, 4]),
    "gather.default": (IMAGES, 1, i(2, 3, 6, 6)),
    "take_along_dim.default": (IMAGES, i(2, 3, 6, 6), 1),
    "index.Tensor": (IMAGES, [None, i(3), i(3)]),
    "index.Tensor_hacked_twin": (IMAGES, [i(3), i(3)]),
    "index_put.default": (IMAGES, [None, i(3), i(3)], f(2, 3, 6)),
    "index_put.hacked_twin": (IMAGES, [i(3), i(3)], f(3, 6, 6)),
    "index_select.default": (IMAGES, 1, i(3)),
    "im2col.default": (IMAGES, [3, 3], [1, 1], [1, 1], [2, 2]),
    "linspace.Tensor_Tensor": (f(), f(), 4),
    "linspace.Tensor_Scalar": (f(), 3, 4),
    "linspace.Scalar_Tensor": (0, f(), 4),
    "meshgrid.default": ([VECTOR, f(3)],),
    "meshgrid.indexing": ([VECTOR, f(3)], {"indexing": "ij"}),
    "narrow.default": (IMAGES, 1, 1, 2),
    "narrow.Tensor": (IMAGES, 1, i(), 2),
    "slice.Tensor": (IMAGES, 1, 1, 3, 2),
    "norm.ScalarOpt_dim_dtype": (IMAGES, 2, [1], False, {"dtype": torch.float64}),
    "norm.ScalarOpt_dtype": (IMAGES, 2, {"dtype": torch.float64}),
    "one_hot.default": (i(4), 3),
    "permute.default": (IMAGES, [0, 3, 1, 2]),
    "repeat.default": (MATRIX, [2, 1]),
    "repeat_interleave.Tensor": (i(4), {"output_size": 2}),
    "repeat_interleave.self_Tensor": (IMAGES, i(4), 1, {"output_size": 2}),
    "select_scatter.default": (IMAGES, f(2, 6, 6), 1, 2),
    "slice_scatter.default": (IMAGES, f(2, 2, 6, 6), 1, 1, 3, 1),
    "split.sizes": (IMAGES, [1, 3], 1),
    "split.default": (IMAGES, [1, 3], 1),
    "split_with_sizes.default": (IMAGES, [1, 3], 1),
    "t.default": (MATRIX,),
    "unflatten.int": (IMAGES, 1, [2, 2]),
    "contiguous.default": (IMAGES, {"memory_format": torch.contiguous_format}),
    "to.dtype": (IMAGES, torch.float64, False, False, None),
    "to.dtype_layout": (IMAGES, {"dtype": torch.float64}),
    "view.dtype": (IMAGES, torch.int32),
    "_native_batch_norm_legit.no_stats": (IMAGES, VECTOR, VECTOR, True, 0.1, 1e-5),
    "outer.default": (VECTOR, f(3)),
    "vdot.default": (VECTOR, VECTOR),
    "bilinear.default": (MATRIX, f(4, 5), f(3, 6, 5), f(3)),
    "cdist.default": (LINES, f(2, 5, 6), 2.0, None),
    "_weight_norm.default": (KERNEL, f(4, 1, 1, 1), 0),
    "scatter.src": (IMAGES, 1, i(2, 3, 6, 6), IMAGES),
    "scatter.value": (IMAGES, 1, i(2, 3, 6, 6), 0.5),
    "scatter.reduce": (IMAGES, 1, i(2, 3, 6, 6), IMAGES, {"reduce": "add"}),
    "scatter.value_reduce": (IMAGES, 1, i(2, 3, 6, 6), 0.5, {"reduce": "add"}),
    "col2im.default": (f(2, 16, 9), [6, 6], [2, 2], [1, 1], [0, 0], [2, 2]),
    "_assert_async.default": (T((), fill=1),),
    "_assert_async.msg": (T((), fill=1), "no"),
    "as_strided.default": (IMAGES, [2, 4, 9], [144, 36, 2], None),
    "channel_shuffle.default": (IMAGES, 2),
    "native_channel_shuffle.default": (IMAGES, 2),
    "pixel_shuffle.default": (IMAGES, 2),
    "pixel_unshuffle.default": (IMAGES, 2),
    "topk.default": (IMAGES, 2, 1),
    "unfold.default": (IMAGES, 2, 3, 2),
    "diagonal.default": (IMAGES, 1, 2, 3),
}  # fmt: skip
# These are of a GPU alone, of lists of texts, of types that no file can name, or of tensors that are no views.
ELSEWHERE = frozenset(
    {
        *(f"_scaled_dot_product_{kind}" for kind in ("efficient_attention.default", "flash_attention.default")),
        *("_scaled_dot_product_flash_attention.quantized", "addmm.dtype", "baddbmm.dtype", "bmm.dtype", "mm.dtype"),
        *("copy.Dict_Tensor", "eq.Tensor_list", "ne.Tensor_list", "einsum.sublist", "index.list_Tensor", "to.device"),
        "detach_.default",
    }
)


def overloads(in_place: bool) -> Iterator[str]:
    """All overloads on the list that take a tensor; those that write into it as well, if wanted."""
    names = sorted(ELEMENTWISE | FUNCTIONAL | ({f"{name}_" for name in ELEMENTWISE} if in_place else set[str]()))
    for name in names:
        for overload in getattr(getattr(torch.ops.aten, name, None), "overloads", list)():
            key = f"{name}.{overload}"
            schema = getattr(getattr(torch.ops.aten, name), overload)._schema
            named_out = any(
                argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments
            )
            if named_out and not name.endswith("_"):
                continue
            takes = any("Tensor" in str(argument.type) for argument in schema.arguments)
            if (
                takes
                and key not in ELSEWHERE
                and not overload.startswith("prim_")
                and "out" not in overload.replace("layout", "")
            ):
                yield key


def call_of(key: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments that an operator takes: those of the table, or whatever its schema asks for."""
    name, _, overload = key.partition(".")
    told = CALLS.get(key, CALLS.get(f"{name.removesuffix('_')}.{overload}"))
    if told is not None:
        *rest, last = told
        return (rest, dict(last)) if isinstance(last, dict) else ([*rest, last], {})
    schema = getattr(getattr(torch.ops.aten, name), overload)._schema
    made = {argument.name: _made(argument) for argument in schema.arguments}
    by_name = {argument.name: made[argument.name] for argument in schema.arguments if argument.kwarg_only}
    return [made[argument.name] for argument in schema.arguments if not argument.kwarg_only], by_name


def _made(argument: Any) -> Any:
    kind = str(argument.type)
    if kind in ("Tensor", "Optional[Tensor]"):
        return IMAGES
    if argument.has_default_value():
        return argument.default_value
    if kind == "List[Tensor]":
        return [IMAGES, IMAGES]
    if "List" in kind:
        return [1]
    if "bool" in kind:
        return False
    return 1 if kind in ("int", "SymInt") else 0.5 if kind in ("number", "float", "Optional[number]") else None


def wrong_tensors(tensor: T) -> Iterator[T]:
    """Shorter, longer, empty, scalar, of another rank, with other strides, of another type, with odd values."""
    sizes = tensor.sizes
    for place in range(len(sizes)):
        for size in {0, 1, sizes[place] - 1, sizes[place] + 1, 2 * sizes[place]}:
            yield tensor._replace(sizes=(*sizes[:place], size, *sizes[place + 1 :]))
    yield from (
        tensor._replace(sizes=other) for other in ((), (0,), (1,), sizes[1:], (1, *sizes), (*sizes, 1), sizes[::-1])
    )
    yield from (tensor._replace(form=form) for form in ("transposed", "expanded", "channels_last"))
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    yield from (tensor._replace(dtype=kind) for kind in kinds if kind != tensor.dtype)
    if not tensor.dtype.is_floating_point and tensor.dtype != torch.bool:
        yield from (tensor._replace(fill=fill) for fill in (-1, 5, 100, -(2**40), 2**40, 2**62))


def wrong(value: Any) -> Iterator[Any]:
    """Odd values instead of one argument."""
    if isinstance(value, T):
        yield from wrong_tensors(value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from ODD_NUMBERS
    elif isinstance(value, float):
        yield from (0.0, -1.0, 1e-3, 100.0, float("nan"), 1e300)
    elif isinstance(value, list):
        yield from ([], value[:-1], [*value, *value[-1:]])
        for place, part in enumerate(value):
            yield from ([*value[:place], other, *value[place + 1 :]] for other in wrong(part))
        if all(isinstance(part, int) for part in value):
            yield from ([number] * len(value) for number in ODD_NUMBERS)
    elif value is None:
        yield from (1, [1], VECTOR)
    if value is not None:
        yield None


def wrong_calls(key: str, pairs: int) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """The call itself, each that is wrong in one argument, and `pairs` that are wrong in two."""
    positional, named = call_of(key)
    yield positional, named
    both = dict(enumerate(positional)) | named
    odd = {place: list(wrong(value)) for place, value in both.items()}
    draws = random.Random(key)
    changes = [{place: value} for place, values in odd.items() for value in values]
    if not pairs and (name := key.partition(".")[0]) not in CHECKS:
        # Those that we check are tried in all ways; elementwise ones share one kernel's way through memory.
        changes = draws.sample(changes, min(FEW if name in ELEMENTWISE else SOME, len(changes)))
    if len(odd) > 1:
        for _ in range(pairs):
            places = draws.sample(sorted(odd, key=str), 2)
            if all(odd[place] for place in places):
                changes.append({place: draws.choice(odd[place]) for place in places})
    for change in changes:
        told = both | change
        yield [told[place] for place in range(len(positional))], {name: told[name] for name in named}


def carried_out(function: Callable[..., Any], call: tuple[list[Any], dict[str, Any]], time: int) -> Any:
    """What an operator answers where all its tensors lie in other memory, or the name of its error."""
    memories: list[tuple[Tensor, Tensor]] = []

    def real(value: Any) -> Any:
        if isinstance(value, T):
            laid, memory = value.made(OTHERS[value.dtype.is_floating_point][time])
            memories.append((memory, memory.clone()))
            return laid
        return [real(part) for part in value] if isinstance(value, list) else value

    positional, named = call
    arguments, options = real(positional), {name: real(value) for name, value in named.items()}
    ctypes.CDLL(None).mallopt(PERTURB, FILLINGS[time])
    torch.manual_seed(0)
    try:
        answer = function(*arguments, **options)
    except Exception as error:
        return f"refused: {type(error).__name__}: {error}"
    for memory, before in memories:
        for part in (slice(None, AROUND), slice(-AROUND, None)):
            if not torch.equal(memory[part].view(torch.uint8), before[part].view(torch.uint8)):
                return WRITES
    answers = list(answer) if isinstance(answer, list | tuple) else [answer]
    return [part.clone() if isinstance(part, Tensor) else part for part in answers]


def too_large(function: Callable[..., Any], call: tuple[list[Any], dict[str, Any]]) -> bool:
    """Whether an answer would need more memory than a test should take."""

    def meta(value: Any) -> Any:
        if isinstance(value, T):
            return torch.empty(value.sizes, dtype=value.dtype, device="meta")
        return [meta(part) for part in value] if isinstance(value, list) else value

    numbers = [part for value in call[0] for part in (value if isinstance(value, list) else [value])]
    if not any(isinstance(part, int) and abs(part) > 2**20 for part in numbers):
        return False
    try:
        answer = function(*meta(call[0]), **{name: meta(value) for name, value in call[1].items()})
    except Exception:
        return False
    answers = answer if isinstance(answer, list | tuple) else [answer]
    return any(isinstance(part, Tensor) and part.nbytes > MOST_BYTES for part in answers)


def same(first: Any, second: Any) -> bool:
    """Whether two answers hold the same bytes."""
    if isinstance(first, str) or isinstance(second, str):
        return isinstance(first, str) and isinstance(second, str)
    return len(first) == len(second) and all(map(_alike, first, second))


def _alike(first: Any, second: Any) -> bool:
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        return bool(first == second or (first != first and second != second))
    return first.dtype == second.dtype and torch.equal(first.nan_to_num(7.5), second.nan_to_num(7.5))


def check(key: str, pairs: int, function: Callable[..., Any]) -> None:
    """Says on stdout what each call is and, behind it, what is wrong with it."""
    for number, call in enumerate(wrong_calls(key, pairs)):
        print(f"\n{key}{call[0]}{call[1] or ''}", end="", flush=True)
        if too_large(function, call):
            continue
        first, second = carried_out(function, call, 0), carried_out(function, call, 1)
        if number == 0 and isinstance(first, str):
            print(f"{WRONG}cannot be called: {first}", end="")
        if not same(first, second) or WRITES in (first, second):
            print(f"{WRONG}{first if first == WRITES else 'answers with other memory'}", end="", flush=True)


def main(pairs: int, chosen: list[str]) -> None:
    """Checks the operators that are chosen, or all: what is said of them goes to stdout."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # What asks for too much is refused rather than given.
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    for key in chosen or overloads(in_place=pairs > 0):
        trusted = key.startswith(TRUSTED)
        name, _, overload = key.removeprefix(TRUSTED).partition(".")
        raw = getattr(getattr(torch.ops.aten, name), overload)
        check(
            f"{name}.{overload}", pairs, raw if trusted else operator_of(f"torch.ops.aten.{name}.{overload}", "calls")
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
