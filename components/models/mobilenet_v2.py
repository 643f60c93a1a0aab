"""MobileNet-v2 for small images (Sandler et al., arXiv 1801.04381): the stem and the first two stages keep the size."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from components.data.normalization import Normalization
from components.foundation.params import strict
from components.models.parts.batch_norm import BatchNorm
from components.models.parts.classifier import ImageShape, Width, chain, classifier, convolution, pooled_head, scaled
from components.models.parts.mobile_stages import STAGES


@strict
class MobileNetV2:
    """MobileNet-v2 in the CIFAR form: three halvings instead of five, torchvision's blocks, no dropout.

    2,236,682 parameters at width 1, three channels and ten classes, as torchvision's. The form common in CIFAR code has
    2,296,922: it adds a 1x1 convolution with batch norm as a shortcut where a stride-1 block changes its channels
    (59,152) and a 1x1 expansion in the first block (1,088), and has ReLU for ReLU6; nothing of this is in the paper.
    `width` scales the last 1,280 channels too.
    """

    width: Width  # Multiplies the number of channels; 1 is the published network.
    batch_norm: BatchNorm  # How batch norm computes its statistics.
    form: Literal["paper", "cifar"] = "paper"  # That of the paper, or the one common in CIFAR code.

    def build(self, num_classes: int, image_shape: ImageShape, normalization: Normalization) -> nn.Module:
        """A model with fresh weights: pixels in [0, 1] -> logits [N, num_classes]."""
        # torchvision takes seconds to import, which only those who use it should pay.
        from torchvision.models.mobilenetv2 import InvertedResidual
        from torchvision.ops import Conv2dNormActivation

        published = self.form == "paper"
        layer = partial(Conv2dNormActivation, activation_layer=nn.ReLU6 if published else nn.ReLU)
        make_block = InvertedResidual if published else ShortcutBlock
        norm, channels, last = self.batch_norm.layer, scaled(32, self.width), scaled(1280, self.width)
        layers: list[nn.Module] = [layer(image_shape[0], channels, kernel_size=3, norm_layer=norm)]
        for expansion, base, num_blocks, stride in STAGES:
            block = partial(make_block, expand_ratio=expansion, norm_layer=norm)
            layers.append(chain(block, channels, [(scaled(base, self.width), num_blocks, stride)]))
            channels = scaled(base, self.width)
        layers.append(layer(channels, last, kernel_size=1, norm_layer=norm))
        return classifier(normalization, image_shape, nn.Sequential(*layers), pooled_head(last, num_classes))


class ShortcutBlock(nn.Module):
    """The block of the form common in CIFAR code: [N, channels_in, H, W] -> [N, channels_out, H / stride, W / stride].

    It always expands, and every block of stride 1 has a shortcut, which projects where the channels change.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        stride: int,
        expand_ratio: int,
        norm_layer: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        wide = expand_ratio * channels_in
        depthwise = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False)
        self.expand = nn.Sequential(convolution(channels_in, wide, 1), norm_layer(wide), nn.ReLU())
        self.depthwise = nn.Sequential(depthwise, norm_layer(wide), nn.ReLU())
        self.project = nn.Sequential(convolution(wide, channels_out, 1), norm_layer(channels_out))
        self.adds, self.shortcut = stride == 1, nn.Sequential()
        if self.adds and channels_in != channels_out:
            self.shortcut = nn.Sequential(convolution(channels_in, channels_out, 1), norm_layer(channels_out))

    def forward(self, features: Tensor) -> Tensor:
        found = self.project(self.depthwise(self.expand(features)))
        return found + self.shortcut(features) if self.adds else found
