"""Agreement with pyautoattack, the reference implementation of AutoAttack as a package.

`benchmarks/reference_agreement.py` makes the full table: three networks from two seeds, 1,000 images.
"""

import pytest
from torch import nn

from benchmarks.reference_agreement import LINF, Agreement, Budget, compare, digits, train
from components.foundation.params import Ratio
from components.threats.l1 import L1
from components.threats.l2 import L2
from components.threats.parts.threat import Threat

pytest.importorskip("pyautoattack", reason="needs the test extra: pip install '.[test]'")

OTHERS = [Threat(norm=L2(), epsilon=Ratio(1, 2)), Threat(norm=L1(), epsilon=Ratio(3, 2))]
THREATS = [LINF, *(pytest.param(threat, marks=pytest.mark.slow) for threat in OTHERS)]
ATTACKS = {"apgd-ce", "apgd-t", "fab-t", "square", "cascade"}


def require_agreement(found: dict[str, Agreement], slack: float) -> None:
    """Above the reference's weakest seed ours may be by the spread of its seeds; of two seeds that may be too little,
    and FAB-T has one, hence the `slack`, a share of the images."""
    assert set(found) == ATTACKS
    table = "\n".join(
        f"{name}: robust accuracy {agreement.accuracies[0]:.3f}, reference {agreement.accuracies[1]}; images that "
        f"{'; '.join(f'{who} {len(images)} {images}' for who, images in agreement.disagreements.items())}"
        for name, agreement in found.items()
    )
    weaker = [name for name, agreement in found.items() if agreement.excess > max(agreement.spread, slack) + 1e-6]
    assert not weaker, f"weaker than the reference: {', '.join(weaker)}\n{table}"
    for name, agreement in found.items():
        missed, right = agreement.disagreements["only_reference_fools"], agreement.ours.right
        assert len(missed) <= max(2, 0.02 * len(right)), f"{name} disagrees\n{table}"


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    """Trained against PGD for a few epochs."""
    return train("pgd", 0, digits(1), epochs=6)


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm.name)
def test_agrees_with_the_reference(threat, robust):
    """100 images, and a short search by both."""
    found = compare(robust, digits(100).test, threat, Budget(steps=20, targets=3, queries=250), reference_seeds=2)
    # Of 100 images one is a point; where FAB ends, which draws nothing, hangs on how a processor rounds by two.
    require_agreement(found, slack=0.02)
    ours, theirs = found["cascade"].ours, found["cascade"].reference[0]
    assert 0.1 < ours.right.float().mean() < 0.95
    assert ours.passes["forward"] < theirs.passes["forward"] and ours.passes["backward"] < theirs.passes["backward"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("training", ["clean", "pgd", "fgsm"])
def test_agrees_with_the_reference_at_standard_settings(training):
    data = digits(150)
    model = train(training, 0, data, epochs=30)
    # The slack is one image.
    require_agreement(compare(model, data.test, LINF, Budget(), reference_seeds=2), slack=0.01)
