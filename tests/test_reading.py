"""The journal read directly: equal to Optuna's own replay, whatever the journal has been through; reads on from where it ended."""

import json

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import studies
from autoslim import reading, tables
from autoslim.candidate import Done, Failed, Rejected
from autoslim.errors import UserError
from autoslim.recipe import Recipe
from autoslim.reporting.context import Material
from autoslim.study import Study

LAYERS = ["stem", 'odd},"params":{"name', "head"]


def storage(folder):
    return JournalStorage(JournalFileBackend(str(folder / "study.journal")))


def more(folder, space, ends=3):
    """A later run on the same study: trials that end, one that repeats, one that remakes, and one that still runs."""
    study = Study.open(folder, "synthetic", ["max", "min", "min"])
    study.use(space)
    old = [entry for entry in study.entries() if isinstance(entry.outcome, Done) and entry.cached_from is None and not entry.label]
    point, recipe = old[0].point, old[0].outcome.recipe
    found = studies.measured(*studies.law(point, LAYERS))
    done = Done(found, {"ms": -0.1}, "candidates/x/model.onnx", "f" * 64, recipe, {"compress": 0.1})
    for outcome, cached, memo in (
        (done, old[0].number, None),
        (done, None, {tables.REMAKES: old[1].number}),
        (Failed("interrupted", "stopped"), None, None),
    )[:ends]:
        study.tell(study.ask(point, recipe, "", memo), outcome, ["ms"], studies.OBJECTIVES, cached)
    study.ask(point, recipe, "corner", {"forecast": {"latency_ms": 1.5}})
    study.close()


@pytest.fixture
def folder(tmp_path):
    """A study with every end, two runs, a stale trial that was closed as interrupted, and a trial that runs."""
    studies.make(tmp_path, 50, LAYERS)
    more(tmp_path, studies.space_of(LAYERS))
    more(tmp_path, studies.space_of(LAYERS), 1)  # closes the one that ran
    return tmp_path


def equal(folder, name=None):
    """Both readings of a folder; they must be the same."""
    mine, optunas = reading.read(folder, name), Study.read(folder, name)
    assert isinstance(mine, reading.Reading)
    assert (mine.name, mine.facts()) == (optunas.name, optunas.facts())
    assert mine.entries() == optunas.entries()
    counted = tables.counts(tables.superseded(optunas.entries()))["evaluations"]
    assert mine.evaluations() == counted
    return mine


def test_both_readings_of_a_study_are_the_same(folder):
    found = equal(folder).entries()
    assert {type(entry.outcome) for entry in found} == {Done, Rejected, Failed, type(None)}
    assert any(entry.cached_from is not None for entry in found)
    assert any(entry.label for entry in found)
    assert {entry.outcome.reason for entry in found if isinstance(entry.outcome, Failed)} == {"export", "interrupted"}


def test_facts_that_are_kept_in_parts_are_read_whole(folder):
    study = Study.open(folder, "synthetic", ["max", "min", "min"])
    for turn in range(2):  # written again: the new parts stand beside the old
        long = {f"layer {i}": [turn, i] for i in range(4000)}
        study.set_fact("long", long)
    study.close()
    mine = equal(folder)
    assert mine.fact("long") == long
    assert set(mine.facts()) == set(study.facts())


def test_a_torn_last_line_is_left_for_later(folder):
    whole = (folder / "study.journal").read_bytes()
    torn = whole[: whole.rindex(b"\n", 0, -1) + 40]
    (folder / "study.journal").write_bytes(torn)
    mine = equal(folder)
    (folder / "study.journal").write_bytes(whole)
    assert mine.refresh() == len(whole) - torn.rindex(b"\n") - 1
    assert mine.entries() == Study.read(folder).entries()


