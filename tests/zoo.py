"""Small networks of every family that the project names, each with an example batch of one and random weights."""

import torch
import torch.nn.functional as F
from networks import noise
from torch import nn

from autoslim import plugins
from autoslim.inputs import call, distance


class Classifier(nn.Module):
    """Word numbers -> embedding -> recurrent layer -> classes."""

    def __init__(self, kind):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(60, 24), kind(24, 32, 2, batch_first=True), nn.Linear(32, 4)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[0].mean(1))


class Translator(nn.Module):
    """Encoder and decoder GRU; the encoder's last state starts the decoder."""

    def __init__(self, words=50, width=32):
        super().__init__()
        self.source, self.target = nn.Embedding(words, 24), nn.Embedding(words, 24)
        self.encoder, self.decoder = nn.GRU(24, width, batch_first=True), nn.GRU(24, width, batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, source, target):
        _, state = self.encoder(self.source(source))
        return self.head(self.decoder(self.target(target), state)[0])


class Acoustic(nn.Module):
    """Conv1d and a bidirectional LSTM with a CTC head: (batch, features, frames) -> (frames, batch, classes)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(40, 48, 5, 2, 2), nn.BatchNorm1d(48), nn.ReLU(), nn.Conv1d(48, 48, 3, padding=1), nn.ReLU())
        self.rnn = nn.LSTM(48, 32, 2, bidirectional=True)
        self.head = nn.Linear(64, 12)

    def forward(self, x):
        return self.head(self.rnn(self.conv(x).permute(2, 0, 1))[0]).log_softmax(-1)


class Keywords(nn.Module):
    """Depthwise separable keyword spotter (DS-CNN)."""

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                    nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                )
                for _ in range(3)
            )
        )  # fmt: skip
        self.head = nn.Linear(width, 12)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Speaker(nn.Module):
    """LSTM whose last state becomes a unit vector."""

    def __init__(self):
        super().__init__()
        self.rnn, self.embed = nn.LSTM(20, 32, 3, batch_first=True), nn.Linear(32, 24)

    def forward(self, x):
        return F.normalize(self.embed(self.rnn(x)[1][0][-1]), dim=-1)


class Synthesiser(nn.Module):
    """Letters -> encoder -> frames of a spectrogram, by transposed convolutions."""

    def __init__(self):
        super().__init__()
        self.embed, self.conv = nn.Embedding(40, 32), nn.Conv1d(32, 48, 5, padding=2)
        self.up = nn.ConvTranspose1d(48, 32, 4, 2, 1)
        self.tail = nn.Sequential(nn.LeakyReLU(0.1), nn.Conv1d(32, 32, 3, padding=1), nn.Tanh(), nn.Conv1d(32, 20, 1))

    def forward(self, letters):
        return self.tail(self.up(F.relu(self.conv(self.embed(letters).transpose(1, 2)))))


class Detector(nn.Module):
    """A backbone with a pyramid and three heads; outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3, 2, 1), nn.Conv2d(24, 32, 3, 2, 1)
        self.side, self.top = nn.Conv2d(24, 32, 1), nn.Conv2d(32, 32, 1)
        self.heads = nn.ModuleDict(
            {"boxes": nn.Conv2d(32, 4, 3, padding=1), "classes": nn.Conv2d(32, 5, 3, padding=1), "score": nn.Conv2d(32, 1, 1)}
        )

    def forward(self, x):
        low = F.relu(self.a(x))
        high = self.top(F.relu(self.b(low)))
        levels = [F.relu(self.side(low) + F.interpolate(high, scale_factor=2.0)), F.relu(high)]
        return {name: torch.cat([head(level).flatten(2) for level in levels], 2) for name, head in self.heads.items()}


class Generator(nn.Module):
    """A decoder that makes images from noise."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(16, 32 * 16)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(32, 24, 4, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(24, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, z):
        return self.body(self.start(z).view(len(z), -1, 4, 4))


class Recommender(nn.Module):
    """Two towers over embeddings, and their dot product."""

    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(40, 16), nn.Embedding(30, 16)
        self.user, self.item = (nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(2))

    def forward(self, user, item):
        return (self.user(self.users(user)) * self.item(self.items(item))).sum(-1)


class MultiTask(nn.Module):
    """One trunk, a classifier and a regressor, in a tuple."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(20, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        self.kind, self.value = nn.Linear(32, 5), nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        x = self.trunk(x)
        return self.kind(x), self.value(x)


class Siamese(nn.Module):
    """Two inputs through the same weights."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16)), nn.Linear(32, 2)

    def forward(self, left, right):
        return self.head(torch.cat([self.body(left), self.body(right)], -1).relu())


class Listed(nn.Module):
    """Weights in a ParameterList, used by functions."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(0.2 * torch.randn(24, 12)), nn.Parameter(0.2 * torch.randn(20, 24))])
        self.scale = nn.Parameter(torch.rand(20) + 0.5)
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        for weight in self.weights:
            x = torch.relu(F.linear(x, weight))
        return self.head(x * self.scale)


