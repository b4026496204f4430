"""The whole loop in seconds, with a law in the place of networks, workers and clocks: prepare, ask, evaluate, tell, verify, report, pick."""

import hashlib
import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest

import studies
from autoslim import plugins, search
from autoslim.budget import Budget, Limit
from autoslim.candidate import Done, Failed
from autoslim.errors import UserError
from autoslim.job import Prepared
from autoslim.loop import Stop, Watcher
from autoslim.recipe import Recipe, Step
from autoslim.reporting import comparison, picking
from autoslim.reporting.context import Material
from autoslim.spec import load_study
from autoslim.study import Study

LAYERS = ["stem", "body", "head"]
#: what a rival outside of the space measures: better than every point, so that it would be recommended if it could be
RIVAL = (studies.BASE_METRIC, studies.BASE_MS / 100, studies.BASE_BYTES / 100, studies.BASE_MACS / 100)


def figures(point):
    return studies.measured(*studies.law(point, LAYERS))


class Member:
    """An executor of one slot, which evaluates where it stands."""

    slots, say, peak_bytes = 1, None, 0

    def __init__(self, job, workers=0, trial_timeout=0.0, trial_memory_mb=0.0):
        self.job, self.waiting, self.points = job, [], {}

    def write(self, place, text):
        path = self.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    @property
    def out(self):
        return Path(self.job.out)

    def prepare(self):
        space = studies.space_of(LAYERS)
        digest = self.write("models/untouched/model.fake", "untouched")
        self.points[digest] = studies.law(space.identity(), LAYERS)
        names = [{"name": name, "kind": "Conv2d", "params": 1000, "macs": 1000, "out": 32, "inputs": 32, "kernel": [3, 3], "groups": 1, "calls": 1, "order": i} for i, name in enumerate(LAYERS)]  # fmt: skip
        groups = [{"name": name, "size": 32, "found_by": "rule", "producers": [name], "layers": [name]} for name in LAYERS]
        coverage = {
            "params": studies.BASE_PARAMS, "macs": studies.BASE_MACS, "layers": names, "groups": groups, "blocks": [], "tied": [], "left_out": {},
            "not_counted": [], "techniques": {"channels": {"units": len(LAYERS), "params_share": 1.0, "macs_share": 1.0}},
        }  # fmt: skip
        identity = {"task": "t", "weights": "w", "runtime": "fake", "threads": 1, "part": ""}
        return Prepared(None, space, coverage, figures(space.identity()), digest, "accuracy", "max", True, (), {"baseline": 0.1}, identity)

    def attach(self, prepared):
        """Nothing is held."""

    def submit(self, candidate):
        self.waiting.append(candidate)

    def outcomes(self, seconds):
        while self.waiting:
            candidate = self.waiting.pop()
            place = f"candidates/{candidate.recipe.key}/model.fake"
            digest = self.write(place, candidate.recipe.key)
            self.points[digest] = studies.law(candidate.point, LAYERS) if candidate.point else RIVAL
            found = studies.measured(*self.points[digest])
            broken = self.job.budget.violations(found, figures(studies.space_of(LAYERS).identity()), "max")
            yield candidate, Done(found, broken, place, digest, candidate.recipe, {"score": 0.1})

    def verifier(self):
        return Opener(self.points)

    def close(self):
        """No process to end."""


class Opener:
    """A verifier that knows files by their bytes."""

    def __init__(self, points):
        self.points = points

    def ask(self, verb, payload=None):
        if verb == "verify":
            digest = hashlib.sha256(Path(payload["file"]).read_bytes()).hexdigest()
            assert digest == payload["expected"]
            metric, ms, size, _ = self.points[digest]
            row = studies.verified_row(types.SimpleNamespace(key=""), 0, metric, ms, size)
            return {**row, "sha256": digest, "changes": {"split": "test", "classes": [], "agreement": None, "outputs": []}}
        return {"checks": [], "not_measured": []} if verb == "check" else None

    def kill(self):
        """No process to end."""


