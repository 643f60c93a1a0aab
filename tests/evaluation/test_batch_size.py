"""The batch that an evaluation finds by itself: what memory holds, the same when it goes on."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from components.evaluation import batch_size
from components.evaluation.batch_size import bytes_of_an_image, free_memory, largest_batch, settled_batch
from components.foundation.errors import InputError
from tests.parts.outside_files import evaluate_here, make_case

CPU = torch.device("cpu")


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 64, 2))


IMAGES = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("width", [4, 16, 64])
def test_the_memory_of_an_image_is_what_is_kept_for_its_gradient(width):
    """The input of the convolution and the map after ReLU, which the linear layer sees too: float32."""
    assert bytes_of_an_image(network(width), IMAGES) == 4 * 64 * (3 + width)


@pytest.mark.parametrize("free", [10**6, 10**8, 3 * 10**9])
@pytest.mark.parametrize("each", [10**3, 12_345, 10**5])
def test_the_largest_power_of_two_that_a_quarter_holds(free, each):
    found = largest_batch(free, each)
    assert found & (found - 1) == 0 and found * each <= free / 4
    assert found == 512 or 2 * found * each > free / 4


def test_not_even_one_image_is_one_line():
    with pytest.raises(InputError, match="one image takes 100 MiB, a quarter of the 200 MiB of free memory") as caught:
        largest_batch(200 * 2**20, 100 * 2**20)
    assert "\n" not in str(caught.value)


def test_what_was_found_stays_for_the_same_evaluation(tmp_path, monkeypatch):
    kept = tmp_path / "batch_size.json"
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 10**6)
    first, line = settled_batch("auto", [network(4), network(16)], IMAGES, ["a"], kept)
    assert first == largest_batch(10**6, 4 * 64 * 19) and f"batch_size {first}: " in line
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 10**9)
    assert settled_batch("auto", [network(16)], IMAGES, ["a"], kept) == (first, f"batch_size {first}, as before")
    assert settled_batch("auto", [network(16)], IMAGES, ["b"], kept)[0] == 512
    whole = kept.read_text()
    for broken in ("", "[]", whole.replace("512", "0"), whole.replace("512", "true"), whole.replace("512", '"512"')):
        kept.write_text(broken)
        assert settled_batch("auto", [network(16)], IMAGES, ["b"], kept)[0] == 512


def test_a_number_is_taken_as_it_is(tmp_path):
    assert settled_batch(7, [], IMAGES, [], tmp_path / "no") == (7, "") and not (tmp_path / "no").exists()


def test_some_memory_is_free():
    assert 10**7 < free_memory(CPU) < 10**14


def test_no_pass_of_an_evaluation_is_larger_than_its_batch(tmp_path):
    """Attacks, probes, gallery and the check of the fast search, too."""
    sizes: list[int] = []

    def seen(module: nn.Module, given: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d):
            sizes.append(len(given[0]))

    case = make_case(tmp_path / "case")
    hook = register_module_forward_pre_hook(seen)
    try:
        evaluate_here(case, "--batch-size", "7")
    finally:
        hook.remove()
    assert max(sizes) == 7
