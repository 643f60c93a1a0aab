"""Weights of two teachers that leave the rest to the labels."""


def require_shares(clean_weight: float, robust_weight: float) -> None:
    """Error: weights above 1 in sum, which would leave the labels less than nothing."""
    # A hair above 1, since 0.1 and 0.9 need not add up to it.
    if clean_weight + robust_weight > 1 + 1e-9:
        raise ValueError(f"got weights {clean_weight} and {robust_weight}, want them at most 1 in sum")