class Custom(nn.Module):
    """A layer of the user's own: weight as (inputs, outputs), multiplied by an operator."""

    class Product(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.matrix, self.shift = nn.Parameter(0.2 * torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

        def forward(self, x):
            return x @ self.matrix + self.shift

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = self.Product(12, 32), self.Product(32, 24), nn.Linear(24, 3)

    def forward(self, x):
        return self.head(F.gelu(self.two(F.gelu(self.one(x)))))


class Attention(nn.Module):
    """Attention that a user wrote, whose number of channels per head is a number of its own."""

    def __init__(self, width=24, heads=4):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.embed, self.qkv, self.out = nn.Linear(6, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.embed(x)
        batch, positions, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(batch, positions, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.head((x + self.out((weights @ v).transpose(1, 2).flatten(2))).mean(1))


class Cell(nn.Module):
    """A recurrent cell in a loop of the user's."""

    def __init__(self, kind=nn.GRUCell):
        super().__init__()
        self.cell, self.head = kind(10, 24), nn.Linear(24, 3)

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Shuffle(nn.Module):
    """Channel shuffle between grouped convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 1, groups=3)
        self.c, self.d, self.head = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 32, 1), nn.Linear(32, 4)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x))))
        n, c, h, w = x.shape
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(F.relu(self.d(self.c(x))).mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convolutions and group norms in a row."""

    def __init__(self):
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 48, 3, padding=1, groups=8)
        self.norm, self.b, self.head = nn.GroupNorm(8, 48), nn.Conv2d(48, 24, 1), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.norm(self.g(F.relu(self.a(x))))))).mean((2, 3)))


class Frozen(nn.Module):
    """A part whose parameters are not trained."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU()), nn.Linear(24, 3)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x))


def encoder(norm_first):
    """PyTorch's own Transformer encoder on numbers."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    return nn.Sequential(nn.Linear(6, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 4))


class Plain(nn.Module):
    """``network``'s first output, without caches and classes of a library."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x, return_dict=False)[0]


def bert():
    import transformers

    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=32,
        num_labels=3,
    )
    return Plain(transformers.BertForSequenceClassification(config))


def gpt2():
    import transformers

    config = transformers.GPT2Config(
        vocab_size=40, n_positions=32, n_embd=64, n_layer=2, n_head=4, use_cache=False, bos_token_id=0, eos_token_id=1
    )
    return Plain(transformers.GPT2LMHeadModel(config))


def wav2vec2():
    import transformers

    config = transformers.Wav2Vec2Config(
        vocab_size=12, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, conv_dim=(32, 32, 32),
        conv_kernel=(10, 3, 3), conv_stride=(5, 2, 2), num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=16,
    )  # fmt: skip
    return Plain(transformers.Wav2Vec2ForCTC(config))


TOKENS = torch.arange(2, 14)[None]
IMAGE = noise(1, 3, 16, 16)
#: name -> (builder, example, least share of the parameters that some structural technique reaches)
SMALL = {
    "lstm": (lambda: Classifier(nn.LSTM), TOKENS, 0.9),
    "gru": (lambda: Classifier(nn.GRU), TOKENS, 0.9),
    "translator": (Translator, (TOKENS, TOKENS[:, :7]), 0.9),
    "acoustic": (Acoustic, noise(1, 40, 30), 0.9),
    "keywords": (Keywords, noise(1, 1, 49, 10), 0.9),
    "speaker": (Speaker, noise(1, 15, 20), 0.9),
    "synthesiser": (Synthesiser, TOKENS, 0.9),
    "detector": (Detector, IMAGE, 0.9),
    "generator": (Generator, noise(1, 16), 0.9),
    "recommender": (Recommender, (torch.tensor([3]), torch.tensor([5])), 0.9),
    "multitask": (MultiTask, noise(1, 20), 0.9),
    "siamese": (Siamese, (noise(1, 12), noise(1, 12, seed=1)), 0.9),
    "listed": (Listed, noise(1, 12), 0.9),
    "custom": (Custom, noise(1, 12), 0.9),
    "attention": (Attention, noise(1, 7, 6), 0.85),  # the tiny network's ends are between layer norms
    "gru cell": (Cell, noise(1, 5, 10), 0.9),
    "lstm cell": (lambda: Cell(nn.LSTMCell), noise(1, 5, 10), 0.9),
    "shuffle": (Shuffle, IMAGE, 0.9),
    "grouped": (Grouped, IMAGE, 0.9),
    "frozen": (Frozen, noise(1, 12), 0.9),
    "pre-norm": (lambda: encoder(True), noise(1, 7, 6), 0.9),
    "post-norm": (lambda: encoder(False), noise(1, 7, 6), 0.9),
    "bert": (bert, TOKENS, 0.9),
    "gpt2": (gpt2, TOKENS, 0.9),
    "wav2vec2": (wav2vec2, noise(1, 1600), 0.9),
}


def ship_and_compare(draft, example, folder):
    """Ships a draft, in float and with its bits: what ONNX Runtime makes of both files is what the draft's model makes. Returns both."""
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    base, path = folder / "base.onnx", folder / "model.onnx"
    runtime.export(draft, example, [example], base)
    with torch.no_grad():
        expected = call(draft.model, example)
    assert distance(runtime.open(base, 1).run(example), expected) < 1e-3
    runtime.finish(draft, base, [example], path)
    assert distance(runtime.open(path, 1).run(example), expected) < 0.25, "random weights have no margin, but are no noise either"
    return base, path


#: technique -> a value that changes something, on any unit
VALUES = {
    "student": {"width": 0.5, "depth": 0.5},
    "regularised": {"strength": 0.1, "steps": 2},
    "channels": 0.5,
    "heads": 0.5,
    "depth": True,
    "rank": 0.25,
    "sparsity": 0.5,
    "gradual": {"share": 0.5, "steps": 2},
    "codebook": 4,
    "qat": {"format": 8, "steps": 2},
    "bits": 8,
}
