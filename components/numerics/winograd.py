"""3x3 convolutions in float32 with a quarter of the multiplications: Winograd's F(4x4, 3x3).

Source: Lavin and Gray, arXiv 1509.09308, section 4. Tiles of 6x6 pixels, which overlap by two, are transformed and
multiplied with the transformed kernel in 36 matrix products; the transform back leaves 4x4 results of each tile. What
comes out differs from direct summing by rounding alone, 1e-5 of the largest result. Training may compute so; what
decides an evaluation never does.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Transforms move much memory: with fewer channels, or fewer multiply-adds in a pass, direct summing is as fast
# (benchmarks/winograd_speed.py).
LEAST_CHANNELS, LEAST_WORK = 64, 500_000_000
# What so many tiles need stays in the processor's cache from one transform to the next.
TILES_AT_ONCE = 256
TILE, RESULTS = 6, 4

# The transform of kernels, G in the paper's notation, for the points 0, 1, -1, 2, -2 and infinity; along both sides.
_ALONG_ONE_SIDE = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_OF_KERNELS = torch.kron(_ALONG_ONE_SIDE, _ALONG_ONE_SIDE)


def gains_here() -> bool:
    """Whether this processor gains: those with wider vectors have direct convolutions that matrix products trail."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


@contextmanager
def fewer_multiplications() -> Iterator[None]:
    """Inside the block each 3x3 convolution that gains is computed this way; transformed kernels are kept meanwhile.

    The block replaces `torch.nn.functional.conv2d`, which every layer calls: torch's own means of intervening, a
    TorchFunctionMode, sees all other operations as well, for a twentieth of a small network's time.
    """
    direct, kernels = functional.conv2d, dict[int, _Kernel]()

    def conv2d(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs or not _gains(*args):
            return direct(*args, **kwargs)
        images, weight, *_ = args
        kernel = kernels.get(id(weight))
        if kernel is None or not kernel.is_of(weight):
            kernel = kernels[id(weight)] = _Kernel(weight)
        # The aliases have nodes of their own in the graph, of which `backward` can ask whether they will run.
        return _Winograd.apply(images.view_as(images), weight.view_as(weight), kernel)

    functional.conv2d = conv2d
    try:
        yield
    finally:
        functional.conv2d = direct


def _gains(images: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any) -> bool:
    """Of what `torch.conv2d` is given: stride, padding, dilation and groups follow the bias."""
    num_out, num_in, *size = weight.shape
    return (
        bias is None
        and (size, options) == ([3, 3], ((1, 1), (1, 1), (1, 1), 1))
        and images.ndim == 4
        and images.device.type == "cpu"
        and images.dtype == weight.dtype == torch.float32
        and images.shape[2] % RESULTS == images.shape[3] % RESULTS == 0
        and min(num_in, num_out) >= LEAST_CHANNELS
        and weight.numel() * images.numel() // num_in >= LEAST_WORK
    )


class _Kernel:
    """A weight [K, C, 3, 3] and what the algorithm multiplies with, computed when first asked for."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.version = weight, weight._version

    def is_of(self, weight: Tensor) -> bool:
        """Whether it was made of this weight, and of its present values."""
        return self.weight is weight and self.version == weight._version

    @cached_property
    def forward(self) -> Tensor:
        """From images to results, [36, K, C]."""
        return _kernel_tiles(self.weight.detach())

    @cached_property
    def backward(self) -> Tensor:
        """From the results' gradient to that of the images, [36, C, K]: the kernel turned by half a circle."""
        return _kernel_tiles(self.weight.detach().flip(2, 3).transpose(0, 1))


class _Winograd(torch.autograd.Function):
    """Images [N, C, H, W], weight [K, C, 3, 3] -> results [N, K, H, W]; second derivatives are those of direct sums."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, kernel: _Kernel) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.kernel = kernel
        return _convolve(images, kernel.forward)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,), (images, weight) = gradients, ctx.saved_tensors
        # Attacks ask for the images' gradient alone, of which `ctx.needs_input_grad` knows nothing.
        wanted = [node is not None and torch._C._will_engine_execute_node(node) for node, _ in ctx.next_functions[:2]]
        if torch.is_grad_enabled():
            once = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            found = torch.ops.aten.convolution_backward(gradient, images, weight, None, *once, [*wanted, False])
            return found[0], found[1], None
        of_images = _convolve(gradient, ctx.kernel.backward) if wanted[0] else None
        of_weight = _weight_gradient(images, gradient) if wanted[1] else None
        return of_images, of_weight, None


def _convolve(images: Tensor, kernel: Tensor) -> Tensor:
    """[N, C, H, W], kernel tiles [36, K, C] -> [N, K, H, W], channels last."""
    num, _, height, width = images.shape
    results = images.new_empty(num, height, width, kernel.shape[1])
    for slab in _slabs(images):
        _put_results(torch.bmm(_image_tiles(images[slab]), kernel.transpose(1, 2)), results[slab])
    return results.permute(0, 3, 1, 2)


def _weight_gradient(images: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the weight, [K, C, 3, 3], by the adjoint of each transform."""
    num_out, num_in = gradient.shape[1], images.shape[1]
    tiles = images.new_zeros(TILE * TILE, num_out, num_in)
    for slab in _slabs(images):
        tiles.baddbmm_(_gradient_tiles(gradient[slab]).transpose(1, 2), _image_tiles(images[slab]))
    taps = _OF_KERNELS.T @ tiles.view(TILE * TILE, -1)
    return taps.view(3, 3, num_out, num_in).permute(2, 3, 0, 1)


def _slabs(images: Tensor) -> Iterator[slice]:
    """The batch in parts of about `TILES_AT_ONCE` tiles."""
    tiles = images.shape[2] * images.shape[3] // RESULTS**2
    size = max(1, TILES_AT_ONCE // tiles)
    return (slice(first, first + size) for first in range(0, len(images), size))


def _kernel_tiles(weight: Tensor) -> Tensor:
    """[K, C, 3, 3] -> G g G^T of each kernel g, [36, K, C]."""
    num_out, num_in = weight.shape[:2]
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (_OF_KERNELS @ taps).view(TILE * TILE, num_out, num_in)


def _image_tiles(images: Tensor) -> Tensor:
    """[n, C, H, W] -> B^T d B of each tile d, zeros around the image, [36, tiles, C].

    Tiles go by row, column and image: so each step of a transform runs over long stretches of memory.
    """
    num, channels, height, width = images.shape
    rows, columns = height // RESULTS, width // RESULTS
    padded = images.new_empty(height + 2, width + 2, num, channels)
    for edge in (padded[0], padded[-1], padded[:, 0], padded[:, -1]):
        edge.zero_()
    padded[1:-1, 1:-1] = images.permute(2, 3, 0, 1)
    half = images.new_empty(TILE, height + 2, columns, num, channels)
    _transform_pixels([padded[:, first : first + width - 3 : RESULTS] for first in range(TILE)], half)
    tiles = images.new_empty(TILE, TILE, rows, columns, num, channels)
    _transform_pixels([half[:, first : first + height - 3 : RESULTS] for first in range(TILE)], tiles)
    return tiles.view(TILE * TILE, -1, channels)


def _put_results(products: Tensor, results: Tensor) -> None:
    """[36, tiles, K] -> A^T m A of each tile m, into `results` [n, H, W, K]."""
    num, height, width, channels = results.shape
    rows, columns = height // RESULTS, width // RESULTS
    half = products.new_empty(RESULTS, TILE, rows, columns, num, channels)
    _transform_products(products.view(TILE, TILE, rows, columns, num, channels), half)
    done = products.new_empty(RESULTS, RESULTS, rows, columns, num, channels)
    _transform_products(half.transpose(0, 1), done.transpose(0, 1))
    results.view(num, rows, RESULTS, columns, RESULTS, channels).copy_(done.permute(4, 2, 0, 3, 1, 5))


def _gradient_tiles(gradient: Tensor) -> Tensor:
    """[n, K, H, W] -> A y A^T of each tile y of the results' gradient, [36, tiles, K]."""
    num, channels, height, width = gradient.shape
    rows, columns = height // RESULTS, width // RESULTS
    tiled = gradient.reshape(num, channels, rows, RESULTS, columns, RESULTS)
    half = gradient.new_empty(TILE, RESULTS, rows, columns, num, channels)
    _spread_gradients(tiled.permute(3, 5, 2, 4, 0, 1).contiguous(), half)
    tiles = gradient.new_empty(TILE, TILE, rows, columns, num, channels)
    _spread_gradients(half.transpose(0, 1), tiles.transpose(0, 1))
    return tiles.view(TILE * TILE, -1, channels)


def _transform_pixels(six: Iterable[Tensor], out: Tensor) -> None:
    """B^T along one side: six pixels -> six numbers."""
    a, b, c, d, e, f = six
    even, odd = torch.sub(e, c, alpha=4), torch.sub(d, b, alpha=4)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.sub(e, c, out=even)
    torch.sub(d, b, out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    torch.sub(a, c, out=out[0])
    torch.add(even, out[0], alpha=4, out=out[0])
    torch.sub(f, d, out=out[5])
    torch.sub(out[5], odd, alpha=4, out=out[5])


def _transform_products(six: Iterable[Tensor], out: Tensor) -> None:
    """A^T along one side: six products -> four results."""
    a, b, c, d, e, f = six
    near_sum, near_gap, far_sum, far_gap = b + c, b - c, d + e, d - e
    torch.add(a, near_sum, out=out[0])
    out[0].add_(far_sum)
    torch.add(near_gap, far_gap, alpha=2, out=out[1])
    torch.add(near_sum, far_sum, alpha=4, out=out[2])
    torch.add(near_gap, far_gap, alpha=8, out=out[3])
    out[3].add_(f)


def _spread_gradients(four: Iterable[Tensor], out: Tensor) -> None:
    """A along one side: the gradients of four results -> those of six products."""
    a, b, c, d = four
    even, odd = a + c, b + d
    out[0].copy_(a)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    torch.add(a, c, alpha=4, out=even)
    torch.add(b, d, alpha=4, out=odd)
    torch.add(even, odd, alpha=2, out=out[3])
    torch.sub(even, odd, alpha=2, out=out[4])
    out[5].copy_(d)
