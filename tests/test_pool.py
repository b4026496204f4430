"""pool.py: what a long distillation learns from is what the teacher says of the very samples, and no held-out one is among them."""

import itertools

import networks
import pytest
import torch
from networks import noise, seeded

from autoslim import engine, narrow, pool, recovery
from autoslim.application import evaluator_of
from autoslim.recipe import Recipe, Step
from autoslim.spec import load_study


def quiet():
    """A pause that nobody waits for."""


def numbered(count, size):
    """Batches of ``size`` whose samples are their own numbers, and whose targets are too."""
    values = torch.arange(count, dtype=torch.float32)
    return [(part.view(-1, 1, 1, 1).expand(-1, 1, 6, 6).clone(), part.long()) for part in values.split(size)]


@pytest.fixture
def wide(monkeypatch):
    """A processor without units for bfloat16."""
    monkeypatch.setattr(narrow.host, "instruction_sets", lambda: ("avx2",))


def test_bfloat16_is_taken_where_it_gains_and_the_teacher_says_nearly_the_same(monkeypatch):
    model, batches = seeded(networks.Residual), [(noise(12, 3, 8, 8), None)]
    monkeypatch.setattr(narrow.host, "instruction_sets", lambda: ("avx2", "avx512_bf16"))
    monkeypatch.setattr(narrow, "faster", lambda: False)
    assert not narrow.gains(model), "it has the instructions, and they are slow"
    monkeypatch.setattr(narrow, "faster", lambda: True)
    assert narrow.gains(model)
    assert not narrow.gains(torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=2))), "its gradients have no such kernels"
    with torch.no_grad():
        exact, near = model(batches[0][0]), pool.build(model, batches, 12, "none", quiet).whole.outputs
    assert near.dtype == torch.float32
    assert 0 < float((near - exact).norm() / exact.norm()) < 0.02  # bfloat16 has eight bits
    monkeypatch.setattr(narrow.host, "instruction_sets", lambda: ("avx2",))
    assert not narrow.gains(model)


@pytest.mark.parametrize(("share", "told"), [(0.33, True), (0.9, False), (1.5, False)])
def test_bfloat16_is_faster_where_a_convolution_was(monkeypatch, share, told):
    """By a clock that counts a convolution as 1 and one in bfloat16 as ``share``."""
    now = [0.0]

    def clock():
        return now[0]

    class Layer(torch.nn.Conv2d):
        def forward(self, x):
            now[0] += share if torch.is_autocast_enabled("cpu") else 1.0
            return super().forward(x)

    monkeypatch.setattr(narrow.nn, "Conv2d", Layer)
    monkeypatch.setattr(narrow.time, "perf_counter", clock)
    assert narrow.faster.__wrapped__() is told


def test_a_pool_holds_each_sample_with_what_the_teacher_says_of_it(wide):
    model = seeded(networks.Residual)
    batches = [(noise(5, 3, 8, 8, seed=seed), torch.full((5,), seed)) for seed in range(3)]
    found = pool.build(model, batches, 12, "none", quiet)
    assert found.size == 12
    chosen = torch.tensor([11, 0, 7])
    lesson = found.lesson(chosen)
    assert lesson.targets.tolist() == [2, 0, 1]
    with torch.no_grad():
        torch.testing.assert_close(lesson.outputs, model(torch.cat([x for x, _ in batches])[chosen]), rtol=1e-4, atol=1e-5)


def test_every_sample_comes_once_before_any_comes_again():
    found = pool.build(torch.nn.Identity(), numbered(12, 5), 12, "none", quiet)
    drawn = [lesson.targets.tolist() for lesson in itertools.islice(found.drawn(4, torch.Generator().manual_seed(0)), 6)]
    for epoch in (drawn[:3], drawn[3:]):
        assert sorted(itertools.chain(*epoch)) == list(range(12))
    assert drawn[:3] != drawn[3:]
    uneven = [lesson.targets.tolist() for lesson in itertools.islice(found.drawn(5, torch.Generator().manual_seed(0)), 12)]
    assert all(len(batch) == 5 for batch in uneven)
    flat = list(itertools.chain(*uneven))
    assert all(sorted(flat[start : start + 12]) == list(range(12)) for start in range(0, 60, 12))
    assert sorted(next(found.drawn(99, torch.Generator())).targets.tolist()) == list(range(12)), "no sample twice in a batch"


def test_views_fill_what_samples_do_not_suffice_for_and_the_teacher_sees_them(wide):
    model, batches = seeded(networks.Residual), [(noise(8, 3, 8, 8), torch.arange(8))]
    found = pool.build(model, batches, 20, "mirror", quiet)
    assert found.size == 20
    assert found.whole.targets.tolist() == [*range(8), *range(8), *range(4)]
    assert torch.equal(found.whole.inputs[:8], batches[0][0])
    assert not torch.equal(found.whole.inputs[8:16], batches[0][0])
    with torch.no_grad():
        torch.testing.assert_close(found.whole.outputs, model(found.whole.inputs), rtol=1e-4, atol=1e-5)
    assert pool.build(model, batches, 20, "none", quiet).size == 8


