"""Attacks a model of your own: python examples/attack_your_model.py"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import temper

pixels, classes = load_digits(return_X_y=True)
images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)  # [1797, 1, 8, 8], pixels in [0, 1]
labels = torch.tensor(classes)

# Any module that takes pixels in [0, 1] and returns logits. Normalisation, if there is any, is its first layer.
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[:1200]), labels[:1200]).backward()
    optimizer.step()

test_images, test_labels = images[1200:], labels[1200:]
for attack in ("fgsm", "pgd", {"name": "apgd", "steps": 20}):
    images_adv = temper.attack(model, test_images, test_labels, "linf:25/255", attack)
    right = (model(images_adv).argmax(1) == test_labels).float().mean()
    print(f"{attack}: {right:.1%} right")
