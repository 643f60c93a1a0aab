"""The first layer of a model that begins with weights from a file: what the weights expect, and who says so."""

from typing import Annotated, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from pydantic import Discriminator, Tag
from torch import nn

from components.data.normalization import Normalize
from components.foundation.errors import InputError
from components.foundation.params import Positive, Real, is_mapping, strict

Numbers = tuple[tuple[float, ...], tuple[float, ...]]
"""Means and standard deviations, of each channel, or one for all; both are empty where nothing is normalised."""


@strict
class ChannelStatistics:
    """A first layer (pixel - mean) / std of pixels in [0, 1], for each channel, or one for all."""

    mean: tuple[Real, ...]  # What is taken away from each channel, or from all.
    std: tuple[Positive, ...]  # What each channel is divided by, or all.

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"got {len(self.mean)} means and {len(self.std)} deviations, want as many, at least one")


def _kind(value: object) -> str | None:
    """Which of the two forms of a layer is meant, so that a mistake is told of that one alone."""
    if is_mapping(value) or isinstance(value, ChannelStatistics):
        return "statistics"
    return "identity" if value == "identity" else None


Layer = (
    Annotated[
        Annotated[Literal["identity"], Tag("identity")] | Annotated[ChannelStatistics, Tag("statistics")],
        Discriminator(
            _kind,
            custom_error_type="layer",
            custom_error_message="input should be 'identity' or a mapping with mean and std",
        ),
    ]
    | None
)
"""What params.yaml says of a first layer; null: nothing."""


class Published(NamedTuple):
    """The normalisation that a library's published weights of a network expect, where that is written, and the names
    of other weights for the same network that expect another one."""

    numbers: Numbers
    source: str
    others: tuple[str, ...] = ()


@runtime_checkable
class OfLibrary(Protocol):
    """A member of the family `models` that a library builds, and whose weights it publishes."""

    def require_known(self, where: str = "model") -> None:
        """Returns if the library is here and has the network. The errors begin with `where`, the section."""
        ...

    def published(self) -> Published | None:
        """What the published weights expect; None where the library does not say it."""
        ...


def numbers_of(layer: Layer) -> Numbers | None:
    """Means and deviations of what params.yaml says; None where it says nothing."""
    return None if layer is None else ((), ()) if layer == "identity" else (layer.mean, layer.std)


def widened(numbers: Numbers, channels: int, where: str) -> Numbers:
    """A mean and a deviation for each channel. Error: as many as there are other channels."""
    mean, std = (part * channels if len(part) == 1 else part for part in numbers)
    mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    if not len(mean) == len(std) == channels:
        raise InputError(f"{where}: normalises {max(len(mean), len(std))} channels, the images have {channels}")
    return mean, std


def shown(numbers: Numbers) -> str:
    """`0.49,0.48,0.45:0.25,0.24,0.26`, as an option of the command line takes it."""
    return ":".join(",".join(f"{number:.4g}" for number in part) for part in numbers)


def same(ones: Numbers, others: Numbers) -> bool:
    """Whether two normalisations are the same, up to how many digits of one were typed; one number is for all."""
    pairs = ((part * len(other) if len(part) == 1 else part, other) for part, other in zip(ones, others, strict=True))
    return all(
        len(part) == len(other) and all(abs(a - b) <= 1e-3 for a, b in zip(part, other, strict=True))
        for part, other in pairs
    )


def normalize_as_expected(
    model: nn.Module, inside: Numbers | None, said: Layer, published: Published | None, where: str, file: str
) -> list[str]:
    """Gives a fresh model's first layer what its weights expect; the result is what to tell about it, in lines.

    Args:
        model: normalises in its first layer, by the statistics of the data.
        inside: what the file of the weights holds. It comes first.
        said: the key `normalization` of the section. It comes second.
        published: what the library's own weights expect. It comes last; without it the statistics of the data stay.
        where: file and key of the section, for messages.
        file: the name of the file of the weights.

    Errors: numbers for other channels, or for other pixels; a key that contradicts the file.
    """
    (layer,) = [module for module in model.modules() if isinstance(module, Normalize)]
    channels = layer.offset.shape[1]
    here, key = f"{where}: {file}", f"{where}.normalization"
    told = numbers_of(said)
    if inside is not None:
        numbers = widened(inside, channels, here)
        if told is not None and not same(numbers, widened(told, channels, key)):
            own = shown(numbers)
            raise InputError(f"{key}: {file} itself normalises by {own}, leave the key out or say the same")
        return [_set(layer, numbers, here, "as in the file")]
    if told is not None:
        return [_set(layer, widened(told, channels, key), key, "as initial.normalization says")]
    if published is not None and len(published.numbers[0]) == channels:
        line = _set(layer, published.numbers, here, f"as {published.source}; the file holds nothing else")
        return [line, *_doubts(published)]
    data: Numbers = tuple(layer.offset.flatten().tolist()), tuple(layer.scale.flatten().tolist())
    return [
        f"warning: initial weights: normalised by {shown(data)}, as the data are: the file does not say what its "
        "weights expect, nor does initial.normalization"
    ]


def _doubts(published: Published) -> list[str]:
    """A warning where the file may hold weights that expect something else."""
    if not published.others:
        return []
    return [
        f"warning: initial weights: {', '.join(published.others)} expect another normalisation: if the file is one of "
        "them, say initial.normalization"
    ]


def _set(layer: Normalize, numbers: Numbers, where: str, because: str) -> str:
    """Fills the layer; the line that tells it. Error: numbers for other pixels than those in [0, 1]."""
    if max(map(max, numbers)) > 1:
        raise InputError(f"{where}: normalises by {shown(numbers)}, which is for other pixels than ours, from 0 to 1")
    for buffer, values in zip((layer.offset, layer.scale), numbers, strict=True):
        buffer.copy_(torch.tensor(values).view(1, -1, 1, 1))
    return f"initial weights: normalised by {shown(numbers)}, {because}"
