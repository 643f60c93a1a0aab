"""ResNet-56 for small images (He et al., arXiv 1512.03385, section 4.2)."""

from torch import nn

from components.data.normalization import Normalization
from components.foundation.params import strict
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import ImageShape, Width, classifier, pooled_head, scaled
from components.models.parts.residual import padding, residual_features


@strict
class ResNet56:
    """ResNet-56 for CIFAR (§4.2 of the paper): 6n+2 layers, n = 9, 16 to 64 channels, identity shortcuts (option A).

    853,018 parameters at width 1, three channels and ten classes. With projection shortcuts (option B) it has 855,770.
    """

    width: Width  # Multiplies the number of channels; 1 is the published network.
    batch_norm: BatchNorm  # How batch norm computes its statistics.

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]."""
        stages = [(scaled(16 * 2**index, self.width), 9, 2 if index else 1) for index in range(3)]
        features = residual_features(self.batch_norm, image_shape[0], stages, padding)
        return classifier(normalization, image_shape, features, pooled_head(stages[-1][0], num_classes))
