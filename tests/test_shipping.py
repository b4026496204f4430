"""shipping.py: in which order shipped files are looked at again, and when that is enough. The worker is not a real one."""

from types import SimpleNamespace

import pytest

from autoslim import shipping
from autoslim.candidate import Done
from autoslim.errors import AutoSlimError
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, Step
from autoslim.shipping import ENOUGH_PASSES, PASSES
from autoslim.study import Entry

CONTEXT = {"task": "t", "target": "onnxruntime_cpu"}


class Study:
    """Facts, and a copy of every state that they had."""

    def __init__(self, verified=()):
        self.facts, self.states, self.renewed = {"verified": list(verified)}, [], 0

    def fact(self, name):
        return self.facts.get(name)

    def set_fact(self, name, value):
        self.facts[name] = [dict(row) for row in value]
        self.states.append([row["model_file"] for row in value])

    def renew(self):
        self.renewed += 1


class Worker:
    """Answers as the verifier does and notes what it was asked; ``steady`` files converge after so many rounds, ``broken``
    ones fail at (verb, file)."""

    steady, broken = {}, set()

    def __init__(self, log):
        self.asked, self.rounds, self.killed = [], {}, False
        Worker.latest = self

    def ask(self, verb, payload):
        if verb == "verifier":
            return None
        assert payload["untouched"].endswith("models/untouched/model.onnx")
        if verb == "clock":
            return [self.look(verb, file) for file in payload["files"]]
        found = self.look(verb, payload["file"])
        if found is None:
            raise AutoSlimError(f"{payload['file'].split('/')[-2]} does not verify")
        return {**found, "sha256": payload["expected"], "n": 8}

    def look(self, verb, file):
        name = file.split("/")[-2]
        if (verb, name) in self.broken:
            return None
        self.asked.append((verb, name))
        self.rounds[name] = self.rounds.get(name, 0) + 1
        return {
            "rounds": self.rounds[name],
            "converged": self.rounds[name] >= self.steady.get(name, 99),
            "latency_p95_ms": self.rounds[name],
        }

    def kill(self):
        self.killed = True


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """(run verification, its entries): the untouched file and two more."""
    monkeypatch.setattr(shipping, "Worker", Worker)
    monkeypatch.setattr(Worker, "steady", {})
    monkeypatch.setattr(Worker, "broken", set())
    entries = []
    for number, label in enumerate(("untouched", "", "")):
        recipe = Recipe.of([Step("bits", f"layer{number}", 8)] if number else ())
        file = f"candidates/{recipe.key}/model.onnx" if number else "models/untouched/model.onnx"
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"weights")
        entries.append(Entry(number, {}, label, {}, recipe.key, Done(Measurement({}), {}, file, f"{number}" * 64, recipe)))

    def run(study):
        said = []
        rows = shipping.verify(study, SimpleNamespace(out=str(tmp_path)), CONTEXT, entries, said.append)
        assert Worker.latest.killed
        return rows, Worker.latest.asked, said

    return run, entries


def test_files_get_their_rounds_in_turn(ship):
    run, entries = ship
    study = Study()
    rows, asked, said = run(study)
    names = ["untouched", entries[1].key, entries[2].key]
    assert asked == [("verify", name) for name in names] + [("clock", name) for name in names] * (PASSES - 1)
    assert [row["rounds"] for row in rows] == [PASSES] * 3
    assert [row["latency_p95_ms"] for row in rows] == [PASSES] * 3, "the row holds the figures of all rounds"
    assert [row["n"] for row in rows] == [8] * 3, "beside those that were taken once"
    assert study.facts["verified"] == rows
    assert study.renewed >= 3 + PASSES - 1
    assert said[-1] == f"timed, round {PASSES} of {PASSES}"


def test_every_row_is_recorded_as_soon_as_it_is_there(ship):
    run, entries = ship
    study = Study()
    run(study)
    files = ["models/untouched/model.onnx", *(f"models/{entry.key}/model.onnx" for entry in entries[1:])]
    assert study.states == [files[:1], files[:2], files, files]


def test_a_file_that_is_known_well_stops_after_enough_passes(ship):
    run, entries = ship
    steady, late, never = "untouched", entries[1].key, entries[2].key
    Worker.steady = {steady: 1, late: ENOUGH_PASSES + 1}
    rows, asked, _ = run(Study())
    assert [row["rounds"] for row in rows] == [ENOUGH_PASSES, ENOUGH_PASSES + 1, PASSES]
    clocked = [name for verb, name in asked if verb == "clock"]
    assert clocked == [steady, late, never] * (ENOUGH_PASSES - 1) + [late, never] + [never] * (PASSES - ENOUGH_PASSES - 1)


