"""Agreement with pyautoattack, the reference implementation of AutoAttack as a package.

`benchmarks/reference_agreement.py` makes the full table: three networks from two seeds, 1,000 images.
"""

import pytest
from torch import nn

from benchmarks.reference_agreement import LINF, Agreement, Budget, compare, digits, train
from components.params import Ratio
from components.threat import Threat

pytest.importorskip("pyautoattack", reason="needs the test extra: pip install 'temper[test]'")

ATTACKS = {"apgd-ce", "apgd-t", "fab-t", "square", "cascade"}


def require_agreement(found: dict[str, Agreement], num_images: int, allowed: int) -> None:
    """Ours may leave `allowed` images more standing than the reference's weakest seed."""
    assert set(found) == ATTACKS
    table = "\n".join(
        f"{name}: robust accuracy {agreement.accuracies[0]:.3f}, reference {agreement.accuracies[1]}; images that "
        f"{'; '.join(f'{who} {len(images)} {images}' for who, images in agreement.disagreements.items())}"
        for name, agreement in found.items()
    )
    weaker = [name for name, agreement in found.items() if agreement.excess * num_images > allowed + 0.5]
    assert not weaker, f"weaker than the reference: {', '.join(weaker)}\n{table}"
    for name, agreement in found.items():
        only_reference = agreement.disagreements["only_reference_fools"]
        assert len(only_reference) <= max(2, num_images // 50), f"{name} disagrees\n{table}"


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    """Trained against PGD for a few epochs."""
    return train("pgd", 0, digits(1), epochs=6)


@pytest.mark.parametrize("threat", [LINF, Threat(norm="l2", epsilon=Ratio(1, 2))], ids=lambda threat: threat.norm)
def test_agrees_with_the_reference(threat, robust):
    """100 images, a short search by both: what it leaves standing may differ by an image."""
    found = compare(robust, digits(100).test, threat, Budget(steps=20, targets=3, queries=250), reference_seeds=2)
    require_agreement(found, 100, allowed=1)
    ours, theirs = found["cascade"].ours, found["cascade"].reference[0]
    assert 0.1 < ours.right.float().mean() < 0.95
    assert ours.passes["forward"] < theirs.passes["forward"] and ours.passes["backward"] < theirs.passes["backward"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("training", ["clean", "pgd", "fgsm"])
def test_agrees_with_the_reference_at_standard_settings(training):
    data = digits(300)
    model = train(training, 0, data, epochs=30)
    require_agreement(compare(model, data.test, LINF, Budget(), reference_seeds=2), 300, allowed=0)
