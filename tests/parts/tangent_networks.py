"""Tiny networks whose tangent kernels are known by brute force, and the brute force."""

import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_CLASSES = 6
SIDE = 8


class SmallNet(nn.Module):
    """Every kind of convolution, batch norm and linear map, a residual sum and an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.grouped = nn.Conv2d(8, 12, (3, 1), stride=2, padding=(2, 0), dilation=(2, 1), groups=2)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.last = nn.Conv2d(12, 10, 3, stride=2, padding=1, padding_mode="circular")
        self.plain_norm = nn.BatchNorm2d(10, affine=False)
        self.tokens = nn.Linear(10, 7)
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu_(self.stem_norm(self.stem(images)))
        features = self.depthwise(features) + features
        features = torch.relu_(self.grouped(features) + self.shortcut(features))
        features = torch.tanh(self.plain_norm(self.last(features)))
        return self.head(torch.tanh(self.tokens(features.flatten(2).transpose(1, 2))).mean(1))


class TinyTransformer(nn.Module):
    """A vision transformer: a class token and positions, attention, layer norm, scales; group and rms norm besides."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.patch_norm = nn.GroupNorm(2, width)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (SIDE // 4) ** 2 + 1, width))
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.randn(width))
        self.last_norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_norm(self.patches(images)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.positions
        parts = self.qkv(self.norm(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        tokens = tokens + self.scale * self.out(mixed)
        return self.head(self.last_norm(tokens)[:, 0])


def small_net() -> nn.Module:
    """A net with weights and running statistics away from their defaults, in training mode."""
    torch.manual_seed(0)
    return moved(SmallNet()).train()


def tiny_transformer() -> nn.Module:
    """A transformer whose scales and shifts are away from 1 and 0, in training mode."""
    torch.manual_seed(0)
    return moved(TinyTransformer()).train()


def moved(model: nn.Module) -> nn.Module:
    """The model, its vectors and running statistics moved from where they begin."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 1:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def random_images(count: int, seed: int = 1, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def brute_force(model: nn.Module, images: Tensor) -> Tensor:
    """The full kernel [N, C, N, C] in float64 from the whole Jacobian, one image and one logit at a time."""
    was_training, dtype = model.training, images.dtype
    model = model.eval().double()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = []
    for image in images.double().split(1):
        for logit in model(image)[0]:
            gradients = torch.autograd.grad(
                logit, trained, retain_graph=True, materialize_grads=True, allow_unused=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    model.to(dtype).train(was_training)
    jacobian = torch.stack(rows).unflatten(0, (len(images), -1))
    return torch.einsum("iap,jbp->iajb", jacobian, jacobian)


def trace_of(full: Tensor) -> Tensor:
    return full.diagonal(dim1=1, dim2=3).sum(2)


def relative_error(kernel: Tensor, wanted: Tensor) -> float:
    return float((kernel - wanted).norm() / wanted.norm())
