"""The classifiers of torchvision, by name; weights come from a file (`initial`)."""

import warnings
from typing import Any, ClassVar

from torch import nn

from components.data.normalization import Normalization
from components.foundation.errors import InputError
from components.foundation.params import strict
from components.models.parts.classifier import ImageShape
from components.models.parts.first_layer import Numbers, Published
from components.models.parts.library_network import library_classifier, require_known


@strict
class TorchVision:
    """Any classifier of torchvision, built for the images and classes at hand. Nothing is downloaded.

    They take three channels. Auxiliary heads are left out.
    """

    architecture: str  # The name in torchvision, such as `mobilenet_v2` or `resnet50`.

    library: ClassVar[str] = "torchvision"

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]. Errors: no such name, no colours."""
        # It takes seconds to import, which only those who use it should pay.
        from torchvision import models

        name = self.architecture
        self.require_known()
        if image_shape[0] != 3:
            raise InputError(f"model: torchvision's {name} takes 3 channels, the images have {image_shape[0]}")
        builder = models.get_model_builder(name)
        fields: dict[str, Any] = {"weights": None, "num_classes": num_classes}
        if "vit" in name:
            fields["image_size"] = image_shape[1]
        if name in ("googlenet", "inception_v3"):
            fields |= {"aux_logits": False, "init_weights": True}

        def make() -> nn.Module:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return builder(**fields)

        return library_classifier(make, f"torchvision's {name}", num_classes, image_shape, normalization)

    def require_known(self, where: str = "model") -> None:
        """Returns if torchvision has the network. The error begins with `where`, which is this section."""
        from torchvision import models

        require_known(self.architecture, models.list_models(module=models), self.library, where)

    def published(self) -> Published | None:
        """What torchvision's own weights of this name expect, after the pictures that they were trained on."""
        from torchvision import models

        try:
            weights = list(models.get_model_weights(self.architecture))
        except ValueError:
            return None
        # The transforms are built from numbers in the library; no weights are loaded.
        numbers: dict[str, Numbers] = {}
        for one in weights:
            pictures: Any = one.transforms()
            numbers[one.name] = tuple(pictures.mean), tuple(pictures.std)
        if not numbers:
            return None
        # An alias, which is no member of its own.
        usual: str = models.get_model_weights(self.architecture)["DEFAULT"].name
        others = tuple(f"{self.architecture}.{name}" for name, one in numbers.items() if one != numbers[usual])
        return Published(numbers[usual], f"torchvision's {self.architecture}.{usual}", others)
