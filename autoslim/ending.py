"""When a search stops asking: trials, time with verification kept in mind, or a hypervolume that no longer grows."""

import time

from autoslim import shipping
from autoslim.examining import OTHERS
from autoslim.job import ROUND_SECONDS
from autoslim.loop import Loop
from autoslim.timing import MIN_TURNS

#: growth of the hypervolume, as a share of it, that counts as none; evaluations that every search makes before it may stop for that
STILL, FEWEST = 0.002, 40
#: seconds of verification that no file changes: the process, the report; and per file: opening, memory, the first round of timing
START, PER_FILE = 8.0, 1.5
#: how much longer scoring on test data may take than on validation data took, since there is often more of it
TEST = 2.0
#: share of --time that verification may be given at most, and that a candidate under way may overrun
MOST, GRACE = 0.5, 0.03
#: runs before a session is timed
WARM = 8


def ended(loop: Loop) -> bool:
    """Whether no further candidate may be asked; notes why."""
    count = loop.entries.evaluations + len(loop.running)
    why = ""
    if count >= loop.spec.trials:
        why = "trials"
    elif late(loop):
        why = "time"
    elif still(loop):
        why = f"hypervolume grew by less than {STILL:.1%} in {loop.spec.patience} evaluations"
    if why:
        loop.stop.reason = loop.stop.reason or why
        return True
    return loop.stop.requested


def late(loop: Loop) -> bool:
    """Whether the rest of --time is needed to verify what there is."""
    return spare(loop) < 0


def spare(loop: Loop) -> float:
    """Seconds that are left for a further candidate; infinite without --time."""
    if loop.spec.time is None:
        return float("inf")
    return loop.spec.time - reserve(loop) - (time.monotonic() - loop.begun)


def overdue(loop: Loop) -> bool:
    """Whether candidates under way may not be waited for any longer."""
    if loop.spec.time is None:
        return False
    return time.monotonic() - loop.begun > loop.spec.time * (1 + GRACE) - reserve(loop)


def reserve(loop: Loop) -> float:
    """Seconds to keep for verification and report: of the files that would be verified now, scoring TEST times as long as it took in the search, the fewest rounds of timing that give an interval, and checks."""
    known = loop.entries
    files = max(1, sum(known.rivals.values())) + len(loop.outsiders) + min(loop.spec.verify, known.done)
    each = PER_FILE + OTHERS + TEST * known.scores.median(0.0) + shipping.FEWEST_PASSES * round_of(loop)
    return min(START + files * each, MOST * (loop.spec.time or float("inf")))


def round_of(loop: Loop) -> float:
    """Seconds of one round of timing per file: as planned, or what the fewest turns and the warm-up of slow files take."""
    base = loop.entries.untouched_ms
    return max(ROUND_SECONDS, (MIN_TURNS + WARM) * (base + loop.entries.times.median(base)) / 1000)


def still(loop: Loop) -> bool:
    """Whether the last ``patience`` evaluations added next to nothing to the hypervolume of what is feasible."""
    seen, patience = loop.growth.volumes if loop.growth else [], loop.spec.patience
    if not patience or len(seen) < max(FEWEST, patience + 1) or seen[-1] <= 0:
        return False
    return seen[-1] - seen[-1 - patience] < STILL * seen[-1]
