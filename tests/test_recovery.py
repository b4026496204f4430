"""recovery.py: nothing may get worse, each step does what its paper says, and what is sparse stays sparse."""

import copy

import networks
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import engine, recovery
from autoslim.errors import UserError
from autoslim.inputs import call
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, gap, judge, recover
from autoslim.settings import DEFAULTS, check

OFF = {"resolve": False, "bn": False, "bias": False, "distill_steps": 0}
CUT = Recipe.of([Step("channels", "blocks.0.conv1", 16), Step("channels", "blocks.1.conv1", 16)])


def quiet():
    """A pause that nobody waits for."""


@pytest.fixture(scope="module")
def school():
    """(original, lessons, held-out lessons): the original's batch norms fit its data, as those of a trained network do."""
    model = seeded(networks.Residual)
    batches = [noise(32, 3, 8, 8, seed=seed) for seed in range(8)]
    recovery.reestimate(model, [Lesson(x, None) for x in batches], quiet)
    with torch.no_grad():
        pairs = [Lesson(x, model(x), torch.zeros(len(x), dtype=torch.long)) for x in batches]
    return model, pairs[:6], pairs[6:]


def drafted(school, recipe=CUT):
    model, lessons, _ = school
    return engine.compress(model, recipe, [lesson.inputs for lesson in lessons[:2]])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"distill_steps": 8},
        {"distill_steps": 8, "lr": 10.0},
        {"distill_steps": 8, "lr": 1e30},
        {"distill_steps": 3, "lr": 10.0, "labels": 5.0},
        {"distill_steps": 8, "optimizer": "sgd", "schedule": "linear", "batch": 3, "weight_decay": 0.01},
        {"distill_steps": 8, "optimizer": "rmsprop", "schedule": "constant", "dropout": 0.2},
        OFF,
    ],
)
def test_the_gap_on_held_out_lessons_never_grows(school, settings):
    model, lessons, held = school
    draft = drafted(school)
    before = judge(draft.model, held, quiet)
    notes = recover(
        draft, model, lessons, held, settings, loss=lambda outputs, targets, inputs: nn.functional.cross_entropy(outputs, targets)
    )
    assert judge(draft.model, held, quiet) <= before
    assert all(torch.isfinite(p).all() for p in draft.model.parameters())
    assert bool(notes) is (settings != OFF)


def test_an_absurd_rate_is_told_and_undone(school):
    model, lessons, held = school
    draft = drafted(school)
    before = copy.deepcopy(draft.model.state_dict())
    notes = recover(draft, model, lessons, held, OFF | {"distill_steps": 8, "lr": 1e30})
    assert notes[-1].endswith("at step 0 of 8")
    assert all(torch.equal(value, before[name]) for name, value in draft.model.state_dict().items())


def test_distillation_learns(school):
    model, lessons, held = school
    draft = drafted(school)
    before = judge(draft.model, held, quiet)
    recover(draft, model, lessons, held, OFF | {"distill_steps": 60, "lr": 3e-3})
    assert judge(draft.model, held, quiet) < 0.7 * before


def test_reestimation_improves_what_pruning_shifted_and_touches_no_weight(school):
    model, lessons, held = school
    draft = drafted(school, Recipe.of([Step("channels", "blocks.0.conv1", 8), Step("channels", "blocks.1.conv1", 8)]))
    before, weights = judge(draft.model, held, quiet), [p.detach().clone() for p in draft.model.parameters()]
    notes = recover(draft, model, lessons, held, OFF | {"bn": True})
    assert judge(draft.model, held, quiet) < before
    assert notes[0].startswith("batch-norm re-estimation: gap")
    assert notes[0].endswith("kept")
    assert all(torch.equal(old, new) for old, new in zip(weights, draft.model.parameters(), strict=True))


def test_reestimated_statistics_are_those_of_the_data():
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    batches = [noise(16, 3, 4, 4, seed=seed) * 3 + 5 for seed in range(4)]
    recovery.reestimate(model, [Lesson(x, None) for x in batches], quiet)
    torch.testing.assert_close(model[0].running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0))
    assert model[0].momentum == 0.1
    assert not model[0].training


def test_a_lesson_of_one_sample_does_no_harm():
    model = seeded(networks.Mlp)
    lessons = [Lesson(x, model(x).detach()) for x in (noise(8, 20), noise(1, 20, seed=1))]
    draft = engine.compress(model, Recipe.of([Step("channels", "first", 16)]), [lessons[0].inputs])
    notes = recover(draft, model, lessons, lessons[:1], {"distill_steps": 0})
    assert not any("batch-norm re-estimation: not possible" in note for note in notes)


