"""Confident errors and transferable adversarial samples against probabilities that are known by hand."""

import math

import torch

from components.numerics.confidence import confidently_wrong, transfer_score


def logits_of(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_confident_errors_are_wrong_answers_above_the_threshold():
    logits = logits_of((0.6, 0.3, 0.1), (0.4, 0.35, 0.25), (0.6, 0.3, 0.1), (0.1, 0.1, 0.8))
    labels = torch.tensor([1, 1, 0, 0])
    assert confidently_wrong(logits, labels, 0.5).tolist() == [True, False, False, True]
    assert confidently_wrong(logits, labels, 0.7).tolist() == [False, False, False, True]
    assert confidently_wrong(logits, labels, 0.3).tolist() == [True, True, False, True]


def test_no_answer_is_no_confident_one():
    logits = torch.tensor([[torch.nan, 0.0], [torch.inf, 0.0]])
    assert confidently_wrong(logits, torch.tensor([1, 1]), 0.5).tolist() == [False, False]


def test_the_transfer_score_is_the_difference_of_two_divergences():
    """Equation 7 of SAAD: nearer to the own adversarial answer than to the clean one."""
    at_student, at_clean, at_own = (logits_of(row) for row in ((0.5, 0.5), (0.9, 0.1), (0.2, 0.8)))

    def divergence(p: tuple[float, float], q: tuple[float, float]) -> float:
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    wanted = divergence((0.5, 0.5), (0.9, 0.1)) - divergence((0.5, 0.5), (0.2, 0.8))
    assert torch.allclose(transfer_score(at_student, at_clean, at_own), torch.tensor([wanted], dtype=torch.float64))
    assert transfer_score(at_clean, at_clean, at_own) < 0 < transfer_score(at_own, at_clean, at_own)
    # A teacher that no attack moves: every image counts as transferable, since 0 >= 0.
    assert transfer_score(at_clean, at_clean, at_clean) == 0
