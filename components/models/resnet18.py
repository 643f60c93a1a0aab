"""ResNet-18 for small images (He et al., arXiv 1512.03385): a 3x3 stem of stride 1 and no max-pool."""

from torch import nn

from components.data.normalization import Normalization
from components.foundation.params import strict
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import ImageShape, Width, classifier, pooled_head, scaled
from components.models.parts.residual import projection, residual_features


@strict
class ResNet18:
    """ResNet-18 as used on CIFAR: four stages of two blocks, 64 to 512 channels, projection shortcuts (option B).

    11,173,962 parameters at width 1, three channels and ten classes.
    """

    width: Width  # Multiplies the number of channels; 1 is the published network.
    batch_norm: BatchNorm  # How batch norm computes its statistics.

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]."""
        stages = [(scaled(64 * 2**index, self.width), 2, 2 if index else 1) for index in range(4)]
        features = residual_features(self.batch_norm, image_shape[0], stages, projection)
        return classifier(normalization, image_shape, features, pooled_head(stages[-1][0], num_classes))