def channel_means(model, x):
    """{layer: mean output per channel} of convolutions and linear layers with a bias."""
    found = {}
    handles = [
        module.register_forward_hook(
            lambda m, a, out, name=name: found.update({name: out.movedim(-1 if isinstance(m, nn.Linear) else 1, -1).flatten(0, -2).mean(0)})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None
    ]
    with torch.no_grad():
        call(model, x)
    for handle in handles:
        handle.remove()
    return found


def test_bias_correction_restores_the_mean_of_every_output(school):
    model, lessons, _ = school
    draft = drafted(school, Recipe.of([*CUT.steps, Step("channels", "stem", 24), Step("sparsity", "head", 0.5)]))
    x = lessons[0].inputs
    wanted, before = channel_means(model, x), channel_means(draft.model, x)
    recover(draft, model, lessons[:1], lessons[:1], OFF | {"bias": True})
    after = channel_means(draft.model, x)
    assert set(after) == {"stem", "blocks.0.conv2", "blocks.1.conv2", "head"}
    for name in after:
        kept = draft.kept.get((name, "out"))
        want = wanted[name] if kept is None else wanted[name][kept]
        torch.testing.assert_close(after[name], want, rtol=1e-4, atol=1e-5)
    assert (before["head"] - wanted["head"]).abs().max() > 1e-3, "there was something to correct"


def test_zeros_survive_recovery(school, monkeypatch):
    monkeypatch.setattr(recovery, "LOSSLESS", 0.0)
    model, lessons, held = school
    draft = drafted(school, Recipe.of([Step("sparsity", name, 0.75) for name in ("stem", "blocks.0.conv1", "head")]))
    before = {name: draft.model.get_submodule(name).weight.detach().clone() for name in draft.masks}
    recover(draft, model, lessons, held, {"resolve": False, "distill_steps": 20, "lr": 3e-3})
    for name, mask in draft.masks.items():
        weight = draft.model.get_submodule(name).weight
        assert torch.equal(weight == 0, mask == 0)
        assert float((weight == 0).float().mean()) == pytest.approx(0.75, abs=0.01)
        assert not torch.equal(weight, before[name]), "the others learned"


def test_a_draft_of_bits_alone_is_untouched(school):
    model, lessons, held = school
    draft = drafted(school, Recipe.of([Step("bits", "head", 8)]))
    before = draft.model
    assert recover(draft, model, lessons, held, {"distill_steps": 50}) == []
    assert draft.model is before
    assert all(torch.equal(a, b) for a, b in zip(before.state_dict().values(), model.state_dict().values(), strict=True))


def test_the_original_and_its_gradients_are_untouched(school):
    model, lessons, held = school
    before = copy.deepcopy(model.state_dict())
    recover(drafted(school), model, lessons, held, {"distill_steps": 4})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_the_same_seed_gives_the_same_weights(school):
    model, lessons, held = school
    drafts = [drafted(school) for _ in range(2)]
    for draft in drafts:
        recover(draft, model, lessons, held, {"distill_steps": 6}, seed=3)
    one, other = (draft.model.state_dict() for draft in drafts)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_pause_is_called_between_batches(school):
    model, lessons, held = school
    calls = []
    recover(drafted(school), model, lessons, held, OFF | {"distill_steps": 5}, pause=lambda: calls.append(1))
    assert len(calls) >= 5 + len(held)


def test_gap_of_class_scores_is_the_divergence_from_the_original():
    got, want = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    p = torch.softmax(want, 1)
    assert float(gap(got, want)) == pytest.approx(float((p * (p / 0.5).log()).sum()), rel=1e-5)
    assert float(gap(want, want)) == pytest.approx(0.0, abs=1e-7)
    assert float(gap(want + 3.0, want)) == pytest.approx(0.0, abs=1e-6), "a constant added to all scores changes no class"


def test_gap_of_other_outputs_is_relative():
    want = {"a": noise(3, 4, 5), "ids": torch.arange(3)}
    assert float(gap({"a": want["a"] * 1.1, "ids": want["ids"]}, want)) == pytest.approx(0.01, rel=1e-4)
    assert float(gap({"a": want["a"] * 0, "ids": want["ids"]}, want)) == pytest.approx(1.0)
    assert float(gap(torch.arange(3), torch.arange(3))) == 0.0


def test_settings_are_checked():
    assert check({"lr": 0.1}) == DEFAULTS | {"lr": 0.1}
    for settings, message in [
        ({"steps": 5}, "unknown key 'steps', allowed: resolve, bn, ln, bias, rewind, distill_steps"),
        ({"bn": 1}, "bn is 1, allowed: true or false"),
        ({"lr": -1}, "lr is -1, allowed: a number from 0"),
        ({"distill_steps": "many"}, "distill_steps is 'many'"),
        ({"optimizer": "lbfgs"}, "optimizer is 'lbfgs', allowed: adam, sgd, rmsprop"),
        ({"schedule": 1}, "schedule is 1, allowed: cosine, linear, constant, stable"),
        ({"dropout": 1.0}, "dropout is 1.0, allowed: a number from 0 up to below 1"),
        ({"temperature": 0}, "temperature is 0, allowed: a number above 0"),
        ({"hints": -1}, "hints is -1, allowed: a number from 0"),
        ({"outputs": "logits"}, "outputs is 'logits', allowed: auto, scores, values"),
        ({"rewind": "x.onnx"}, "rewind is 'x.onnx', allowed: an existing file of weights"),
    ]:
        with pytest.raises(UserError, match=f"space.yaml: {message}"):
            check(settings, "space.yaml")
    with pytest.raises(UserError, match="recovery: unknown key"):
        recover(engine.Draft(nn.Linear(1, 1), None, None), None, [], [], {"step": 1})
