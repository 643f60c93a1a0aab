"""One lap of `ntk_speed.py` by neural-tangents, in a Python that has it: JAX and no torch.

    python benchmarks/ntk_neural_tangents.py WEIGHTS.npz KIND GIB

The ResNet-18 of the project from its weights, written for JAX; structured derivatives, compiled, and compiled before
they are timed, since a user compiles once.
"""

import argparse
import json
import resource
import time
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


def imported(name: str) -> Any:
    """A module of the other Python; None here, where `--help` needs none of them."""
    with suppress(ImportError):
        return import_module(name)


jax, jnp, nt = imported("jax"), imported("jax.numpy"), imported("neural_tangents")
source_info_util = imported("jax._src.source_info_util")

EPSILON = 1e-5
AXES = ("NCHW", "OIHW", "NCHW")


class OneLine(argparse.ArgumentParser):
    """Says a mistake in one line. The project's own parser is not here: this Python has JAX alone."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def convolution(weights: Any, name: str, values: Any, stride: int) -> Any:
    weight = weights[f"{name}.weight"]
    edge = weight.shape[2] // 2
    edges = [(edge, edge)] * 2
    return jax.lax.conv_general_dilated(values, weight, (stride, stride), edges, dimension_numbers=AXES)


def batch_norm(weights: Any, statistics: Any, name: str, values: Any) -> Any:
    mean, variance = statistics[f"{name}.running_mean"], statistics[f"{name}.running_var"]
    scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    channels = (1, -1, 1, 1)
    normal = (values - mean.reshape(channels)) * jax.lax.rsqrt(variance + EPSILON).reshape(channels)
    return normal * scale.reshape(channels) + shift.reshape(channels)


def logits(statistics: Any, weights: Any, images: Any) -> Any:
    def layer(name: str, norm: str, values: Any, stride: int) -> Any:
        return batch_norm(weights, statistics, norm, convolution(weights, name, values, stride))

    values = jax.nn.relu(layer("features.0", "features.1", images, 1))
    blocks = sorted({int(name.split(".")[2]) for name in weights if name.startswith("features.3.")})
    for number in blocks:
        block = f"features.3.{number}"
        down = f"{block}.downsample.0"
        stride = 2 if f"{down}.weight" in weights else 1
        hidden = jax.nn.relu(layer(f"{block}.conv1", f"{block}.bn1", values, stride))
        hidden = layer(f"{block}.conv2", f"{block}.bn2", hidden, 1)
        shortcut = layer(down, f"{block}.downsample.1", values, stride) if stride == 2 else values
        values = jax.nn.relu(hidden + shortcut)
    return values.mean((2, 3)) @ weights["head.linear.weight"].T + weights["head.linear.bias"]


def main(path: str, kind: str, gib: float) -> None:
    arrays = {name: jnp.asarray(each) for name, each in np.load(path).items()}
    images = arrays.pop("images")
    own = {name.removeprefix("model."): each for name, each in arrays.items() if each.ndim}
    statistics = {name: each for name, each in own.items() if "running" in name}
    weights = {name: each for name, each in own.items() if name not in statistics and not name.startswith("normalize")}
    axes: dict[str, Any] = {"trace_axes": (-1,)} if kind == "trace" else {"trace_axes": ()}
    # Its structured derivatives look for two names where JAX no longer has them.
    jax.interpreters.ad.source_info_util, jax.interpreters.ad.config = source_info_util, jax.config
    function = nt.empirical_ntk_fn(
        partial(logits, statistics),
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
        vmap_axes=0,
        **axes,
    )
    compiled = jax.jit(function).lower(images, None, weights).compile()
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    limit = int(gib * 2**30) + before
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    cpu, wall = time.process_time(), time.perf_counter()
    kernel = np.asarray(compiled(images, None, weights), np.float64)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if kind == "trace":
        # It averages over the logits.
        kernel *= len(weights["head.linear.bias"])
        trace = np.trace(kernel)
    else:
        trace = np.einsum("iicc->", kernel)
    row = {"cpu": cpu, "wall": wall, "mib": max(0, peak - before) / 2**20}
    print(json.dumps(row | {"trace": float(trace), "norm": float(np.linalg.norm(kernel.ravel()))}))


if __name__ == "__main__":
    parser = OneLine(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("weights", help="the network's weights and images, .npz")
    parser.add_argument("kind", help="of the kernel: trace or full")
    parser.add_argument("gib", type=float, help="memory that it may take")
    given = parser.parse_args()
    main(given.weights, given.kind, given.gib)
