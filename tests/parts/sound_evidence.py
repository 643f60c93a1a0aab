"""What the verdict on a model is judged from, with nothing against it."""

from typing import Any

STANDARD = {"rho": 0.75, "targets": 0, "wanted_targets": 9}


def pair(gained: int, lost: int, n: int = 200) -> list[dict[str, Any]]:
    return [{"first": "a", "then": "b", "n": n, "right_first": 100, "right_then": 100, "gained": gained, "lost": lost}]


def sound() -> dict[str, Any]:
    """Evidence on 200 images against which no rule speaks."""
    rules = ("monotone_epsilon", "more_steps", "more_restarts", "more_queries", "one_step", "black_box", "transfer")
    rules += ("label_leak", "mask_gap_labels")
    return {
        "images": 200,
        "threat": {"norm": "linf", "epsilon": "1/5"},
        "most_common": 30,
        "large_classes": 0,
        "pixels": {"low": 0.0, "high": 1.0},
        "training": {"modules": 0, "names": []},
        "moved_buffers": {"buffers": 0, "names": []},
        "outputs": {"finite": True, "probabilities": 0, "log_probabilities": 0},
        "unanswered": 0,
        "repeats": {"forwards": 5, "changed": 0, "difference": 0.0},
        "batches": {"changed": 0, "difference": 1e-6},
        "zero_gradients": {"differentiable": True, "right": 180, "margin": 0, "cross_entropy": 0},
        "right": {"clean": 180, "fgsm": 110, "pgd": 100, "pgd_half": 140, "pgd_large": 0},
        "pairs": {rule: pair(gained=2, lost=20) for rule in rules},
        "epsilon_zero": {"changed": 0},
        "budget": [{"attack": "pgd", "largest": 0.2, "epsilon": 0.2}],
        "constant": pair(gained=150, lost=0)[0],
        "claim": pair(gained=0, lost=20)[0],
        "reach": [{"attack": "pgd", "reach": 1.0, "wanted": 0.4}],
        "apgd": [{"attack": "cascade/apgd_ce", "loss": "cross_entropy", "steps": 100, **STANDARD}],
        "rescored": {"n": 200, "claimed": 100, "fooled": 100, "undecided": 0, "dtype": "float32"},
        "square_helps": {"n": 200, "before": 90, "after": 90},
        "parity": {"n": 200, "agree": 200, "only_exact": 0, "only_search": 0},
    }
