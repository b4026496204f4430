"""A study's journal read directly, for reports: only what is new since the last look, and only the trials that are asked for.

Optuna's own replay builds every trial from every line, distributions included; a report needs neither. What comes out is equal to the
replay of ``optuna.storages.JournalStorage`` (its ``_storage.py`` says which operations count); nothing is ever written.
"""

import functools
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState

from autoslim.errors import UserError
from autoslim.study import MEMO, PART, RECORD, Entry, Study, joined, quiet, unpack
from autoslim.tables import REMAKES

#: operations of Optuna's journal that say something an Entry holds
CREATE_STUDY, DELETE_STUDY, FACT, CREATE_TRIAL, PARAM, STATE, ATTR = 0, 1, 2, 4, 5, 6, 8
#: how lines begin that no entry holds anything of: system attributes of studies and trials, intermediate values
UNUSED = frozenset(b'{"op_code":%d,' % operation for operation in (3, 7, 9))
LONGEST_UNUSED = len(b'{"op_code":3,')
#: how Optuna begins a line; any other order of the keys is read in full
BEGIN = re.compile(rb'\{"op_code":(\d+),"worker_id":"[^"\\]*",(?:"trial_id":(\d+),(?:"state":(\d+),)?)?')
CREATED = re.compile(rb'\{"op_code":4,"worker_id":"[^"\\]*","study_id":(\d+),"datetime_start":[^,]*,"state":(\d+),')
#: where a created trial's parts begin; texts in a journal have their quotes escaped, so these bytes cannot be inside one
RECORDED = b'"user_attr":{"%s":' % RECORD.encode()
#: how study.pack goes on after the recipe; the values of a recipe are no such texts
END = re.compile(rb'\},"end":"(done|rejected|failed)","seconds":\{[^{}]*\}(?:,"cached_from":(\d+))?(?:,"reason":"(\w+)")?')
KEY = re.compile(rb'"%s":\{"key":"([0-9a-f]+)"' % RECORD.encode())
RUNNING, ENDED = TrialState.RUNNING.value, {state.value for state in TrialState if state.is_finished()}
decode = json.JSONDecoder().decode
REMADE = REMAKES.encode()
CHOICES, PARAMS, ATTRS = b'"distributions":{', b'},"params":{', b'},"user_attrs":{'


@dataclass(slots=True)
class _Trial:
    """The lines about one trial, unread until they are asked for."""

    number: int
    created: bytes
    state: int
    told: list[bytes] = field(default_factory=list)


class Told(NamedTuple):
    """What ``study.unpack`` takes from a FrozenTrial."""

    number: int
    state: TrialState
    params: dict[str, Any]
    user_attrs: dict[str, Any]


