"""Tiny models and images that every test can afford."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.params import Ratio
from components.threats.linf import Linf
from components.threats.parts.threat import Threat
from tests.parts.plain_formulas import smooth_network
from tests.parts.tiny_net import TinyNet


@pytest.fixture(scope="session", autouse=True)
def one_thread_from_the_start() -> Iterator[None]:
    """Fixtures of a module are made before those of a test, and on several threads small networks are slow.

    Processes that tests start have one thread too, and keep a bytecode cache: compiling torch takes seconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run on one thread, so that timing noise and thread counts never decide one."""
    torch.set_num_threads(1)
    deterministic = torch.get_deterministic_debug_mode()
    yield
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode(deterministic)


@pytest.fixture(scope="session", autouse=True)
def tracking_off() -> Iterator[None]:
    """No stage starts a forwarder, unless a test asks for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_TRACKING", "later")
        yield


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an evaluation of two models ran."""
    from tests.parts.outside_files import evaluate_here, make_case

    folder = make_case(tmp_path_factory.mktemp("evaluate") / "case")
    evaluate_here(folder)
    return folder


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def images(rng: torch.Generator) -> Tensor:
    """Twelve 8x8 images, with some pixels at both ends of the range."""
    drawn = torch.rand(12, 1, 8, 8, generator=rng) * 1.4 - 0.2
    return drawn.clamp(0, 1)


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(12) % 3


@pytest.fixture
def tiny() -> TinyNet:
    torch.manual_seed(3)
    return TinyNet()


@pytest.fixture
def smooth() -> nn.Module:
    """A float64 network without kinks."""
    return smooth_network()


@pytest.fixture
def batch(images: Tensor, labels: Tensor) -> Batch:
    """All `images` in float64."""
    return Batch.of(images.double(), labels)


@pytest.fixture
def linf() -> Threat:
    return Threat(norm=Linf(), epsilon=Ratio(8, 255))
