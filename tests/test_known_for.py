"""What each strategy is known for, on toys whose answer is known; the obligations of all are in contracts/test_strategies.py."""

import numpy as np
import pytest

from autoslim import pareto, plugins
from autoslim.candidate import Done, Rejected
from autoslim.errors import UserError
from autoslim.forecast import guessed
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import RECOVERY, Domain, SearchSpace

SHARES = (1.0, 0.5, 0.25)
OBJECTIVES = (("metric", "max"), ("latency_ms", "min"))


def layer(name):
    return Domain(f"channels:{name}", "channels", SHARES, tuple(() if s == 1 else ((name, int(64 * s)),) for s in SHARES), ordered=True)


SPACE = SearchSpace((layer("a"), layer("b"), Domain("recovery:distill_steps", RECOVERY, (0, 100), ((), ()))), {})


def done(metric, ms):
    return Done(Measurement({"metric": Value(metric), "latency_ms": Value(ms)}), {}, "m", "s", Recipe())


def load(name, space=SPACE, seed=0, **options):
    return plugins.load("strategies", name, space=space, objectives=OBJECTIVES, constraints=("ms",), seed=seed, **options)


def drive(strategy, judge, count):
    points = []
    for number in range(count):
        point, memo = strategy.ask(number)
        points.append(point)
        strategy.tell(number, point, memo, judge(point))
    return points


def shares(point):
    return point["channels:a"], point["channels:b"]


def test_greedy_tries_every_step_and_takes_the_one_that_saves_most_per_loss():
    """Layer a is three quarters of the time and loses nothing at its first step; b loses much. From (1, 1) the steps are a or b; a is
    taken; from (0.5, 1) the steps are a again or b, and so on."""
    loss = {"channels:a": {1.0: 0.0, 0.5: 0.001, 0.25: 0.3}, "channels:b": {1.0: 0.0, 0.5: 0.02, 0.25: 0.05}}

    def judge(point):
        a, b = shares(point)
        return done(1.0 - loss["channels:a"][a] - loss["channels:b"][b], 3 * a + b)

    strategy = load("greedy")
    strategy.tell(99, SPACE.identity(), {}, judge(SPACE.identity()))
    points = [shares(point) for point in drive(strategy, judge, 6)]
    assert set(points[:2]) == {(0.5, 1.0), (1.0, 0.5)}
    assert set(points[2:4]) == {(0.25, 1.0), (0.5, 0.5)}, "it stands at (0.5, 1): a lost 0.001 for 37 % of the time, b 0.02 for 12 %"
    assert all(point == 100 for point in [p["recovery:distill_steps"] for p in drive(load("greedy"), judge, 4)])


def test_greedy_goes_on_where_no_step_can_be_judged():
    ends = drive(load("greedy"), lambda point: Rejected("timed", Measurement({}), {"ms": 1.0}, Recipe()), 9)
    assert len({shares(point) for point in ends}) >= 7


def test_uniform_treats_all_layers_alike_and_asks_every_combination_once():
    points = [shares(point) for point in drive(load("uniform"), lambda point: done(1.0, 1.0), 3)]
    assert sorted(points) == sorted((s, s) for s in SHARES)


WIDE = tuple(i / 16 for i in range(16, 0, -1))


def wide(names):
    return SearchSpace(
        tuple(
            Domain(f"channels:{n}", "channels", WIDE, tuple(() if s == 1 else ((n, int(64 * s)),) for s in WIDE), ordered=True)
            for n in names
        ),
        {},
    )


def best_of(name, seed, trials=60, **options):
    """Six layers; the metric falls with the distance from one point of the cube, the time is the same everywhere: how near it came."""
    target = {"channels:a": 0.25, "channels:b": 0.75, "channels:c": 0.5, "channels:d": 0.9, "channels:e": 0.3, "channels:f": 0.6}
    space = wide("abcdef")

    def judge(point):
        return done(-sum((point[n] - t) ** 2 for n, t in target.items()), 1.0)

    points = drive(load(name, space, seed, **options), judge, trials)
    return max(judge(point).measurement.get("metric") for point in points)


def test_a_swarm_comes_nearer_than_random():
    """The mean of five seeds."""
    ours, luck = (sum(best_of(strategy, seed) for seed in range(5)) / 5 for strategy in ("pso", "random"))
    assert ours > luck


