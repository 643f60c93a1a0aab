"""The advice for a terminal."""

import textwrap

from components.reports import grids
from components.reports.advice.contents import Advice
from components.reports.advice.words import number, rule, setting, shown
from components.reports.measure_words import TITLES
from components.reports.wording import NORM_WORDS, WIDTH, epsilon_text
from components.statistics.number_text import RANGE


def text(found: Advice) -> str:
    """The sentences, a column for each teacher, and how it was measured."""
    blocks = [heading(found), *found.sentences, grids.ruled(grid(found), right_from=1, closed=True), rule(found)]
    wrapped = [block if "\n" in block else textwrap.fill(block, WIDTH) for block in blocks]
    return "\n\n".join([*wrapped, "\n".join(textwrap.fill(one, WIDTH) for one in setting(found))])


def heading(found: Advice) -> str:
    """What was measured, and how far images were changed."""
    norm = NORM_WORDS[found.threat.norm].title
    epsilon = epsilon_text(found.threat.epsilon)
    return f"Which teacher?  {found.dataset}, {found.num_images} validation images, {norm} ε = {epsilon}"


def grid(found: Advice) -> list[list[str]]:
    """A row for each measure; the worst case has its interval below."""
    rows = [["", *found.order], ["place", *(str(found.teachers[name].place) for name in found.order)]]
    for measure in shown(found):
        rows.append([TITLES[measure], *(number(found, name, measure) for name in found.order)])
        if measure == "worst_case":
            bounds = (RANGE.join(number(found, name, measure, key) for key in ("low", "high")) for name in found.order)
            rows.append(["  its 95 % interval", *bounds])
    return rows
