"""The checks of checks/: what is done to inputs by independent means, and what rows say of files that are known to be worse."""

import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from torch import nn

from autoslim import changes, examining, plugins, sidebyside, statistics
from autoslim.checks import blur, gain, noise, saliency, shift, words
from autoslim.errors import UserError
from autoslim.sidebyside import Files
from autoslim.task import Task, load


def task_of(batches, **told):
    """A task whose every split is ``batches``."""
    first = batches[0][0]
    example = {key: value[:1] for key, value in first.items()} if isinstance(first, dict) else first[:1]
    return Task(SimpleNamespace(model=lambda: nn.Linear(1, 1), example_input=lambda: example, data=lambda split: batches, **told), "t")


def files_of(batches, file, untouched, n=10_000, **told):
    return Files(task_of(batches, **told), "test", file, untouched, n)


def inputs_of(batches):
    return torch.cat([inputs for inputs, _ in batches])


@pytest.fixture
def pictures():
    """Images whose class is their brighter half, 3 batches of 20."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(3):
        labels = torch.randint(2, (20,), generator=generator)
        images = 0.1 * torch.randn(20, 1, 16, 16, generator=generator)
        images[labels == 1, :, :, 8:] += 1
        images[labels == 0, :, :, :8] += 1
        found.append((images, labels))
    return found


def halves(images):
    """Reads both halves."""
    return torch.stack([images[..., :8].mean((1, 2, 3)), images[..., 8:].mean((1, 2, 3))], 1)


def column(images):
    """Reads one column of each half, at its inner edge: right on clean images only."""
    return torch.stack([images[..., 7].mean((1, 2)), images[..., 8].mean((1, 2))], 1)


def test_every_member_is_a_check_and_leaves_what_is_not_its_own():
    names = plugins.names("checks")
    assert set(names) == {"blur", "gain", "named", "noise", "saliency", "shift", "words"}
    numbers = [(torch.randn(8, 5), torch.zeros(8, dtype=torch.long))]
    task = task_of(numbers)
    members = {name: plugins.load("checks", name) for name in names}
    assert {name: check.passes(task) for name, check in members.items() if check.passes(task)} == {"noise": 2}
    heard, read = (
        task_of(numbers, INPUT_KIND="audio", SHIFTS=("bus",)),
        task_of([(numbers[0][0].long(), None)], text=lambda: {"unknown": 1}),
    )
    assert {name for name, check in members.items() if check.passes(heard)} == {"noise", "gain", "named"}
    assert {name for name, check in members.items() if check.passes(read)} == {"words"}
    assert all(check.title for check in members.values())


# -- what is done to inputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_blur_is_scipys(sigma):
    images = torch.randn(2, 3, 20, 24)
    reach = int(3 * sigma + 0.5)
    for image, got in zip(images.flatten(0, 1), blur.blur(images, sigma).flatten(0, 1), strict=True):
        want = scipy.ndimage.gaussian_filter(image.numpy(), sigma, mode="nearest", radius=reach)
        np.testing.assert_allclose(got.numpy(), want, atol=1e-5)


def test_shift_moves_every_image_diagonally_with_its_edges_repeated():
    images = torch.rand(40, 1, 16, 32)
    moved = shift.shifted(images, 1 / 8, torch.Generator().manual_seed(0))
    directions = set()
    for image, got in zip(images, moved, strict=True):
        fits = [
            (y, x)
            for y in (-2, 2)
            for x in (-4, 4)
            if np.allclose(scipy.ndimage.shift(image[0].numpy(), (y, x), order=0, mode="nearest"), got[0].numpy())
        ]
        assert len(fits) == 1
        directions |= set(fits)
    assert len(directions) == 4


def test_noise_and_gain_are_as_strong_as_said_and_the_same_for_every_file():
    batches = [({"x": 3 * torch.randn(64, 50), "ids": torch.arange(64)}, torch.zeros(64)) for _ in range(3)]
    files = files_of(batches, None, None, n=100, INPUT_KIND="audio")
    one, two = list(noise.noisy(files, 0.3)), list(noise.noisy(files, 0.3))
    assert [(len(inputs["x"]), len(targets)) for inputs, targets in one] == [(64, 64), (36, 36)]
    assert all(torch.equal(left["x"], right["x"]) for (left, _), (right, _) in zip(one, two, strict=True))
    added = one[0][0]["x"] - batches[0][0]["x"]
    assert float(added.std() / batches[0][0]["x"].std()) == pytest.approx(0.3, rel=0.05)
    assert torch.equal(one[0][0]["ids"], batches[0][0]["ids"])
    quiet = next(iter(gain.quieter(files, -6.0)))[0]["x"]
    assert 10 * np.log10(float((quiet**2).mean() / (batches[0][0]["x"] ** 2).mean())) == pytest.approx(-6.0, abs=1e-3)


def test_words_are_hidden_and_special_numbers_stay():
    ids = torch.randint(5, 100, (50, 40))
    ids[:, 0], ids[:, -5:] = 2, 0
    batches = [({"mask": torch.ones(50, 40), "ids": ids}, torch.zeros(50))]
    told = {"unknown": 1, "keep": [0, 2], "input": "ids"}
    ((inputs, _),) = list(words.dropped(batches, 0.2, told))
    gone = inputs["ids"] == 1
    assert float(gone[:, 1:-5].float().mean()) == pytest.approx(0.2, abs=0.03)
    assert torch.equal(inputs["ids"][~gone], ids[~gone])
    assert (inputs["ids"][:, 0] == 2).all()
    assert (inputs["ids"][:, -5:] == 0).all()
    assert inputs["mask"] is batches[0][0]["mask"]


# -- rows ---------------------------------------------------------------------------------------------------------------------


def test_a_file_that_bears_less_is_told_so(pictures):
    """Blur mixes the inner columns, shift moves them across the border: the file that reads nothing else errs, the untouched one does not."""
    files = files_of(pictures, column, halves)
    for name in ("blur", "shift"):
        rows = plugins.load("checks", name).rows(files)
        assert len(rows) == 2
        for row in rows:
            assert row["n"] == 60
            assert row["untouched"] == 1.0
            assert row["drop"] == pytest.approx(row["untouched"] - row["file"])
            assert row["low"] <= row["drop"] <= row["high"]
    assert rows[0]["drop"] > 0.2
    same = plugins.load("checks", "noise").rows(files_of(pictures, halves, halves))
    assert all(row["drop"] == 0 and row["low"] < 0 < row["high"] for row in same)


def test_named_sets_are_read_by_their_names():
    asked = []

    def data(split):
        asked.append(split)
        return [(torch.eye(2) if split == "shift:night" else torch.eye(2).flip(0), torch.tensor([0, 1]))]

    source = SimpleNamespace(model=None, example_input=lambda: torch.eye(2)[:1], data=data, SHIFTS=("night", "snow"))
    source.model = lambda: nn.Linear(2, 2)
    rows = plugins.load("checks", "named").rows(Files(Task(source, "t"), "test", lambda x: x, lambda x: x.flip(1), 100))
    assert [(row["level"], row["untouched"], row["file"]) for row in rows] == [("night", 0.0, 1.0), ("snow", 1.0, 0.0)]
    assert set(asked) == {"shift:night", "shift:snow"}


def test_saliency_agrees_with_itself_and_not_with_a_file_that_looks_elsewhere(pictures):
    def corner(images):
        return torch.stack([images[..., :4, :4].mean((1, 2, 3)), images[..., 12:, 12:].mean((1, 2, 3))], 1)

    (same,) = plugins.load("checks", "saliency").rows(files_of(pictures, halves, halves))
    (other,) = plugins.load("checks", "saliency").rows(files_of(pictures, corner, halves))
    assert (same["n"], same["untouched"], same["file"], same["drop"]) == (24, 1.0, pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))
    assert other["file"] < 0.7
    assert other["low"] <= other["drop"] <= other["high"]
    assert plugins.load("checks", "saliency").rows(files_of(pictures, lambda x: x.mean((1, 2, 3)), lambda x: x.mean((1, 2, 3)))) == []


def test_an_occlusion_map_points_at_what_is_read():
    images = torch.rand(3, 1, 16, 16)
    weights = torch.zeros(16, 16)
    weights[4:8, 12:] = 1.0  # patch (1, 3) of the grid

    def run(x):
        return torch.stack([(x[:, 0] * weights).pow(2).sum((1, 2)), torch.zeros(len(x))], 1)

    found = saliency.occlusion(run, images, torch.zeros(3, dtype=torch.long))
    assert found.shape == (3, 16)
    assert (np.flatnonzero(np.abs(found).sum(0) > 1e-6) == [1 * 4 + 3]).all()


def test_rank_correlation_is_scipys():
    one, other = np.array([1.0, 2, 2, 4, 9, -1]), np.array([0.5, 3, 2, 2, 8, 8])
    assert saliency.spearman(one, other) == pytest.approx(scipy.stats.spearmanr(one, other).statistic)


# -- outputs ------------------------------------------------------------------------------------------------------------------


def test_agreement_and_divergence_of_outputs():
    theirs, ours = torch.randn(50, 4), torch.randn(50, 4)
    rows = changes.by_output([(None, ours)], [(None, theirs)])
    same = (ours.argmax(1) == theirs.argmax(1)).float().numpy()
    p, q = theirs.double().softmax(1).numpy(), ours.double().softmax(1).numpy()
    assert rows[0]["value"] == pytest.approx(same.mean())
    assert rows[0]["low"] == pytest.approx(statistics.mean_interval(same).low)
    assert rows[1]["value"] == pytest.approx(np.mean([scipy.stats.entropy(a, b) for a, b in zip(p, q, strict=True)]))
    assert rows[1]["low"] < rows[1]["value"] < rows[1]["high"]
    assert changes.by_output([(None, ours)], [(None, ours)])[1]["value"] == 0
    sequences = torch.randn(6, 3, 5)
    (row,) = changes.by_output([(None, 1.1 * sequences)], [(None, sequences)])
    assert (row["what"], row["value"]) == ("relative error of the outputs", pytest.approx(0.1, rel=1e-4))
    assert changes.by_output([(None, ours)], [(None, theirs[:, :2])]) == []


# -- the whole ----------------------------------------------------------------------------------------------------------------


def compare(task, file, untouched):
    opened = {"file": SimpleNamespace(run=file), "base": SimpleNamespace(run=untouched)}
    return changes.Changes(task, lambda path: opened[str(path)], "test", lambda: None)


def test_what_raises_is_told_and_the_others_go_on(pictures):
    def data(split):
        if split.startswith("shift:"):
            raise KeyError(split)
        return pictures

    source = SimpleNamespace(model=lambda: nn.Linear(1, 1), example_input=lambda: pictures[0][0][:1], data=data, SHIFTS=("fog",))
    found = compare(Task(source, "t"), column, halves).checked(Path("file"), Path("base"))
    assert [check["name"] for check in found["checks"]] == ["blur", "noise", "saliency", "shift"]
    assert found["not_measured"] == ["Shifted test sets: KeyError: 'shift:fog'"]


def test_checks_stop_when_the_time_is_over(pictures):
    found = compare(task_of(pictures), halves, halves).checked(Path("file"), Path("base"), within=-1)
    assert found["checks"] == []
    assert found["not_measured"] == [
        f"{title}: the time for checks was used up" for title in ("Blur", "Gaussian noise", "Saliency agreement", "Shift")
    ]


def test_a_file_with_half_a_second_gets_all_checks_though_they_take_longer_than_foreseen(pictures):
    def busy(images):
        time.sleep(0.03)
        return halves(images)

    found = compare(task_of(pictures), busy, halves).checked(Path("file"), Path("base"), seconds=examining.OTHERS)
    assert [check["name"] for check in found["checks"]] == ["blur", "noise", "saliency", "shift"]
    assert found["not_measured"] == []


def test_a_kind_of_input_that_is_not_known_is_refused(pictures):
    with pytest.raises(UserError, match="INPUT_KIND is 'video', allowed: image, text, audio, other"):
        sidebyside.kind(task_of(pictures, INPUT_KIND="video"))
    assert sidebyside.kind(task_of(pictures)) == "image"
    assert sidebyside.kind(task_of(pictures, INPUT_KIND="other")) == "other"
    assert sidebyside.kind(task_of([(torch.zeros(4, 7, dtype=torch.long), torch.zeros(4))])) == "text"
    with pytest.raises(UserError, match="expected a dict with the number of the 'unknown' word"):
        _ = task_of(pictures, text=lambda: {"pad": 0}).text


def test_the_digits_have_a_shifted_set_that_is_turned():
    task = load("autoslim.tasks.digits.task")
    assert task.shifts == ("rotated",)
    plain, turned = inputs_of(task.batches("test")), inputs_of(task.batches("shift:rotated"))
    got = [
        scipy.ndimage.rotate(image.numpy(), angle, reshape=False, order=1, mode="nearest") for image in plain[:6, 0] for angle in (20, -20)
    ]
    errors = np.abs(np.array(got).reshape(6, 2, 32, 32) - turned[:6].numpy()).mean((2, 3)).mean(0)
    assert min(errors) < 0.02 < 0.1 < max(errors), "one of the two directions"


class Study:
    """The facts of a study, and what was said."""

    def __init__(self, rows):
        self.facts = {"verified": rows, "untouched_sha256": "base"}

    def fact(self, name):
        return self.facts[name]

    def set_fact(self, name, value):
        self.facts[name] = value


def examined(rows, monkeypatch, tmp_path, until=None, times=1):
    """[(file, seconds, seconds in which checks are begun)] that were asked for, where ``b`` is recommended."""
    asked = []

    class Worker:
        def ask(self, verb, payload):
            assert verb == "check"
            assert payload["untouched"] == str(tmp_path / "base.onnx")
            asked.append((Path(payload["file"]).stem, payload["seconds"], payload["within"]))
            return {"checks": [], "not_measured": []}

    monkeypatch.setattr(examining.recommending, "best", lambda rows, context: {"key": "b"})
    for _ in range(times):
        examining.examine(Study(rows), [], {}, Worker(), tmp_path, lambda text: None, until)
    return asked


def rows_of(*keys):
    return [{"key": key, "sha256": key, "model_file": f"{key}.onnx", "changes": {"split": "test"}} for key in keys]


def test_all_files_are_checked_once_the_recommended_one_first_and_longest(monkeypatch, tmp_path):
    rows = rows_of("base", "a", "b", "c")
    asked = examined(rows, monkeypatch, tmp_path, times=2)
    assert asked == [(key, seconds, 4.0) for key, seconds in (("b", 4.0), ("a", 0.5), ("c", 0.5))]
    assert [("checks" in row["changes"]) for row in rows] == [False, True, True, True]


def test_when_the_time_is_over_only_the_recommended_file_is_checked(monkeypatch, tmp_path):
    rows = rows_of("base", "a", "b", "c")
    assert examined(rows, monkeypatch, tmp_path, until=0.0) == [("b", 0.5, 0.5)]
    assert [("checks" in row["changes"]) for row in rows] == [False, False, True, False]


def test_the_untouched_file_is_not_run_again_on_inputs_that_it_has_seen(pictures):
    seen = []

    def base(images):
        seen.append(images)
        return halves(images)

    both = compare(task_of(pictures), column, base)
    one = both.checked(Path("file"), Path("base"))
    count = len(seen)
    assert count > 0
    assert both.checked(Path("file"), Path("base")) == one
    assert len(seen) == count