@pytest.mark.parametrize("views", ["shift", "mirror"])
def test_a_view_is_the_image_moved_and_mirrored_and_nothing_else(views):
    images = noise(40, 2, 7, 9)
    seen = pool.viewed(images, views, torch.Generator().manual_seed(1))
    wide = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
    moved = [wide[:, :, down : down + 7, right : right + 9] for down in range(5) for right in range(5)]
    plain = torch.stack(moved)
    mirrored = plain.flip(4)
    is_plain = (plain == seen).flatten(2).all(2).any(0)
    is_mirrored = (mirrored == seen).flatten(2).all(2).any(0)
    assert bool((is_plain | is_mirrored).all())
    assert bool(is_plain.all()) is (views == "shift")
    assert len({float(image.sum()) for image in seen}) == 40


def test_what_is_no_image_and_what_cannot_be_joined_is_left_alone():
    tokens = torch.arange(12).view(3, 4)
    assert pool.viewed(tokens, "mirror", torch.Generator()) is tokens
    uneven = [(torch.zeros(2, 3), None), (torch.zeros(2, 4), None)]
    assert pool.build(torch.nn.Identity(), uneven, 4, "none", quiet) is None
    assert pool.build(torch.nn.Identity(), [], 4, "none", quiet) is None


@pytest.mark.parametrize("order", [range(12), [7, 0, 11, 3, 1, 2, 9, 5, 4, 10, 6, 8]])
def test_known_samples_are_left_out_wherever_they_come(order):
    held = [inputs for inputs, _ in numbered(5, 3)]
    images, targets = numbered(12, 12)[0]
    order = list(order)
    batches = list(zip(images[order].split(5), targets[order].split(5), strict=True))
    rest = [(int(image[0, 0, 0]), int(target)) for x, y in pool.without(batches, held) for image, target in zip(x, y, strict=True)]
    assert rest == [(number, number) for number in order if number >= 5]
    assert [len(x) for x, _ in pool.without(numbered(12, 5), [])] == [5, 5, 2]
    blank = torch.zeros(4, 1)
    texts = [({"x": blank, "text": [str(number) for number in range(4)]}, torch.arange(4))]
    found = list(pool.without(texts, [{"x": blank[:2], "text": ["2", "7"]}]))
    assert [(x["text"], y.tolist()) for x, y in found] == [(["0", "1", "3"], [0, 1, 3])]
    assert list(pool.without([(blank, None)], [{"x": blank[:1], "seen": [object()]}])) == []


def test_maps_as_targets_get_no_moved_images():
    batches = [(noise(8, 3, 8, 8), torch.zeros(8, 8, 8, dtype=torch.long))]
    assert pool.build(seeded(networks.Residual), batches, 20, "shift", quiet).size == 8


def test_no_held_out_sample_is_in_an_evaluators_pool(tmp_path):
    evaluator = evaluator_of(load_study(None, {"task": "tests/tasks/tiny.py"}), str(tmp_path))
    lessons, held, _ = evaluator.materials.lessons()
    found = evaluator.materials.pool({"distill_steps": 5, "samples": 1000})
    assert found.size == sum(len(lesson.inputs) for lesson in lessons) == 128 - sum(len(lesson.inputs) for lesson in held)
    assert not any((found.whole.inputs == image).flatten(1).all(1).any() for lesson in held for image in lesson.inputs)
    assert evaluator.materials.pool({"distill_steps": 5, "samples": 1000}) is found, "made once"
    assert evaluator.materials.pool({"distill_steps": 5, "samples": 150, "views": "shift"}).size == 150
    for settings in ({"distill_steps": 5}, {"samples": 1000}):
        assert evaluator.materials.pool(settings) is None


def test_distillation_learns_from_the_pool_and_norms_follow_it_only_where_told():
    model = seeded(networks.Residual)
    batches = [noise(32, 3, 8, 8, seed=seed) for seed in range(12)]
    recovery.reestimate(model, [recovery.Lesson(x, None) for x in batches], quiet)
    with torch.no_grad():
        lessons = [recovery.Lesson(x, model(x)) for x in batches]
    more = pool.build(model, [(x, None) for x in batches[2:10]], 256, "none", quiet)
    recipe = Recipe.of([Step("channels", "blocks.0.conv1", 8), Step("channels", "blocks.1.conv1", 8), Step("channels", "stem", 16)])
    gaps = {}
    for norms in ("fixed", "learned"):
        draft = engine.compress(model, recipe, batches[:1])
        before = {name: value.clone() for name, value in draft.model.state_dict().items() if "running_mean" in name}
        settings = {
            "resolve": False,
            "bn": False,
            "bias": False,
            "distill_steps": 40,
            "lr": 3e-3,
            "norms": norms,
            "samples": 256,
            "batch": 32,
        }
        start = recovery.judge(draft.model, lessons[10:], quiet)
        recovery.recover(draft, model, lessons[:1], lessons[10:], settings, pool=more)
        gaps[norms] = recovery.judge(draft.model, lessons[10:], quiet)
        assert gaps[norms] < 0.7 * start
        moved = [not torch.equal(value, draft.model.state_dict()[name]) for name, value in before.items()]
        assert all(moved) if norms == "learned" else not any(moved)
        assert not any(module.training for module in draft.model.modules())
