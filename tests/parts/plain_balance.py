"""The balances of MTARD and B-MTARD step by step in Python floats, in the order of the published code."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.parts.plain_sums import Rows, mean, plain_kl, plain_softmax


@dataclass
class PlainBalance:
    """Temperatures and weights of the robust and the clean side. The losses of `origin` batches are averaged, which
    later ones are held against; `low` and `high` are the bounds of both temperatures."""

    low: float = 1.0
    high: float = 10.0
    eta_temperature: float = 1e-3
    eta_weight: float = 0.025
    exponent: float = 1.0
    origin: int = 1
    taus: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=lambda: [0.5, 0.5])
    begun: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.taus = self.taus or [self.low, self.low]

    def step(
        self, teachers: Sequence[Rows], students: Sequence[Rows], decay: float, divide_by: float
    ) -> dict[str, float]:
        """What a step logs, and its `total`; first the robust side's logits, then the clean one's."""
        used = list(self.taus)
        targets = [[plain_softmax(z, tau) for z in rows] for rows, tau in zip(teachers, used, strict=True)]
        losses = [
            mean([plain_kl(q, z) for q, z in zip(target, rows, strict=True)]) / divide_by
            for target, rows in zip(targets, students, strict=True)
        ]
        entropies = [mean([-sum(p * math.log(p) for p in q) for q in target]) for target in targets]
        for side in range(2):
            sign = math.copysign(1, entropies[side] / entropies[1 - side] - 1)
            moved = used[side] - decay * self.eta_temperature * sign
            self.taus[side] = max(min(self.high, moved), self.low)
        if len(self.begun) < self.origin:
            self.begun.append((losses[0], losses[1]))
        relative = [loss / mean([begun[side] for begun in self.begun]) for side, loss in enumerate(losses)]
        self._weigh([loss**self.exponent for loss in relative], decay)
        logged = {"loss": losses, "temperature": used, "entropy": entropies}
        logged |= {"relative_loss": relative, "weight": self.weights}
        logged |= {"temperature_at_min": [float(t <= self.low) for t in used]}
        logged |= {"temperature_at_max": [float(t >= self.high) for t in used]}
        sides = ("robust", "clean")
        parts = {f"{name}_{side}": pair[i] for name, pair in logged.items() for i, side in enumerate(sides)}
        return parts | {"total": sum(w * loss for w, loss in zip(self.weights, losses, strict=True))}

    def _weigh(self, powers: Sequence[float], decay: float) -> None:
        """B-MTARD's: relative to their mean, then a step towards the share, then clipped and renormalised."""
        rates = [power / mean(powers) for power in powers]
        moved = [
            w - decay * self.eta_weight * (w - rate / sum(rates)) for w, rate in zip(self.weights, rates, strict=True)
        ]
        clipped = [max(w, 0.0) for w in moved]
        self.weights = [w / sum(clipped) for w in clipped]
