"""Measures the neural tangent kernel of a model: python examples/read_a_kernel.py"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import temper

pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)[:50]  # [50, 1, 8, 8], pixels in [0, 1]
labels = torch.tensor(classes)[:50]

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
before = temper.trace_kernel(model, images, "exact", seed=0)

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
after = temper.trace_kernel(model, images, "exact", seed=0)

for name, value in temper.kernel_metrics(after, labels, 10, previous=before, first=before).items():
    print(f"{name:20} {value:10.4g}")
