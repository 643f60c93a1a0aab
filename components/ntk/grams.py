"""What each layer adds to a kernel: the Gram matrix of its per-image parameter gradients, from its output gradients.

Structured derivatives (Novak et al. 2022, arXiv 2206.08720): the gradients of a layer are formed in pieces of bounded
size, or not at all where products of pixels are cheaper. Layers compute in the model's precision, sums are float64.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import functional

from components.ntk.parameter_uses import Operation

CHUNK = 2**24  # Elements of the largest intermediate of a layer: bounds the memory, changes nothing but rounding.
_SQUARE = 256  # Rows of a Gram matrix that are computed at once where its symmetry is used.

Edge = Tensor | GradientEdge


class Effort(NamedTuple):
    """How a Gram matrix is computed: for how many directions in all, how many of them in one matrix, and how large."""

    directions: int
    together: int
    chunk: int


class Layer(Protocol):
    """What some parameters, of one layer, add to a kernel."""

    @property
    def name(self) -> str:
        """The layer's place in the model, or the parameter's where it has no layer of a known kind."""
        ...

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Where in the autograd graph the gradients `deltas` are taken."""
        ...

    def gram(self, deltas: Sequence[Tensor]) -> Tensor:
        """Float64 [N R, N R], image by image, for `deltas` [N, R, ...] of R directions, one for each edge."""
        ...

    def gradients(self, deltas: Sequence[Tensor], size: int) -> Iterator[Tensor]:
        """The gradients themselves in pieces [N R, P'], cut in the same places for any N and R.

        A piece has `size` columns, unless the parameters end or the smallest piece (the weights of one input channel)
        is larger.
        """
        ...


def layer_of(operation: Operation, effort: Effort) -> Layer:
    """The structured derivative of a layer operation."""
    return _LAYERS[operation.kind](operation, effort)


