"""A task whose network reads weights in other ways than by calling their layer: attention's own projection, and two layers with one weight."""

import torch
from torch import nn

METRIC_NAME = "top-1 accuracy"


class Attentive(nn.Module):
    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.enter, self.again, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4)
        self.again.weight = self.enter.weight
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        x = torch.relu(self.enter(x)) + self.again(x)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def model():
    return Attentive(0).eval()


def example_input():
    return torch.zeros(1, 5, 8)


def data(split):
    generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
    for _ in range(4):
        inputs = torch.randn(32, 5, 8, generator=generator)
        with torch.no_grad():
            yield inputs, model()(inputs).argmax(1)


def students(teacher):
    return {"small": lambda: Attentive(1)}
