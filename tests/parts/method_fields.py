"""Keys of params.yaml of what tests train with: ConvergeSmooth, and a student beside a peer."""

from typing import Any

SMOOTHING: dict[str, Any] = {
    "form": "batch",
    "weight_adversarial": 0.5,
    "weight_clean": 1.0,
    "stride_min": 0.0,
    "stride_max": 0.03,
    "weight_centralisation": 0.0,
    "centre_epochs": 2,
    "clean": "pass",
    "loss": "smoothed",
    "distance": "absolute",
    "warm_up": 0,
    "guard": 1,
}
PEER: dict[str, Any] = {
    "name": "peer",
    "attack": {"steps": 1, "step_size": "1/255", "start": "gaussian", "loss": "kl_teacher_clean"},
    "label_weight": 0,
    "peer_weight": 1,
    "own_weight": 1,
    "temperature": 5,
    "peer_label_weight": 1,
    "peer_student_weight": 0.1,
    "peer_temperature": 1,
    "reduction": "class_mean",
}
