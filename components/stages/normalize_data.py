"""Stage normalize_data: three disjoint splits and the statistics of train, in data/normalized.safetensors."""

from pathlib import Path

from components.data.decoding import chunks, in_memory
from components.data.dividing import Division, divide, left_out, limited
from components.data.normalization import Scaling, fit_normalization
from components.data.splits import LabelledImages, Split, Splits, digest, read_source, summary, write_splits
from components.evaluation.few_classes import require_classes
from components.foundation.arguments import take_none
from components.foundation.params import Params, strict
from components.foundation.storage import sha256, write_json
from components.numerics.random_numbers import derived
from components.stages import run
from components.tracking.journal import Journal

RAW = Path("data/raw.safetensors")
NORMALIZED = Path("data/normalized.safetensors")
METRICS = Path("metrics/data.json")
LESS_HELD_OUT = "lower normalize_data.validation or test_limit, or image_size"
STATISTICS_IMAGES = 10_000
"""Of a streamed train split: with so many, the statistics differ in the third digit."""


@strict
class NormalizeSection(Division):
    """How the images are divided (see `dividing.Division`) and which statistics the models' first layer applies."""

    method: Scaling  # Which statistics of the train split the models' first layer applies.


def read(params: Params) -> NormalizeSection:
    """The stage's section, checked."""
    return params.typed(NormalizeSection, "normalize_data")


def main(params: Params, journal: Journal) -> None:
    """Writes data/normalized.safetensors (pixels stay uint8) and metrics/data.json."""
    section = read(params)
    name, source = read_source(RAW)
    attacked = {key: params.get("evaluate_attacks", key) for key in ("attacks", "cascade")}
    require_classes(attacked, len(source.classes), name)
    parts, dropped = divide(source, section, params.seed)
    held_out = in_memory(parts["validation"], LESS_HELD_OUT), in_memory(parts["test"], LESS_HELD_OUT)
    normalization = fit_normalization(chunks(sample(parts["train"], params.seed)), section.method)
    splits = Splits(name, source.classes, parts["train"], *held_out, normalization, parts.get("extra"))
    write_splits(NORMALIZED, splits)
    cut = left_out(source, section)
    write_json(METRICS, summary(splits, dropped, cut))
    sizes = {part: len(images) for part, images in splits.parts.items()}
    journal.note(f"{name}: {sizes}, {sum(dropped.values())} duplicates across splits dropped")
    for split, (few, many) in cut.items():
        key = "train_limit" if split == "train" else "test_limit"
        journal.note(f"{name}: normalize_data.{key} leaves out {few} of {many} {split} images")
    journal.metrics({f"num_{part}": size for part, size in sizes.items()} | {"num_dropped": sum(dropped.values())})
    journal.dataset(name, digest(splits.parts), NORMALIZED, splits.image_shape, splits.classes, sizes)
    journal.upstream({"raw": sha256(RAW)})
    journal.produced({"normalized": sha256(NORMALIZED)})
    journal.artifact(METRICS)


def sample(train: Split, seed: int) -> Split:
    """What the statistics are taken of: everything in memory, a part of the files of a streamed split."""
    return (
        train if isinstance(train, LabelledImages) else limited(train, STATISTICS_IMAGES, derived(seed, "statistics"))
    )


if __name__ == "__main__":
    take_none("normalize_data", __doc__)
    run("normalize_data", main)
