"""Searches that a fault may hit, held against the one that nothing hits: the real loop and the real study, a law in the place of work."""

import hashlib
import time
from pathlib import Path

import studies
from autoslim import search as searching
from autoslim.candidate import Done
from autoslim.executors import _files
from autoslim.job import UNTOUCHED, Prepared
from autoslim.loop import Loop, Stop, Watcher
from autoslim.spec import load_study
from autoslim.structure import Structure
from autoslim.study import Study

LAYERS = [f"layer{number}" for number in range(6)]
SIGNS = {"metric": -1, "latency_ms": 1, "size_bytes": 1}


def found(candidate):
    """(end, content of its file) of a candidate: a law of its point alone, so that whoever works on it finds the same."""
    content = candidate.recipe.key.encode()
    file = f"candidates/{candidate.recipe.key}/model.onnx"
    measured = studies.measured(*studies.law(candidate.point, LAYERS))
    return Done(measured, {}, file, hashlib.sha256(content).hexdigest(), candidate.recipe), content


class Alone:
    """An executor of one slot in this process; a candidate takes ``seconds``."""

    slots = 1

    def __init__(self, out, seconds=0.0):
        self.out, self.seconds, self.ready = Path(out), seconds, []

    def submit(self, candidate):
        self.ready.append(candidate)

    def outcomes(self, seconds):
        time.sleep(self.seconds)
        candidate = self.ready.pop()
        outcome, content = found(candidate)
        _files.unpack(self.out, {outcome.model_file: (outcome.sha256, content)})
        yield candidate, outcome


class Struck:
    """An executor around another; ``at(ends so far)`` is called after every look for ends. Gives up after ``seconds``."""

    def __init__(self, inner, at, seconds=150):
        self.inner, self.slots, self.submit, self.at = inner, inner.slots, inner.submit, at
        self.ends, self.stop = [], time.monotonic() + seconds

    def outcomes(self, seconds):
        for candidate, outcome in self.inner.outcomes(min(seconds, 0.3)):
            self.ends.append(candidate.number)
            yield candidate, outcome
        self.at(len(self.ends))
        assert time.monotonic() < self.stop, f"only {self.ends} ended in time"


def search(out, executor, trials, storage=None, space=None, budget=None, **spec):
    """A whole search of ``trials`` evaluations with random points; the study's entries as a stranger reads them. ``spec``: more of the study."""
    space = space or studies.space_of(LAYERS)
    untouched = studies.measured(studies.BASE_METRIC, studies.BASE_MS, studies.BASE_BYTES, studies.BASE_MACS)
    spec = load_study(
        None, {"strategy": "random", "trials": str(trials), "patience": "0", "name": "faults", "budget": budget or {}, **spec}
    )
    loop = Loop(spec, out, None, executor, Watcher(), Stop(), time.monotonic())
    (out / UNTOUCHED).parent.mkdir(parents=True, exist_ok=True)
    (out / UNTOUCHED).with_name("model.onnx").write_bytes(b"")
    told = Structure({}, {}, {}), space, {}, untouched, "ab" * 32, "accuracy", "max", True, (), {}, {"weights": "w"}
    loop.study = Study.open(out, "faults", ["max", "min", "min"], storage)
    try:
        searching.search(loop, searching.reconcile(loop, Prepared(*told), []))
    finally:
        loop.study.close()
    return Study.read(out, "faults", storage).entries()


def front(entries):
    """{key: figures} of what no other beats, by brute force."""
    figures = {
        entry.key: tuple(sign * entry.outcome.measurement.get(name) for name, sign in SIGNS.items())
        for entry in entries
        if isinstance(entry.outcome, Done)
    }
    return {
        key: mine
        for key, mine in figures.items()
        if not any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in figures.values())
    }


def check(folder, entries, trials, worked):
    """Asked = told = unique keys, none left running; each was worked for (``worked``: numbers of trials); every trial and the front are
    those of a search that nothing disturbs, which is made in ``folder``."""
    own = [entry for entry in entries if entry.cached_from is None]
    assert [entry.number for entry in entries] == list(range(len(entries)))
    assert all(isinstance(entry.outcome, Done) for entry in entries), [entry.outcome for entry in entries]
    assert len({entry.key for entry in own}) == len(own) == trials
    assert set(worked) == {entry.number for entry in own} - {0}  # 0 is the untouched model, which preparation measures
    with studies.without_waiting_for_the_disk():
        calm = search(folder, Alone(folder), trials)
    assert [(one.number, one.key, one.outcome, one.cached_from) for one in entries] == [
        (one.number, one.key, one.outcome, one.cached_from) for one in calm
    ]
    assert 2 <= len(front(calm)) < len(own)
    assert front(entries) == front(calm)
