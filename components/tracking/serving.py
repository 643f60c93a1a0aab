"""A model file as MLflow keeps and loads it: arrays in, arrays out. Registered models carry this code; no pickle.

To load one needs torch. To keep one does not, and is quicker without.
"""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

PACKAGES = ("numpy", "pydantic", "pyyaml", "safetensors", "torch", "torchvision")


class Classifier:
    """A model in eval mode."""

    def __init__(self, model: "nn.Module") -> None:
        self.model = model

    def predict(self, images: np.ndarray, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Logits [N, classes] of float32 images [N, C, H, W] with pixels in [0, 1]. Error: others."""
        import torch

        with torch.inference_mode():
            return self.model(torch.from_numpy(images)).numpy()


def _load_pyfunc(path: str) -> Classifier:
    """What MLflow calls, by this name, to load the file of a logged model."""
    from components.deployment.pixel_range import refusing
    from components.models.parts.model_file import load_model

    return Classifier(refusing(load_model(path)[0]))


def save(
    path: Path, weights: Path, example: Path, *, image_shape: Sequence[int], num_classes: int, run: str, model_id: str
) -> None:
    """Writes the folder that MLflow keeps of a model: its file, this code, its signature and what it needs installed.

    Args:
        path: the folder, which is made.
        weights: the safetensors file.
        example: a .npy file of a few images [N, C, H, W].
        image_shape: (C, H, W).
        num_classes: number of logits.
        run: the MLflow run it belongs to.
        model_id: its logged model there.
    """
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model  # pyright: ignore[reportPrivateImportUsage]
    from mlflow.types import Schema, TensorSpec

    shapes = (-1, *image_shape), (-1, num_classes)
    images, logits = (Schema([TensorSpec(np.dtype("float32"), shape)]) for shape in shapes)
    # A loader in place of a Python object: nothing is pickled.
    save_model(
        path,
        loader_module="components.tracking.serving",
        data_path=str(weights),
        code_paths=[str(Path(__file__).parents[1])],
        mlflow_model=Model(run_id=run, model_id=model_id),
        signature=ModelSignature(images, logits),
        input_example=np.load(example, allow_pickle=False),
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES],
    )
