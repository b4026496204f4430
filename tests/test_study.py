"""study.py: what goes in comes out, also after a crash, and only one run may write."""

import json
import os
import resource
import subprocess
import sys

import optuna
import pytest
from sqlalchemy.exc import OperationalError

from autoslim import storage
from autoslim.candidate import Done, Failed, Rejected
from autoslim.errors import StudyInUse, UserError
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, Step
from autoslim.space import Domain, SearchSpace
from autoslim.storage import repair
from autoslim.study import Study

SPACE = SearchSpace(
    (Domain("bits:a", "bits", (32, 8), ((), (("a", 8),))), Domain("depth:b", "depth", (False, True), ((), (("b", True),)))), {}
)
POINT = {"bits:a": 8, "depth:b": False}
RECIPE = Recipe.of([Step("bits", "a", 8)])
FOUND = Measurement({"metric": Value(0.9, 0.88, 0.92), "latency_ms": Value(3.0)}, {"f1": 0.5}, {"samples": 10}, ("attention",))
DONE = Done(FOUND, {"ms": 0.5, "max_drop": -0.25}, "candidates/k/model.onnx", "ab" * 32, RECIPE, {"score": 0.5}, ("a note",))
REJECTED = Rejected("timed", Measurement({"latency_ms": Value(9.0)}), {"ms": 2.0}, RECIPE, {"time": 1.0})
FAILED = Failed("crash", "killed by signal 11", {"export": 0.1})
CONSTRAINTS, OBJECTIVES = ("ms", "max_drop"), ("metric", "latency_ms")


@pytest.fixture
def study(tmp_path):
    made = Study.open(tmp_path, "s", ["max", "min"])
    made.use(SPACE)
    yield made
    made.close()


def fill(study):
    for label, outcome in (("seed", DONE), ("", REJECTED), ("", FAILED)):
        number = study.ask(POINT, RECIPE, label, {"state": [1, 2]})
        study.tell(number, outcome, CONSTRAINTS, OBJECTIVES)


def native(folder):
    """The study as any Optuna program opens it."""
    path = str(folder / "study.journal")
    return optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path)))


def test_all_three_ends_come_back_as_they_were_told(study, tmp_path):
    fill(study)
    for entries in (study.entries(), Study.read(tmp_path).entries()):
        assert [entry.outcome for entry in entries] == [DONE, REJECTED, FAILED]
        assert [entry.number for entry in entries] == [0, 1, 2]
        assert [entry.label for entry in entries] == ["seed", "", ""]
        assert all(entry.point == POINT and entry.key == RECIPE.key and entry.memo == {"state": [1, 2]} for entry in entries)
        assert all(entry.cached_from is None for entry in entries)


def test_a_running_trial_has_no_outcome_and_numbers_go_up(study, tmp_path):
    assert study.next_number() == 0
    assert study.ask(POINT, RECIPE) == 0
    assert study.next_number() == 1
    assert Study.read(tmp_path).entries()[0].outcome is None


def test_a_repeat_says_whose_it_is(study):
    fill(study)
    study.tell(study.ask(POINT, RECIPE), DONE, CONSTRAINTS, OBJECTIVES, cached_from=0)
    assert study.entries()[3].cached_from == 0


def test_constraints_are_set_on_every_finished_trial(study, tmp_path):
    fill(study)
    trials = native(tmp_path).trials
    assert [trial.constraints for trial in trials] == [
        {"ms": 0.5, "max_drop": -0.25, "failed": 0.0},
        {"ms": 2.0, "max_drop": 0.0, "failed": 0.0},
        {"ms": 0.0, "max_drop": 0.0, "failed": 1.0},
    ]