def test_cmaes_learns_the_coefficients_that_the_table_has_wrong():
    """The table says that layer a loses ten times what b loses; in truth it is the other way round. With guesses alone the solver cuts
    b; the generations' mean moves so that a is cut first."""
    space = wide("ab")
    tables = guessed(space).as_dict()
    tables["loss"]["channels:a"] = [10 * x for x in tables["loss"]["channels:a"]]

    def judge(point):
        a, b = shares(point)
        return done(1.0 - 0.1 * (1 - a) ** 2 - 1.0 * (1 - b) ** 2, 0.2 + a + b)

    points = [shares(point) for point in drive(load("cmaes", space, 1, tables=tables), judge, 120)]

    def lean(some):
        inner = [a - b for a, b in some if (a, b) not in ((1.0, 1.0), (WIDE[-1], WIDE[-1]))]
        return sum(inner) / max(len(inner), 1)

    assert lean(points[:8]) > lean(points[-40:]), "a was spared first, and less so later"


# -- hierarchical -------------------------------------------------------------------------------------------------------

TREE = SearchSpace(tuple(layer(f"stage{i}.{j}.{name}") for i in (1, 2) for j in (0, 1) for name in ("conv1", "conv2")), {})
NAMES = [domain.name for domain in TREE.domains]
#: what a layer loses and costs: alike within a stage, a little different within a block
LOSSES = np.array([1.0, 1.2, 1.1, 0.9, 0.10, 0.12, 0.11, 0.09])
COSTS = np.array([1.0, 1.1, 0.9, 1.0, 2.0, 2.2, 1.8, 2.0])


def values_of(point):
    """(loss, cost) of the toy."""
    gone = np.array([1 - point[name] for name in NAMES])
    return float(LOSSES @ gone**2), float(COSTS @ (1 - gone))


def covered(points):
    return pareto.hypervolume(np.array([values_of(point) for point in points]), np.array([LOSSES.sum(), COSTS.sum()]))


def measured(point):
    loss, cost = values_of(point)
    return done(-loss, cost)


def test_coarse_moves_come_first_and_move_whole_stages_then_blocks_then_layers():
    strategy, levels, earlier = load("hierarchical", TREE, each=6), [], []
    strategy.tell(99, TREE.identity(), {}, measured(TREE.identity()))
    for number in range(24):
        point, memo = strategy.ask(number)
        levels.append(memo["level"])
        shares_of = {part: {point[name] for name in NAMES if name.startswith(f"channels:{part}.")} for part in ("stage1", "stage2")}
        if memo["level"] == "stage":
            assert all(len(found) == 1 for found in shares_of.values()), "the layers of a stage move together"
        if memo["level"] == "block":
            blocks = [name.rpartition(".")[0] for name in NAMES]
            assert all(len({point[name] for name, own in zip(NAMES, blocks, strict=True) if own == block}) == 1 for block in set(blocks))
        strategy.tell(number, point, memo, measured(point))
        earlier.append(point)
    assert levels == ["stage"] * 6 + ["block"] * 6 + ["layer"] * 12
    assert any(len({point[name] for name in NAMES if "stage1.0" in name}) > 1 for point in earlier[12:]), "layers move alone at last"


def test_it_finds_most_of_the_front_that_brute_force_finds():
    """81 trials of 6561 points: at least 95 % of the hypervolume of all of them, in the mean of three seeds, and more than random."""
    whole = covered(TREE.points())
    found = {}
    for name in ("hierarchical", "random"):
        found[name] = [covered(drive(load(name, TREE, seed), measured, 81)) / whole for seed in range(3)]
    assert sum(found["hierarchical"]) / 3 > 0.95
    assert min(found["hierarchical"]) > max(found["random"])


def test_refinement_beats_staying_coarse():
    """What blocks and layers add to the best that tied stages can reach at all."""
    tied = [{name: one if "stage1" in name else other for name in NAMES} for one in SHARES for other in SHARES]
    assert covered(drive(load("hierarchical", TREE, 1), measured, 81)) > 1.02 * covered(tied)


def test_levels_that_group_alike_are_one_and_a_wrong_number_of_trials_is_refused():
    strategy = load("hierarchical", SPACE)
    assert {strategy.ask(number)[1]["level"] for number in range(6)} == {"layer"}
    with pytest.raises(UserError, match="hierarchical: each is 0, allowed: an integer from 1"):
        load("hierarchical", SPACE, each=0)
