"""Models and images that a team already has, read from files. No pickle is read, and no code of a file is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.data.dividing import stratified_subset
from components.data.normalization import Normalization
from components.data.splits import LabelledImages, class_names, read_splits, require_arrays
from components.evaluation.outside.program_files import PROGRAM, load_program
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import short
from components.foundation.process import ask_temper
from components.foundation.storage import sha256
from components.models.parts.first_layer import Numbers, same, shown, widened
from components.models.parts.model_file import ModelCard, assemble, load_model
from components.models.parts.state_dicts import own_names, unwrap
from components.numerics.random_numbers import derived
from components.numerics.tensor_files import read_tensors
from components.threats.parts.threat import require_pixels

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".tar")
CONVERT = "save its state dict with safetensors.torch.save_file, or the model with torch.export.save"
HELD_OUT, HELD_OUT_SHARE = 512, 10


class OutsideImages(NamedTuple):
    """Labelled images to attack, and others to check a fast search on, which may be none.

    OutsideImages are uint8, or float32 in [0, 1], [N, C, H, W]; `classes` is empty where the names are not known.
    """

    name: str
    classes: tuple[str, ...]
    test: LabelledImages
    held_out: LabelledImages | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """As many as have names, or as the labels show."""
        return len(self.classes) or int(self.test.labels.max()) + 1

    def limited(self, limit: int | None, held_out: int, seed: int) -> "OutsideImages":
        """At most `limit` images to attack, classes as frequent as in all, and up to `held_out` others.

        Where the data has none for that purpose, a tenth of the images at most is kept back and not attacked.
        """
        everything, other = self.test, self.held_out
        spare = min(held_out, len(everything) // HELD_OUT_SHARE) if other is None else 0
        most = len(everything) - spare
        chosen = stratified_subset(everything.labels, min(most, limit or most), derived(seed, "images"))
        if spare:
            rest = torch.ones(len(everything), dtype=torch.bool).index_fill(0, chosen, False)
            other = everything.take(rest.nonzero().squeeze(1))
        if other is not None and held_out:
            other = other.take(stratified_subset(other.labels, held_out, derived(seed, "held out")))
        return self._replace(test=everything.take(chosen), held_out=other if held_out else None)


Named = tuple[nn.Module, dict[str, Any]]
"""A model and its architecture."""


class Remedies(NamedTuple):
    """How a user says, or no longer says, what a state dict does not say of itself: for messages."""

    say_architecture: str
    leave_architecture: str
    say_normalization: str
    leave_normalization: str


OF_OPTIONS = Remedies(
    say_architecture="say --architecture '{name: …, …}'",
    leave_architecture="leave --architecture out, or say NAME={…} for another model",
    say_normalization="say --normalization identity or MEAN:STD",
    leave_normalization="leave --normalization out or say the same",
)
OF_KEYS = Remedies(
    say_architecture="say architecture: {name: …, …}",
    leave_architecture="leave architecture out",
    say_normalization="say normalization: identity or {mean: […], std: […]}",
    leave_normalization="leave normalization out or say the same",
)


class Foreign(NamedTuple):
    """What a state dict does not say of itself: `architecture` as in params.yaml, `{name: …, …}`, and normalisation.

    Normalisation is the mean and the standard deviation of each channel, or one for all; both empty for none.
    """

    architecture: Mapping[str, Any] | None
    normalization: Numbers | None
    remedies: Remedies = OF_OPTIONS


class Outside(NamedTuple):
    """A model in evaluation mode, what evaluation.json says of it, and its class names, if the file has them."""

    model: nn.Module
    facts: dict[str, Any]
    classes: tuple[str, ...]


def read_images(path: Path) -> OutsideImages:
    """The test split of a normalised data file, or `images` and `labels` of any safetensors file.

    Such a file may also hold `held_out.images` and `held_out.labels`. Errors: neither of the two, arrays of another
    form, pixels outside [0, 1]: the ball around an image and the clipping are defined there, so attacks on images that
    were normalised beforehand would measure another threat than the one named.
    """
    tensors, metadata = read_tensors(path)
    if "test.images" in tensors and isinstance(metadata, dict) and "normalization" in metadata:
        splits = read_splits(path)
        return OutsideImages(splits.dataset, splits.classes, splits.test, splits.validation)
    named = isinstance(metadata, dict) and "classes" in metadata
    classes = class_names(metadata["classes"], path) if named else ()
    test = _labelled(tensors, "", path)
    held_out = _labelled(tensors, "held_out.", path) if "held_out.images" in tensors else None
    images = OutsideImages(path.stem, classes, test, held_out)
    for part in (test, held_out):
        if part is not None:
            _require_images(part, images.num_classes, path)
            if part.images.shape[1:] != test.images.shape[1:] or part.images.dtype != test.images.dtype:
                raise InputError(f"{path}: images and held_out.images differ in shape or dtype")
    return images


def _labelled(tensors: Mapping[str, Tensor], prefix: str, path: Path) -> LabelledImages:
    names = f"{prefix}images", f"{prefix}labels"
    missing = [name for name in names if name not in tensors]
    if missing:
        found = ", ".join(sorted(tensors)[:5]) or "nothing"
        raise InputError(f"{path}: no tensor {missing[0]!r}, want images and labels (found: {found})")
    images, labels = (tensors[name] for name in names)
    if labels.dtype in (torch.uint8, torch.int16, torch.int32):
        labels = labels.long()
    return LabelledImages(images.float() if images.is_floating_point() else images, labels)


def _require_images(part: LabelledImages, num_classes: int, path: Path) -> None:
    if part.images.ndim == 4 and not len(part.images):
        raise InputError(f"{path}: no images at all")
    if part.images.is_floating_point() and part.images.numel():
        try:
            require_pixels(part.images)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        part = LabelledImages(torch.empty_like(part.images, dtype=torch.uint8), part.labels)
    require_arrays(part, num_classes, str(path))


def local_file(reference: str, folder: Path) -> Path:
    """The file that a reference means; `models:/…` and `runs:/…` of MLflow are fetched into `folder`.

    Error: a pickle, by its name.
    """
    path = Path(reference)
    if reference.startswith(("models:/", "runs:/")):
        # By the process that may import MLflow.
        path = folder / ask_temper("records", "fetch-model", reference, str(folder)).splitlines()[-1]
    if path.suffix in PICKLES:
        raise InputError(f"{reference}: a {path.suffix} file is a pickle, and pickles are not read ({CONVERT})")
    return path


def load_outside(
    name: str, reference: str, path: Path, images: OutsideImages, foreign: Foreign, device: torch.device
) -> Outside:
    """The model in the file at `path`, which `reference` means.

    It is one of ours, a safetensors state dict (`foreign` says of what), or a torch.export program (.pt2). Errors: a
    missing file, weights that do not fit, a model of other images, anything but logits, no gradient.
    """
    model, facts, classes = _read_model(path, reference, images, foreign, device)
    digest = sha256(path)
    model = model.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    _require_logits(model, images, reference, device)
    weights = sum(parameter.numel() for parameter in model.parameters())
    described = {"file": reference, "sha256": digest, "checkpoint": "best", "of": name, "num_parameters": weights}
    return Outside(model, described | facts, classes)


def _read_model(
    path: Path, reference: str, images: OutsideImages, foreign: Foreign, device: torch.device
) -> tuple[nn.Module, dict[str, Any], tuple[str, ...]]:
    unknown = {"epoch": None, "upstream": {}}
    if path.suffix == PROGRAM:
        _require_own(foreign, {"name": "torch.export program"}, reference)
        program = load_program(path, device)
        _require_shape(program.image_shape, images, reference)
        return program, {"architecture": {"name": "torch.export program", "file": path.name}, **unknown}, ()
    tensors, metadata = read_tensors(path)
    if isinstance(metadata, dict) and "architecture" in metadata:
        model, card = load_model(path, device)
        _require_own(foreign, card.architecture, reference)
        _require_shape(card.image_shape, images, reference)
        if images.classes and card.classes != images.classes:
            raise InputError(f"{reference}: made for {_unlike(card.classes, images.classes)}")
        return model, {"architecture": card.architecture, "epoch": card.epoch, "upstream": card.upstream}, card.classes
    model, architecture = _of_state(tensors, reference, images, foreign)
    return model.to(device), {"architecture": architecture, **unknown}, ()


def _require_own(foreign: Foreign, architecture: Mapping[str, Any], reference: str) -> None:
    """Refuses another architecture than a file says of itself: what is asked for is never left out without a word."""
    asked = foreign.architecture
    if asked is not None and any(architecture.get(key) != value for key, value in {"name": None, **asked}.items()):
        advice = foreign.remedies.leave_architecture
        raise InputError(
            f"{reference}: a {architecture['name']} by its own words, asked for is {short(asked)}; {advice}"
        )


def _of_state(tensors: Mapping[str, Tensor], reference: str, images: OutsideImages, foreign: Foreign) -> Named:
    """A state dict of one of our architectures, also under the names of published code, as a model."""
    if foreign.architecture is None:
        raise InputError(f"{reference}: a state dict without a model card, {foreign.remedies.say_architecture}")
    unwrapped = unwrap(tensors, reference)
    state, architecture = own_names(unwrapped.state, foreign.architecture, reference)
    normalization = _normalization(unwrapped.normalization, foreign, images.shape[0], reference)
    card = ModelCard(
        architecture=architecture,
        classes=_numbers(state, images),
        image_shape=images.shape,
        normalization=normalization,
        stage="outside",
        epoch=0,
        upstream={},
    )
    layer = {"offset": normalization.offset, "scale": normalization.scale}
    first = {f"normalize.{key}": torch.tensor(value).view(1, -1, 1, 1) for key, value in layer.items()}
    # Half precision is how some keep weights; what decides computes in float32.
    floats = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    # Of any type or absent, since they play no part in evaluation.
    means = [name for name in state if "running_mean" in name]
    counters = {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in means}
    try:
        return assemble(card, {**floats, **counters, **first}, reference), architecture
    except InputError as error:
        raise InputError(f"{one_line(error)}; found {_listed(unwrapped.state)}") from None


def _normalization(inside: Numbers | None, foreign: Foreign, channels: int, reference: str) -> Normalization:
    """The first layer: what the file holds, or what was said of it. Errors: neither, or both and they differ."""
    given = foreign.normalization if foreign.normalization is not None else inside
    if given is None:
        raise InputError(f"{reference}: a state dict without normalisation, {foreign.remedies.say_normalization}")
    offset, scale = numbers = widened(given, channels, reference)
    if inside is not None and not same(inside, numbers):
        raise InputError(
            f"{reference}: the file itself normalises by {shown(inside)}, {foreign.remedies.leave_normalization}"
        )
    return Normalization(method="standardize" if given[0] else "none", offset=offset, scale=scale)


def _numbers(state: Mapping[str, Tensor], images: OutsideImages) -> tuple[str, ...]:
    """Names for as many classes as the head has logits. Names play no part in building a model, their number does."""
    heads = [tensor for name, tensor in state.items() if name.startswith("head.") and name.endswith(".weight")]
    count = len(heads[0]) if len(heads) == 1 and heads[0].ndim == 2 else images.num_classes
    return tuple(map(str, range(count)))


def _listed(state: Mapping[str, Tensor]) -> str:
    names = list(state)
    return f"{len(names)} tensors: {', '.join(map(repr, names[:3]))}{', …' if len(names) > 3 else ''}"


def _require_shape(shape: tuple[int, int, int], images: OutsideImages, reference: str) -> None:
    if tuple(shape) != images.shape:
        raise InputError(f"{reference}: takes images of {list(shape)}, the data has {list(images.shape)}")


@torch.no_grad()
def _require_logits(model: nn.Module, images: OutsideImages, reference: str, device: torch.device) -> None:
    """One look: as many logits as the data has classes, so that labels mean what they say."""
    logits = model(torch.zeros(1, *images.shape, device=device))
    shown = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    known = bool(images.classes)
    fits = isinstance(logits, Tensor) and logits.ndim == 2 and len(logits) == 1
    if not fits or not (logits.shape[1] == images.num_classes or (not known and logits.shape[1] > images.num_classes)):
        want = f"{'' if known else 'at least '}{images.num_classes}"
        raise InputError(f"{reference}: gives {shown} for one image, want [1, {want}] logits, one for each class")


def _unlike(classes: tuple[str, ...], wanted: tuple[str, ...]) -> str:
    if sorted(classes) != sorted(wanted):
        return f"classes {_few(classes)}, the data has {_few(wanted)}"
    place = next(place for place, name in enumerate(classes) if name != wanted[place])
    return f"the same classes in another order: {place} is {classes[place]!r}, in the data {wanted[place]!r}"


def _few(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
