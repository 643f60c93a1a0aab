"""The empirical trace kernel, layer by layer: the Jacobian of the whole model is never formed.

One forward pass keeps the inputs of every layer with parameters, one backward pass per direction of the logits gives
each layer's output gradients `delta`, and the layer adds the Gram matrix of its per-image parameter gradients
(structured derivatives, Novak et al. 2022, arXiv 2206.08720). Layers compute in the model's precision, the sums over
layers and directions are float64.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional

from components.attacks.parts.ascent import eval_mode
from components.foundation.errors import InputError

Directions = int | Literal["exact"]
Gram = Callable[[Tensor], Tensor]
"""From a layer's output gradients [N, …] to the float64 Gram matrix [N, N] of its per-image parameter gradients."""
Calls = dict[nn.Module, list[tuple[Tensor, GradientEdge]]]
"""For each layer, the input and the place of the output in the autograd graph, one pair per call."""

MIN_DIRECTIONS = 4  # Two directions still miss the kernel of a trained network by a fifth.
CHUNK = 2**24  # Elements of the largest intermediate of a layer: bounds the memory, changes nothing but rounding.


def trace_kernel(model: nn.Module, images: Tensor, directions: Directions, seed: int, chunk: int = CHUNK) -> Tensor:
    """The trace kernel K_ij = sum over logits c of <df_c(x_i)/dtheta, df_c(x_j)/dtheta>, float64 [N, N] on the CPU.

    It is *not* divided by the number of logits. theta: all parameters that require gradients. The model runs in eval
    mode, so that an image's logits depend on this image only, and is left as it was (modes, gradients, buffers, hooks).

    Args:
        model: logits [N, C]; its parameters live in Conv2d, Linear and BatchNorm2d layers, each called once.
        images: [N, ...] on the model's device.
        directions: "exact": one backward pass per logit. r >= 4: the unbiased estimate (1/r) sum_k G_k G_k^T with G_k
            the per-image gradients of s_k^T f(x) and s_k random signs; r >= C: exact, which then costs no more.
        seed: of the signs, which depend on nothing else, so that kernels of several epochs and models are comparable.
        chunk: the number of elements that an intermediate may have.

    Errors: a layer of another kind, a shared or a layer that is called twice, batch norm without running statistics.
    """
    layers = _layers_with_parameters(model)
    with eval_mode(model), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        with _recorded(layers) as calls:
            logits = model(images)
        _require_one_call(layers, calls, logits)
        vectors = _logit_vectors(logits, directions, seed)
        edges = [calls[layer][0][1] for layer in calls]
        grams = [_GRAMS[type(layer)](layer, calls[layer][0][0], len(vectors), chunk) for layer in calls]
        calls.clear()  # A Gram function keeps what it needs of the inputs.
        kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
        for vector in vectors:
            deltas = torch.autograd.grad((logits @ vector).sum(), edges, retain_graph=True)
            for gram, delta in zip(grams, deltas, strict=True):
                kernel += gram(delta)
    return kernel.cpu()


def _logit_vectors(logits: Tensor, directions: Directions, seed: int) -> Tensor:
    """The rows v_k with E[sum_k v_k v_k^T] = identity: the unit vectors, or r sign vectors over sqrt(r)."""
    num_logits = logits.shape[1]
    if directions == "exact" or directions >= num_logits:
        return torch.eye(num_logits, dtype=logits.dtype, device=logits.device)
    if directions < MIN_DIRECTIONS:
        raise InputError(f'directions: got {directions}, want "exact" or at least {MIN_DIRECTIONS}')
    rng = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (directions, num_logits), generator=rng) * 2 - 1
    return signs.to(logits) / directions**0.5


def _layers_with_parameters(model: nn.Module) -> dict[nn.Module, str]:
    """Every module that owns parameters requiring gradients, with its name; refuses what has no exact form here."""
    layers = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InputError(f"model: {name} has no running statistics, so images depend on each other in eval mode")
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            # The exact type: a subclass may compute something else.
            if type(module) not in _GRAMS:
                kinds = ", ".join(kind.__name__ for kind in _GRAMS)
                raise InputError(f"model: {name or 'the root'} is a {type(module).__name__} (the kernel knows {kinds})")
            layers[module] = name
    if not layers:
        raise InputError("model: no parameter requires a gradient, so there is no kernel")
    return layers


@contextmanager
def _recorded(layers: dict[nn.Module, str]) -> Iterator[Calls]:
    calls: Calls = defaultdict(list)

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # The edge, not the tensor: an in-place ReLU behind the layer would move the tensor along the graph.
        calls[module].append((inputs[0].detach(), get_gradient_edge(output)))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _require_one_call(layers: dict[nn.Module, str], calls: Calls, logits: Tensor) -> None:
    """Refuses weight sharing, whose cross terms the sum over layers would miss; unused layers add zero and may stay."""
    if logits.ndim != 2:
        raise InputError(f"model: its output has the shape {list(logits.shape)}, want logits [N, C]")
    uses = _count_uses(logits)
    for layer, name in layers.items():
        num_calls = len(calls[layer]) if layer in calls else 0
        for key, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad and (num_calls > 1 or uses[parameter] != num_calls):
                raise InputError(
                    f"model: {name or 'the root'}: {key} enters the logits {uses[parameter]} times and its layer is "
                    f"called {num_calls} times (the kernel wants once, without sharing, or never)"
                )


