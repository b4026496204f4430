"""trivial.py: the rivals that a space lacks, made from the network alone; oracles are the groups and layers of the network."""

import networks
import pytest
from torch import nn

from autoslim import coverage, offers, trivial

MODEL, EXAMPLE = networks.ZOO["residual"]()
STRUCTURE = coverage.analyse(MODEL, EXAMPLE)
SUPPORTS = {"bits": (32, 8, "w4")}


def outside(structure=STRUCTURE, supports=SUPPORTS, freeze=(), recovery=None, **values):
    """(rivals, why there are none) for a space with these values of techniques."""
    spec = {"techniques": {name: {"values": own} for name, own in values.items()}, "freeze": list(freeze), "recovery": recovery or {}}
    return trivial.outside(offers.build(spec, structure, supports)[0], spec, structure, supports)


def test_a_space_of_ranks_has_the_three_rivals_of_the_whole_network():
    made, lacking = outside(rank=[1.0, 0.5], freeze=["head"])
    assert (list(made), lacking) == (["uniform-int8", "uniform-channels-0.75", "uniform-channels-0.5"], {})
    layers = {name for name, layer in STRUCTURE.layers.items() if layer.kind in ("Conv2d", "Linear")}
    assert made["uniform-int8"].by("bits") == dict.fromkeys(layers, 8), "what the space freezes is not frozen"
    half = made["uniform-channels-0.5"].by("channels")
    assert half == {name: -(-group.size // 16) * 8 for name, group in STRUCTURE.groups.items() if group.size > 8}
    assert made["uniform-int8"].techniques() == {"bits"}
    assert made["uniform-channels-0.75"].techniques() == {"channels"}


def test_a_space_with_channels_and_bits_needs_none():
    assert outside(channels=[1.0, 0.75, 0.5], bits=[32, 8]) == ({}, {})


def test_two_ratios_of_channels_are_shown_whatever_the_space_has():
    made, lacking = outside(channels=[1.0, 0.25], bits=[32, 8])
    assert ([*made, *lacking], *made.values())[0] == ["uniform-channels-0.75"]


def test_what_cannot_be_made_is_told():
    made, lacking = outside(supports={"bits": (32,)}, rank=[1.0, 0.5])
    assert lacking == {"uniform-int8": "the runtime has no kernels for bits 8"}
    assert "uniform-int8" not in made
    made, lacking = outside(coverage.analyse(nn.Linear(32, 32).eval(), networks.noise(1, 32)), rank=[1.0, 0.5])
    assert lacking["uniform-channels-0.5"] == "this network has no unit for channels"


@pytest.mark.parametrize(
    ("told", "steps"),
    [({"distill_steps": [0, 100, 500]}, 100), ({"distill_steps": [500, 150]}, 150), ({"distill_steps": 7}, 7), ({}, None)],
)
def test_a_rival_recovers_with_the_fewest_steps_above_none(told, steps):
    made, _ = outside(rank=[1.0, 0.5], recovery={"bn": True, **told})
    assert made["uniform-channels-0.5"].recovery == {"bn": True, **({} if steps is None else {"distill_steps": steps})}
    assert made["uniform-int8"].recovery == {}
