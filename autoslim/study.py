"""The study: the only record of what was asked and what came back, over one Optuna study in the user's storage.

One process writes, the lease holder. The record holds only truth: rejected trials carry the violations that were measured,
failed ones their reason; whatever a sampler needs beyond that stays in the strategy.
"""

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoslim.candidate import Done, Failed, Outcome, Point, Rejected
from autoslim.errors import StudyInUse, UserError
from autoslim.metrics import Direction, Measurement
from autoslim.places import writable_folder
from autoslim.recipe import Recipe
from autoslim.space import SearchSpace
from autoslim.storage import TWICE, backend, gathered, legible, mend, refuse_missing

LEASE_SECONDS = 120.0
FAILED = "failed"
#: characters of one attribute, quoted and escaped at most twice that; of longer facts the name says how many parts there are
LONGEST, PART, PARTS, TURN = 30_000, "#part", "parts", "turn"
RECORD, LABEL, MEMO, VIOLATIONS = "autoslim", "label", "memo", "violations"
#: number of an entry that is no trial: a rival outside of the search space
NO_TRIAL = -1


@dataclass(frozen=True)
class Entry:
    """One asked trial as the record has it; ``outcome`` is None while it runs, ``cached_from`` the trial it repeats."""

    number: int
    point: Point
    label: str
    memo: Mapping[str, Any]
    key: str
    outcome: Outcome | None
    cached_from: int | None = None


