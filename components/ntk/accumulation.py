"""Sums the wanted kernels over layers and directions, in one pass over a batch or over pairs of blocks of images."""

from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from components.foundation.errors import InputError
from components.ntk.differentiation import Pass
from components.ntk.grams import Effort, gram
from components.ntk.memory import Choice, Needs
from components.ntk.parameter_uses import Survey

Kind = Literal["full", "per_class", "trace", "layerwise", "last_layer", "pseudo", "directions"]
_BY_CLASS = frozenset[Kind]({"per_class", "trace", "layerwise"})


class _Target(NamedTuple):
    """One direction of the logits, and what its Gram matrix is added to."""

    vector: Tensor
    sums: list[tuple[Kind, Any]]  # Kind, and index of its leading axis.
    is_class: bool


class Sums:
    """The wanted kernels, on the device of the images: full [N, C, N, C], the others end with [N, N].

    Attribute: `layers`, the names of the layers once `of` was called.
    """

    def __init__(self, model: nn.Module, seen: Survey, wanted: frozenset[Kind], signs: Tensor | None) -> None:
        self._model, self._seen, self._wanted, self._signs = model, seen, wanted, signs
        self._targets = () if "full" in wanted else tuple(self._chosen_targets())
        self._directions = len(self._targets) or seen.num_logits
        self._together = seen.num_logits if "full" in wanted else 1
        self.layers: tuple[str, ...] = ()

    def needs(self, images: Tensor) -> Needs:
        """What the memory budget is spent on."""
        counts = {"per_class": self._seen.num_logits, "layerwise": len(self._seen.sizes)}
        counts["directions"] = 0 if self._signs is None else len(self._signs)
        # Beside the full kernel the others are small.
        squares = 2 if "full" in self._wanted else sum(counts.get(kind, 1) for kind in self._wanted)
        return Needs(self._seen, self._directions, self._together, squares, images.element_size())

    def of(self, images: Tensor, choice: Choice) -> dict[Kind, Tensor]:
        """The kernels by kind. Error: last_layer of a model that does not end in a linear map."""
        if choice.images_at_once >= len(images):
            return self._of_batch(images, choice)
        blocks = torch.arange(len(images), device=images.device).split(max(1, choice.images_at_once // 2))
        results: dict[Kind, Tensor] = {}
        for pair in combinations(blocks, 2):
            chosen = torch.cat(pair)
            for kind, part in self._of_batch(images[chosen], choice).items():
                part = _images_last(kind, part)
                if kind not in results:
                    results[kind] = part.new_zeros((*part.shape[:-2], len(images), len(images)))
                results[kind][..., chosen[:, None], chosen] = part
        if "full" in results:
            results["full"] = results["full"].permute(2, 0, 3, 1)
        return results

    def _of_batch(self, images: Tensor, choice: Choice) -> dict[Kind, Tensor]:
        effort = Effort(self._directions, self._together, choice.chunk)
        whole = Pass(self._model, images, self._seen, effort)
        self.layers = tuple(dict.fromkeys(layer.name for layer in whole.layers))
        results = self._all_at_once(whole, choice) if "full" in self._wanted else self._one_by_one(whole)
        if "last_layer" in self._wanted:
            if whole.head is None:
                raise InputError("last_layer: the model's logits do not come from a linear map")
            results["last_layer"] = gram(whole.head.inputs) + float(whole.head.has_bias)
        return results

    def _chosen_targets(self) -> list[_Target]:
        num_logits, targets = self._seen.num_logits, []
        if self._wanted & _BY_CLASS:
            for index, row in enumerate(torch.eye(num_logits)):
                places: list[tuple[Kind, Any]] = [("per_class", index), ("trace", ...)]
                targets.append(_Target(row, [place for place in places if place[0] in self._wanted], True))
        if "pseudo" in self._wanted:
            targets.append(_Target(torch.ones(num_logits).double() / num_logits**0.5, [("pseudo", ...)], False))
        if self._signs is not None:
            targets += [_Target(row, [("directions", index)], False) for index, row in enumerate(self._signs)]
        return targets

    def _one_by_one(self, whole: Pass) -> dict[Kind, Tensor]:
        leading = {"per_class": [self._seen.num_logits], "layerwise": [len(self.layers)]}
        leading["directions"] = [0 if self._signs is None else len(self._signs)]
        square = [len(whole.logits)] * 2
        results: dict[Kind, Tensor] = {
            kind: whole.logits.new_zeros([*leading.get(kind, []), *square], dtype=torch.float64)
            for kind in self._wanted - {"last_layer"}
        }
        for vector, sums, is_class in self._targets:
            for layer, deltas in whole.derivatives(vector.to(whole.logits)[None], whole.layers):
                part = layer.gram(deltas)
                for kind, index in sums:
                    results[kind][index] += part
                if is_class and "layerwise" in self._wanted:
                    results["layerwise"][self.layers.index(layer.name)] += part
        return results

    def _all_at_once(self, whole: Pass, choice: Choice) -> dict[Kind, Tensor]:
        """From the full kernel, which has all others but the last layer's in it."""
        size, num_logits = whole.logits.shape
        full = whole.logits.new_zeros((size, num_logits, size, num_logits), dtype=torch.float64)
        by_layer = full.new_zeros((len(self.layers), size, size))
        vectors = torch.eye(num_logits).to(whole.logits)
        for start in range(0, len(whole.layers), choice.layers_at_once):
            some = whole.layers[start : start + choice.layers_at_once]
            for layer, deltas in whole.derivatives(vectors, some):
                part = layer.gram(deltas).view_as(full)
                full += part
                by_layer[self.layers.index(layer.name)] += part.diagonal(dim1=1, dim2=3).sum(2)
        per_class = full.diagonal(dim1=1, dim2=3).permute(2, 0, 1).contiguous()
        results: dict[Kind, Tensor] = {"full": full, "per_class": per_class, "layerwise": by_layer}
        results |= {"trace": per_class.sum(0), "pseudo": full.sum((1, 3)) / num_logits}
        if self._signs is not None:
            signs = self._signs.to(full)
            results["directions"] = torch.einsum("rc,icjd,rd->rij", signs, full, signs)
        return {kind: each for kind, each in results.items() if kind in self._wanted}


def _images_last(kind: Kind, kernel: Tensor) -> Tensor:
    """With the two axes of images at the end."""
    return kernel.permute(1, 3, 0, 2) if kind == "full" else kernel
