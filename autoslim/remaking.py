"""Files that a finished study has lost (a clone without them, a cleaned disk) are made again from their recipes."""

from typing import Any

from autoslim import report, shipping, tables
from autoslim.candidate import Candidate
from autoslim.entries import Entries
from autoslim.loop import Loop, settle
from autoslim.study import Entry

#: name in a trial's memo: the number of the trial whose file it made again
REMAKES = tables.REMAKES


def remake(loop: Loop, prepared: Any) -> None:
    """Evaluate anew the recipes of front points and rivals whose files are gone, one trial each, whatever --trials says; the new trial takes
    the old one's place (tables.superseded), since its file is another one. Ctrl-C stops it."""
    wanted = shipping.to_verify(loop.entries, report.context_of(loop.study), loop.spec.verify)
    lost = [entry for entry in wanted if entry.label != "untouched" and not shipping.has_file(loop.out, entry)]
    if not lost:
        return
    loop.watcher.message(f"{len(lost)} points of the front have lost their files and are made again from their recipes")
    running: dict[int, Candidate] = {}
    while lost and not loop.stop.requested or running:
        while lost and len(running) < loop.executor.slots and not loop.stop.requested:
            candidate = asked(loop, lost.pop(0))
            running[candidate.number] = candidate
            loop.executor.submit(candidate)
        loop.study.renew()
        for candidate, outcome in loop.executor.outcomes(1.0):
            mine = loop.entries.of(candidate.number)
            settle(loop, running.pop(candidate.number).number, prepared, outcome, mine.label, candidate.recipe, mine.point, mine.memo)
    loop.entries = Entries(tables.superseded(loop.entries))


def asked(loop: Loop, entry: Entry) -> Candidate:
    """A new trial of the same point; labelled as the old one, so that no rung stops it early."""
    recipe, memo = entry.outcome.recipe, {**entry.memo, REMAKES: entry.number}
    number = loop.study.ask(entry.point, recipe, entry.label, memo)
    loop.entries.put(Entry(number, entry.point, entry.label, memo, recipe.key, None))
    return Candidate(number, entry.point, recipe, entry.label or "again")
