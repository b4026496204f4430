"""recipe.py: the canonical form, the key that names a candidate, and what the YAML reader refuses."""

import re

import pytest

from autoslim.errors import UserError
from autoslim.recipe import Recipe, Step, describe, from_yaml, to_yaml

STEPS = (
    Step("channels", "stem", 16),
    Step("bits", "head", 8),
    Step("channels", "body", 8),
    Step("student", "", {"width": 0.5, "depth": 1.0}),
)


def test_order_of_steps_and_of_settings_carries_no_meaning():
    one = Recipe.of(STEPS, {"lr": 0.1, "bn": True})
    other = Recipe.of(reversed(STEPS), {"bn": True, "lr": 0.1})
    assert one == other
    assert one.key == other.key
    assert [step.technique for step in one.steps] == ["bits", "channels", "channels", "student"]


def test_key_is_sixteen_hexadecimal_digits_that_follow_every_part():
    base = Recipe.of(STEPS, {"lr": 0.1})
    others = [
        Recipe.of(STEPS),
        Recipe.of(STEPS[1:], {"lr": 0.1}),
        Recipe.of((Step("channels", "stem", 15), *STEPS[1:]), {"lr": 0.1}),
        Recipe.of((Step("channels", "stem2", 16), *STEPS[1:]), {"lr": 0.1}),
        Recipe(),
    ]
    assert re.fullmatch("[0-9a-f]{16}", base.key)
    assert len({base.key, *(other.key for other in others)}) == 6


def test_the_key_of_the_untouched_model_never_changes():
    """Old studies name their candidates by it: sha256 of {"recovery":{},"schema":1,"techniques":{}}."""
    assert Recipe().key == "d29dea659762c9c2"


def test_yaml_round_trip_ignores_metadata_and_keeps_the_key():
    recipe = Recipe.of(STEPS, {"lr": 0.001, "distill_steps": 60})
    text = to_yaml(recipe, {"key": recipe.key, "by": "Ünal"})
    assert from_yaml(text) == recipe
    assert from_yaml(text).key == recipe.key
    assert "Ünal" in text
    assert from_yaml(to_yaml(Recipe())) == Recipe()


def test_by_gives_the_units_of_one_technique():
    recipe = Recipe.of(STEPS)
    assert recipe.by("channels") == {"body": 8, "stem": 16}
    assert recipe.by("rank") == {}
    assert recipe.techniques() == {"channels", "bits", "student"}


def test_one_unit_decided_twice_is_refused():
    with pytest.raises(UserError, match=r"bits decides 'head' twice \(8 and 32\)"):
        Recipe.of([Step("bits", "head", 8), Step("bits", "head", 32)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "f.yaml: schema is 'list', allowed: 1"),
        ("", "schema is 'NoneType'"),
        ("schema: 2", "schema is 2, allowed: 1"),
        ("schema: 1\ntechnique: {}", "unknown key 'technique', allowed: schema, techniques"),
        ("schema: 1\ntechniques: [bits]", "techniques is \\['bits'\\], expected a mapping"),
        ("schema: 1\ntechniques: {bits: 8}", "bits is 8, expected a mapping from unit to value"),
        ("schema: 1\n  techniques: {", "not YAML"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_source(text, message):
    with pytest.raises(UserError, match=message) as caught:
        from_yaml(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_recovery_that_is_no_mapping_is_refused():
    with pytest.raises(UserError, match="recovery"):
        from_yaml("schema: 1\nrecovery: 5", "f.yaml")


def test_describe_counts_units():
    assert describe(Recipe()) == "untouched"
    assert (
        describe(
            Recipe.of(
                [Step("bits", "a", 8), Step("bits", "b", 8), Step("depth", "c", True), Step("channels", "d", 8), Step("channels", "e", 16)]
            )
        )
        == "int8 x2, channels 8-16 x2, -1 blocks"
    )
    assert describe(Recipe.of([Step("rank", "a", 0.5)])) == "rank 0.5 x1"