class _Silent(BaseSampler):
    """Suggests nothing: points are decided elsewhere, and Optuna only records them."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        raise NotImplementedError("a trial of this study has all its parameters from the start")


class Study:
    """Open with :meth:`open` (lease holder, may write) or :meth:`read` (anyone, at any time)."""

    def __init__(self, study: optuna.Study, lease: "Lease | None") -> None:
        self._study, self._lease = study, lease
        self._distributions: dict[str, BaseDistribution] = {}
        self._running: dict[int, tuple[optuna.Trial, Mapping[str, Any]]] = {}
        self._next: int | None = None

    @staticmethod
    def open(folder: Path, name: str, directions: Sequence[Direction], storage: str | None = None, lease: "Lease | None" = None) -> "Study":
        """Create or resume, as the only writer. ``lease`` may have been taken before. Raises StudyInUse if another run holds
        the study, UserError if it has other objectives.

        Repairs first: a torn last line of the journal is cut off, trials left RUNNING are closed as interrupted.
        """
        quiet()
        lease = lease or Lease(folder)
        try:
            mend(folder, storage)
            wanted = ["minimize" if direction == "min" else "maximize" for direction in directions]
            with legible(folder, storage):
                opened = optuna.create_study(
                    storage=backend(folder, storage), study_name=name, load_if_exists=True, directions=wanted, sampler=_Silent()
                )
            found = [direction.name.lower() for direction in opened.directions]
            if found != wanted:
                raise UserError(
                    f"study {name}: was begun with other objectives ({', '.join(found)}) than this run's ({', '.join(wanted)}); give another --out or --study-name"
                )
            lease.claim(opened)
        except BaseException:
            lease.release()
            raise
        study = Study(opened, lease)
        study._close_stale()
        return study

    @staticmethod
    def read(folder: Path, name: str | None = None, storage: str | None = None) -> "Study":
        """Open for reading. Raises UserError where there is no study."""
        quiet()
        if storage is None and not (folder / "study.journal").is_file():
            raise UserError(f"{folder}: no study here (no study.journal); a study's folder is what `autoslim search --out` wrote")
        refuse_missing(storage)
        with legible(folder, storage):
            where = backend(folder, storage)
            names = optuna.get_all_study_names(where)
        if not names:
            raise UserError(f"{folder}: the storage holds no study")
        if name is not None and name not in names:
            raise UserError(f"--study-name: got {name!r}, allowed: {', '.join(names)}")
        return Study(optuna.load_study(study_name=name or names[0], storage=where), None)

    def close(self) -> None:
        if self._lease is not None:
            self._lease.release(self._study)

    # -- facts about the whole study ------------------------------------------------------------------------------------

    def fact(self, name: str) -> Any:
        """A value stored with :meth:`set_fact`, or None."""
        return joined(name, self._study.user_attrs)

    def facts(self) -> dict[str, Any]:
        """Everything that was stored with :meth:`set_fact`, as a copy."""
        attrs = self._study.user_attrs
        return {name: joined(name, attrs) for name in attrs if PART not in name}

    def set_fact(self, name: str, value: Any) -> None:
        """Store plain data; what is longer than a TEXT of MySQL in parts, the new ones beside the old until all are there."""
        text = json.dumps(value)
        if len(text) > LONGEST:
            old = self._study.user_attrs.get(name)
            turn = 1 - old[TURN] if is_parted(old) else 0
            parts = [text[start : start + LONGEST] for start in range(0, len(text), LONGEST)]
            for number, part in enumerate(parts):
                self._study.set_user_attr(f"{name}{PART}{turn}.{number}", part)
            value = {PARTS: len(parts), TURN: turn}
        self._study.set_user_attr(name, value)

    @property
    def name(self) -> str:
        return self._study.study_name

    @property
    def optuna(self) -> optuna.Study:
        """The Optuna study itself, for Optuna's own tools (importances, artefacts, dashboards); nothing else writes to it."""
        return self._study

    # -- ask and tell ---------------------------------------------------------------------------------------------------

    def use(self, space: SearchSpace) -> None:
        """The space that points are recorded in. Raises UserError if the study was made with another one."""
        shape = json.dumps([[domain.name, list(domain.choices)] for domain in space.domains], sort_keys=True)
        known = self.fact("space")
        if known is None:
            self.set_fact("space", shape)
        elif known != shape:
            raise UserError(
                f"study {self.name}: the search space differs from the one it was begun with; give another --out (or --study-name)"
            )
        self._distributions = {domain.name: CategoricalDistribution(list(domain.choices)) for domain in space.domains}

    def ask(self, point: Point, recipe: Recipe, label: str = "", memo: Mapping[str, Any] | None = None) -> int:
        """Record that ``point`` is being tried; returns the trial's number."""
        attrs: dict[str, Any] = {RECORD: {"key": recipe.key, "recipe": recipe.as_dict()}}
        attrs |= ({LABEL: label} if label else {}) | ({MEMO: dict(memo)} if memo else {})
        params = {name: point[name] for name in self._distributions}
        # in one piece: asking and then setting each parameter would cost one write of the storage for each of them
        made = create_trial(state=TrialState.RUNNING, params=params, distributions=self._distributions, user_attrs=attrs)
        # as optuna.Study.add_trial does, but for the number, which that keeps to itself and a list of all trials would tell
        with gathered(self._study._storage, sync=False):  # a power cut takes what is under way with it, on record or not
            trial = optuna.Trial(self._study, self._study._storage.create_new_trial(self._study._study_id, template_trial=made))
        self._running[trial.number] = trial, attrs[RECORD]
        self._next = trial.number + 1
        self.renew()
        return trial.number

    def renew(self) -> None:
        """Keep the lease; call it now and then while work goes on."""
        if self._lease is not None:
            self._lease.renew(self._study)

    def next_number(self) -> int:
        """The number that the next trial will have."""
        if self._next is None:
            self._next = len(self._study.get_trials(deepcopy=False))
        return self._next

    def tell(
        self, number: int, outcome: Outcome, constraints: Sequence[str], objectives: Sequence[str], cached_from: int | None = None
    ) -> None:
        """Record how a trial ended; every constraint is set on every trial, since Optuna takes a missing one for satisfied."""
        trial, record = self._running.pop(number)
        violations = {} if isinstance(outcome, Failed) else outcome.violations
        with gathered(self._study._storage, sync=True):
            trial.set_user_attr(RECORD, pack(outcome, record, cached_from))
            if violations:
                trial.set_user_attr(VIOLATIONS, dict(violations))  # optuna-dashboard does not show constraints
            for name in constraints:
                # a limit that was not reached yet is neither kept nor broken: 0 says "not known to be broken"
                trial.set_constraint(name, float(violations.get(name, 0.0)))
            trial.set_constraint(FAILED, 1.0 if isinstance(outcome, Failed) else 0.0)
            if isinstance(outcome, Done):
                self._study.tell(trial, [outcome.measurement.get(name) for name in objectives])
            else:
                self._study.tell(trial, state=TrialState.FAIL if isinstance(outcome, Failed) else TrialState.PRUNED)

    def entries(self) -> list[Entry]:
        """Everything that was asked, in order."""
        return [unpack(trial) for trial in self._study.get_trials(deepcopy=False) if TWICE not in trial.user_attrs]

    def _close_stale(self) -> None:
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
            self._study.tell(trial.number, state=TrialState.FAIL)


