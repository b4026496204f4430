"""A study under Ray Tune's own loop: one Tune trial per candidate, every end in the record."""

import pytest
import rays

from autoslim import plugins
from autoslim.candidate import Candidate, Done, Failed
from autoslim.executors import _cluster
from autoslim.recipe import Recipe
from autoslim.space import Domain, SearchSpace
from autoslim.study import Study

_cluster.quiet_ray()
SPACE = SearchSpace(
    tuple(Domain(f"bits:{name}", "bits", (32, 8), ((), ((name, 8),))) for name in "abcd"),
    {},
)
OBJECTIVES, LIMITS = {"metric": "max", "size_bytes": "min"}, ("mb",)
GOOD = {"metric": 0.9, "size_bytes": 10, "violation/mb": -0.5}


def tuned(config):
    """A trial that misbehaves by its number."""
    from ray import tune

    number = config["number"]
    if number == 1:
        raise ValueError("a bad trial")
    told = GOOD | {"size_bytes": 4 - sum(value == 8 for value in config["point"].values())}
    if number == 2:
        told["metric"] = float("nan")
    if number == 3:
        del told["size_bytes"]
    tune.report(told)


@pytest.mark.parametrize(
    ("result", "error", "reason"),
    [
        (GOOD, True, "ended with an error"),
        (GOOD | {"metric": float("nan")}, False, "metric = nan"),
        (GOOD | {"size_bytes": float("inf")}, False, "size_bytes = inf"),
        ({"metric": 0.9, "size_bytes": 10}, False, "violation/mb = None"),
        ({"size_bytes": 10, "violation/mb": 0}, False, "metric = None"),
        (GOOD | {"metric": True}, False, "metric = True"),
        (None, False, "metric = None"),
    ],
)
def test_what_is_missing_or_no_number_is_failed_with_the_reason(result, error, reason):
    from autoslim.tuning import outcome_of

    outcome = outcome_of(Candidate(0, {}, Recipe()), result, error, tuple(OBJECTIVES), LIMITS)
    assert isinstance(outcome, Failed)
    assert reason in outcome.detail


def test_a_whole_result_is_done_with_its_violations():
    from autoslim.tuning import outcome_of

    outcome = outcome_of(Candidate(0, {}, Recipe()), GOOD, False, tuple(OBJECTIVES), LIMITS)
    assert isinstance(outcome, Done)
    assert outcome.violations == {"mb": -0.5}
    assert outcome.measurement.get("size_bytes") == 10


@pytest.mark.cluster
def test_tune_runs_a_study_and_leaves_nothing_running(tmp_path):
    from autoslim.tuning import StudySearch

    study = Study.open(tmp_path, "tuned", ["max", "min"])
    study.use(SPACE)
    strategy = plugins.load("strategies", "random", space=SPACE, objectives=list(OBJECTIVES.items()), constraints=LIMITS, seed=0)
    with rays.cluster([{"num_cpus": 2}]) as cluster:
        _cluster.connect(cluster.address, 0, 0, False, None)
        from ray import tune
        from ray.tune.search import ConcurrencyLimiter

        search = ConcurrencyLimiter(StudySearch(study, SPACE, strategy, OBJECTIVES, LIMITS, most=6), max_concurrent=2)
        tune.Tuner(
            tune.with_resources(tuned, {"CPU": 1}),
            tune_config=tune.TuneConfig(search_alg=search, num_samples=6),
            run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), name="t", verbose=0),
        ).fit()
    ends = [entry.outcome for entry in study.entries()]
    study.close()
    assert [type(end).__name__ for end in ends] == ["Done", "Failed", "Failed", "Failed", "Done", "Done"]
    assert "metric = nan" in ends[2].detail
    assert "size_bytes = None" in ends[3].detail