def _count_uses(logits: Tensor) -> Counter[Tensor]:
    """How often each parameter enters the autograd graph of `logits`."""
    uses: Counter[Tensor] = Counter()
    stack: list[Any] = [logits.grad_fn]
    seen = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if hasattr(node, "variable"):
                uses[node.variable] += 1
            elif node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    return uses


def _conv_gram(layer: nn.Conv2d, inputs: Tensor, num_directions: int, chunk: int) -> Gram:
    def unfold(images: Tensor) -> Tensor:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        # The one place where Conv2d spells out "same", "valid" and pairs alike.
        padded = functional.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
        return functional.unfold(padded, layer.kernel_size, layer.dilation, stride=layer.stride)

    weight = _weight_gram(layer.weight, inputs, layer.groups, unfold, num_directions, chunk)
    return lambda delta: _sum_trained(layer, weight, delta.flatten(2))


def _linear_gram(layer: nn.Linear, inputs: Tensor, num_directions: int, chunk: int) -> Gram:
    # A 1x1 convolution whose pixels are the axes between the first and the last, if any.
    pixels = inputs.reshape(len(inputs), -1, layer.in_features).transpose(1, 2)
    weight = _weight_gram(layer.weight, pixels, 1, lambda channels: channels, num_directions, chunk)
    return lambda delta: _sum_trained(layer, weight, delta.reshape(len(delta), -1, layer.out_features).transpose(1, 2))


def _batch_norm_gram(layer: nn.BatchNorm2d, inputs: Tensor, num_directions: int, chunk: int) -> Gram:
    assert layer.running_mean is not None and layer.running_var is not None
    mean, scale = layer.running_mean.view(1, -1, 1, 1), (layer.running_var + layer.eps).rsqrt()

    def weight(delta: Tensor) -> Tensor:
        return _gram(((inputs - mean) * delta.view_as(inputs)).sum((2, 3)) * scale)

    return lambda delta: _sum_trained(layer, weight, delta.flatten(2))


_GRAMS: dict[type[nn.Module], Callable[..., Gram]] = {
    nn.Conv2d: _conv_gram,
    nn.Linear: _linear_gram,
    nn.BatchNorm2d: _batch_norm_gram,
}


def _sum_trained(layer: nn.Conv2d | nn.Linear | nn.BatchNorm2d, weight: Gram, delta: Tensor) -> Tensor:
    """The parts of those of weight and bias that require gradients, for `delta` [N, out, pixels]."""
    total = torch.zeros(len(delta), len(delta), dtype=torch.float64, device=delta.device)
    if layer.weight.requires_grad:
        total += weight(delta)
    if layer.bias is not None and layer.bias.requires_grad:
        total += _gram(delta.sum(2))
    return total


def _weight_gram(
    weight: Tensor, inputs: Tensor, groups: int, unfold: Callable[[Tensor], Tensor], num_directions: int, chunk: int
) -> Gram:
    """The cheaper of the two forms, by multiply-adds over all directions, for a weight [out, in / groups, ...]."""
    num_images, num_pixels = len(inputs), unfold(inputs[:1, :1]).shape[-1]
    num_out, num_in = len(weight), weight[0].numel()
    by_pairs = (num_images * num_pixels) ** 2 * (num_in + num_directions * num_out)
    by_weights = num_directions * weight.numel() * num_images * (num_pixels + num_images)
    if groups == 1 and by_pairs < by_weights and (num_images * num_pixels) ** 2 <= chunk:
        return _pair_gram(unfold(inputs))
    grouped = inputs.unflatten(1, (groups, -1))
    # Columns and gradients of one input channel of one group, for all images.
    channel_size = num_images * weight[0, 0].numel() * max(num_pixels, num_out // groups)
    return _gradient_gram(grouped, unfold, max(1, chunk // channel_size))


def _pair_gram(columns: Tensor) -> Gram:
    """K_ij = sum over pixels d, e of <delta_id, delta_je> <column_id, column_je>, for columns [N, in, pixels]."""
    num_images, _, num_pixels = columns.shape
    inner = _pixel_products(columns)

    def gram(delta: Tensor) -> Tensor:
        products = inner * _pixel_products(delta)
        return products.view(num_images, num_pixels, num_images, num_pixels).sum((1, 3), dtype=torch.float64)

    return gram


def _pixel_products(values: Tensor) -> Tensor:
    rows = values.transpose(1, 2).flatten(0, 1)
    return rows @ rows.T


def _gradient_gram(inputs: Tensor, unfold: Callable[[Tensor], Tensor], num_channels: int) -> Gram:
    """The Gram matrix of per-image weight gradients, `num_channels` channels of inputs [N, groups, in, ...] a time."""
    num_groups, num_inputs = inputs.shape[1:3]
    inputs_a_time = min(num_channels, num_inputs)
    groups_a_time = max(1, num_channels // num_inputs)

    def gram(delta: Tensor) -> Tensor:
        total = torch.zeros(len(delta), len(delta), dtype=torch.float64, device=delta.device)
        delta = delta.unflatten(1, (num_groups, -1))
        for group in range(0, num_groups, groups_a_time):
            outer = delta[:, group : group + groups_a_time]
            for start in range(0, num_inputs, inputs_a_time):
                part = inputs[:, group : group + groups_a_time, start : start + inputs_a_time]
                columns = unfold(part.flatten(1, 2)).unflatten(1, (outer.shape[1], -1))
                total += _gram(outer @ columns.transpose(2, 3))
        return total

    return gram


def _gram(gradients: Tensor) -> Tensor:
    rows = gradients.flatten(1)
    return (rows @ rows.T).double()
