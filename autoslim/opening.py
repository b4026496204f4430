"""How a run begins: what was prepared and what an earlier run recorded, brought together; the strategy, its tables and its seeds."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoslim import effects, host, outsiders, plugins, tables, warming
from autoslim.candidate import Done
from autoslim.ending import late
from autoslim.entries import Entries
from autoslim.errors import AutoSlimError, UserError
from autoslim.job import UNTOUCHED
from autoslim.loop import Loop, is_judged, settle
from autoslim.metrics import Measurement, direction_of
from autoslim.recipe import Recipe
from autoslim.space import SearchSpace
from autoslim.spec import StudySpec
from autoslim.study import Study

CORNER = "corner"
#: losses of single choices are measured for as many as there are trials, and at least for so many
FEWEST_LOSSES = 32
#: share of --time that the measuring of single choices may take; a slow preparation takes nothing from it
TABLES_SHARE = 0.3


def reconcile(loop: Loop, prepared: Any, command: Sequence[str]) -> Any:
    """Bring what was prepared and what an earlier run recorded together; returns what holds from now on.
    Raises UserError where the record is of another task, network or runtime."""
    study, spec = loop.study, loop.spec
    study.use(prepared.space)
    known = study.fact("untouched")
    identity = study.fact("identity")
    if identity is not None and identity != dict(prepared.identity):
        both = {**identity, **prepared.identity}
        other = ", ".join(name for name in both if identity.get(name) != prepared.identity.get(name))
        raise UserError(
            f"study {study.name}: it was begun with another {other}; results of unlike things do not mix, give another --out (or --study-name)"
        )
    refuse_other_objectives(study, spec)
    if known is None:
        study.set_fact("identity", dict(prepared.identity))
        study.set_fact("untouched_sha256", prepared.untouched_sha256)
        study.set_fact("untouched", prepared.untouched.as_dict())
        study.set_fact("coverage", json.loads(json.dumps(prepared.coverage)))
        study.set_fact(
            "model",
            {
                "metric_name": prepared.metric_name,
                "metric_direction": prepared.metric_direction,
                "targets": prepared.has_targets,
                "notes": list(prepared.notes),
                "task": spec.task,
                "task_args": spec.task_args,
                "target": spec.runtime,
                "licence": prepared.licence,
            },
        )
        study.set_fact("environment", host.facts())
        study.set_fact("prepare_seconds", dict(prepared.seconds))
    else:
        prepared = replace(prepared, untouched=Measurement.from_dict(known))
        loop.executor.attach(prepared)
    study.set_fact("command", list(command))
    study.set_fact("spec", spec_facts(spec))
    loop.watcher.prepared(prepared)
    holds = {"budget": spec.limits(), "untouched": prepared.untouched, "metric_direction": prepared.metric_direction}
    loop.entries = Entries(tables.rejudged(study.entries(), holds))
    loop.outsiders = outsiders.entries(study.fact(outsiders.FACT))
    for entry in loop.entries:
        if entry.cached_from is None and is_judged(entry.outcome):
            loop.judged.setdefault(entry.key, entry.number)
    if not any(entry.label == "untouched" and isinstance(entry.outcome, Done) for entry in loop.entries):
        record_untouched(loop, prepared)
    return prepared


def refuse_other_objectives(study: Study, spec: StudySpec) -> None:
    """Raise UserError where the study's values are of other objectives, which the directions that Optuna compares do not always tell."""
    before = (study.fact("spec") or {}).get("objectives")
    if before is not None and list(before) != list(spec.objectives):
        raise UserError(
            f"study {study.name}: it was begun with the objectives {','.join(before)}, this run asks for {','.join(spec.objectives)}; "
            "give another --out (or --study-name), or the objectives that it was begun with"
        )


def spec_facts(spec: StudySpec) -> dict[str, Any]:
    """The spec as plain data for the record."""
    data = spec.model_dump(exclude={"budget"})
    data["objectives"] = list(spec.objectives)
    limits = spec.limits()
    data["budget"] = {name: [limit.amount, limit.relative] for name, limit in limits.limits.items()}
    data["max_drop"] = None if limits.max_drop is None else [limits.max_drop.amount, limits.max_drop.relative]
    return data


