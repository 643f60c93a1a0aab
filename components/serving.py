"""A model file as MLflow loads it: arrays in, arrays out. Registered models carry this code; nothing is pickled."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from components.model_file import load_model


class Classifier:
    """A model in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def predict(self, images: np.ndarray, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Logits [N, classes] of float32 images [N, C, H, W] with pixels in [0, 1]."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(images)).numpy()


def _load_pyfunc(path: str) -> Classifier:
    """What MLflow calls, by this name, to load the file of a logged model."""
    return Classifier(load_model(path)[0])
