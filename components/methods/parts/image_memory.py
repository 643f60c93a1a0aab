"""What a method remembers of each training image, found again by the image's place in the split."""

import torch
from torch import Tensor

from components.numerics import parallel


class ImageMemory:
    """Named tensors for each image, [N, C, H, W] and zero at first; N is found out on the way.

    With CIFAR-10 each name takes 0.6 GB, on the device and in every checkpoint. Where processes train together, each
    remembers the images it saw; `share` puts that together.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.forget()

    def forget(self) -> None:
        """Every image is new again."""
        self._rows: dict[str, Tensor] = {}
        self._seen = torch.zeros(0, dtype=torch.bool)
        self._own = self._seen
        self.complete = False

    def take_stock(self) -> None:
        """Between epochs, each of which visits every image: notes as `complete` that no image can be new any more."""
        self.complete = len(self._seen) > 0 and bool(self._seen.all())

    def make_room(self, indices: Tensor, images: Tensor) -> None:
        """Rows for `images` at these places, in their type and on their device."""
        if not self._rows:
            self._rows = {name: images.new_zeros((0, *images.shape[1:])) for name in self.names}
        if self._seen.device != images.device:
            self._seen, self._own = self._seen.to(images.device), self._own.to(images.device)
            self._rows = {name: rows.to(images.device) for name, rows in self._rows.items()}
        if not self.complete:
            self._grow(int(indices.max()) + 1)

    def _grow(self, num: int) -> None:
        more = num - len(self._seen)
        if more > 0:
            self._seen = torch.cat([self._seen, self._seen.new_zeros(more)])
            self._own = torch.cat([self._own, self._own.new_zeros(more)])
            self._rows = {name: torch.cat([t, t.new_zeros((more, *t.shape[1:]))]) for name, t in self._rows.items()}

    def new(self, indices: Tensor) -> Tensor:
        """Which of these images have not been seen yet, bool [N]."""
        return ~self._seen[indices]

    def recall(self, name: str, indices: Tensor) -> Tensor:
        """What is remembered of these images, [N, C, H, W]."""
        return self._rows[name][indices]

    def remember(self, indices: Tensor, **rows: Tensor) -> None:
        """Replaces what is remembered of these images, under the names given."""
        for name, values in rows.items():
            self._rows[name][indices] = values
        self._seen[indices] = True
        self._own[indices] = True

    def share(self) -> None:
        """After an epoch, in which each image was seen by one process: all remember what any of them saw."""
        ranks, place = parallel.world_size(), parallel.rank()
        if ranks == 1:
            return
        sizes = torch.zeros(ranks, dtype=torch.int64, device=self._seen.device)
        sizes[place] = len(self._seen)
        self._grow(int(parallel.sum_(sizes).max()))
        times = parallel.sum_(self._own.int()).view(-1, 1, 1, 1)
        for name, rows in self._rows.items():
            total = parallel.sum_(torch.where(self._own.view(-1, 1, 1, 1), rows, 0))
            self._rows[name] = torch.where(times > 0, total / times.clamp_min(1), rows)
        self._seen = self._seen | (times.flatten() > 0)
        self._own = torch.zeros_like(self._seen)

    def state_dict(self) -> dict[str, Tensor]:
        """The rows and which images were seen; nothing before the first."""
        return {"seen": self._seen, **self._rows} if self._rows else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        self.forget()
        if state:
            self._seen, self._own = state["seen"], torch.zeros_like(state["seen"])
            self._rows = {name: state[name] for name in self.names}
