"""Evaluates a model and reads the verdict: python examples/read_the_verdict.py"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import temper

pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels * 255 / 16).round().byte().view(-1, 1, 8, 8)  # [1797, 1, 8, 8] uint8
labels = torch.tensor(classes)

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
model = temper.train(model, images[:1200], labels[:1200], "linf:25/255", epochs=5).model

result = temper.evaluate(model, images[1200:1300], labels[1200:1300], "linf:25/255", budget="quick")
print(result)

rate = result.worst_case
print(f"\nworst case {rate.value:.1%}, between {rate.low:.1%} and {rate.high:.1%}, n = {rate.n}")
print(f"verdict: {result.verdict}")
for reason in result.reasons:
    print(f"- {reason}")
fallen = ((result.outcomes["clean"] == 1) & (result.outcomes["worst_case"] == 0)).nonzero().squeeze(1)
print(f"images that an attack turned: {fallen.tolist()[:10]}")