def is_parted(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {PARTS, TURN}


def joined(name: str, attrs: Mapping[str, Any]) -> Any:
    """A fact as it was stored, or None."""
    value = attrs.get(name)
    if not is_parted(value):
        return value
    return json.loads("".join(attrs[f"{name}{PART}{value[TURN]}.{number}"] for number in range(value[PARTS])))


def quiet() -> None:
    """Optuna's own log lines would tear the progress display."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def pack(outcome: Outcome, record: Mapping[str, Any], cached_from: int | None) -> dict[str, Any]:
    """The outcome as plain data."""
    kind = type(outcome).__name__.lower()
    data: dict[str, Any] = {"key": record["key"], "recipe": record["recipe"], "end": kind, "seconds": dict(outcome.seconds)}
    if cached_from is not None:
        data["cached_from"] = cached_from
    if isinstance(outcome, Failed):
        return data | {"reason": outcome.reason, "detail": outcome.detail}
    data |= {"measurement": outcome.measurement.as_dict(), "violations": dict(outcome.violations)}
    if isinstance(outcome, Rejected):
        return data | {"rung": outcome.rung}
    return data | {"model_file": outcome.model_file, "sha256": outcome.sha256, "notes": list(outcome.notes)}


def outcome_of(record: Mapping[str, Any]) -> Outcome | None:
    """The inverse of :func:`pack`; None for a record without an end."""
    if "end" not in record:
        return None
    if record["end"] == "failed":
        return Failed(record["reason"], record["detail"], record["seconds"])
    recipe, found = Recipe.from_dict(record["recipe"]), Measurement.from_dict(record["measurement"])
    if record["end"] == "rejected":
        return Rejected(record["rung"], found, record["violations"], recipe, record["seconds"])
    return Done(found, record["violations"], record["model_file"], record["sha256"], recipe, record["seconds"], tuple(record["notes"]))


def unpack(trial: FrozenTrial) -> Entry:
    """A whole trial as an entry."""
    record = trial.user_attrs.get(RECORD, {})
    outcome = outcome_of(record)
    if outcome is None and trial.state.is_finished():
        outcome = Failed("interrupted", "the run ended before this candidate")
    attrs = trial.user_attrs
    return Entry(
        trial.number,
        dict(trial.params),
        attrs.get(LABEL, ""),
        attrs.get(MEMO, {}),
        record.get("key", ""),
        outcome,
        record.get("cached_from"),
    )


def alive(pid: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Lease:
    """Who may write: a locked file in the folder, and a dated note in the study for storages that several machines share."""

    def __init__(self, folder: Path) -> None:
        writable_folder(folder, "--out")
        self._id, self._renewed = uuid.uuid4().hex, 0.0
        self._file: int | None = os.open(folder / "study.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise StudyInUse(f"{folder}: this study is in use by another run on this machine; wait for it, or give another --out") from None

    def claim(self, study: optuna.Study) -> None:
        """Raise StudyInUse if another machine renewed its note lately; else take over."""
        note = study.user_attrs.get("lease")
        here = socket.gethostname()
        if note and note["until"] > time.time() and (note["host"] != here or note["pid"] != os.getpid() and alive(note["pid"])):
            raise StudyInUse(
                f"study {study.study_name}: in use by process {note['pid']} on {note['host']}; its lease ends in {note['until'] - time.time():.0f} s"
            )
        self.renew(study)

    def renew(self, study: optuna.Study) -> None:
        """Write the note anew where it is due. Raises StudyInUse if another run has taken the study meanwhile."""
        if time.time() - self._renewed > LEASE_SECONDS / 4:
            note = study.user_attrs.get("lease") if self._renewed else None
            if note and note["id"] != self._id and note["until"] > time.time():
                raise StudyInUse(
                    f"study {study.study_name}: process {note['pid']} on {note['host']} took it over while this one gave no sign of life; "
                    "what was measured so far is on record, run the same command again when that one has ended"
                )
            self._renewed = time.time()
            self._note(study, self._renewed + LEASE_SECONDS)

    def _note(self, study: optuna.Study, until: float) -> None:
        study.set_user_attr("lease", {"id": self._id, "host": socket.gethostname(), "pid": os.getpid(), "until": until})

    def release(self, study: optuna.Study | None = None) -> None:
        """Let others write: unlock the folder, and take the note out of ``study``."""
        if self._file is None:
            return
        if study is not None:
            self._note(study, 0.0)
        os.close(self._file)
        self._file = None
