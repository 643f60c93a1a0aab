"""Two optimizer steps of every method on one small batch: what any way of computing them is held against.

As one of several processes, in float64: `python -m tests.parts.golden_steps OUT NAME...`.
"""

import math
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.data.batch import Batch
from components.foundation.storage import write_json
from components.methods.parts.contract import Method
from components.methods.parts.mixed_batch import MixedMethod
from components.models.parts.batch_norm import synchronised
from components.numerics import parallel
from components.numerics.tensor_files import read_tensors, write_tensors
from components.schedules.constant import Constant
from components.training import loop, recording
from components.training.capture import Capture
from components.wrappers.awp import Awp
from components.wrappers.converge_smooth import Smoothed
from tests.parts.method_members import MEMBERS, WRAPPED, b_mtard, matched, smoothed, taught_attack
from tests.parts.parallel_worker import LINF, recipe
from tests.parts.tape_graph import TapeGraph
from tests.parts.tiny_net import TinyNet

GOLDEN = Path(__file__).parent / "golden"
# At the second step what a method remembers of the first takes part.
STEPS = 2
SEED = 0
# Other draws of the same steps: where a device draws other numbers, losses are compared over these.
OTHER_SEEDS = range(1, 33)

CASES: dict[str, Callable[[], Method]] = {
    **MEMBERS,
    **{name: WRAPPED[name] for name in ("smoothed_fgsm_rs", "smoothed_trades")},
    "smoothed_pgd_at": lambda: smoothed("pgd_at", weight_centralisation=0.0),
    "awp": lambda: Awp(gamma=0.05, start=0).build(MEMBERS["pgd_at"]()),
    "igdm_adaad": WRAPPED["igdm_adaad"],
    # What a recipe may prefer to the published rules, each alone.
    "b_mtard_cold": lambda: b_mtard(temperature_min=0.2, temperature_step=0.1),
    "b_mtard_solve": lambda: b_mtard(temperature_rule="solve"),
    "b_mtard_validation": lambda: b_mtard(weight_rule="validation"),
    "b_mtard_fixed": lambda: b_mtard(weight_rule="fixed", robust_weight=0.8),
    "b_mtard_labels": lambda: b_mtard(label_weight=0.5),
    "b_mtard_held": lambda: b_mtard(attack=taught_attack("kl_teacher_held")),
    "igdm_b_mtard": lambda: matched("b_mtard"),
}


