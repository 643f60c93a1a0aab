"""The derivatives of a model's logits, layer by layer: one pass forward, and one pass back for each direction.

`Pass` is what every kernel, sketch and trace begins with. The Jacobian of the whole model is never formed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from components.attacks.parts.ascent import eval_mode
from components.foundation.errors import InputError
from components.ntk.bare_parameters import Apart, Copied, gradients_apart
from components.ntk.grams import Effort, Layer, layer_of
from components.ntk.parameter_uses import Copies, Head, Survey, Watch


@contextmanager
def differentiable(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Eval mode with gradients, in the model's own precision; everything is as it was after it.

    Errors: a model without trained parameters, batch norm that would take the statistics of the batch.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("model: no parameter requires a gradient, so there is no kernel")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise InputError(f"model: {name} has no running statistics, so images depend on each other in eval mode")
    with eval_mode(model), torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        yield


class Pass:
    """A pass of images through a model, from which the derivatives of its logits follow layer by layer.

    Use it inside `differentiable`, where the survey was made too.

    Args:
        model: logits [N, C].
        images: [N, ...] on the model's device.
        seen: what `survey` says of this model and these images.
        effort: for the Gram matrices.

    Attributes: `logits` [N, C], `layers` in the order of their operations, `head`.
    """

    def __init__(self, model: nn.Module, images: Tensor, seen: Survey, effort: Effort) -> None:
        watch = Watch(model, len(images), seen.excluded)
        with watch:
            logits: Tensor = model(images)
        if tuple(watch.rules) != seen.rules:
            raise InputError(f"model: computes something else for {len(images)} images than for a few of them")
        self.logits = logits
        self.layers: list[Layer] = [layer_of(each, effort) for each in watch.operations]
        by_name: dict[str, list[Copies]] = defaultdict(list)
        for copies in watch.copies:
            for name in copies.names:
                by_name[name].append(copies)
        for name, uses in by_name.items():
            self.layers.append(Copied(name, model.get_parameter(name), uses, effort.chunk))
        self._apart = [Apart(name) for name, _ in model.named_parameters() if name in seen.excluded]
        self.layers += self._apart
        self.head: Head | None = watch.head if watch.head is not None and watch.head.outputs is logits else None
        self._model, self._images = model, images

    def derivatives(self, vectors: Tensor, layers: Sequence[Layer]) -> Iterator[tuple[Layer, list[Tensor]]]:
        """For each of these layers its `deltas`, those of logits @ vector for the R rows of `vectors` [R, C].

        What the logits do not depend on is left out. The deltas of a layer are freed when the next one is asked for.
        """
        edges: list[Any] = [edge for layer in layers for edge in layer.edges]
        rows: list[list[Tensor | None]] = []
        for vector in vectors if edges else ():
            target = (self.logits @ vector).sum()
            rows.append([*torch.autograd.grad(target, edges, retain_graph=True, allow_unused=True)])
        place = 0
        for layer in layers:
            deltas = []
            for edge in layer.edges:
                gradients = [_taken(row, place, edge) for row in rows]
                place += 1
                if gradients[0] is not None:
                    deltas.append(gradients[0].unsqueeze(1) if len(rows) == 1 else torch.stack(gradients, 1))
            if deltas:
                yield layer, deltas
        apart = [layer for layer in layers if isinstance(layer, Apart)]
        if apart:
            each = gradients_apart(self._model, self._images, [layer.name for layer in apart], vectors)
            yield from ((layer, [gradients]) for layer, gradients in zip(apart, each, strict=True))


def _taken(row: list[Tensor | None], place: int, edge: Any) -> Any:
    """The gradient at this place, which the row then no longer holds; zeros for copies that reach no logit."""
    gradient, row[place] = row[place], None
    return torch.zeros_like(edge) if gradient is None and isinstance(edge, Tensor) else gradient