@pytest.fixture
def doors(monkeypatch):
    module = types.ModuleType("autoslim.executors.fake")
    module.Member = Member
    monkeypatch.setitem(sys.modules, "autoslim.executors.fake", module)
    known = plugins.names
    monkeypatch.setattr(plugins, "names", lambda door: (*known(door), "fake") if door == "executors" else known(door))


class Listener(Watcher):
    def __init__(self):
        self.phases, self.trials = [], []

    def phase(self, name):
        self.phases.append(name)

    def trial(self, progress):
        self.trials.append(progress)


def test_one_walk_through_the_loop(doors, tmp_path):
    asked = {"executor": "fake", "strategy": "random", "trials": 12, "budget": {"ms": "60%"}, "threads": 1}
    listener = Listener()
    with studies.without_waiting_for_the_disk():
        summary = search.run(load_study(None, asked), tmp_path, listener, Stop())
    assert listener.phases == ["preparation", "search", "verification", "report"]
    assert set(summary["seconds"]["phases"]) == {"preparation", "search", "verification"}
    assert summary["evaluations"] == len(listener.trials) + 1 >= 10, "the untouched model is evaluated in preparation"
    assert summary["time_share"] == 0.6
    study, whole = Study.read(tmp_path), figures(studies.space_of(LAYERS).identity())
    for entry in study.entries():
        assert entry.outcome.measurement == figures(entry.point)
        assert entry.key == entry.outcome.recipe.key
        ratio = 1.0 if entry.outcome.measurement == whole else entry.outcome.measurement.upper("latency_ratio")
        assert entry.outcome.violations["ms"] == pytest.approx(ratio / 0.6 - 1)
    material = Material(study)
    assert {row["key"] for row in material.rows} <= {entry.key for entry in study.entries()}
    budget = material.context | {"budget": Budget({"ms": Limit(0.6, True)}, None)}
    assert picking.pick(material, budget).row["key"] == summary["best"]["key"]
    assert summary["best"]["latency_ratio_high"] <= 0.6
    assert json.loads((tmp_path / "summary.json").read_text())["best"]["key"] == summary["best"]["key"]
    assert {"report.html", "front.csv", "trials.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_a_limit_that_nothing_meets_is_answered_before_single_choices_are_measured(doors, tmp_path):
    asked = {"executor": "fake", "strategy": "frontier", "trials": 12, "budget": {"ms": "0.000001"}, "threads": 1}
    listener = Listener()
    with studies.without_waiting_for_the_disk():
        summary = search.run(load_study(None, asked), tmp_path, listener, Stop())
    assert listener.phases == ["preparation", "search", "verification", "report"], "no tables"
    assert [entry.label for entry in Study.read(tmp_path).entries()] == ["untouched", "corner", "corner"]
    assert (summary["stopped"], summary["feasible"]) == ("floor", False)


OUTSIDE = {
    "uniform-one": Recipe.of([Step("bits", "stem", 8), Step("bits", "tail", 8)]),
    "uniform-odd": Recipe.of([Step("rank", "tail", 1)]),
}


def with_rivals(monkeypatch, made, lacking=()):
    """The fake network has these rivals outside of its space; the file of "uniform-odd" cannot be made. Returns the labels that were evaluated."""
    asked, submit, outcomes = [], Member.submit, Member.outcomes

    def noted(self, candidate):
        asked.append(candidate.label)
        submit(self, candidate)

    def ended(self, seconds):
        for candidate, outcome in outcomes(self, seconds):
            yield candidate, Failed("export", "refused") if candidate.label == "uniform-odd" else outcome

    monkeypatch.setattr(Member, "prepare", lambda self, whole=Member.prepare: replace(whole(self), rivals=made, no_rivals=dict(lacking)))
    monkeypatch.setattr(Member, "submit", noted)
    monkeypatch.setattr(Member, "outcomes", ended)
    return asked


def searched(out, trials=8):
    asked = {"executor": "fake", "strategy": "random", "trials": trials, "budget": {"ms": "60%"}, "threads": 1}
    listener = Listener()
    with studies.without_waiting_for_the_disk():
        return search.run(load_study(None, asked), out, listener, Stop()), listener


def test_rivals_outside_of_the_space_are_shown_and_nothing_else(doors, tmp_path, monkeypatch):
    without, _ = searched(tmp_path / "without")
    with_rivals(monkeypatch, OUTSIDE, {"uniform-channels-0.5": "no channels"})
    found, listener = searched(tmp_path / "with")
    assert listener.phases == ["preparation", "search", "rivals", "search", "verification", "report"]
    alike = ("asked", "evaluations", "done", "verified", "verified_feasible", "hypervolume", "best", "fastest_measured", "failed")
    assert {name: found[name] for name in alike} == {name: without[name] for name in alike}
    assert (found["rivals_outside"], without["rivals_outside"]) == (["uniform-one"], [])
    assert found["no_rivals"] == {"uniform-channels-0.5": "no channels", "uniform-odd": "export: refused"}
    material, plain = (Material(Study.read(tmp_path / name)) for name in ("with", "without"))
    [mine] = [row for row in material.rows if row["outside"]]
    assert (mine["label"], mine["feasible"], mine["latency_ms"]) == ("uniform-one", True, RIVAL[1])
    assert [entry.key for entry in material.study.entries()] == [entry.key for entry in plain.study.entries()]
    told = picking.pick(material, material.context)
    assert told.row["key"] == picking.pick(plain, plain.context).row["key"] == found["best"]["key"]
    assert mine["key"] not in {other["row"]["key"] for other in told.alternatives}
    both = [comparison.Side(name, side) for name, side in (("with", material), ("without", plain))]
    assert mine["key"] not in {row["key"] for row in comparison.joint_front(both)}
    assert comparison.volume(both[0]) == comparison.volume(both[1])
    page = (tmp_path / "with" / "report.html").read_text()
    assert "no point of the search space" in page
    assert "rival uniform-odd is not shown: export: refused" in page
    assert (tmp_path / "with" / mine["model_file"]).with_name("card.md").is_file()


def test_rivals_outside_of_the_space_are_made_once_and_again_where_their_file_is_lost(doors, tmp_path, monkeypatch):
    asked = with_rivals(monkeypatch, OUTSIDE)
    first, _ = searched(tmp_path)
    assert [label for label in asked if label in OUTSIDE] == list(OUTSIDE)
    [mine] = [row for row in Material(Study.read(tmp_path)).rows if row["outside"]]
    asked.clear()
    again, listener = searched(tmp_path)
    assert "rivals" not in listener.phases
    assert not asked
    assert (again["rivals_outside"], again["evaluations"]) == (first["rivals_outside"], first["evaluations"])
    (tmp_path / mine["model_file"]).unlink()
    searched(tmp_path)
    assert asked == ["uniform-one"]
    assert (tmp_path / mine["model_file"]).is_file()


def test_other_objectives_of_the_same_directions_are_refused_and_leave_the_study_as_it_is(doors, tmp_path):
    asked = {"executor": "fake", "strategy": "random", "trials": 3, "threads": 1}
    with studies.without_waiting_for_the_disk():
        search.run(load_study(None, asked), tmp_path, Listener(), Stop())
        before = Study.read(tmp_path).fact("spec")
        others = load_study(None, {**asked, "objectives": ("metric", "latency_ms", "macs")})
        with pytest.raises(
            UserError, match="begun with the objectives metric,latency_ms,size_bytes, this run asks for metric,latency_ms,macs"
        ):
            search.run(others, tmp_path, Listener(), Stop())
    assert Study.read(tmp_path).fact("spec") == before
