"""A network of two parts: one is compressed, evaluate() joins it with the other."""

import pytest
import torch
from torch import nn

from autoslim.errors import UserError
from autoslim.parts import PartTask

torch.manual_seed(0)
ENCODER, DECODER = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), nn.Linear(8, 3).eval()


class Source:
    METRICS = {"exact": "max"}

    @staticmethod
    def parts():
        return {"encoder": (ENCODER, torch.zeros(1, 6)), "decoder": (DECODER, torch.zeros(1, 8))}

    @staticmethod
    def data(split):
        generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
        for _ in range(3):
            x = torch.randn(10, 6, generator=generator)
            with torch.no_grad():
                yield x, DECODER(ENCODER(x)).argmax(1)

    @staticmethod
    def evaluate(predict, batches):
        right = [(predict["decoder"](predict["encoder"](x)).argmax(1) == y).float() for x, y in batches]
        return {"exact": float(torch.cat(right).mean())}


def test_the_largest_part_is_chosen_and_scored_inside_the_whole():
    task = PartTask(Source, "two")
    assert task.part == "encoder"
    assert task.score(lambda x: ENCODER(x).detach(), "val").values == {"exact": 1.0}
    broken = task.score(lambda x: torch.zeros(len(x), 8), "val").values["exact"]
    assert broken < 1.0


def test_training_inputs_are_what_reaches_the_part():
    task = PartTask(Source, "two", part="decoder")
    recorded = list(task.batches("train"))
    assert [tuple(inputs.shape) for inputs, _ in recorded] == [(10, 8)] * 3
    first = next(Source.data("train"))[0]
    assert torch.allclose(recorded[0][0], ENCODER(first))


def test_unknown_part_and_missing_evaluate_are_refused():
    with pytest.raises(UserError, match="--part: got 'head', allowed: encoder, decoder"):
        PartTask(Source, "two", part="head")
    bare = type("Bare", (), {"parts": Source.parts, "data": Source.data})
    with pytest.raises(UserError, match="no evaluate"):
        PartTask(bare, "two")