def test_when_all_are_known_well_nothing_more_is_timed(ship):
    run, entries = ship
    Worker.steady = dict.fromkeys(("untouched", entries[1].key, entries[2].key), 2)
    _, asked, said = run(Study())
    assert len(asked) == 3 * ENOUGH_PASSES
    assert said[-1] == f"timed, round {ENOUGH_PASSES} of {PASSES}"


def test_rows_of_an_earlier_run_are_not_timed_again_and_unfinished_ones_are(ship, tmp_path):
    run, entries = ship
    known = {"sha256": "1" * 64, "rounds": ENOUGH_PASSES, "converged": True, "model_file": f"models/{entries[1].key}/model.onnx"}
    unfinished = {"sha256": "2" * 64, "rounds": 1, "converged": False, "model_file": f"models/{entries[2].key}/model.onnx"}
    elsewhere = {"sha256": "3" * 64, "rounds": PASSES, "converged": False, "model_file": "models/other/model.onnx"}
    study = Study([known, unfinished, elsewhere])
    shipping.place(tmp_path, entries[1], CONTEXT)
    rows, asked, _ = run(study)
    assert {name for _, name in asked} == {"untouched", entries[2].key}
    assert rows[1] == known
    assert [row["rounds"] for row in rows] == [PASSES, ENOUGH_PASSES, PASSES]
    assert study.states[0] == ["models/untouched/model.onnx", known["model_file"], elsewhere["model_file"]], (
        "nothing known is lost on the way"
    )


def test_a_file_that_fails_its_verification_is_dropped_and_not_timed(ship):
    run, entries = ship
    Worker.broken = {("verify", entries[1].key)}
    rows, asked, said = run(Study())
    assert [row["number"] for row in rows] == [0, 2]
    assert entries[1].key not in {name for _, name in asked}
    assert said[1] == f"verification of {entries[1].key} failed and the point is dropped: {entries[1].key} does not verify"


def test_a_later_round_that_fails_costs_no_other_file_its_row(ship):
    run, entries = ship
    Worker.broken = {("clock", entries[1].key)}
    rows, _, said = run(Study())
    assert [row["rounds"] for row in rows] == [PASSES, 1, PASSES]
    assert any(text.startswith(f"{entries[1].key} was timed 1 times and no more") for text in said)


def test_where_time_is_short_the_files_that_add_most_are_looked_at_first(tmp_path, monkeypatch):
    """Six points and two rivals, and time for FEWEST_FILES alone: the untouched model, the point of most hypervolume, then what adds most to
    it, worked out by hand; the rows are in the order of the study all the same."""
    monkeypatch.setattr(shipping, "Worker", Worker)
    places = {"untouched": (0.9, 1.0), "uniform-int8": (0.9, 0.5), "a": (0.9, 0.8), "b": (0.88, 0.1), "c": (0.899, 0.3), "d": (0.87, 0.09)}
    entries = []
    for number, (name, (metric, ms)) in enumerate(places.items()):
        recipe, label = Recipe.of([Step("bits", f"layer{number}", 8)] if number else ()), name if len(name) > 1 else ""
        file = f"candidates/{recipe.key}/model.onnx" if number else "models/untouched/model.onnx"
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"weights")
        found = Measurement({"metric": Value(metric), "latency_ms": Value(ms)}, {}, {})
        entries.append(Entry(number, {}, label, {}, recipe.key, Done(found, {}, file, f"{number}" * 64, recipe)))
    goals = {"objectives": ("metric", "latency_ms"), "metric_direction": "max", "untouched": entries[0].outcome.measurement}
    # volumes in the box of half the metric lost and 1.1 of the time: b 0.478 * 1.0, c 0.499 * 0.8, d 0.467 * 1.01, a 0.5 * 0.3; beside b: c 0.0169,
    # a 0.0067, d 0.0047; beside both: d 0.0047, a 0.0003
    order = [entry.number for entry in shipping.by_worth(entries, CONTEXT | goals)]
    assert order == [0, 3, 4, 1, 5, 2]
    rows = shipping.verify(Study(), SimpleNamespace(out=str(tmp_path)), CONTEXT | goals, entries, print, until=0.0)
    assert [row["number"] for row in rows] == [0, 1, 3, 4]
