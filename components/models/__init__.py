"""The architectures that params.yaml can name; each builds a model that takes pixels in [0, 1] and returns logits."""

from components.models.mobilenet_v2 import MobileNetV2
from components.models.preact_resnet18 import PreActResNet18
from components.models.resnet18 import ResNet18
from components.models.resnet56 import ResNet56
from components.models.small_cnn import SmallCnn
from components.models.timm import Timm
from components.models.torchvision import TorchVision
from components.models.wide_resnet import WideResNet

MODELS = {
    "small_cnn": SmallCnn,
    "resnet18": ResNet18,
    "resnet56": ResNet56,
    "preact_resnet18": PreActResNet18,
    "wide_resnet": WideResNet,
    "mobilenet_v2": MobileNetV2,
    "timm": Timm,
    "torchvision": TorchVision,
}