def test_optuna_opens_it_natively_and_finds_only_truth(study, tmp_path):
    fill(study)
    opened = native(tmp_path)
    assert [trial.state.name for trial in opened.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert opened.trials[0].values == [0.9, 3.0]
    assert opened.trials[1].values is None
    assert opened.trials[0].params == POINT
    assert [direction.name for direction in opened.directions] == ["MAXIMIZE", "MINIMIZE"]


def test_facts_survive(study, tmp_path):
    study.set_fact("untouched", FOUND.as_dict())
    assert Measurement.from_dict(Study.read(tmp_path).fact("untouched")) == FOUND
    assert study.fact("unknown") is None


def test_stale_trials_are_closed_on_reopening(tmp_path):
    first = Study.open(tmp_path, "s", ["max", "min"])
    first.use(SPACE)
    fill(first)
    first.ask(POINT, RECIPE, "corner")
    first.close()
    again = Study.open(tmp_path, "s", ["max", "min"])
    try:
        entry = again.entries()[3]
        assert isinstance(entry.outcome, Failed)
        assert entry.outcome.reason == "interrupted"
        assert (entry.label, entry.point, entry.key) == ("corner", POINT, RECIPE.key)
        assert [old.outcome for old in again.entries()[:3]] == [DONE, REJECTED, FAILED]
    finally:
        again.close()


def test_a_torn_journal_is_repaired_and_loses_no_whole_line(tmp_path):
    first = Study.open(tmp_path, "s", ["max", "min"])
    first.use(SPACE)
    fill(first)
    first.close()
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker_id": "tor')
    again = Study.open(tmp_path, "s", ["max", "min"])
    try:
        assert [entry.outcome for entry in again.entries()] == [DONE, REJECTED, FAILED]
    finally:
        again.close()
    assert journal.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_torn_line_in_a_journal_elsewhere_is_cut_before_anything_is_written(tmp_path):
    """With --storage PATH too: what is written after a crash stays readable, and nothing that was told is lost."""
    elsewhere = str(tmp_path / "shared.journal")
    first = Study.open(tmp_path / "out", "s", ["max", "min"], elsewhere)
    first.use(SPACE)
    fill(first)
    first.close()
    with open(elsewhere, "ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "tor')
    again = Study.open(tmp_path / "out", "s", ["max", "min"], elsewhere)
    again.use(SPACE)
    fill(again)
    again.close()
    for study in (Study.read(tmp_path / "out", "s", elsewhere), Study.open(tmp_path / "out", "s", ["max", "min"], elsewhere)):
        assert [entry.outcome for entry in study.entries()] == [DONE, REJECTED, FAILED] * 2
        study.close()


def test_a_journal_is_mended_only_between_the_writes_of_others(tmp_path, monkeypatch):
    """Another study may be written to the same file: a line without its end is only cut under the file's lock."""
    elsewhere = str(tmp_path / "shared.journal")
    Study.open(tmp_path / "out", "s", ["max"], elsewhere).close()
    held = []
    monkeypatch.setattr(storage, "repair", lambda path: held.append(os.path.lexists(f"{path}.lock")) or 0)
    Study.open(tmp_path / "out", "s", ["max"], elsewhere).close()
    assert held == [True]


@pytest.mark.parametrize(("content", "removed"), [(b"", 0), (b"a\nb\n", 0), (b"a\nbc", 2), (b"abc", 3), (b"a\n" + b"x" * 200_000, 200_000)])
def test_repair_cuts_after_the_last_whole_line(tmp_path, content, removed):
    path = tmp_path / "j"
    path.write_bytes(content)
    assert repair(path) == removed
    assert path.read_bytes() == content[: len(content) - removed]
    assert repair(tmp_path / "missing") == 0


def test_a_second_writer_is_refused_and_a_reader_is_not(study, tmp_path):
    with pytest.raises(StudyInUse, match=r"in use by another run on this machine; wait for it, or give another --out"):
        Study.open(tmp_path, "s", ["max", "min"])
    assert Study.read(tmp_path).name == "s"


def test_the_lock_goes_with_a_killed_process(tmp_path):
    code = f"import os, pathlib, autoslim.study as s; s.Study.open(pathlib.Path({str(tmp_path)!r}), 's', ['max']); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    Study.open(tmp_path, "s", ["max"]).close()


def test_a_lease_of_another_machine_holds_until_it_ends(tmp_path):
    first = Study.open(tmp_path, "s", ["max"])
    note = first.fact("lease")
    first.close()
    study = native(tmp_path)
    study.set_user_attr("lease", note | {"host": "elsewhere", "until": 4e9})
    with pytest.raises(StudyInUse, match="in use by process .* on elsewhere"):
        Study.open(tmp_path, "s", ["max"])
    study.set_user_attr("lease", note | {"host": "elsewhere", "until": 1.0})
    Study.open(tmp_path, "s", ["max"]).close()


def test_another_space_is_refused(study, tmp_path):
    study.use(SPACE)
    with pytest.raises(UserError, match="search space differs from the one it was begun with"):
        study.use(SearchSpace(SPACE.domains[:1], {}))


def test_other_directions_are_refused(tmp_path):
    Study.open(tmp_path, "s", ["max", "min"]).close()
    with pytest.raises(UserError, match="other objectives"):
        Study.open(tmp_path, "s", ["max", "min", "min"]).close()


def test_closing_twice_does_no_harm(tmp_path):
    study = Study.open(tmp_path, "s", ["max"])
    study.close()
    study.close()
    Study.open(tmp_path, "s", ["max"]).close()
    assert Study.read(tmp_path).name == "s"


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(UserError, match="no study here"):
        Study.read(tmp_path)


def test_a_storage_that_cannot_be_opened_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="--storage: cannot open 'nosuch://x'"):
        Study.open(tmp_path, "s", ["max"], "nosuch://x")
    Study.open(tmp_path, "s", ["max"]).close()


def test_sqlite_works_as_well(tmp_path):
    url = f"sqlite:///{tmp_path}/s.db"
    study = Study.open(tmp_path, "s", ["max", "min"], url)
    study.use(SPACE)
    fill(study)
    study.close()
    assert [entry.outcome for entry in Study.read(tmp_path, "s", url).entries()] == [DONE, REJECTED, FAILED]


def test_a_told_trial_waits_for_the_disk_once_and_an_asked_one_not(study, tmp_path, monkeypatch):
    """What counts is that an end is on the disk when tell returns; readers see everything at once either way."""
    waits = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: waits.append(os.fstat(descriptor).st_size) or real(descriptor))
    number = study.ask(POINT, RECIPE)
    assert not waits
    assert Study.read(tmp_path).entries()[-1].number == number
    study.tell(number, DONE, ("ms",), OBJECTIVES)
    assert waits == [(tmp_path / "study.journal").stat().st_size]  # once, after the last line
    assert Study.read(tmp_path).entries()[-1].outcome == DONE
    study.set_fact("a", 1)
    assert len(waits) == 2


