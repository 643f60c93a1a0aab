"""The classifiers of timm (Wightman, PyTorch Image Models), by name; weights come from a file (`initial`)."""

import difflib
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.foundation.lines import one_line
from components.foundation.params import Real, strict
from components.models.parts.classifier import ImageShape
from components.models.parts.first_layer import Numbers, Published
from components.models.parts.library_network import NEAR, library_classifier, require_known

Drop = Annotated[Real, Field(ge=0, lt=1)]


@strict
class Timm:
    """Any classifier of timm, built for the images and classes at hand. Nothing is downloaded.

    Networks with a fixed size of images, as transformers have, are built for the size of ours.
    """

    architecture: str  # The name in timm, such as `vit_tiny_patch16_224` or `convnext_atto`.
    drop: Drop = 0.0  # Share of features that dropout in front of the head drops.
    drop_path: Drop = 0.0  # Share of residual branches that stochastic depth drops in the last block.

    library: ClassVar[str] = "timm"

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]. Errors: no timm, no such name."""
        self.require_known()
        timm, name = _timm(), self.architecture
        fields: dict[str, Any] = {"num_classes": num_classes, "in_chans": image_shape[0]}
        fields |= {"drop_rate": self.drop} if self.drop else {}
        fields |= {"drop_path_rate": self.drop_path} if self.drop_path else {}
        config = _config(timm, name)
        if config is not None and config.fixed_input_size:
            fields["img_size"] = image_shape[1:]

        def make() -> nn.Module:
            return timm.create_model(name, pretrained=False, **fields)

        return library_classifier(make, f"timm's {name}", num_classes, image_shape, normalization)

    def require_known(self, where: str = "model") -> None:
        """Returns if timm is here and has the network. The errors begin with `where`, which is this section."""
        timm = _timm(where)
        if not timm.is_model(self.architecture):
            require_known(self.architecture, timm.list_models(), self.library, where)

    def published(self) -> Published | None:
        """What the pretrained weights of this name expect, after timm's own configuration. Error: no timm."""
        timm, name = _timm(), self.architecture
        config = _config(timm, name)
        if config is None:
            return None
        chosen, _, tag = name.partition(".")
        others = [] if tag else [other for other in timm.list_pretrained(f"{chosen}.*") if other != _full(config)]
        different = [other for other in others if _numbers(timm.get_pretrained_cfg(other)) != _numbers(config)]
        source = f"timm's configuration of the pretrained {_full(config)}"
        return Published(_numbers(config), source, tuple(different))


def _timm(where: str = "model") -> Any:
    try:
        # It takes seconds to import, which only those who use it should pay.
        import timm
    except ImportError:
        raise InputError(f"{where}: timm is not installed (pip install '.[timm]')") from None
    return timm


def _config(timm: Any, name: str) -> Any:
    """What timm says of the weights with this name, or of the usual ones of this architecture; None: nothing.

    Error: it knows the architecture, and no weights of it with this tag.
    """
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        chosen, _, tag = name.partition(".")
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{chosen}.*")]
        near = ", ".join(difflib.get_close_matches(tag, tags) or tags[:NEAR]) or "none"
        raise InputError(
            f"model.architecture: timm has no weights {one_line(tag)!r} of {chosen}, only {near}"
        ) from None


def _full(config: Any) -> str:
    """Architecture and tag, as timm's hub names weights."""
    return f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)


def _numbers(config: Any) -> Numbers:
    return tuple(config.mean), tuple(config.std)
