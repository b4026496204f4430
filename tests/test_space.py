"""space.py: every point decodes, by brute force over a whole small space."""

import itertools

import pytest

from autoslim.errors import UserError
from autoslim.opening import seeds
from autoslim.space import Domain, SearchSpace

CHANNELS = Domain("channels:b1.conv", "channels", (1.0, 0.5, 0.25), ((), (("b1.conv", 16),), (("b1.conv", 8),)), ordered=True)
STEM = Domain("channels:stem", "channels", (1.0, 0.5), ((), (("stem", 8),)))
DEPTH = Domain("depth:b1", "depth", (False, True), ((), (("b1", True),)))
BITS = Domain("bits:all", "bits", (32, 8), ((), (("b1.conv", 8), ("b10.conv", 8), ("stem", 8))))
STEPS = Domain("recovery:distill_steps", "recovery", (0, 60), ((), ()), ordered=True)
SPACE = SearchSpace((CHANNELS, STEM, DEPTH, BITS, STEPS), {"bn": True})


def test_every_point_decodes_to_what_its_choices_say():
    seen = 0
    for point in SPACE.points():
        seen += 1
        recipe = SPACE.decode(point)
        gone = point["depth:b1"]
        expected = {}
        for domain in (CHANNELS, STEM, DEPTH, BITS):
            for unit, value in domain.effects[domain.choices.index(point[domain.name])]:
                if not (gone and unit.startswith("b1.")):
                    expected[domain.technique, unit] = value
        assert {(step.technique, step.unit): step.value for step in recipe.steps} == expected
        weights_change = any(technique != "bits" for technique, _ in expected)
        assert recipe.recovery == ({"bn": True, "distill_steps": point["recovery:distill_steps"]} if weights_change else {})
    assert seen == SPACE.size == 3 * 2 * 2 * 2 * 2


def test_points_are_all_different():
    assert len({tuple(point.items()) for point in SPACE.points()}) == SPACE.size


def test_a_dropped_block_removes_its_inner_steps_and_no_namesake():
    recipe = SPACE.decode({"channels:b1.conv": 0.25, "channels:stem": 1.0, "depth:b1": True, "bits:all": 8, "recovery:distill_steps": 0})
    assert recipe.by("channels") == {}
    assert recipe.by("depth") == {"b1": True}
    assert recipe.by("bits") == {"b10.conv": 8, "stem": 8}


def test_two_points_that_make_the_same_model_have_one_key():
    base = {"channels:stem": 1.0, "depth:b1": True, "bits:all": 32, "recovery:distill_steps": 60}
    keys = {SPACE.decode({**base, "channels:b1.conv": share}).key for share in CHANNELS.choices}
    assert len(keys) == 1


def test_identity_is_the_untouched_model():
    point = SPACE.identity()
    assert SPACE.decode(point).steps == ()
    assert SPACE.decode(point).key == SearchSpace((), {}).decode({}).key
    assert point["recovery:distill_steps"] == 60, "recovery, where it acts, is at its fullest"


def test_identity_finds_the_mildest_choice_where_none_is_without_effect():
    always = Domain("channels:x", "channels", (0.5, 0.25), ((("x", 4),), (("x", 2),)))
    assert always.identity == 0.5
    assert Domain("bits:x", "bits", (8, 32), ((("x", 8),), ())).identity == 32


def test_uniform_sets_one_position_and_clips_short_domains():
    assert SPACE.uniform(channels=2) == {**SPACE.identity(), "channels:b1.conv": 0.25, "channels:stem": 0.5}
    assert SPACE.uniform(bits=1) == {**SPACE.identity(), "bits:all": 8}
    assert SPACE.depth_of("channels") == 3
    assert SPACE.depth_of("rank") == 0


def test_strongest_is_the_corner():
    assert SPACE.strongest() == {
        "channels:b1.conv": 0.25,
        "channels:stem": 0.5,
        "depth:b1": True,
        "bits:all": 8,
        "recovery:distill_steps": 60,
    }


def test_grid_has_each_technique_alone_with_and_without_fewest_bits():
    grid = SPACE.grid()
    assert grid[0] == SPACE.identity()
    assert SPACE.strongest() in grid
    assert len({str(sorted(point.items())) for point in grid}) == len(grid)
    for techniques, bits in itertools.product(({}, {"channels": 1}, {"channels": 2}, {"depth": 1}), (0, 1)):
        assert SPACE.uniform(**techniques, bits=bits) in grid
    assert len(grid) == 4 * 2 + 1


def test_rivals_are_uniform():
    assert SPACE.rivals() == {
        "uniform-int8": SPACE.uniform(bits=1),
        "uniform-channels-0.5": SPACE.uniform(channels=1),
        "uniform-channels-0.25": SPACE.uniform(channels=2),
    }
    assert SearchSpace((DEPTH,), {}).rivals() == {}


def test_rivals_of_fewer_channels_come_again_in_int8():
    """What a fixed pipeline of both does is a point of the space; it shares the rival's recovered weights, and the rivals stay as they are."""
    twins = SPACE.narrow_twins()
    assert twins == [SPACE.uniform(channels=1, bits=1), SPACE.uniform(channels=2, bits=1)]
    rivals = [SPACE.decode(SPACE.rivals()[f"uniform-channels-{share}"]) for share in (0.5, 0.25)]
    for twin, rival in zip(map(SPACE.decode, twins), rivals, strict=True):
        assert (twin.by("channels"), twin.recovery) == (rival.by("channels"), rival.recovery)
        assert twin.by("bits")
        assert not rival.by("bits")
    assert SearchSpace((CHANNELS, STEPS), {}).narrow_twins() == SearchSpace((BITS,), {}).narrow_twins() == []


def test_a_solving_strategy_begins_with_corner_rivals_and_their_twins_within_half_of_the_trials():
    named = [("corner", SPACE.strongest()), *SPACE.rivals().items()]
    twins = [("", point) for point in SPACE.narrow_twins()]
    assert seeds(SPACE, 24, solved=True) == named + twins
    assert seeds(SPACE, 10, solved=True) == named + twins[:1]
    assert seeds(SPACE, 8, solved=True) == named


def test_one_unit_in_two_domains_is_refused():
    twice = SearchSpace((STEM, Domain("channels:again", "channels", (1.0, 0.5), ((), (("stem", 4),)))), {})
    with pytest.raises(UserError, match="'stem' twice"):
        twice.decode({"channels:stem": 0.5, "channels:again": 0.5})
