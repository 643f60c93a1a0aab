"""The data sets by name. A member's fields are its keys in params.yaml; `load(root)` gives its checked `Source`."""

from components.datasets.cifar10 import Cifar10
from components.datasets.cifar100 import Cifar100
from components.datasets.digits import Digits
from components.datasets.fashion_mnist import FashionMnist
from components.datasets.image_folder import ImageFolder
from components.datasets.parts.dataset import Dataset

DATASETS: dict[str, type[Dataset]] = {
    "digits": Digits,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "image_folder": ImageFolder,
}
