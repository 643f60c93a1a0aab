"""The network of most tests. Nothing here imports pytest, since benchmarks use it on machines without."""

from torch import Tensor, nn


class TinyNet(nn.Module):
    """A convolution with batch norm and a linear head: small, and with everything that can go wrong in it."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4))
        self.head = nn.Linear(32, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).flatten(1))
