"""Tiny networks that tests share; each takes a batch first and is built with fixed random weights."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Stem, two residual blocks of equal width, a head: groups, blocks and batch norms in 32 x 32 kernels at most."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

        def forward(self, x):
            return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))

    def __init__(self, width=32, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(self.Block(width), self.Block(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Mlp(nn.Module):
    """Two hidden layers around a batch norm."""

    def __init__(self, inputs=20, width=32, classes=4):
        super().__init__()
        self.first, self.norm = nn.Linear(inputs, width), nn.BatchNorm1d(width)
        self.second, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.norm(self.first(x))))))


class Recurrent(nn.Module):
    """A recurrent layer whose last state is classified."""

    def __init__(self, kind=nn.GRU, inputs=12, width=32, classes=4, **options):
        super().__init__()
        self.rnn = kind(inputs, width, batch_first=True, **options)
        self.head = nn.Linear(width * (2 if options.get("bidirectional") else 1), classes)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def seeded(build, *args, **kwargs):
    """A network in eval mode, whose batch norms have seen data-like statistics."""
    torch.manual_seed(0)
    model = build(*args, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


#: name -> (network, a batch of one)
ZOO = {
    "residual": lambda: (seeded(Residual), noise(1, 3, 8, 8)),
    "mlp": lambda: (seeded(Mlp), noise(1, 20)),
    "gru": lambda: (seeded(Recurrent), noise(1, 7, 12)),
}
