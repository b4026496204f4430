"""Texts for a Hugging Face network: tokenised, cut and padded to one length; or random tokens."""

import inspect
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from autoslim.errors import UserError
from autoslim.tasks import _csv, _huggingface, _source

ALLOWED = {"csv": "FOLDER (train.csv, val.csv, test.csv with columns text,label)", "random": "N (N batches of random tokens)"}
LENGTH = 128
#: in the order of forward()
NAMES = tuple(inspect.signature(_huggingface.Texts.forward).parameters)[1:]
WORDS = "the quick brown fox jumps over the lazy dog and runs home before it gets dark "


def example(name: str, length: str) -> dict[str, Tensor]:
    """One sentence without padding: each input (1, length)."""
    positions = _length(name, length)
    return _encode(name, [WORDS * positions], positions)


def batches(split: str, name: str, data: str, length: str) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
    """Batches of (inputs (batch, length), class numbers (batch,) or None)."""
    kind, where = _source.read(data, ALLOWED)
    positions = _length(name, length)
    if kind == "random":
        return _random(name, positions, _source.random_batches(where), _source.generator(split))
    names = None if _huggingface.is_encoder(name) else _huggingface.config(name).label2id
    return ((_encode(name, texts, positions), targets) for texts, targets in _csv.batches(split, where, names))


def text(name: str) -> dict[str, Any]:
    """The unknown word's number, else that of the padding; the special ones stay."""
    found = _tokenizer(name)
    unknown = found.pad_token_id if found.unk_token_id is None else found.unk_token_id
    return {"unknown": unknown, "keep": list(found.all_special_ids), "input": "input_ids"}


def _random(name: str, length: int, count: int, generator: torch.Generator) -> Iterator[tuple[dict[str, Tensor], None]]:
    """The example's form with random words: its special tokens stay where they are."""
    model = {key: value.repeat(_source.BATCH, 1) for key, value in example(name, str(length)).items()}
    tokenizer = _tokenizer(name)
    special = set(tokenizer.all_special_ids)
    words = torch.tensor(sorted(set(range(min(len(tokenizer), _huggingface.config(name).vocab_size))) - special))
    fixed = torch.isin(model["input_ids"], torch.tensor(sorted(special - {tokenizer.unk_token_id})))
    for _ in range(count):
        chosen = words[torch.randint(len(words), fixed.shape, generator=generator)]
        yield {**model, "input_ids": torch.where(fixed, model["input_ids"], chosen)}, None


def _encode(name: str, texts: list[str], length: int) -> dict[str, Tensor]:
    """What the tokenizer makes of texts, as forward() takes it: each (texts, length)."""
    found = _tokenizer(name)(
        texts, padding="max_length", truncation=True, max_length=length, return_attention_mask=True, return_tensors="pt"
    )
    return {key: found[key] for key in NAMES if key in found}


@lru_cache(maxsize=2)
def _tokenizer(name: str) -> Any:
    found = _huggingface.loaded("AutoTokenizer", name)
    if found.pad_token is None:
        raise UserError(f"--model: the tokenizer of hf:{name} has no padding token, needed for batches of one length; write a task")
    return found


def _length(name: str, length: str) -> int:
    """The asked number of positions, at most what the network takes. Raises UserError for another number."""
    most = min(_tokenizer(name).model_max_length, getattr(_huggingface.config(name), "max_position_embeddings", 1_000_000))
    return _source.whole("--task-arg length", length, 4, most) if length else min(LENGTH, most)
