"""How far each way of computing a training step lies from the plain one in float64, for every method.

    python benchmarks/golden_steps.py [--write]

The plain steps are files in the tests (`--write` makes them anew, after a change that is meant to change what a method
computes). The table goes into docs/results.md, between its two marks. A GPU, where there is one, computes captured
and compiled steps in float64, and is compared with its own steps as they stand: it draws other random numbers than a
processor.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from components.foundation.arguments import Arguments  # noqa: E402
from components.foundation.storage import write_text  # noqa: E402
from components.numerics.tensor_files import read_tensors  # noqa: E402
from tests.parts.golden_steps import (  # noqa: E402
    CASES,
    Deviation,
    captured_steps,
    compiled_steps,
    deviation,
    golden,
    steps,
    write_golden,
)
from tests.parts.processes import together  # noqa: E402

PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- golden steps: written by benchmarks/golden_steps.py -->", "<!-- end of golden steps -->"
NOT_MEASURED = "not measured: no GPU"


def captured(name: str) -> Deviation | None:
    """Captured steps on a GPU from its own as they stand; None where nothing is captured, or there is no GPU."""
    if not torch.cuda.is_available():
        return None
    found, reason = captured_steps(name, device="cuda")
    return None if reason else deviation(found, steps(name, device="cuda"))


def backend() -> str:
    """What `torch.compile` makes of a network here: kernels for a GPU, or else graphs of operations as they stand."""
    return "inductor" if torch.cuda.is_available() else "aot_eager"


def compiled(name: str) -> str:
    """Compiled steps in float64, in a cell: on a GPU from its own as they stand, else from the golden ones."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found, reason = compiled_steps(name, device, backend())
    if reason:
        return "not compiled"
    return told(deviation(found, steps(name, device="cuda") if device == "cuda" else golden(name)[0]))


def told(found: Deviation | None) -> str:
    """Loss, gradient and pixels, in a cell."""
    if found is None:
        return "not captured" if torch.cuda.is_available() else NOT_MEASURED
    return f"{found.loss:.0e}, {found.gradient:.0e}, {found.pixels:.1%}"


def table() -> str:
    """The rows of all methods."""
    ways = ["float32", "bfloat16", "captured", f"compiled ({backend()})", "two processes"]
    rows = [f"| method | {' | '.join(ways)} |", f"| --- |{' --- |' * len(ways)}"]
    with tempfile.TemporaryDirectory() as folder:
        together(["-m", "tests.parts.golden_steps", folder, *CASES])
        for name in CASES:
            wanted, _ = golden(name)
            shared = deviation(read_tensors(Path(folder) / f"{name}.safetensors")[0], wanted)
            single = deviation(steps(name, torch.float32), wanted)
            half = deviation(steps(name, torch.float32, "bfloat16"), wanted)
            cells = [told(single), told(half), told(captured(name)), compiled(name), told(shared)]
            rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    parser = Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="make the golden files anew")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.write:
        for name in CASES:
            write_golden(name)
    before, rest = PAGE.read_text().split(BEGIN)
    lines = table()
    write_text(PAGE, f"{before}{BEGIN}\n\n{lines}\n\n{END}{rest.split(END)[1]}")
    print(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
