"""How shares, differences, intervals and p-values are written wherever a person reads them."""

from components.statistics.outcomes import Interval

RANGE = "\u2013"


def percent(value: float) -> str:
    """`0.986` -> `98.6`; the sign `%` stands in the heading."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in points, signed: `-0.012` -> `−1.2`."""
    text = f"{100 * value:+.1f}".replace("-", "\u2212")
    return "0.0" if text[1:] == "0.0" else text


def half_width(found: Interval[float]) -> str:
    """Half the interval's width, in points."""
    return percent((found.high - found.low) / 2)


def bounds(found: Interval[float]) -> str:
    """The interval in percent, `96.8-99.5` with an en dash."""
    return f"{percent(found.low)}{RANGE}{percent(found.high)}"


def p_value(p: float, exact: bool = True) -> str:
    """`0.012`, `< 0.001`; where `exact`, with a digit more if three would hide on which side of 5 % it is."""
    return "< 0.001" if p < 0.001 else f"{p:.4f}" if exact and 0.0495 <= p < 0.0505 else f"{p:.3f}"


def undecided(low: float, high: float) -> str:
    """What an interval of a difference needs beside it where the exact test is not sure; empty if 0 is inside."""
    if low <= 0 <= high:
        return ""
    return "; the interval is approximate and leaves out 0, the exact test decides"


def p_text(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return f"p {p_value(p)}" if p < 0.001 else f"p = {p_value(p)}"
