"""Trains a model by a method of your own: python examples/train_by_your_method.py"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import temper


class HalfClean(temper.Method):
    """The mean of the loss on clean images and on images attacked by one step."""

    def loss(self, model: nn.Module, batch: temper.Batch, threat: temper.Threat, rng: temper.Rng) -> temper.Loss:
        images_adv = temper.attack(model, batch.images, batch.labels, threat, "fgsm")
        clean = cross_entropy(model(batch.images), batch.labels)
        adversarial = cross_entropy(model(images_adv), batch.labels)
        parts: dict[str, Tensor] = {"loss_clean": clean.detach(), "loss_adversarial": adversarial.detach()}
        return temper.Loss((clean + adversarial) / 2, parts)


pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels * 255 / 16).round().byte().view(-1, 1, 8, 8)  # [1797, 1, 8, 8] uint8
labels = torch.tensor(classes)

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
for name, method in {"standard": "standard", "half clean": HalfClean()}.items():
    trained = temper.train(model, images[:1200], labels[:1200], "linf:25/255", method=method, epochs=5)
    last = trained.history[-1]
    print(f"{name}: clean {last['clean_accuracy']:.1%}, under attack {last['robust_accuracy']:.1%}")
