"""Kernels and labels without what all images share."""

from torch import Tensor
from torch.nn import functional


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """The one-hot labels [N, C], float64, before anything is taken from them."""
    return functional.one_hot(labels, num_classes).double()


def double_centred(kernel: Tensor) -> Tensor:
    """H K H with H = I - 1/N, of one kernel [N, N] or of a stack [..., N, N], in its own precision."""
    rows, columns = kernel.mean(-2, keepdim=True), kernel.mean(-1, keepdim=True)
    return kernel - rows - columns + kernel.mean((-2, -1), keepdim=True)
