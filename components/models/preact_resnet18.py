"""PreActResNet-18: ResNet-18 with batch norm and ReLU before each convolution (He et al., arXiv 1603.05027)."""

from torch import nn

from components.data.normalization import Normalization
from components.foundation.params import strict
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import ImageShape, Width, classifier, pooled_head, scaled
from components.models.parts.preactivation import Projected, preactivation_features


@strict
class PreActResNet18:
    """PreActResNet-18 for small images: four stages of two blocks, 64 to 512 channels.

    11,172,170 parameters at width 1, three channels and ten classes: the 11,171,146 of the form without a last batch
    norm and the 1,024 of that layer, which the paper has (appendix) and without which no norm stands before the logits.
    """

    width: Width  # Multiplies the number of channels; 1 is the published network.
    batch_norm: BatchNorm  # How batch norm computes its statistics.
    shortcut: Projected = "activated"  # What convolutions of shortcuts see; `plain` in the code of fast_adversarial.

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]."""
        stages = [(scaled(64 * 2**index, self.width), 2, 2 if index else 1) for index in range(4)]
        features = preactivation_features(self.batch_norm, image_shape[0], stages[0][0], stages, self.shortcut)
        return classifier(normalization, image_shape, features, pooled_head(stages[-1][0], num_classes))
