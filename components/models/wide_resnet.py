"""WideResNet-d-k: few layers, many channels (Zagoruyko & Komodakis, arXiv 1605.07146, table 1)."""

from typing import Annotated

from pydantic import Field
from torch import nn

from components.data.normalization import Normalization
from components.foundation.params import strict
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import ImageShape, Width, classifier, pooled_head, scaled
from components.models.parts.preactivation import preactivation_features

# Times the channels of a plain ResNet: 4,096 at the end.
WIDEST = 64


@strict
class WideResNet:
    """WRN-depth-widen_factor without dropout: three stages of (depth - 4) / 6 blocks with 16, 32, 64 times k channels.

    At width 1, three channels and ten classes: WRN-28-10 36,479,194 and WRN-34-10 46,160,474 parameters.
    """

    depth: Annotated[int, Field(ge=10, le=1000)]  # Layers: 6 n + 4.
    widen_factor: Annotated[int, Field(ge=1, le=64)]  # Multiplies the channels of the residual blocks.
    width: Width  # Multiplies the number of channels; 1 is the published network.
    batch_norm: BatchNorm  # How batch norm computes its statistics.

    def __post_init__(self) -> None:
        if (self.depth - 4) % 6:
            raise ValueError(f"got depth {self.depth}, want 6 n + 4: 10, 16, 22, 28, 34 and so on")
        if self.widen_factor * self.width > WIDEST:
            wide = f"widen_factor {self.widen_factor} times width {self.width}"
            raise ValueError(f"got {wide}, want at most {WIDEST}")

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]."""
        num_blocks = (self.depth - 4) // 6
        wide = [scaled(16 * 2**index * self.widen_factor, self.width) for index in range(3)]
        stages = [(channels, num_blocks, 2 if index else 1) for index, channels in enumerate(wide)]
        features = preactivation_features(self.batch_norm, image_shape[0], scaled(16, self.width), stages)
        return classifier(normalization, image_shape, features, pooled_head(wide[-1], num_classes))
