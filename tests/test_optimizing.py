"""How a distillation learns: one step of each optimizer by hand, schedules at their ends, dropout by its expectation."""

import pytest
import torch
from torch import nn

from autoslim import optimizing
from autoslim.offers import build
from autoslim.recovery import Lesson, some_of
from autoslim.structure import Layer, Structure


def stepped(name, decay):
    """A matrix of ones and a vector of ones after one step along a gradient of ones, at rate 0.1."""
    parts = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    made = optimizing.optimizer(name, parts, 0.1, decay)
    for part in parts:
        part.grad = torch.ones_like(part)
    made.step()
    return [float(part.flatten()[0].detach()) for part in parts]


@pytest.mark.parametrize(
    ("name", "decay", "matrix", "vector"),
    [
        ("adam", 0.0, 0.9, 0.9),  # the first step has the size of the rate
        ("adam", 0.5, 0.85, 0.9),  # decay by rate times decay, of matrices alone
        ("sgd", 0.0, 1 - 0.1 * 1.9, 1 - 0.1 * 1.9),  # Nesterov: gradient plus momentum times the velocity
        ("rmsprop", 0.0, 1 - 0.1 / 0.01**0.5, 1 - 0.1 / 0.01**0.5),  # the mean square begins at a hundredth
    ],
)
def test_a_step_is_that_of_the_textbook(name, decay, matrix, vector):
    assert stepped(name, decay) == pytest.approx([matrix, vector], abs=1e-5)


def test_schedules_warm_up_and_end_where_their_names_say():
    for name, middle, end in [("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1.0, 1.0)]:
        assert optimizing.pace(name, 0, 120) == pytest.approx(1 / 20)
        assert optimizing.pace(name, 70, 120) == pytest.approx(middle)
        assert optimizing.pace(name, 120, 120) == pytest.approx(end)
    assert optimizing.pace("cosine", 45, 120) > optimizing.pace("linear", 45, 120)


def test_dropout_keeps_the_mean_and_ends_with_its_block():
    layer, x = nn.Linear(1000, 1, bias=False), torch.ones(200, 1000)
    nn.init.ones_(layer.weight)
    with optimizing.dropout(layer, 0.3, 1):
        dropped = layer(x).detach()
    assert float(dropped.mean()) == pytest.approx(1000, rel=0.01)
    assert float(dropped.std()) == pytest.approx((1000 * 0.3 / 0.7) ** 0.5, rel=0.2)
    assert torch.equal(layer(x).detach(), torch.full((200, 1), 1000.0))


def test_a_part_of_a_batch_keeps_what_belongs_together():
    x = torch.arange(10.0)[:, None]
    lesson = Lesson({"x": x}, (x * 2, x * 3), x.flatten())
    some = some_of(lesson, 4, torch.Generator().manual_seed(0))
    assert len(some.targets) == 4
    assert torch.equal(some.inputs["x"] * 2, some.outputs[0])
    assert torch.equal(some.inputs["x"] * 3, some.outputs[1])
    assert torch.equal(some.inputs["x"].flatten(), some.targets)
    assert some_of(lesson, 0, torch.Generator()) is lesson
    assert some_of(lesson, 10, torch.Generator()) is lesson


def test_a_space_searches_the_knobs():
    layers = {"a": Layer("a", "Linear", 100, 100, 16, 16)}
    spec = {"techniques": {"bits": {"values": [32, 8]}}, "recovery": {"optimizer": ["adam", "sgd"], "dropout": [0.0, 0.1], "batch": 16}}
    space, _ = build(spec, Structure(layers, {}, {}), {})
    found = {domain.name: domain for domain in space.domains}
    assert found["recovery:optimizer"].choices == ("adam", "sgd")
    assert not found["recovery:optimizer"].ordered
    assert found["recovery:dropout"].ordered
    assert space.fixed_recovery["batch"] == 16


def test_near_the_original_adam_learns_at_a_rate_as_the_root_of_the_gap():
    """A gap grows as the square of the distance to an optimum; the whole rate from FAR on, and sgd always."""
    for name in ("adam", "rmsprop"):
        assert optimizing.eased(name, optimizing.FAR / 100) == pytest.approx(0.1)
        assert optimizing.eased(name, 0.0) == 0.0
        assert [optimizing.eased(name, gap) for gap in (optimizing.FAR, 7.0, float("inf"), float("nan"))] == [1.0] * 4
    assert optimizing.eased("sgd", 1e-3) == 1.0
