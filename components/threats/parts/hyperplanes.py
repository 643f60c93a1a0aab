"""The way to a hyperplane inside the pixel range, in the norms in which all pixels move at once."""

# torch leaves the types of some functions open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Newton's method stops by itself after some three to eight rounds; this bounds it.
ROUNDS = 50


class Approach(NamedTuple):
    """Points seen from their hyperplanes: each number may move by `room` in `direction`, [N, D].

    A move m ≥ 0 closes the gap when Σ weights · m is `change` [N, 1]; the weights, [N, D], are the sizes of the
    normal's components in units of the largest, so that neither tiny nor huge gradients leave the range of float32.
    """

    direction: Tensor
    room: Tensor
    weights: Tensor
    change: Tensor

    @classmethod
    def of(cls, points: Tensor, normals: Tensor, offsets: Tensor) -> "Approach":
        """Points and normals are [N, D], offsets [N]."""
        change = offsets - (normals * points).sum(1)
        direction = normals.sign() * change.sign()[:, None]
        scale = normals.abs().amax(1).clamp_min(torch.finfo(normals.dtype).tiny)
        weights, change = normals.abs() / scale[:, None], (change.abs() / scale)[:, None]
        return cls(direction, torch.where(direction > 0, 1 - points, points), weights, change)


def rise(approach: Approach, gain: Tensor, move_at: Callable[[Tensor], Tensor]) -> Tensor:
    """The move of each number, [N, D], where all move with the same `level`, each until its room is used up.

    `move_at` gives the moves at a level [N, 1], and `gain` [N, D] how much each number closes the gap per level. The
    level solves Σ weights · move = change. The sum is concave and piecewise linear in the level, so Newton's method
    from 0 rises to the exact solution in few rounds, without a sort.
    """
    direction, room, weights, change = approach
    level, move = torch.zeros_like(change), torch.zeros_like(room)
    for _ in range(ROUNDS):
        # No move exceeds its room, so the sign is 1 where a pixel can still move, and 0 elsewhere.
        slope = torch.linalg.vecdot(gain, (room - move).sign_())[:, None]
        missing = change - torch.linalg.vecdot(weights, move)[:, None]
        # No slope: every pixel is at its bound. 1e12 stands for infinity without making 0 · infinity.
        raised = torch.where(slope > 0, level + missing / slope, 1e12).maximum(level)
        risen = (raised > level * (1 + 1e-6)).any()
        level = raised
        move = torch.minimum(move_at(level), room)
        if not risen:
            break
    return direction * move