def test_what_other_tools_wrote_into_the_journal_changes_nothing_that_it_does_not_change_for_optuna(folder):
    old = storage(folder)
    first = old.get_study_id_from_name("synthetic")
    old.set_study_system_attr(first, "note", "a dashboard's note")
    running = [trial for trial in old.get_all_trials(first) if not trial.state.is_finished()]
    old.set_trial_system_attr(running[-1]._trial_id, "note", "another")
    old.set_trial_intermediate_value(running[-1]._trial_id, 1, 0.5)
    other = optuna.create_study(storage=old, study_name="other")
    trial = other.ask()
    trial.suggest_categorical("colour", ["red", "blue"])
    trial.suggest_float("height", 0, 1)
    other.tell(trial, 1.0)
    other.enqueue_trial({"colour": "red"})
    optuna.create_study(storage=old, study_name="gone").ask()
    optuna.delete_study(study_name="gone", storage=old)
    # a writer that does not know that the trial has ended: ignored by both
    late = {"op_code": 8, "worker_id": "w", "trial_id": 0, "user_attr": {"label": "late"}}
    with (folder / "study.journal").open("a") as file:
        file.write(json.dumps(late) + "\n" + json.dumps({"trial_id": 99_999, **late}) + "\n")
        file.write(json.dumps({"op_code": 0, "worker_id": "w", "study_name": "synthetic", "directions": [1]}) + "\n")
    equal(folder)
    equal(folder, "other")
    with pytest.raises(UserError, match="--study-name: got 'gone', allowed: synthetic, other"):
        reading.read(folder, "gone")


def test_only_what_was_appended_is_read_and_finished_trials_are_built_once(folder, monkeypatch):
    mine = reading.read(folder)
    before, size = mine.entries(), (folder / "study.journal").stat().st_size
    assert mine.refresh() == 0
    more(folder, studies.space_of(LAYERS))
    assert mine.refresh() == (folder / "study.journal").stat().st_size - size
    built = []
    monkeypatch.setattr(reading, "unpack", lambda trial, unpack=reading.unpack: built.append(trial.number) or unpack(trial))
    after = mine.entries()
    assert after == Study.read(folder).entries()
    assert min(built) >= len(before) - 1  # the last of the old ones ran
    assert all(old is new for old, new in zip(before[:-1], after, strict=False))


def test_a_journal_that_another_took_the_place_of_is_read_anew(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    studies.make(other, 30, LAYERS, seed=5)
    mine = reading.read(folder)
    mine.entries()
    (other / "study.journal").replace(folder / "study.journal")
    mine.refresh()
    assert mine.entries() == Study.read(folder).entries()
    assert len(mine.entries()) == 30


def test_rows_of_verified_points_need_no_other_trial(folder, monkeypatch):
    whole = Material(Study.read(folder))
    verified = {row["key"] for row in whole.fact("verified")}
    built = []
    monkeypatch.setattr(reading, "unpack", lambda trial, unpack=reading.unpack: built.append(unpack(trial)) or built[-1])
    material = Material(reading.read(folder))
    assert material.rows == whole.rows
    assert material.evaluations == tables.counts(whole.entries)["evaluations"]
    assert {entry.key for entry in built} == verified < {entry.key for entry in whole.entries}
    assert {entry.number: entry for entry in whole.entries if entry.key in verified and entry.key in material.points}.keys() >= {
        entry.number for entry in material.points.values()
    }
    assert material.points == {key: whole.by_key[key] for key in material.points}


def test_reading_writes_nothing(folder):
    def state():
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}

    before = state()
    mine = reading.read(folder)
    mine.entries(), mine.refresh(), mine.evaluations()
    assert state() == before


def test_a_damaged_line_is_named(folder):
    with (folder / "study.journal").open("a") as file:
        file.write('{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"a":\n')
    with pytest.raises(UserError, match="study.journal: a line near byte .* is damaged"):
        reading.read(folder)


def test_a_recipe_of_no_steps_and_a_study_without_trials_are_read(tmp_path):
    study = Study.open(tmp_path, "s", ["max"])
    assert equal(tmp_path).entries() == []
    study.use(studies.space_of(["a"]))
    study.ask(studies.space_of(["a"]).identity(), Recipe(), "untouched")
    study.close()
    found = equal(tmp_path).entries()
    assert [(entry.label, entry.key) for entry in found] == [("untouched", Recipe().key)]
