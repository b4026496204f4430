"""continuing.py: a distillation that goes on from a shorter one ends as if it had taken all steps itself."""

import networks
import pytest
import torch
from networks import noise, seeded

from autoslim import distilling, engine, optimizing, pool, recovery, settings
from autoslim.continuing import Trunk
from autoslim.recipe import Recipe, Step

PLAIN = {"resolve": False, "bn": False, "bias": False, "lr": 3e-3, "norms": "learned", "batch": 32, "dropout": 0.1}


@pytest.fixture
def school():
    """(original, lessons, held-out lessons, pool)."""
    model = seeded(networks.Residual)
    with torch.no_grad():
        lessons = [recovery.Lesson(x, model(x)) for x in (noise(32, 3, 8, 8, seed=seed) for seed in range(8))]
    more = pool.build(model, [(lesson.inputs, None) for lesson in lessons[:6]], 192, "none", lambda: None)
    return model, lessons[:6], lessons[6:], more


def learnt(school, steps, trunk, pooled=True, **more):
    """(weights after a distillation, the steps that it took itself)."""
    model, lessons, held, samples = school
    recipe = Recipe.of([Step("channels", "blocks.0.conv1", 8), Step("channels", "stem", 16)])
    draft = engine.compress(model, recipe, [lessons[0].inputs])
    taken = []
    told = PLAIN | {"distill_steps": steps} | more
    recovery.recover(
        draft, model, lessons, held, told, pause=lambda: taken.append(1), pool=samples if pooled else None, trunk=trunk, seed=3
    )
    return draft.model.state_dict(), len(taken)


@pytest.mark.parametrize(("pooled", "more"), [(True, {}), (False, {"hints": 0.5, "optimizer": "sgd"})])
def test_a_longer_one_goes_on_and_ends_as_one_from_the_start(school, tmp_path, monkeypatch, pooled, more):
    monkeypatch.setattr(recovery, "LOSSLESS", 0.0)
    trunk = Trunk(tmp_path / "trunk")
    short, _ = learnt(school, 20, trunk, pooled, schedule="stable", **more)
    assert trunk.latest(99)[0] == 16, "the state where the rate begins to fall"
    long, fewer = learnt(school, 60, trunk, pooled, schedule="stable", **more)
    anew, steps = learnt(school, 60, None, pooled, schedule="stable", **more)
    assert steps - fewer == 16
    for name, value in anew.items():
        torch.testing.assert_close(long[name], value, rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(short[name], value, rtol=1e-2, atol=1e-3) for name, value in anew.items())


def test_other_schedules_and_shorter_ones_begin_anew(school, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "LOSSLESS", 0.0)
    trunk = Trunk(tmp_path / "trunk")
    learnt(school, 20, trunk, schedule="cosine")
    assert trunk.latest(99) == (0, None)
    learnt(school, 20, trunk, schedule="stable")
    assert trunk.latest(15) == (0, None), "none that parted earlier"


def test_schedules_of_any_length_are_one_up_to_the_fall():
    for total in (20, 120, 1000):
        rates = [optimizing.pace("stable", step, total) for step in range(total)]
        longer = [optimizing.pace("stable", step, 10 * total) for step in range(total)]
        parted = settings.fork(total)
        assert rates[: parted + 1] == longer[: parted + 1], "the state that is kept has the rate of the next step too"
        if parted > optimizing.WARM_UP:
            assert all(a > b for a, b in zip(rates[parted:], rates[parted + 1 :], strict=False))
        assert rates[-1] < 0.2
    assert max(optimizing.pace("stable", step, 500) for step in range(500)) == 1.0


def test_skipped_batches_are_those_of_the_beginning(school):
    *_, more = school
    for lessons in (more, school[1]):
        both = [distilling.drawn(lessons, 8, torch.Generator().manual_seed(1), skipped) for skipped in (0, 7)]
        for _ in range(7):
            next(both[0])
        assert torch.equal(next(both[0]).inputs, next(both[1]).inputs)
