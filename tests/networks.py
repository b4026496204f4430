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

ZOO["attention"] = lambda: (seeded(PreNorm, heads=4), noise(1, 5, 6))


class Dense(nn.Module):
    """Concatenation: one layer reads two groups."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.c, self.head = nn.Conv2d(20, 16, 1), nn.Linear(16, 4)

    def forward(self, x):
        a = F.relu(self.a(x))
        return self.head(F.relu(self.c(torch.cat([a, F.relu(self.b(a))], 1))).mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted bottleneck: the depthwise convolution shares the channels of the layer before it."""

    def __init__(self):
        super().__init__()
        self.up, self.dw, self.bn = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16)
        self.down, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.relu(self.down(F.relu(self.bn(self.dw(F.relu(self.up(x))))))).mean((2, 3)))


class Flat(nn.Module):
    """Each channel of the convolution owns sixteen inputs of the linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 16, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(F.relu(self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))))


class Shared(nn.Module):
    """The first layer runs twice on its own output."""

    def __init__(self):
        super().__init__()
        self.a, self.up, self.down, self.head = nn.Linear(16, 16), nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.a(F.relu(self.a(x))))
        return self.head(self.down(F.relu(self.up(x))))


class Tied(nn.Module):
    """A language model's head that is its embedding."""

    def __init__(self):
        super().__init__()
        self.emb, self.up, self.down, self.dec = nn.Embedding(30, 16), nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 30, bias=False)
        self.dec.weight = self.emb.weight

    def forward(self, x):
        return self.dec(self.down(F.relu(self.up(self.emb(x)))))


class Flow(nn.Module):
    """A branch on the data that tracers cannot follow."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(24, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x) if float(x.sum()) > 1e9 else self.c(x)))


class Grouped(nn.Module):
    """A grouped convolution in the middle."""

    def __init__(self):
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.b, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.g(F.relu(self.a(x)))))).mean((2, 3)))


class Joint(nn.MultiheadAttention):
    """Attention of a class of its own, which is left with its joint weight."""


class PreNorm(nn.Module):
    """Two pre-norm Transformer blocks."""

    class Block(nn.Module):
        def __init__(self, width=16, heads=2, kind=nn.MultiheadAttention):
            super().__init__()
            self.norm1, self.attention = nn.LayerNorm(width), kind(width, heads, batch_first=True)
            self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)

        def forward(self, x):
            y = self.norm1(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    def __init__(self, heads=2, kind=nn.MultiheadAttention):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        self.blocks = nn.ModuleList([self.Block(heads=heads, kind=kind), self.Block(heads=heads, kind=kind)])

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Plain(nn.Module):
    """Blocks of equal width without a shortcut, which look removable and are not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(2)))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(F.relu(self.stem(x))).mean((2, 3)))