class Journal:
    """All studies of one journal, as far as it was read. :meth:`refresh` reads on."""

    def __init__(self, path: Path) -> None:
        self.path, self.lives = path, 0
        self._begin()
        self.refresh()

    def _begin(self) -> None:
        self.lives += 1
        self._offset, self._last = 0, b""
        self.names: dict[int, str] = {}
        self.facts: dict[int, dict[str, Any]] = {}
        self.trials: dict[int, list[_Trial]] = {}
        self._all: list[_Trial] = []
        self._made = 0
        self._known: dict[bytes, dict[str, BaseDistribution]] = {}

    def refresh(self) -> int:
        """Read what was appended; returns the bytes read. A file that is no longer the one that was begun is read anew. A last line without
        its end is left for later. Raises UserError for a line that is no JSON."""
        before = self._offset
        with self.path.open("rb") as file:
            file.seek(max(0, self._offset - len(self._last)))
            if file.read(len(self._last)) != self._last:
                self._begin()
                before = 0
                file.seek(0)
            offset = self._offset
            try:
                for line in file:
                    if line[-1:] != b"\n":
                        break
                    if line[:LONGEST_UNUSED] not in UNUSED:
                        self._offset = offset  # where a damaged line is told to be
                        self._understood(line)
                    offset, self._last = offset + len(line), line
            finally:
                self._offset = offset
        return self._offset - before

    def _understood(self, line: bytes) -> None:
        try:
            self._apply(line)
        except (KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.path}: a line near byte {self._offset} is no line of a study's journal; restore the file from a copy"
            ) from None

    def _apply(self, line: bytes) -> None:
        begun = BEGIN.match(line)
        code, trial_id, state = begun.groups() if begun else (None, None, None)
        operation = int(code) if code else self.parsed(line)["op_code"]
        if operation in (STATE, ATTR, PARAM):
            number = int(trial_id) if trial_id else self.parsed(line)["trial_id"]
            trial = self._all[number] if number < len(self._all) else None
            if trial is None or trial.state in ENDED:
                return
            if operation != STATE:
                trial.told.append(line)
            else:
                trial.state = int(state) if state else self.parsed(line)["state"]
        elif operation == CREATE_TRIAL:
            self._create(line)
        elif operation in (CREATE_STUDY, DELETE_STUDY, FACT):
            self._study(operation, self.parsed(line))

    def _study(self, operation: int, told: dict[str, Any]) -> None:
        if operation == CREATE_STUDY:
            if told["study_name"] not in self.names.values():
                self.names[self._made], self.facts[self._made], self.trials[self._made] = told["study_name"], {}, []
                self._made += 1
        elif told["study_id"] in self.names and operation == FACT:
            self.facts[told["study_id"]] |= told["user_attr"]
        elif told["study_id"] in self.names:
            del self.names[told["study_id"]]

    def _create(self, line: bytes) -> None:
        begun = CREATED.match(line)
        head = {} if begun else self.parsed(line)
        study, state = (int(begun.group(1)), int(begun.group(2))) if begun else (head["study_id"], head.get("state", RUNNING))
        if study in self.names:
            trial = _Trial(len(self.trials[study]), line, state)
            self.trials[study].append(trial)
            self._all.append(trial)

    def parsed(self, line: bytes) -> dict[str, Any]:
        """A line as Optuna wrote it. Raises UserError with the place of a damaged one."""
        try:
            return decode(line.decode())
        except ValueError as error:
            raise UserError(f"{self.path}: a line near byte {self._offset} is damaged ({error}); restore the file from a copy") from None

    # -- single trials ----------------------------------------------------------------------------------------------------

    def key(self, trial: _Trial) -> str | None:
        """The key of a trial's recipe, from the first bytes of its record; None where they look otherwise."""
        place = trial.created.find(ATTRS)
        begun = KEY.match(trial.created, place + len(ATTRS)) if place >= 0 else None
        return begun.group(1).decode() if begun else None

    def end(self, trial: _Trial) -> tuple[str, str | None, bool] | None:
        """(how the trial ended, why it failed, whether it repeats another); None while it runs or where the run ended before it."""
        for line in reversed(trial.told):
            if RECORDED in line:
                begun = END.search(line)
                if begun:
                    end, cached, reason = (part and part.decode() for part in begun.groups())
                    return end, reason, cached is not None
                told = self.parsed(line)["user_attr"][RECORD]
                return (told["end"], told.get("reason"), "cached_from" in told) if "end" in told else None
        return None

    def remade(self, trial: _Trial) -> int | None:
        """The number of the trial whose lost file this one made again."""
        place = trial.created.find(ATTRS)
        if place < 0 or trial.created.find(REMADE, place) < 0:
            return None
        return self.parsed(b"{" + trial.created[place + 2 :])["user_attrs"].get(MEMO, {}).get(REMAKES)

    def entry(self, trial: _Trial) -> Entry:
        """The trial as :meth:`Study.entries` gives it."""
        places = [trial.created.find(mark) for mark in (CHOICES, PARAMS, ATTRS)]
        if -1 in places:
            told = self.parsed(trial.created)
            distributions = decoded(told.get("distributions", {}))
        else:
            choices, params, _ = places
            told = self.parsed(b"{" + trial.created[params + 2 :])
            distributions = self._distributions(trial.created[choices + len(CHOICES) - 1 : params + 1])
        found = Told(trial.number, TrialState(trial.state), {}, dict(told.get("user_attrs", {})))
        found.params.update((name, distributions[name].to_external_repr(value)) for name, value in told.get("params", {}).items())
        for line in trial.told:
            note(found, self.parsed(line))
        return unpack(found)

    def _distributions(self, text: bytes) -> dict[str, BaseDistribution]:
        if text not in self._known:
            self._known[text] = decoded(self.parsed(text))
        return self._known[text]


