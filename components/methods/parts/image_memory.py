"""What a method remembers of each training image, found again by the image's place in the split."""

import torch
from torch import Tensor, nn

from components.methods.parts.memory import Memory
from components.numerics import parallel

SEEN = "seen"


class ImageMemory(nn.Module):
    """Named tensors for each image, [N, C, H, W] and zero at first; N is found out on the way.

    Its state is the rows and which images were seen; nothing before the first. With CIFAR-10 each name takes 0.6 GB, on
    the device and in every checkpoint. Where processes train together, each remembers the images it saw; `share` puts
    that together.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names, self.tensors = names, Memory()
        self.forget()

    def forget(self) -> None:
        """Every image is new again."""
        self.tensors.clear()
        self._own = torch.zeros(0, dtype=torch.bool)
        self.complete = False

    def take_stock(self) -> None:
        """Between epochs: notes as `complete` that no image can be new any more."""
        if SEEN in self.tensors:
            self._own = torch.zeros_like(self.tensors[SEEN])
            self.complete = bool(self.tensors[SEEN].all())

    def make_room(self, indices: Tensor, images: Tensor, num_images: int = 0) -> None:
        """Rows for `images` at these places, in their type and on their device; for all of the split where it is known
        how many these are.
        """
        if SEEN not in self.tensors:
            self.tensors[SEEN] = torch.zeros(0, dtype=torch.bool, device=images.device)
            for name in self.names:
                self.tensors[name] = images.new_zeros((0, *images.shape[1:]))
        if not self.complete:
            self._grow(num_images or int(indices.max()) + 1)

    def _grow(self, num: int) -> None:
        for name, tensor in self.tensors.named().items():
            self.tensors[name] = _padded(tensor, num)
        self._own = _padded(self._own.to(self.tensors[SEEN].device), len(self.tensors[SEEN]))

    def new(self, indices: Tensor) -> Tensor:
        """Which of these images have not been seen yet, bool [N]."""
        return ~self.tensors[SEEN][indices]

    def recall(self, name: str, indices: Tensor) -> Tensor:
        """What is remembered of these images, [N, C, H, W]."""
        return self.tensors[name][indices]

    def remember(self, indices: Tensor, **rows: Tensor) -> None:
        """Replaces what is remembered of these images, under the names given."""
        for name, values in rows.items():
            self.tensors[name][indices] = values
        # Not by assignment, which sends the number from the host in torch 2.11 and so cannot be recorded.
        self.tensors[SEEN].index_fill_(0, indices, True)
        self._own.index_fill_(0, indices, True)

    def share(self) -> None:
        """After an epoch, in which each image was seen by one process: all remember what any of them saw."""
        ranks, place = parallel.world_size(), parallel.rank()
        if ranks == 1:
            return
        sizes = torch.zeros(ranks, dtype=torch.int64, device=self._own.device)
        sizes[place] = len(self._own)
        self._grow(int(parallel.sum_(sizes).max()))
        times = parallel.sum_(self._own.int()).view(-1, 1, 1, 1)
        for name in self.names:
            rows = self.tensors[name]
            total = parallel.sum_(torch.where(self._own.view(-1, 1, 1, 1), rows, 0))
            self.tensors[name] = torch.where(times > 0, total / times.clamp_min(1), rows)
        self.tensors[SEEN] = self.tensors[SEEN] | (times.flatten() > 0)
        self._own = torch.zeros_like(self.tensors[SEEN])


def _padded(rows: Tensor, num: int) -> Tensor:
    """`rows` [n, ...] with zeros after them, up to `num` if there are fewer."""
    return torch.cat([rows, rows.new_zeros((max(0, num - len(rows)), *rows.shape[1:]))]) if num > len(rows) else rows
