"""digest.py: the same samples, the same word, however they come; any other sample, another word."""

import numpy as np
import pytest
import torch

from autoslim.digest import Digest

X, Y = torch.arange(24.0).reshape(6, 4), torch.arange(6)
WORDS = [f"sentence {i}" for i in range(6)]


def word(*batches):
    made = Digest()
    for inputs, targets in batches:
        made.add(inputs, targets)
    return made.text()


def test_order_and_batches_do_not_matter():
    whole = word((X, Y))
    assert whole.startswith("6-")
    assert word((X[:2], Y[:2]), (X[2:], Y[2:])) == whole
    assert word((X.flip(0), Y.flip(0))) == whole
    assert word(({"text": WORDS, "x": X}, None)) == word(({"text": WORDS[3:], "x": X[3:]}, None), ({"text": WORDS[:3], "x": X[:3]}, None))


@pytest.mark.parametrize(
    "other",
    [
        (X + torch.nn.functional.one_hot(torch.tensor(0), 4), Y),
        (X, Y.flip(0)),
        (X[:5], Y[:5]),
        (X.double(), Y),
        (X.reshape(6, 2, 2), Y),
        (X, None),
        ((X, WORDS), Y),
    ],
)
def test_any_other_sample_is_another_word(other):
    assert word(other) != word((X, Y))


def test_every_kind_of_number_is_hashed():
    for kind in (torch.bfloat16, torch.int8, torch.bool, torch.complex64):
        assert word((X.to(kind), Y)) != word((X, Y))
    assert word((X, torch.tensor(3))) != word((X, torch.tensor(4)))


def test_arrays_are_hashed_by_their_bytes_sample_by_sample():
    long = np.arange(6 * 2000).reshape(6, 2000)
    other = long.copy()
    other[3, 1000] += 1
    assert word((X, long)) != word((X, other))
    assert word((X, long)) == word((X[:2], long[:2]), (X[2:], long[2:])) == word((X.flip(0), long[::-1]))
    boxes = [{"box": torch.tensor([i, i + 1]), "name": f"{i}"} for i in range(6)]
    assert word((X, boxes)) == word((X[:2], boxes[:2]), (X[2:], boxes[2:]))
    assert word((X, boxes)) != word((X, boxes[::-1]))


def test_objects_that_only_an_address_tells_apart_give_no_word():
    assert word((X, [object() for _ in range(6)])) is None
    assert word((X, Y), (X, object())) is None