def note(trial: Told, told: dict[str, Any]) -> None:
    """One later line about a trial."""
    if "user_attr" in told:
        trial.user_attrs.update(told["user_attr"])
    else:
        trial.params[told["param_name"]] = json_to_distribution(told["distribution"]).to_external_repr(told["param_value_internal"])


def decoded(texts: dict[str, str]) -> dict[str, BaseDistribution]:
    return {name: json_to_distribution(text) for name, text in texts.items()}


class Reading:
    """One study of a journal with the reading half of :class:`Study`: name, facts, entries."""

    def __init__(self, journal: Journal, name: str | None = None) -> None:
        self._journal, self._wanted = journal, name
        self._choose(name)

    def _choose(self, name: str | None) -> None:
        names = {text: index for index, text in self._journal.names.items()}
        if not names:
            raise UserError(f"{self._journal.path.parent}: the storage holds no study")
        if name is not None and name not in names:
            raise UserError(f"--study-name: got {name!r}, allowed: {', '.join(names)}")
        self.name = name or next(iter(names))
        self._index = names[self.name]
        self._entries: dict[int, Entry] = {}

    def refresh(self) -> int:
        """Read what was appended to the journal; returns the bytes read."""
        lives = self._journal.lives
        read = self._journal.refresh()
        if self._journal.lives != lives:  # another file has taken the place
            self._choose(self._wanted)
        return read

    def fact(self, name: str) -> Any:
        """A value stored with :meth:`Study.set_fact`, or None."""
        return joined(name, self._journal.facts[self._index])

    def facts(self) -> dict[str, Any]:
        """Everything that was stored with :meth:`Study.set_fact`."""
        attrs = self._journal.facts[self._index]
        return {name: joined(name, attrs) for name in attrs if PART not in name}

    def entries(self, keys: Collection[str] | None = None) -> list[Entry]:
        """Everything that was asked, in order; with ``keys`` only the trials of these recipes, and no other is read."""
        trials = self._journal.trials[self._index]
        if keys is not None:
            trials = [trial for trial in trials if (key := self._journal.key(trial)) is None or key in keys]
        found = [self._entry(trial) for trial in trials]
        return found if keys is None else [entry for entry in found if entry.key in keys]

    def evaluations(self) -> int:
        """How many trials were judged for the first time, as ``tables.counts`` counts them, without building any."""
        trials = self._journal.trials[self._index]
        ends = [self._journal.end(trial) for trial in trials]
        again = {self._journal.remade(trial) for trial, end in zip(trials, ends, strict=True) if end and end[0] == "done"}
        return sum(end is not None and not end[2] and end[1] != "interrupted" and number not in again for number, end in enumerate(ends))

    def _entry(self, trial: _Trial) -> Entry:
        """A finished trial never changes, so it is built once."""
        known = self._entries.get(trial.number)
        if known is None:
            known = self._journal.entry(trial)
            if trial.state in ENDED:
                self._entries[trial.number] = known
        return known

    @functools.cached_property
    def optuna(self) -> optuna.Study:
        """The Optuna study itself, for Optuna's own tools; replays the whole journal, once."""
        return Study.read(self._journal.path.parent, self.name, None).optuna


def read(folder: Path, name: str | None = None, storage: str | None = None) -> "Reading | Study":
    """A study for reading only; other storages than the folder's own journal are read through Optuna. Raises UserError where there is none."""
    quiet()
    journal = folder / "study.journal"
    if storage is not None or not journal.is_file():
        return Study.read(folder, name, storage)
    return Reading(Journal(journal), name)