class Unmeasured:
    """Stands in for a validation."""

    def __call__(self, model: nn.Module, epoch: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


NOT_CAPTURED = {
    "free_at": "hands its perturbation from one step to the next",
    "fgsm_mep": "makes room for images that it has not seen yet",
    "mixed": "counts its steps",
    "ensemble_at": "counts its steps",
    "smoothed_fgsm_rs": "decides for each batch whether to pull",
    # Its average is made in the first step.
    "adr": "nothing was recorded",
}
"""The cases of which nothing is recorded, and why."""


class Deviation(NamedTuple):
    """How far steps lie from the golden ones: of the largest loss, of the last gradient's and the weights' length, and
    the share of pixels that are off in the images trained on (0 without an attack)."""

    loss: float
    gradient: float
    weights: float
    pixels: float


def steps(
    name: str,
    dtype: torch.dtype = torch.float64,
    precision: str = "float32",
    device: str = "cpu",
    capture: Capture | None = None,
    seed: int = SEED,
    prepared: Callable[[nn.Module], object] | None = None,
) -> dict[str, Tensor]:
    """The losses of each step [STEPS], the last gradients and the weights after it, and what was trained on in the last
    step beside the clean images, [P, N, C, H, W]: all in float64 and on the CPU. `prepared` is called with each network
    before the first step."""
    torch.manual_seed(1)
    model, method = TinyNet().to(device, dtype), CASES[name]()
    make_ready(method)
    if dtype == torch.float64:
        method = method.double()
    if prepared is not None:
        for network in (model, *method.networks()):
            prepared(network)
    fields = replace(recipe(name, 4), average=None, precision=precision)
    state = loop.start(model, method, Unmeasured(), fields, seed)
    state.capture = capture or Capture()
    plan, whole = loop.Plan(fields, Constant(), LINF, seed), _batch(dtype, device)
    batch = whole.part(parallel.rank(), parallel.world_size())
    seen = _Seen(model)
    losses, gradients = list[Tensor](), dict[str, Tensor]()
    with synchronised(model, *state.method.companions()):
        model.train()
        state.method.train()
        state.method.begin_epoch(2)
        state.capture.begin_epoch(model, state.method, state.rng)
        for _ in range(STEPS):
            seen.images.clear()
            gradient = state.capture.gradient(lambda batch: loop._gradient(state, plan, batch), batch)
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            losses.append(loop._update(state, gradient, loop._Speed(0.05, 0.9)).loss.total)
    attacked = [one for one in seen.images if not torch.equal(one, batch.images)]
    images = torch.stack([parallel.interleaved(one) for one in attacked]) if attacked else whole.images[:0]
    found = {"loss": torch.stack(losses), "images": images}
    found |= {f"gradient/{n}": g for n, g in gradients.items()}
    found |= {f"weights/{n}": p for n, p in model.named_parameters()}
    return {key: tensor.detach().double().cpu() for key, tensor in found.items()}


def captured_steps(
    name: str, dtype: torch.dtype = torch.float64, precision: str = "float32", device: str = "cpu"
) -> tuple[dict[str, Tensor], str]:
    """The same, the last step replayed from a recording, on a CPU from a tape; and why nothing was, or an empty text.

    Whoever compares captured steps has to look at the second: without a recording it is the plain step again.
    """
    reasons = list[str]()
    capture = Capture("auto", reasons.append, None if device.startswith("cuda") else TapeGraph)
    before, recording.WARM_UP = recording.WARM_UP, STEPS - 1
    try:
        found = steps(name, dtype, precision, device, capture)
    finally:
        recording.WARM_UP = before
    kinds = [kind for one in (capture.step, capture.attack) if one is not None for kind in one.kinds.values()]
    if any(kind.inputs is not None for kind in kinds):
        return found, ""
    return found, " ".join(reasons) or "nothing was recorded"


def compiled_steps(name: str, device: str = "cpu", backend: str = "aot_eager") -> tuple[dict[str, Tensor], str]:
    """The same with all networks through `torch.compile`; and why not, or an empty text.

    The CPU's `aot_eager` makes the graphs of passes forwards and back, and runs their operations as they stand.
    """
    # It takes seconds to import.
    import torch._dynamo as dynamo
    import torch._functorch.config as differentiation

    compiler, calls = dynamo.lookup_backend(backend), [0]

    def counted(graph: Any, inputs: Any) -> Callable[..., Any]:
        run = compiler(graph, inputs)

        def counted_run(*args: Any) -> Any:
            calls[0] += 1
            return run(*args)

        return counted_run

    dynamo.reset()
    try:
        # Some methods go back through one graph twice; and weights that are put in for a pass are no leaves.
        with differentiation.patch(donated_buffer=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            # With a full graph, a pass that cannot be compiled is an error, and not one as it stands.
            found = steps(name, device=device, prepared=lambda net: net.compile(backend=counted, fullgraph=True))
    except RuntimeError as error:
        if "double backward" not in str(error):
            raise
        return {}, str(error)
    assert calls[0] >= STEPS, calls
    return found, ""


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What stands in the file of a case: its steps, and the first losses with other draws."""
    return read_tensors(GOLDEN / f"{name}.safetensors")


def write_golden(name: str) -> None:
    """Writes the file of a case."""
    losses = [float(steps(name, seed=seed)["loss"][0]) for seed in OTHER_SEEDS]
    write_tensors(GOLDEN / f"{name}.safetensors", steps(name), {"first_losses": losses})


def deviation(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], off: float = 1e-3) -> Deviation:
    """How far `found` lies from `wanted`, where a pixel counts that is more than `off` away; infinitely where names or
    shapes differ."""
    shapes = [{key: tensor.shape for key, tensor in tensors.items()} for tensors in (found, wanted)]
    if shapes[0] != shapes[1]:
        return Deviation(*[math.inf] * 4)
    loss = float(((found["loss"] - wanted["loss"]) / wanted["loss"]).abs().max())
    apart = {group: _flat(found, group) - _flat(wanted, group) for group in ("gradient/", "weights/")}
    gradient, weights = (float(apart[group].norm() / _flat(wanted, group).norm()) for group in apart)
    moved = ((found["images"] - wanted["images"]).abs() > off).double()
    return Deviation(loss, gradient, weights, float(moved.mean()) if len(moved) else 0.0)


def _flat(tensors: Mapping[str, Tensor], group: str) -> Tensor:
    return torch.cat([tensor.flatten() for key, tensor in sorted(tensors.items()) if key.startswith(group)])


def make_ready(method: Method) -> None:
    """Attacks have begun, losses have a course to be held against, and a student has been validated."""
    method.end_validation({"robust_accuracy": 0.3, "clean_accuracy": 0.7})
    for layer in method.modules():
        if isinstance(layer, MixedMethod):
            layer.fields = replace(layer.fields, delay=0)
        if isinstance(layer, Smoothed):
            layer.means.copy_(torch.tensor([1.0, 1.02, 1.4]))


def _batch(dtype: torch.dtype, device: str) -> Batch:
    """Eight images, bright where their class says, whose pixels are the same numbers in every precision."""
    rng = torch.Generator().manual_seed(5)
    pixels, labels = torch.randint(0, 160, (8, 1, 8, 8), generator=rng), torch.arange(8) % 3
    for index, label in enumerate(labels.tolist()):
        pixels[index, 0, 2 * label : 2 * label + 3] += 90
    images = (pixels / 255).to(device, dtype)
    return Batch.of(images, labels.to(device))._replace(total=len(labels))


class _Seen:
    """The batches that the model sees in training mode. They are not looked at before the end: no step that asks a
    device for an answer can be captured."""

    def __init__(self, model: nn.Module) -> None:
        self.images = list[Tensor]()
        model.register_forward_pre_hook(self._note)

    def _note(self, model: nn.Module, args: tuple[Tensor, ...]) -> None:
        if model.training:
            self.images.append(args[0].detach().clone())


def main() -> None:
    torch.set_num_threads(1)
    parallel.join(torch.device("cpu"))
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        found = steps(name)
        if parallel.rank() == 0:
            write_tensors(folder / f"{name}.safetensors", found)
    write_json(folder / f"{parallel.rank()}.json", {"processes": parallel.world_size()})
    parallel.leave()


if __name__ == "__main__":
    main()