def test_what_is_told_is_one_write_that_others_see_whole_or_not_at_all(study, tmp_path, monkeypatch):
    """The journal grows once per tell, and a process that is killed within it leaves nothing of it."""
    path, sizes = tmp_path / "study.journal", []
    number = study.ask(POINT, RECIPE)
    before = path.read_bytes()
    real = optuna.Trial.set_constraint
    monkeypatch.setattr(optuna.Trial, "set_constraint", lambda *told: sizes.append(path.stat().st_size) or real(*told))
    study.tell(number, DONE, CONSTRAINTS, OBJECTIVES)
    assert sizes == [len(before)] * 3
    assert path.read_bytes().startswith(before)
    assert study.optuna.get_trials() == native(tmp_path).get_trials()

    code = (
        "import os, pathlib, sys, optuna; sys.path.insert(0, sys.argv[1]); import test_study as t;"
        "made = t.Study.open(pathlib.Path(sys.argv[2]), 's', ['max', 'min']); made.use(t.SPACE); number = made.ask(t.POINT, t.RECIPE);"
        "optuna.Trial.set_constraint = lambda *told: os.kill(os.getpid(), 9); made.tell(number, t.DONE, t.CONSTRAINTS, t.OBJECTIVES)"
    )
    other = tmp_path / "other"
    done = subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__), str(other)], check=False, timeout=60)
    assert done.returncode == -9
    assert [entry.outcome for entry in Study.read(other).entries()] == [None]


def test_what_others_write_meanwhile_is_read_in_its_order(study, tmp_path):
    """A dashboard writes its notes into the journal of a study that runs."""
    for turn in range(3):
        number = study.ask(POINT, RECIPE)
        native(tmp_path).set_user_attr(f"note {turn}", turn)
        study.tell(number, DONE, CONSTRAINTS, OBJECTIVES)
        assert study.fact(f"note {turn}") == turn
        native(tmp_path).set_user_attr("last", turn)
    assert study.facts() == native(tmp_path).user_attrs
    assert study.optuna.get_trials() == native(tmp_path).get_trials()
    assert [entry.outcome for entry in study.entries()] == [DONE] * 3


