"""The empirical tangent kernels of a model, layer by layer: the Jacobian of the whole model is never formed.

One forward pass keeps the inputs of every layer with parameters, one backward pass per direction of the logits gives
each layer's output gradients, and the layer adds the Gram matrix of its per-image parameter gradients (structured
derivatives, Novak et al. 2022, arXiv 2206.08720). Layers compute in the model's precision, the sums over layers and
directions are float64.

The model runs in eval mode, so that an image's logits depend on this image only, and is left as it was (modes,
gradients, buffers, hooks). A kernel of attacked images is the kernel of these images: pass them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.ntk.accumulation import Kind, Sums
from components.ntk.differentiation import Pass, differentiable
from components.ntk.grams import CHUNK, Effort
from components.ntk.memory import Choice, choose
from components.ntk.parameter_uses import survey

Directions = int | Literal["exact"]

MIN_DIRECTIONS = 4  # Two directions still miss the kernel of a trained network by a fifth.


@dataclass(frozen=True)
class Kernels:
    """Kernels of one model on the same images, float64 on the CPU, by kind: `kernels["trace"]`."""

    choice: Choice
    layers: tuple[str, ...]  # The names along the first axis of layerwise, where that is wanted.
    by_kind: Mapping[Kind, Tensor]

    def __getitem__(self, kind: Kind) -> Tensor:
        if kind not in self.by_kind:
            raise InputError(f"kernel: got {kind}, want one that was asked for: {', '.join(sorted(self.by_kind))}")
        return self.by_kind[kind]


def trace_kernel(model: nn.Module, images: Tensor, directions: Directions, seed: int, chunk: int = CHUNK) -> Tensor:
    """The trace kernel K_ij = sum over logits c of <df_c(x_i)/dtheta, df_c(x_j)/dtheta>, float64 [N, N] on the CPU.

    It is *not* divided by the number of logits. theta: all parameters that require gradients.

    Args:
        model: logits [N, C]. Convolutions, linear maps and normalisations are fast, as are parameters that are
            broadcast over the images; others are differentiated image by image, which is as exact and slow.
        images: [N, ...] on the model's device.
        directions: "exact": one backward pass per logit. r >= 4: the unbiased estimate (1/r) sum_k G_k G_k^T with G_k
            the per-image gradients of s_k^T f(x) and s_k random signs; r >= C: exact, which then costs no more.
        seed: of the signs, which depend on nothing else, so that kernels of several epochs and models are comparable.
        chunk: the number of elements that an intermediate may have.

    Errors: images that depend on each other, as by batch norm without running statistics.
    """
    with differentiable(model, images):
        seen = survey(model, images)
        if directions == "exact" or directions >= seen.num_logits:
            vectors = torch.eye(seen.num_logits)
        else:
            vectors = sign_vectors(seen.num_logits, directions, seed)
        whole = Pass(model, images, seen, Effort(len(vectors), 1, chunk))
        vectors = vectors.to(whole.logits)
        if len(vectors) < seen.num_logits:
            vectors = vectors / len(vectors) ** 0.5
        kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
        for vector in vectors:
            for layer, deltas in whole.derivatives(vector[None], whole.layers):
                kernel += layer.gram(deltas)
    return kernel.cpu()


def tangent_kernels(
    model: nn.Module,
    images: Tensor,
    wanted: Collection[Kind],
    directions: int = MIN_DIRECTIONS,
    seed: int = 0,
    memory: float | None = None,
) -> Kernels:
    """Several kernels from the same passes. J_ic is the gradient of logit c of image i, by all trained parameters.

    * full [N, C, N, C]: <J_ic, J_jd>. `.reshape(N * C, N * C)` is its matrix.
    * per_class [C, N, N]: <J_ic, J_jc>.
    * trace [N, N]: the sum of per_class, as `trace_kernel` gives it.
    * layerwise [L, N, N]: what each layer adds to the trace kernel, which is their sum; `layers` are the names. A
      parameter outside of a layer of a known kind counts alone, under its own name.
    * last_layer [N, N]: the conjugate kernel, the Gram matrix of what enters the last linear map, plus 1 for a bias.
    * pseudo [N, N]: of the sum of the logits over sqrt(C) (Mohamadi et al. 2023, arXiv 2206.12543). For comparison
      only. It mixes the classes, and once a network is trained by cross-entropy, which does not see a shift of all
      logits, hardly any gradient is left in this one direction: it missed the trace kernel of a trained network by
      more than 80 %, where four random directions miss it by less than 20 %.
    * directions [r, N, N]: one unbiased estimate of the trace kernel for each of r independent sign vectors, those of
      `trace_kernel`. Their mean is its estimate; `directions.py` has what is unbiased beyond the mean.

    Args:
        model: logits [N, C], as for `trace_kernel`.
        images: [N, ...] on the model's device, clean or attacked.
        wanted: the kinds; with full, the others cost nothing more.
        directions: r, at least 4, where directions are wanted.
        seed: of the sign vectors.
        memory: MiB that may be allocated at once beside model, images and what is returned, estimated; None: no limit.
            What follows from it is in `choice`; the kernels differ in rounding only.

    Errors: an unknown kind, too little memory, images that depend on each other, last_layer of a model that does not
    end in a linear map.
    """
    unknown = sorted(set(wanted) - set(get_args(Kind)))
    if unknown or not wanted:
        raise InputError(f"wanted: got {', '.join(unknown) or 'nothing'}, want some of {', '.join(get_args(Kind))}")
    with differentiable(model, images):
        seen = survey(model, images)
        signs = sign_vectors(seen.num_logits, directions, seed) if "directions" in wanted else None
        sums = Sums(model, seen, frozenset(wanted), signs)
        choice = choose(sums.needs(images), len(images), memory)
        results: dict[Kind, Tensor] = {kind: each.cpu() for kind, each in sums.of(images, choice).items()}
    return Kernels(choice, sums.layers if "layerwise" in wanted else (), results)


def sign_vectors(num_logits: int, directions: int, seed: int) -> Tensor:
    """`directions` independent vectors of random signs, int64 [r, C] on the CPU. Error: fewer than 4."""
    if directions < MIN_DIRECTIONS:
        raise InputError(f'directions: got {directions}, want "exact" or at least {MIN_DIRECTIONS}')
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (directions, num_logits), generator=rng) * 2 - 1
