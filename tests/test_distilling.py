"""What a distillation learns from: the laws of its parts, and each kind of output learnt by a tiny network."""

import math

import networks
import pytest
import torch
import torch.nn.functional as F
from networks import noise, seeded
from torch import nn

from autoslim import attention, engine, hints, pool, recovery
from autoslim.baking import baked
from autoslim.distances import classes, divergence, positions
from autoslim.distilling import Curriculum
from autoslim.inputs import call
from autoslim.lessons import apart
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, judge, recover
from autoslim.settings import check

OFF = {"resolve": False, "bn": False, "bias": False, "ln": False}


@pytest.fixture(autouse=True)
def nothing_is_enough(monkeypatch):
    """Random networks lose little by a cut: their gap counts here however small it is."""
    monkeypatch.setattr(recovery, "LOSSLESS", 0.0)


def quiet():
    """A pause that nobody waits for."""


def test_soft_labels_are_divergences_at_a_temperature_times_its_square():
    got, want = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    expected = 0.0
    for row, goal in zip(got.tolist(), want.tolist(), strict=True):
        p, q = ([math.exp(z / 3) / sum(math.exp(y / 3) for y in scores) for z in scores] for scores in (goal, row))
        expected += 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    assert float(divergence(got, want, {0: 1}, temperature=3.0)) == pytest.approx(expected, rel=1e-5)


def test_a_high_temperature_compares_the_scores_themselves():
    """Hinton et al. 2015, equation 4: for scores of mean zero it tends to half the mean squared difference over classes."""
    got, want = noise(6, 5).double(), noise(6, 5, seed=1).double()
    got, want = got - got.mean(1, keepdim=True), want - want.mean(1, keepdim=True)
    expected = (got - want).square().sum(1).mean() / (2 * 5)
    assert float(divergence(got, want, {0: 1}, temperature=1000.0)) == pytest.approx(float(expected), rel=1e-3)


NUMBERS = torch.zeros(4, 7, dtype=torch.long)


@pytest.mark.parametrize(
    ("outputs", "targets", "told", "expected"),
    [
        (noise(4, 3), None, "auto", {0: 1}),
        (noise(4, 3), torch.zeros(4, dtype=torch.long), "auto", {0: 1}),
        (noise(4, 3), noise(4, 3, seed=2), "auto", {}),  # values with several numbers each
        (noise(4, 3), noise(4, 3).softmax(1), "auto", {0: 1}),  # targets that are distributions
        (noise(4, 1), None, "auto", {}),
        (noise(4, 7, 3), NUMBERS, "auto", {0: 2}),  # a class per token
        (noise(4, 3, 7), NUMBERS, "auto", {0: 1}),  # a class per frame, channels first
        (noise(4, 3, 7, 2), torch.zeros(4, 7, 2, dtype=torch.long), "auto", {0: 1}),  # a class per pixel
        (noise(4, 7, 3), None, "auto", {}),
        (noise(4, 7, 3).log_softmax(2), None, "auto", {0: 2}),  # a CTC head
        (noise(4, 7, 3).log_softmax(2), [[1, 2]] * 4, "auto", {0: 2}),
        (noise(4, 7, 3), None, "scores", {0: 2}),
        (noise(4, 3), None, "values", {}),
        ({"a": noise(4, 3), "b": noise(4, 2, 5)}, None, "scores", {0: 1, 1: 2}),
        ({"a": noise(4, 3), "b": noise(4, 2)}, None, "auto", {}),
        (torch.zeros(4, 3, dtype=torch.long), None, "auto", {}),
    ],
)
def test_what_outputs_are_is_told_by_targets_and_shapes(outputs, targets, told, expected):
    assert classes(outputs, targets, told) == expected


def test_padding_takes_no_part():
    want, targets = noise(2, 3, 4), torch.tensor([[1, 2, -100], [0, -100, -100]])
    got = noise(2, 3, 4, seed=1)
    other = got.clone()
    other[targets < 0] += 5.0
    lesson = Lesson(None, want, targets)
    assert float(apart(got, lesson, "auto")) == float(apart(other, lesson, "auto"))
    assert float(apart(got, Lesson(None, want, targets.clamp_min(0)), "auto")) != float(apart(other, lesson, "auto"))
    assert positions(noise(3)) is None


