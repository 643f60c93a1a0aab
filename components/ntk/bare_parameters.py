"""Parameters without a layer of a known kind: from the gradients of each image's copy, or image by image."""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from components.ntk.grams import gram
from components.ntk.parameter_uses import Copies


class Copied:
    """A parameter of which every image was given copies, such as a layer scale, a class token, position embeddings."""

    def __init__(self, name: str, parameter: Tensor, copies: Sequence[Copies], chunk: int) -> None:
        self.name, self.edges = name, tuple(each.leaf for each in copies)
        self._parameter, self._copies, self._chunk = parameter, copies, chunk

    def gram(self, deltas: Sequence[Tensor]) -> Tensor:
        """As `Layer.gram`."""
        return gram(self._rows(deltas))

    def gradients(self, deltas: Sequence[Tensor], size: int) -> Iterator[Tensor]:
        """As `Layer.gradients`."""
        yield from self._rows(deltas).split(size, 1)

    def _rows(self, deltas: Sequence[Tensor]) -> Tensor:
        """The gradients, [N R, P], summed over the operations that the parameter enters."""
        parts = [self._through(*pair) for pair in zip(self._copies, deltas, strict=True)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def _through(self, copies: Copies, delta: Tensor) -> Tensor:
        """From the gradients of the source, `delta` [N, R, *source] in shape, on to those of the parameter."""
        num_images, num_directions = delta.shape[:2]
        source = copies.source
        shape = source.shape[1:] if copies.own_rows else source.shape
        rows = delta.reshape(num_images * num_directions, *shape)
        if source is self._parameter and not copies.own_rows:
            return rows.flatten(1)
        parts = []
        for some in torch.arange(len(rows), device=rows.device).split(max(1, self._chunk // source.numel())):
            cotangents = rows[some]
            if copies.own_rows:
                # Of image i, its own row of the source and no other.
                whole = rows.new_zeros(len(some), *source.shape)
                whole[torch.arange(len(some)), some // num_directions] = cotangents
                cotangents = whole
            parts.append(_pulled_back(source, self._parameter, cotangents).flatten(1))
        return torch.cat(parts)


def _pulled_back(source: Tensor, parameter: Tensor, cotangents: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # For some operations torch takes the cotangents one after the other, says so, and is right.
        warnings.filterwarnings("ignore", message=".*performance drop.*")
        return torch.autograd.grad(source, parameter, cotangents, retain_graph=True, is_grads_batched=True)[0]


class Apart:
    """Parameters whose gradients are taken image by image, through the whole model: exact for any model, and slow.

    `deltas` are here the gradients, [N, R, P], that `gradients_apart` gives.
    """

    name, edges = "", ()

    def __init__(self, name: str) -> None:
        self.name = name

    def gram(self, deltas: Sequence[Tensor]) -> Tensor:
        """As `Layer.gram`."""
        return gram(deltas[0].flatten(0, 1))

    def gradients(self, deltas: Sequence[Tensor], size: int) -> Iterator[Tensor]:
        """As `Layer.gradients`."""
        yield from deltas[0].flatten(0, 1).split(size, 1)


def gradients_apart(model: nn.Module, images: Tensor, names: Sequence[str], vectors: Tensor) -> list[Tensor]:
    """For each named parameter the gradients [N, R, P] of the logits times `vectors` [R, C], one image at a time."""
    parameters = [model.get_parameter(name) for name in names]
    rows: dict[int, list[Tensor]] = defaultdict(list)
    for image in images.split(1):
        logits = model(image)[0]
        for vector in vectors:
            gradients = torch.autograd.grad(logits @ vector, parameters, retain_graph=True, allow_unused=True)
            for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                rows[place].append(torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten())
    return [torch.stack(rows[place]).unflatten(0, (len(images), -1)) for place in range(len(parameters))]