def record_untouched(loop: Loop, prepared: Any) -> None:
    """Candidate 0: the untouched model, measured in preparation."""
    recipe = Recipe()
    number = loop.study.ask(prepared.space.identity(), recipe, "untouched")
    broken = loop.spec.limits().violations(prepared.untouched, prepared.untouched, prepared.metric_direction)
    file = f"{UNTOUCHED}{plugins_suffix(loop.out)}"
    settle(
        loop,
        number,
        prepared,
        Done(prepared.untouched, broken, file, prepared.untouched_sha256, recipe, prepared.seconds),
        "untouched",
        recipe,
    )


def plugins_suffix(out: Path) -> str:
    """Ending of the untouched model's file."""
    return next(path.suffix for path in (out / UNTOUCHED).parent.glob("model.*") if path.suffix != ".partial")


def wants_tables(strategy: str) -> bool:
    return bool(getattr(plugins.find("strategies", strategy), "wants_tables", False))


def plans_its_start(strategy: str) -> bool:
    """Whether the strategy needs no uniform grid to begin with."""
    return wants_tables(strategy) or bool(getattr(plugins.find("strategies", strategy), "begins_alone", False))


def strategy_of(loop: Loop, prepared: Any) -> Any:
    """The strategy of the study, with the tables of single choices if it wants them."""
    spec = loop.spec
    told = {"tables": tables_of(loop, prepared)} if wants_tables(spec.strategy) else {}
    return plugins.load(
        "strategies",
        spec.strategy,
        space=prepared.space,
        objectives=[(name, direction_of(name, prepared.metric_direction)) for name in spec.objectives],
        constraints=spec.limits().names(),
        seed=spec.seed,
        **told,
        **spec.strategy_options,
    )


def tables_of(loop: Loop, prepared: Any) -> dict[str, Any] | None:
    """Tables of single choices, from the record where an earlier run of this study measured them for this space; None, with a message,
    where they cannot be measured."""
    names = [[domain.name, [str(choice) for choice in domain.choices]] for domain in prepared.space.domains]
    known = loop.study.fact("tables")
    if known is not None and known["domains"] == names:
        return known["tables"]
    if loop.spec.warm_start and (taken := warming.measured_tables(loop, prepared, names)) is not None:
        loop.watcher.message(f"warm start: single choices are those of {loop.spec.warm_start}")
        loop.study.set_fact("tables", {"domains": names, "tables": taken, "seconds": 0.0})
        return taken
    loop.enter("tables")
    begun = time.monotonic()
    items = effects.items(prepared.space, max(FEWEST_LOSSES, loop.spec.trials))

    def enough() -> bool:
        loop.study.renew()
        long = loop.spec.time is not None and time.monotonic() - begun > TABLES_SHARE * loop.spec.time
        return long or late(loop) or loop.stop.requested

    try:
        base, measured = loop.executor.tables(items, loop.watcher.message, enough)
    except UserError:
        raise
    except AutoSlimError as error:
        loop.watcher.message(f"single choices could not be measured, the search begins with guesses: {error}")
        return None
    found = effects.tables(prepared.space, base, measured, prepared.untouched.get("size_bytes")).as_dict()
    if len(measured) == len(items):  # a part of them serves this run alone
        loop.study.set_fact("tables", {"domains": names, "tables": found, "seconds": round(time.monotonic() - begun, 2)})
    return found


def seeds(space: SearchSpace, trials: int, solved: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """(label, point) to try before any strategy is asked: the corner that bounds everything, the rivals, and the uniform grid, which takes
    at most half of the trials; a strategy that solves for a front of its own (``solved``) needs no grid, but for the rivals of
    fewer channels in int8, which need no recovery of their own.
    """
    named = [(CORNER, space.strongest()), *space.rivals().items()]
    if solved:
        return named + [("", point) for point in space.narrow_twins()][: max(0, trials // 2 - len(named))]
    grid = [("", point) for point in space.grid()]
    return named + grid[: max(0, trials // 2 - len(named))]
