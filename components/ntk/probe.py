"""The kernel of one fixed image set, measured at chosen epochs of a training run."""

from collections.abc import Mapping
from typing import Annotated, Protocol

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from components.data.dividing import stratified_indices
from components.foundation.errors import InputError
from components.foundation.params import Whole, short, strict
from components.ntk.kernels import MIN_DIRECTIONS, Directions, trace_kernel
from components.ntk.metrics import kernel_metrics
from components.numerics.random_numbers import derived


def _directions(value: object) -> object:
    # One message for a union of two types.
    if value == "exact" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"got {short(value)}, want an integer, or exact")


@strict
class ProbeSchedule:
    """When and how exactly to measure: section `ntk` of params.yaml. No epochs: never."""

    epochs: tuple[Whole, ...]  # Epochs at whose end the kernel is measured; 0 is before training.
    size: Annotated[int, Field(ge=2, le=100_000)]  # Images that the kernel is measured on, where there are epochs.
    directions: Annotated[
        Directions, BeforeValidator(_directions)
    ]  # Random-sign combinations of the logits, at least 4, or "exact".

    def __post_init__(self) -> None:
        if self.directions != "exact" and self.directions < MIN_DIRECTIONS:
            raise ValueError(f'got directions {self.directions}, want "exact" or at least {MIN_DIRECTIONS}')


EPOCH = "epoch"  # Of the previous kernel of a kind, in the probe's state.


class ImageSource(Protocol):
    """A tensor of images, or a split that is decoded where it is looked at."""

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


class KernelProbe:
    """Measures the kernel on `images`, float [size, C, H, W] in [0, 1], the same at every epoch; none without epochs.

    Args:
        schedule: epochs, size and directions.
        images: the split to draw from, [N, C, H, W], uint8 or float in [0, 1]; or what gives that when indexed.
        labels: int64 [N].
        num_classes: of the labels.
        seed: of the drawn images and of the random signs.

    Errors: epochs, and fewer images than the schedule's size.
    """

    def __init__(
        self, schedule: ProbeSchedule, images: ImageSource, labels: Tensor, num_classes: int, seed: int
    ) -> None:
        # What is never measured needs no images, however many the schedule names.
        size = schedule.size if schedule.epochs else 0
        chosen = stratified_indices(labels, size, derived(seed, "ntk images"))
        drawn = images[chosen]
        self.images = drawn if drawn.is_floating_point() else drawn.float() / 255
        self.labels = labels[chosen].cpu()
        self.schedule, self.num_classes, self.seed = schedule, num_classes, seed
        self._kernels: dict[str, Tensor] = {}

    def due(self, epoch: float) -> bool:
        """Whether the schedule asks for this epoch (0: before training)."""
        return epoch in self.schedule.epochs

    def measure(self, model: nn.Module, epoch: float, images_adv: Tensor | None) -> dict[str, float]:
        """`ntk_clean_*` and, with `images_adv` (the model's attacked `images`), `ntk_adversarial_*`.

        The distances are to the previous measurement and to the first one, and of the attacked images to the clean
        ones; see `kernel_metrics` for the names. The first measurement has no velocity.
        Errors: a kernel that is not finite (the message names `epoch`), or a model that `trace_kernel` refuses.
        """
        clean = self._kernel(model, epoch, "clean", self.images)
        row = self._compared("clean", epoch, clean, None)
        if images_adv is not None:
            assert images_adv.shape == self.images.shape, "images_adv are not the probe's images"
            row |= self._compared("adversarial", epoch, self._kernel(model, epoch, "adversarial", images_adv), clean)
        return row

    def _kernel(self, model: nn.Module, epoch: float, kind: str, images: Tensor) -> Tensor:
        device = next(model.parameters()).device
        seed = derived(self.seed, "ntk directions")
        try:
            kernel = trace_kernel(model, images.to(device), self.schedule.directions, seed)
        except InputError as error:
            raise InputError(f"ntk: {error}; ntk.epochs: [] trains without the kernel") from None
        if not bool(kernel.isfinite().all()):
            raise InputError(f"ntk: the {kind} kernel of epoch {epoch:g} is not finite (the training diverged)")
        return kernel

    def _compared(self, kind: str, epoch: float, kernel: Tensor, clean: Tensor | None) -> dict[str, float]:
        """The numbers of a kernel beside those before it, which it then joins."""
        first, previous = self._kernels.get(f"{kind}.first"), self._kernels.get(f"{kind}.previous")
        last = self._kernels.get(f"{kind}.{EPOCH}")
        # Two measurements at one epoch have a distance and no velocity.
        elapsed = epoch - float(last) if last is not None and epoch > last else None
        values = kernel_metrics(kernel, self.labels, self.num_classes, previous, first, elapsed, clean)
        self._kernels |= {
            f"{kind}.first": kernel if first is None else first,
            f"{kind}.previous": kernel,
            f"{kind}.{EPOCH}": torch.tensor(epoch, dtype=torch.float64),
        }
        return {f"ntk_{kind}_{name}": value for name, value in values.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The kernels that later distances need, float64 [size, size] each, and the epochs of the last ones."""
        return {name: kernel.clone() for name, kernel in self._kernels.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes the kernels of a `state_dict`. Errors: kernels of another probe size."""
        shape = (self.schedule.size, self.schedule.size)
        for name, kernel in state.items():
            if kernel.shape != shape and not name.endswith(EPOCH):
                raise InputError(f"ntk: kernel {name} of the saved state is {list(kernel.shape)}, want {list(shape)}")
        self._kernels = {name: kernel.clone() for name, kernel in state.items()}
