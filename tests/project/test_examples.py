"""The examples run, and print what they promise."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTED = {
    "attack_your_model": ["fgsm: ", "pgd: ", "% right"],
    "train_by_your_method": ["standard: clean ", "half clean: clean ", "under attack"],
    "read_the_verdict": ["Measurement: model ", "worst case ", "n = 100", "images that an attack turned: "],
    "read_a_kernel": ["effective_rank", "alignment", "distance_first"],
}


def test_every_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert all(text in printed for text in PRINTED[name])
    assert (EXAMPLES / f"{name}.py").read_text().startswith('"""')