class _Weights:
    """A convolution or a linear map."""

    def __init__(self, operation: Operation, effort: Effort) -> None:
        arguments = operation.arguments
        self.name = _owner(operation)
        self.edges = (operation.edge,)
        self._trained = (operation.weight is not None, operation.bias is not None)
        self._effort, self._products = effort, None
        inputs, weight = arguments["input"], arguments["weight"]
        self._groups = arguments.get("groups", 1)
        self._shape = (len(weight), weight[0].numel(), weight[0, 0].numel())
        if operation.kind == "conv2d":
            self._inputs, self._unfold = inputs, _unfold(arguments, weight.shape[2:])
        else:
            # A 1x1 convolution whose pixels are the axes between the first and the last, if any.
            self._inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1]).transpose(1, 2)
            self._unfold = lambda channels: channels
        self._is_linear = operation.kind == "linear"
        num_pixels = self._unfold(self._inputs[:1, :1]).shape[-1]
        self._by_pairs = pairs_are_cheaper(len(inputs), num_pixels, self._shape, self._groups, effort)

    def gram(self, deltas: Sequence[Tensor]) -> Tensor:
        num_images, num_directions = deltas[0].shape[:2]
        delta = self._arranged(deltas[0])
        total = zeros(num_images * num_directions, delta)
        if self._trained[0]:
            total += self._pair_gram(delta, num_images) if self._by_pairs else self._weight_gram(delta, num_images)
        if self._trained[1]:
            total += gram(delta.sum(2))
        return total

    def gradients(self, deltas: Sequence[Tensor], size: int) -> Iterator[Tensor]:
        num_images = len(deltas[0])
        delta = self._arranged(deltas[0])
        if self._trained[0]:
            channel = self._shape[0] // self._groups * self._shape[2]
            yield from self._weight_gradients(delta, num_images, max(1, size // channel))
        if self._trained[1]:
            yield delta.sum(2)

    def _arranged(self, delta: Tensor) -> Tensor:
        """[N R, out, pixels]."""
        delta = delta.flatten(0, 1)
        return delta.reshape(len(delta), -1, self._shape[0]).transpose(1, 2) if self._is_linear else delta.flatten(2)

    def _weight_gram(self, delta: Tensor, num_images: int) -> Tensor:
        # Columns and gradients of one input channel of one group, for all images.
        num_out, _, kernel = self._shape
        num_directions = len(delta) // num_images
        widest = max(delta.shape[2], num_directions * (num_out // self._groups))
        total = zeros(len(delta), delta)
        for piece in self._weight_gradients(
            delta, num_images, max(1, self._effort.chunk // (num_images * kernel * widest))
        ):
            total += gram(piece)
        return total

    def _weight_gradients(self, delta: Tensor, num_images: int, num_channels: int) -> Iterator[Tensor]:
        """The weights of `num_channels` channels of the inputs [N, groups, in, ...] a time, of several groups if so."""
        inputs = self._inputs.unflatten(1, (self._groups, -1))
        num_directions, num_inputs = len(delta) // num_images, inputs.shape[2]
        inputs_a_time, groups_a_time = min(num_channels, num_inputs), max(1, num_channels // num_inputs)
        # The directions are more outputs of the same inputs.
        outer = delta.view(num_images, num_directions, self._groups, -1, delta.shape[2]).transpose(1, 2).flatten(2, 3)
        for group in range(0, self._groups, groups_a_time):
            some = outer[:, group : group + groups_a_time]
            for start in range(0, num_inputs, inputs_a_time):
                part = inputs[:, group : group + groups_a_time, start : start + inputs_a_time]
                columns = self._unfold(part.flatten(1, 2)).unflatten(1, (some.shape[1], -1))
                piece = (some @ columns.transpose(2, 3)).unflatten(2, (num_directions, -1))
                yield piece.transpose(1, 2).reshape(len(delta), -1)

    def _pair_gram(self, delta: Tensor, num_images: int) -> Tensor:
        """K_ij = sum over pixels d, e of <delta_id, delta_je> <column_id, column_je>."""
        inner = self._products
        if inner is None:
            inner = _pixel_products(self._unfold(self._inputs))
            # Where all directions come at once it is used once.
            self._products = inner if self._effort.together == 1 else None
        num_directions, num_pixels = len(delta) // num_images, delta.shape[2]
        by_direction = delta.unflatten(0, (num_images, num_directions)).unbind(1)
        total = zeros(len(delta), delta).view(num_images, num_directions, num_images, num_directions)
        for row, first in enumerate(by_direction):
            for column, second in enumerate(by_direction[row:], row):
                products = inner * _pixel_products(first, second)
                sums = products.view(num_images, num_pixels, num_images, num_pixels).sum((1, 3), dtype=torch.float64)
                total[:, row, :, column] = sums
                if column > row:
                    total[:, column, :, row] = sums.T
        return total.view(len(delta), len(delta))


class _Scales:
    """A normalisation that multiplies what it normalised with a weight and adds a bias."""

    def __init__(self, operation: Operation, effort: Effort) -> None:
        self.name = _owner(operation)
        self.edges = (operation.edge,)
        self._trained = (operation.weight is not None, operation.bias is not None)
        self._kind, self._arguments = operation.kind, operation.arguments

    def gram(self, deltas: Sequence[Tensor]) -> Tensor:
        total = zeros(deltas[0].shape[:2].numel(), deltas[0])
        for gradients in self.gradients(deltas, 1):
            total += gram(gradients)
        return total

    def gradients(self, deltas: Sequence[Tensor], size: int) -> Iterator[Tensor]:
        by_direction = deltas[0].unbind(1)
        if self._trained[0]:
            yield torch.stack([self._scale(delta) for delta in by_direction], 1).flatten(0, 1)
        if self._trained[1]:
            yield torch.stack([self._summed(delta) for delta in by_direction], 1).flatten(0, 1)

    def _scale(self, delta: Tensor) -> Tensor:
        """The gradients of the weight, [N, features]: the sum of what was normalised times `delta`."""
        arguments = self._arguments
        inputs, eps = arguments["input"], arguments.get("eps", 1e-5)
        match self._kind:
            case "batch_norm":
                ones = (1,) * (inputs.ndim - 2)
                mean, variance = arguments["running_mean"].view(1, -1, *ones), arguments["running_var"]
                product = (inputs - mean) * delta.reshape(len(delta), len(variance), -1).view_as(inputs)
                pixels = tuple(range(2, inputs.ndim))
                return (product.sum(pixels) if pixels else product) * (variance + eps).rsqrt()
            case "group_norm":
                normalised = functional.group_norm(inputs, arguments["num_groups"], eps=eps)
            case "layer_norm":
                normalised = functional.layer_norm(inputs, arguments["normalized_shape"], eps=eps)
            case _:
                normalised = functional.rms_norm(inputs, arguments["normalized_shape"], eps=arguments.get("eps"))
        return self._summed(normalised * delta)

    def _summed(self, values: Tensor) -> Tensor:
        """Over all axes but the images and the features, [N, features]."""
        if "normalized_shape" in self._arguments:
            features = math.prod(self._arguments["normalized_shape"])
            return values.reshape(len(values), -1, features).sum(1)
        return values.reshape(len(values), values.shape[1], -1).sum(2)


_LAYERS: dict[str, Callable[[Operation, Effort], Layer]] = {
    "conv2d": _Weights,
    "linear": _Weights,
    "batch_norm": _Scales,
    "layer_norm": _Scales,
    "group_norm": _Scales,
    "rms_norm": _Scales,
}


def _owner(operation: Operation) -> str:
    name = operation.weight or operation.bias
    assert name is not None
    return name.rpartition(".")[0] or name


def _unfold(arguments: Mapping[str, Any], kernel_size: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """From images [N, channels, H, W] to columns [N, channels * kernel, pixels], as the convolution takes them."""
    stride, padding = arguments.get("stride", 1), arguments.get("padding", 0)
    steps = _pair(arguments.get("dilation", 1))
    if padding == "same":
        spans = [step * (size - 1) for step, size in zip(steps, kernel_size, strict=True)]
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        sides = [(side, side) for side in _pair(0 if padding == "valid" else padding)]
    # `pad` begins with the last axis.
    edges = [edge for side in reversed(sides) for edge in side]

    def unfold(images: Tensor) -> Tensor:
        return functional.unfold(functional.pad(images, edges), tuple(kernel_size), steps, stride=stride)

    return unfold


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else (*value, *value)[:2]


def pairs_are_cheaper(
    num_images: int, num_pixels: int, weight: tuple[int, int, int], groups: int, effort: Effort
) -> bool:
    """Whether to multiply pixels with each other instead of forming the gradients of a weight (out, in, of a channel).

    By the multiply-adds over all directions, and only where the products of pixels are small enough.
    """
    num_directions, together, chunk = effort
    num_out, num_in, _ = weight
    products = num_directions * (together + 1) // 2
    by_pairs = (num_images * num_pixels) ** 2 * (num_in + products * num_out)
    by_weights = num_directions * num_out * num_in * num_images * (num_pixels + together * num_images)
    return groups == 1 and by_pairs < by_weights and (num_images * num_pixels) ** 2 <= chunk


def gram(rows: Tensor) -> Tensor:
    """The float64 Gram matrix of rows [N, P], in the precision of the rows; one triangle only where it is large."""
    rows = rows.flatten(1)
    if len(rows) <= _SQUARE:
        return (rows @ rows.T).double()
    total = zeros(len(rows), rows)
    for start in range(0, len(rows), _SQUARE):
        block = rows[start : start + _SQUARE] @ rows[start:].T
        total[start : start + _SQUARE, start:] = block
        total[start:, start : start + _SQUARE] = block.T
    return total


def zeros(size: int, like: Tensor) -> Tensor:
    """A float64 matrix to sum in."""
    return torch.zeros(size, size, dtype=torch.float64, device=like.device)


def _pixel_products(values: Tensor, others: Tensor | None = None) -> Tensor:
    rows = values.transpose(1, 2).flatten(0, 1)
    columns = rows if others is None or others is values else others.transpose(1, 2).flatten(0, 1)
    return rows @ columns.T
