"""The thresholds of the sentinel that docs/sentinel.md writes down, for the benchmarks that need some."""

from components.training.sentinel.rules import Rules

BASE = Rules(
    gap=0.15,
    collapse=0.5,
    recovery=0.8,
    hidden=0.2,
    fall=0.2,
    widening=0.075,
    decline=0.015,
    window=12,
    alignment=0.5,
    pert_align=0.5,
    direction=0.5,
    loss_drop=0.3,
    wobble=0.1,
    stride=(0.1, 0.3),
    distortion=0.85,
    velocity=3.0,
    rank=0.7,
    memory=8,
)
