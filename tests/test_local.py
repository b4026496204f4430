"""executors/local.py: what its contract (contracts/test_executors.py) does not show of it."""

import os
import signal
from pathlib import Path

import pytest

from autoslim import plugins
from autoslim.candidate import Candidate, Done
from autoslim.errors import AutoSlimError
from autoslim.recipe import Recipe
from autoslim.search import job_of
from autoslim.spec import load_study

TASKS = Path(__file__).parent / "tasks"


def test_when_the_layers_cannot_be_timed_what_is_under_way_ends_with_it_and_candidates_run(tmp_path):
    """The worker that times the untouched layers is killed in the middle, while another one measures a choice."""
    job = job_of(load_study(None, {"task": str(TASKS / "tiny.py")}), tmp_path)
    executor = plugins.load("executors", "local", job=job, workers=2, trial_timeout=60.0, trial_memory_mb=0.0)
    try:
        domain = next(one for one in executor.prepare().space.domains if one.technique == "channels")
        items = [{"domain": domain.name, "choice": choice, "loss": True} for choice in range(1, len(domain.choices))] * 4
        first, asked = executor._workers[0].process.pid, []

        def enough():
            asked.append(None)
            if len(asked) == 2:  # by now both have something to do
                os.kill(first, signal.SIGKILL)
            return False

        with pytest.raises(AutoSlimError, match="SIGKILL"):
            executor.tables(items, lambda text: None, enough)
        executor.submit(Candidate(0, {}, Recipe()))
        ends = []
        while not ends:
            ends = [outcome for _, outcome in executor.outcomes(5.0)]
        assert isinstance(ends[0], Done)
    finally:
        executor.close()