class Tagger(nn.Module):
    """A class per token."""

    def __init__(self):
        super().__init__()
        self.table, self.up, self.head = nn.Embedding(20, 16), nn.Linear(16, 48), nn.Linear(48, 5)

    def forward(self, x):
        return self.head(F.relu(self.up(self.table(x))))


class Recogniser(nn.Module):
    """Frames to log-probabilities of a CTC head, (samples, frames, classes)."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(6, 32, 3, padding=1), nn.Conv1d(32, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.first(x)))).transpose(1, 2)).log_softmax(-1)


def ctc(outputs, targets, inputs):
    lengths = torch.full((len(outputs),), outputs.shape[1])
    return F.ctc_loss(outputs.transpose(0, 1), targets, lengths, torch.full((len(outputs),), targets.shape[1]))


def by_token(outputs, targets, inputs):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


#: (network, unit to cut, batch, targets, the task's loss)
TASKS = {
    "classes": (networks.Mlp, "second", lambda s: noise(32, 20, seed=s), lambda y: y.argmax(1), lambda o, t, i: F.cross_entropy(o, t)),
    "values": (networks.Mlp, "second", lambda s: noise(32, 20, seed=s), lambda y: y + 0.1, lambda o, t, i: F.mse_loss(o, t)),
    "tokens": (
        Tagger,
        "up",
        lambda s: torch.randint(20, (16, 6), generator=torch.Generator().manual_seed(s)),
        lambda y: y.argmax(2),
        by_token,
    ),
    "ctc": (Recogniser, "first", lambda s: noise(16, 6, 12, seed=s), lambda y: torch.tensor([[1, 2]] * len(y)), ctc),
}


def school(name):
    """(original, draft with few of a layer's channels, lessons, held-out lessons, loss)."""
    build, unit, batch, goal, loss = TASKS[name]
    model = seeded(build)
    with torch.no_grad():
        pairs = [Lesson(x, y := model(x), goal(y)) for x in map(batch, range(8))]
    draft = engine.compress(model, Recipe.of([Step("channels", unit, 8)]), [lesson.inputs for lesson in pairs[:2]])
    return model, draft, pairs[:6], pairs[6:], loss


def left_of(model, lessons, loss):
    with torch.no_grad():
        return sum(float(loss(call(model, lesson.inputs), lesson.targets, lesson.inputs)) for lesson in lessons)


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_output_is_learnt_with_and_without_labels(name):
    """Without, the gap to the original falls; with them, the task's own loss on held-out lessons."""
    for settings in ({}, {"temperature": 3.0, "hints": 0.1, "attention": 0.1}):
        model, draft, lessons, held, loss = school(name)
        before = judge(draft.model, held, quiet)
        recover(draft, model, lessons, held, OFF | {"distill_steps": 60, "lr": 5e-3, "eased": False} | settings, loss=loss)
        assert judge(draft.model, held, quiet) < 0.7 * before, settings
    model, draft, lessons, held, loss = school(name)
    before = left_of(draft.model, held, loss)
    notes = recover(draft, model, lessons, held, OFF | {"distill_steps": 60, "lr": 5e-3, "soft": 0.1, "labels": 1.0}, loss=loss)
    assert notes[-1].startswith("distillation: gap and labels ")
    assert left_of(draft.model, held, loss) < 0.9 * before


@pytest.mark.parametrize("name", TASKS)
def test_the_objective_of_hard_labels_alone_is_the_tasks_own_loss(name):
    model, draft, lessons, _, loss = school(name)
    plan = Curriculum.of(draft, draft.model, model, lessons, check({"soft": 0, "labels": 2.0}), loss)
    expected = 2 * loss(call(draft.model, lessons[0].inputs), lessons[0].targets, lessons[0].inputs)
    assert float(plan.objective(draft.model, lessons[0], False).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_constant_error_of_values_is_seen():
    """A divergence of class scores would not see it; the targets say that these are values."""
    want = noise(8, 3)
    lesson = Lesson(None, want, want + 0.01)
    assert float(apart(want + 1.0, lesson, "auto")) > 0.1
    assert float(apart(want + 1.0, Lesson(None, want), "auto")) == pytest.approx(0, abs=1e-6)
    assert float(apart(want + 1.0, Lesson(None, want), "values")) > 0.1


def test_nothing_to_learn_from_is_told():
    model, draft, lessons, held, loss = school("classes")
    before = draft.model
    notes = recover(draft, model, lessons, held, OFF | {"distill_steps": 5, "soft": 0, "labels": 1.0})
    assert notes == ["distillation: nothing to learn from (soft, labels, hints and attention are 0, or have nothing to act on)"]
    assert draft.model is before
    assert "labels: the task has no targets" in " ".join(recover(draft, model, lessons, held, OFF | {"distill_steps": 1, "labels": 1.0}))


# -- hints --------------------------------------------------------------------------------------------------------------


def residual(recipe):
    model = seeded(networks.Residual)
    return model, engine.compress(model, recipe, [noise(8, 3, 8, 8)])


def test_hints_sit_at_blocks_that_are_left():
    model, draft = residual(Recipe.of([Step("channels", "blocks.0.conv1", 8)]))
    assert [place.name for place in hints.find(draft, draft.model, model, noise(4, 3, 8, 8))] == ["blocks.0", "blocks.1"]
    model, draft = residual(Recipe.of([Step("depth", "blocks.1", True)]))
    assert [place.name for place in hints.find(draft, draft.model, model, noise(4, 3, 8, 8))] == ["blocks.0"]


def test_kept_channels_say_which_features_belong_together():
    """A network whose residual stream lost channels that are silent anyway has the original's features at those that are left."""
    model, draft = residual(Recipe.of([Step("channels", "stem", 16)]))
    x = noise(4, 3, 8, 8)
    places = hints.find(draft, draft.model, model, x)
    kept = draft.kept["blocks.0.conv2", "out"]
    assert all(torch.equal(place.kept, kept) and place.axis == 1 and place.form == "map" for place in places)
    theirs = noise(4, 32, 8, 8)
    assert float(places[0].features(theirs[:, kept], theirs)) == 0.0
    assert float(places[0].features(theirs[:, :16], theirs)) > 0.1


def test_a_bridge_is_the_least_squares_map_and_learns_with_the_student():
    mine = noise(50, 3)
    theirs = mine @ noise(3, 5, seed=1) + 2.0
    bridge = hints.bridge_of(mine, theirs)
    place = hints.Place("x", 1, "vector", bridge=bridge)
    assert float(place.features(mine, theirs).detach()) == pytest.approx(0.0, abs=1e-9)
    given = hints.Hints([place], 1.0, 0.0)
    given.loss(hints.Seen({"x": mine * 2}), hints.Seen({"x": theirs})).backward()
    assert len(given.parameters()) == 2
    assert all(parameter.grad.abs().sum() > 0 for parameter in given.parameters())


def test_widths_that_no_index_explains_get_a_bridge():
    model = seeded(networks.Mlp)
    narrow = seeded(networks.Mlp, width=8)
    draft = engine.compress(
        model, Recipe.of([Step("student", "", {"builder": "narrow"})]), [noise(8, 20)], students={"narrow": lambda: narrow}
    )
    places = hints.find(draft, draft.model, model, noise(64, 20))
    assert [place.name for place in places] == ["first", "second"], "the head's outputs are the soft labels already"
    assert all(place.bridge.weight.shape == (32, 8) for place in places)


def test_attention_maps_do_not_see_the_scale_and_relations_not_the_basis():
    x = noise(3, 10, 6)
    assert float(hints.maps(x * 3, x)) == pytest.approx(0, abs=1e-6)
    assert float(hints.maps(noise(3, 10, 6, seed=1), x)) > 0.1
    basis = torch.linalg.qr(noise(6, 6, seed=2))[0]
    assert float(hints.relations(x @ basis, x)) == pytest.approx(0, abs=1e-5)
    assert float(hints.relations(noise(3, 10, 6, seed=1), x)) > 0.1
    wide = torch.cat([x, x], 2) * 0.5**0.25  # F F^T / sqrt(channels) is the same for twice as many
    assert float(hints.relations(wide, x)) == pytest.approx(0, abs=1e-5)


def test_a_map_of_attention_is_that_of_the_paper():
    """Two positions, two channels: sums of squares (25, 0) and (0, 4), normalised (1, 0) and (0, 1): the distance is the root of two."""
    mine, theirs = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    assert float(hints.maps(mine, theirs)) == pytest.approx(2**0.5)


@pytest.mark.parametrize("kind", ["hints", "attention"])
def test_what_hints_pull_at_comes_nearer(kind):
    """Distilled by the hints alone, the places inside come nearer to the original's; and no hook is left behind."""
    model, draft = residual(Recipe.of([Step("channels", name, 8) for name in ("blocks.0.conv1", "blocks.1.conv1")]))
    batches = [noise(16, 3, 8, 8, seed=seed) for seed in range(4)]
    with torch.no_grad():
        lessons = [Lesson(x, model(x)) for x in batches]
    settings = check(OFF | {"soft": 0, kind: 1.0, "distill_steps": 40, "lr": 3e-3})
    plan = Curriculum.of(draft, draft.model, model, lessons, settings, None)
    before = float(plan.objective(draft.model, lessons[0], False).detach())
    notes = recover(draft, model, lessons, lessons[:1], settings)
    assert notes[0] == "hints at blocks.0, blocks.1"
    assert float(plan.objective(draft.model, lessons[0], False).detach()) < 0.7 * before
    assert not any(module._forward_hooks for one in (model, draft.model) for module in one.modules())


@pytest.mark.parametrize("family", ["attention", "gru"])
def test_hints_work_where_outputs_are_sequences_or_vectors(family):
    model, example = networks.ZOO[family]()
    structure = engine.analyse(model, example)
    group = next(iter(structure.groups))
    batches = [noise(8, *example.shape[1:], seed=seed) for seed in range(4)]
    with torch.no_grad():
        lessons = [Lesson(x, model(x)) for x in batches]
    draft = engine.compress(model, Recipe.of([Step("channels", group, 8)]), batches[:2], structure=structure)
    notes = recover(draft, model, lessons, lessons[:1], OFF | {"distill_steps": 4, "hints": 0.1, "attention": 0.1})
    assert notes[0].startswith("hints at ")
    assert all(place in dict(model.named_modules()) for place in notes[0].removeprefix("hints at ").split(", "))
    plan = Curriculum.of(draft, draft.model, model, lessons, check(OFF | {"soft": 0, "hints": 1.0, "distill_steps": 4}), None)
    draft.model.requires_grad_(True)
    plan.objective(draft.model, lessons[0], False).backward()
    assert sum(float(weight.grad.abs().sum()) for weight in draft.model.parameters() if weight.grad is not None) > 0, "hints pull"


class Viewing(nn.Module):
    """A map that is viewed as a vector, which channels last do not allow."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 5)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x)).view(len(x), -1))


class Volumes(nn.Module):
    """Convolutions over three axes."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv3d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(torch.relu(self.stem(x[:, :, None].expand(-1, -1, 2, -1, -1))).mean((2, 3, 4)))


@pytest.mark.parametrize("kind", [Viewing, Volumes])
def test_networks_that_do_not_bear_channels_last_learn_from_a_pool_too(kind):
    model = seeded(kind)
    draft = engine.compress(model, Recipe.of([Step("channels", "stem", 4)]), [noise(8, 3, 8, 8)])
    batches = [(noise(32, 3, 8, 8, seed=seed), None) for seed in range(4)]
    with torch.no_grad():
        held = [Lesson(x, model(x)) for x, _ in batches[:1]]
    before = recovery.judge(draft.model, held, quiet)
    recover(draft, model, held, held, OFF | {"distill_steps": 40, "lr": 3e-3}, pool=pool.build(model, batches, 128, "none", quiet))
    assert recovery.judge(draft.model, held, quiet) < 0.9 * before


# -- maps of attention itself -------------------------------------------------------------------------------------------


def by_hand(layer, x):
    """softmax(Q K^T / sqrt(width of a head)), the mean over heads."""
    queries, keys = (
        F.linear(x, *pair).unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for pair in zip(layer.in_proj_weight.chunk(3)[:2], layer.in_proj_bias.chunk(3)[:2], strict=True)
    )
    return (queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5).softmax(-1).mean(1)


def test_maps_of_attention_that_was_not_asked_for_them():
    model, x = seeded(networks.PreNorm, heads=4), noise(3, 5, 6)
    plain = model(x)
    with torch.no_grad(), attention.watched(model) as maps:
        assert torch.allclose(model(x), plain, atol=1e-6), "what the network gives stays as it is"
    assert list(maps) == ["blocks.0.attention", "blocks.1.attention"]
    first = model.blocks[0]
    assert torch.allclose(maps["blocks.0.attention"], by_hand(first.attention, first.norm1(model.embed(x))), atol=1e-5)
    with attention.watched(model, ["blocks.1.attention"]) as maps:
        model(x)
    assert list(maps) == ["blocks.1.attention"]


def test_maps_of_a_transformer_that_returns_them():
    from transformers import BertConfig, BertModel

    told = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 30}
    model = BertModel(BertConfig(**told, attn_implementation="eager")).eval()
    words = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(words, output_attentions=True).attentions
        with attention.watched(model) as maps:
            model(words)
    assert len(maps) == 2, "a map belongs to one module"
    for found, weights in zip(maps.values(), expected, strict=True):
        assert torch.allclose(found, weights.mean(1), atol=1e-6)


def test_networks_with_fewer_heads_share_the_maps_and_others_none():
    model, x = baked(seeded(networks.PreNorm, heads=4), noise(1, 5, 6)), noise(4, 5, 6)
    draft = engine.compress(model, Recipe.of([Step("heads", "blocks.0.attention.q_proj", 0.5)]), [x])
    assert attention.shared(draft.model, model, x) == ["blocks.0.attention", "blocks.1.attention"]
    residual_model, _ = residual(Recipe.of([Step("channels", "blocks.0.conv1", 8)]))
    assert attention.shared(residual_model, residual_model, noise(2, 3, 8, 8)) == []


def test_the_divergence_of_maps_by_hand():
    mine, theirs = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]]), torch.tensor([[[1.0, 0.0], [0.25, 0.75]]])
    assert float(attention.divergence(mine, theirs)) == pytest.approx(math.log(2) / 2)
    assert float(attention.divergence(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.5, 0.5]]]))) < 20, "a share of zero is no infinity"