def test_a_full_disk_leaves_whole_lines(study, tmp_path):
    """A limit on the size of files stands for the disk: it takes a part of the line and no more."""
    path = tmp_path / "study.journal"
    number = study.ask(POINT, RECIPE)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            study.tell(number, DONE, CONSTRAINTS, OBJECTIVES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert not (tmp_path / "study.journal.lock").is_symlink()
    assert [entry.outcome for entry in Study.read(tmp_path).entries()] == [None]


def test_numbers_go_on_after_those_of_an_earlier_run(study, tmp_path):
    asked = [study.ask(POINT, RECIPE) for _ in range(3)]
    study.close()
    again = Study.open(tmp_path, "s", ["max", "min"])
    again.use(SPACE)
    try:
        assert again.next_number() == 3
        assert again.ask(POINT, RECIPE) == 3
        assert again.next_number() == 4
    finally:
        again.close()
    assert asked == [0, 1, 2]


def test_a_long_fact_is_whole_at_every_moment(study, tmp_path, monkeypatch):
    """A run that dies while it writes the parts of a new value leaves the old one."""
    old, new = ["ä" * 10] * 9000, ["b" * 10] * 12000
    study.set_fact("coverage", old)
    set_attr, left = study.optuna.set_user_attr, [2]

    def dies(name, value):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        set_attr(name, value)

    monkeypatch.setattr(study.optuna, "set_user_attr", dies)
    with pytest.raises(KeyboardInterrupt):
        study.set_fact("coverage", new)
    assert Study.read(tmp_path).fact("coverage") == old
    monkeypatch.undo()
    for told in (new, old, "short"):
        study.set_fact("coverage", told)
        assert Study.read(tmp_path).facts()["coverage"] == told
    assert all(len(json.dumps(value)) < 65_535 for value in study.optuna.user_attrs.values())


@pytest.mark.parametrize("known", [True, False])
def test_a_trial_that_a_broken_call_made_twice_counts_once(tmp_path, known):
    """Optuna repeats a creation by itself when the connection breaks after the server has made the trial (``known``: that call returns);
    else the error reaches us, and the next attempt takes the trial that is there."""
    inner = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/twice.db")
    real, calls = inner.create_new_trial, []

    def create(*args, **kwargs):
        calls.append(None)
        made = real(*args, **kwargs)
        if len(calls) in (2, 4):
            if not known:
                raise OperationalError("insert", {}, Exception("the connection is gone"))
            return real(*args, **kwargs)
        return made

    inner.create_new_trial = create
    study = Study(optuna.create_study(storage=storage.Patient(inner, patience=5.0), directions=["maximize", "minimize", "minimize"]), None)
    study.use(SPACE)
    numbers = [
        study.ask(POINT | {"bits:a": choice}, RECIPE, label, {"pair": (1, 2)})
        for choice, label in zip((32, 8, 32, 32, 8), "abccd", strict=True)
    ]
    assert len(set(numbers)) == 5
    for number in numbers:
        study.tell(number, FAILED, (), ())
    assert [(entry.number, entry.label) for entry in study.entries()] == list(zip(numbers, "abccd", strict=True))
    trials = inner.get_all_trials(study.optuna._study_id)
    assert len(trials) == (7 if known else 5)
    assert all(trial.state.is_finished() for trial in trials)


def test_a_run_that_lost_its_lease_writes_no_more(tmp_path):
    mine = Study.open(tmp_path, "s", ["max"])
    note = mine.fact("lease")
    study = native(tmp_path)
    study.set_user_attr("lease", note | {"id": "another", "host": "elsewhere", "until": 4e9})
    mine.renew()  # not due yet
    mine._lease._renewed -= 3600
    with pytest.raises(StudyInUse, match="on elsewhere took it over"):
        mine.renew()
    assert native(tmp_path).user_attrs["lease"]["id"] == "another"