def test_attention_that_is_pulled_at_looks_where_the_originals_looks():
    model = baked(seeded(networks.PreNorm, heads=4), noise(1, 5, 6))
    batches = [noise(16, 5, 6, seed=seed) for seed in range(4)]
    with torch.no_grad():
        lessons = [Lesson(x, model(x)) for x in batches]
    draft = engine.compress(model, Recipe.of([Step("heads", f"blocks.{number}.attention.q_proj", 0.5) for number in (0, 1)]), batches[:2])

    def apart_now():
        with torch.no_grad(), attention.watched(draft.model) as mine, attention.watched(model) as theirs:
            draft.model(batches[3]), model(batches[3])
        return sum(float(attention.divergence(mine[name], theirs[name])) for name in mine)

    before = apart_now()
    assert before > 0
    notes = recover(draft, model, lessons[:3], lessons[:1], OFF | {"soft": 0.01, "attention": 1.0, "distill_steps": 60, "lr": 5e-3})
    assert "attention maps of blocks.0.attention, blocks.1.attention" in notes
    assert apart_now() < 0.5 * before
    assert not any(module._forward_hooks or module._forward_pre_hooks for one in (model, draft.model) for module in one.modules())


def test_what_is_nearly_the_original_comes_nearer_at_the_eased_rate_alone():
    """A linear map of values, moved by so little that steps of the whole rate lead further away."""
    model = seeded(lambda: nn.Linear(16, 4))
    lessons = [Lesson(x, call(model, x).detach()) for x in (noise(32, 16, seed=seed) for seed in range(6))]
    after = {}
    for eased in (True, False):
        draft = engine.compress(model, Recipe.of([]), [lessons[0].inputs])
        with torch.no_grad():
            draft.model.weight.add_(noise(4, 16, seed=9) * 5e-4)
        draft.replaced.add("")
        before = judge(draft.model, lessons[4:], quiet, "values")
        notes = recover(
            draft, model, lessons[:4], lessons[4:], OFF | {"distill_steps": 60, "lr": 0.05, "eased": eased, "outputs": "values"}
        )
        after[eased] = judge(draft.model, lessons[4:], quiet, "values")
        assert "at step" in notes[-1]
    assert before < 1e-4
    assert after[True] < 0.5 * before
    assert after[True] < 0.5 * after[False]
