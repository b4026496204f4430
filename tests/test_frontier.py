"""strategies/frontier.py on a made-up network whose law is known: a few evaluations give what random search does not."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from autoslim import pareto, plugins
from autoslim.candidate import Done, Rejected
from autoslim.forecast import Forecast, Tables
from autoslim.losses import Loss
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import Domain, SearchSpace
from autoslim.strategies import frontier

LAYERS = 8
SHARES = (1.0, 0.75, 0.5, 0.25)
OBJECTIVES = (("metric", "max"), ("latency_ms", "min"), ("size_bytes", "min"))


def space():
    channels = [
        Domain(f"channels:{i}", "channels", SHARES, tuple(() if s == 1 else ((f"{i}", int(64 * s)),) for s in SHARES), ordered=True)
        for i in range(LAYERS)
    ]
    bits = [Domain(f"bits:{i}", "bits", (32, 8), ((), ((f"{i}", 8),))) for i in range(LAYERS)]
    return SearchSpace((*channels, *bits), {})


def tables(seed):
    """A network whose layers differ by far in time, bytes and how much they mind."""
    draw = np.random.default_rng(seed)
    weight, care = draw.lognormal(0, 1, LAYERS), 0.02 * draw.lognormal(0, 1.5, LAYERS)
    loss, shares = {}, {}
    for i in range(LAYERS):
        cut = np.ones((4, LAYERS))
        cut[:, i] = SHARES
        loss[f"channels:{i}"] = care[i] * (1 - np.array(SHARES)) ** 2
        shares[f"channels:{i}"] = {"macs": cut, "bytes": cut, "slow": np.ones((4, LAYERS))}
        small, slow = np.ones((2, LAYERS)), np.ones((2, LAYERS))
        small[1, i], slow[1, i] = 0.25, 0.5
        loss[f"bits:{i}"] = np.array([0.0, 0.01 * care[i]])
        shares[f"bits:{i}"] = {"macs": np.ones((2, LAYERS)), "bytes": small, "slow": slow}
    return Tables(tuple(map(str, range(LAYERS))), weight * 1e6, weight[::-1] * 1e4, weight / 4, 1000.0, 0.05, loss, shares)


class Network:
    """The truth: the tables' law with another constant, speed and power, and a little noise; too slow is rejected."""

    def __init__(self, seed, limit=None):
        self.space, self.tables, self.limit = space(), tables(seed), limit
        self.law = Forecast(self.space, self.tables)
        self.law.fit_.constant, self.law.fit_.scale, self.law.fit_.power, self.law.fit_.shift = 0.08, 0.8, 1.2, 0.3
        self.noise = np.random.default_rng(seed)

    def judge(self, point):
        row = np.array([[domain.choices.index(point[domain.name]) for domain in self.space.domains]])
        gap, ms, size = (float(f(row)[0]) for f in (self.law.gap, self.law.ms, self.law.bytes))
        ms *= 1 + 0.03 * self.noise.standard_normal()
        broken = {} if self.limit is None else {"ms": ms / self.limit - 1}
        values = {"latency_ms": Value(ms), "size_bytes": Value(size)}
        if broken and broken["ms"] > 0:
            return Rejected("timed", Measurement(values), broken, Recipe())
        return Done(Measurement(values | {"metric": Value(1 - min(gap, 1.0))}, facts={"gap": gap}), broken, "m", "s", Recipe())

    def volume(self, ends):
        rows = [
            [
                np.log(max(end.measurement.facts["gap"], 1e-4)),
                *np.log([end.measurement.get("latency_ms"), end.measurement.get("size_bytes")]),
            ]
            for end in ends
            if isinstance(end, Done)
        ]
        identity = np.zeros((1, len(self.space.domains)), dtype=int)
        corner = np.array([0.0, np.log(1.1 * self.law.ms(identity)[0]), np.log(1.1 * self.law.bytes(identity)[0])])
        return pareto.hypervolume(np.array(rows).reshape(-1, 3), corner)


def run(network, name, trials, seed=0, **options):
    constraints = () if network.limit is None else ("ms",)
    strategy = plugins.load("strategies", name, space=network.space, objectives=OBJECTIVES, constraints=constraints, seed=seed, **options)
    ends = []
    for number in range(trials):
        point, memo = strategy.ask(number)
        ends.append(network.judge(point))
        strategy.tell(number, point, memo, ends[-1])
    return ends


@pytest.mark.parametrize("seed", range(3))
def test_a_dozen_evaluations_beat_a_hundred_of_random_and_sixty_of_tpe(seed):
    network = Network(seed)
    ours = network.volume(run(network, "frontier", 12, tables=network.tables.as_dict()))
    assert ours > network.volume(run(network, "random", 100))
    assert ours > network.volume(run(network, "tpe", 60))


def test_a_limit_is_learnt_from_what_broke_it():
    network = Network(1, limit=1.0)
    ends = run(network, "frontier", 30, tables=network.tables.as_dict())
    assert sum(isinstance(end, Done) for end in ends[10:]) >= 15


def test_no_point_is_asked_twice_while_there_are_others():
    network = Network(0)
    strategy = plugins.load(
        "strategies", "frontier", space=network.space, objectives=OBJECTIVES, constraints=(), seed=0, tables=network.tables.as_dict()
    )
    asked = []
    for number in range(40):
        point, memo = strategy.ask(number)
        asked.append(tuple(point.values()))
        assert memo["forecast"]["latency_ms"] > 0
        if number % 3:  # some are still under way when the next is asked
            strategy.tell(number, point, memo, network.judge(point))
    assert len(set(asked)) == 40


def test_the_solved_points_are_near_the_true_front_of_a_small_space():
    """All 4^3 * 2^3 points of three layers enumerated: the solved ones reach nearly all of the hypervolume there is."""
    network = Network(2)
    small = SearchSpace(tuple(d for d in network.space.domains if int(d.name.split(":")[1]) < 3), {})
    member = plugins.find("strategies", "frontier")(small, OBJECTIVES, (), 0, network.tables.as_dict())
    forecast, solved = member._solved()
    every = np.array(list(itertools.product(*(range(len(domain.choices)) for domain in small.domains))))

    def points(rows):
        return np.log(np.column_stack([np.maximum(forecast.gap(rows), 1e-4), forecast.ms(rows), forecast.bytes(rows)]))

    corner = points(every[:1])[0] + np.array([10.0, 0.1, 0.1])
    assert pareto.hypervolume(points(solved), corner) > 0.97 * pareto.hypervolume(points(every), corner)
    assert len(solved) < 0.2 * len(every)


@pytest.mark.parametrize("limit", [None, 0.02])
def test_the_drop_that_a_gap_stands_for_is_learnt_from_results(limit):
    """A gap of 0.2 costs 0.03 of a metric of 0.9, within noise; most asks count that instead of the logarithm of the gap, up to the limit."""
    network = Network(0)
    member = plugins.find("strategies", "frontier")(network.space, OBJECTIVES, (), 0, network.tables.as_dict())
    identity, generator = network.space.identity(), np.random.default_rng(0)
    for number in range(30):
        point, memo = (identity, {}) if number == 0 else member.ask(number)
        gap = 0.0 if number == 0 else float(generator.uniform(0.01, 0.3))
        metric = 0.9 - 0.15 * gap + (number > 0) * 0.002 * generator.standard_normal()
        broken = {} if limit is None else {"max_drop": (0.9 - metric) / (0.9 * limit) - 1}
        values = {"metric": Value(metric), "latency_ms": Value(1.0), "size_bytes": Value(1e4)}
        member.tell(number, point, memo, Done(Measurement(values, {}, {"gap": gap}), broken, "", "", Recipe.of([])))
    loss = member._loss()
    assert loss.most == pytest.approx(limit or 0.05)
    assert Loss(loss.root, loss.line, 1.0)([0.1, 0.2, 0.3]) == pytest.approx(np.array([0.1, 0.2, 0.3]) * 0.15 / 0.9, rel=0.15)
    assert member._axes([0.1, 1.0], [[np.e, 1.0]] * 2, loss) == pytest.approx(np.array([[loss([0.1])[0], 1, 0], [loss.most, 1, 0]]))


def test_where_drops_are_beyond_what_is_allowed_gaps_lead():
    """All are expected to lose too much, so that none would add anything to what is allowed: the gap decides as it does for every third ask."""
    network = Network(0)
    member = plugins.find("strategies", "frontier")(network.space, OBJECTIVES, (), 0, network.tables.as_dict())
    forecast, solved = member._solved()
    hopeless, generator = Loss(10.0, 0.0), np.random.default_rng(0)
    dear = solved[forecast.gap(solved) > 1e-3]
    assert len(dear) > 3
    promise = member._promise(forecast, dear, generator, hopeless)
    assert promise == pytest.approx(member._promise(forecast, dear, np.random.default_rng(0), None))
    assert len(set(promise)) > 1


def test_with_a_limit_on_costs_the_nearest_point_within_it_is_asked_for():
    """All points of three layers enumerated: it is the one of the least expected gap within the limit less its margin; without a limit, or where a
    file as near was measured, there is none to ask for."""
    network = Network(2)
    small = SearchSpace(tuple(d for d in network.space.domains if int(d.name.split(":")[1]) < 3), {})
    member = plugins.find("strategies", "frontier")(small, OBJECTIVES, ("ms",), 0, network.tables.as_dict())
    forecast, solved = member._solved()
    assert member._nearest(forecast, solved) is None
    every = np.array(list(itertools.product(*(range(len(domain.choices)) for domain in small.domains))))
    limit = (forecast.ms(every).min() + forecast.ms(every).max()) / 2
    member._learn_bound("latency_ms", limit)
    row = member._nearest(forecast, solved)
    assert forecast.ms(row[None])[0] <= limit
    inside = every[forecast.ms(every) <= limit * np.exp(-frontier.MARGIN)]
    assert forecast.gap(row[None])[0] <= forecast.gap(inside).min() * (1 + 1e-9)
    values = {"metric": Value(0.9), "latency_ms": Value(limit / 2), "size_bytes": Value(1e4)}
    found = Done(Measurement(values, facts={"gap": float(forecast.gap(row[None])[0])}), {"ms": -0.5}, "", "", Recipe())
    member.tell(0, member._point(row), {}, found)
    assert member._nearest(forecast, solved) is None


def test_the_nearest_point_within_limits_is_asked_for_with_the_recovery_that_brings_it_nearer():
    """Enumerated: with the most of it where something is cut, and never where bits alone are set, which recovery leaves as they are."""
    network, recovery = Network(2), Domain("recovery:distill_steps", "recovery", (0, 100), ((), ()), ordered=True)
    small = (*(d for d in network.space.domains if int(d.name.split(":")[1]) < 3), recovery)
    member = plugins.find("strategies", "frontier")(SearchSpace(small, {}), OBJECTIVES, ("ms",), 0, network.tables.as_dict())
    forecast, solved = member._solved()
    every = np.array(list(itertools.product(*(range(len(domain.choices)) for domain in small))))
    cut = np.array([domain.name.startswith("channels") for domain in small])
    every = every[(every[:, cut] > 0).any(1) | (every[:, -1] == 0)]
    times = forecast.ms(every)
    seen = set()
    for share in (0.4, 0.6, 0.9):
        limit = float(times.min() + share * (times.max() - times.min()))
        member._bounds = {"latency_ms": limit}
        inside = every[times <= limit * np.exp(-frontier.MARGIN)]
        row = member._nearest(forecast, solved)
        assert forecast.ms(row[None])[0] <= limit
        assert not len(inside) or forecast.gap(row[None])[0] <= forecast.gap(inside).min() * (1 + 1e-9)
        assert row[-1] == 0 or (row[cut] > 0).any()
        seen.add(int(row[-1]))
    assert seen == {0, 1}
    bits = np.array([0, 0, 0, 1, 1, 1, 0])
    member._bounds = {"latency_ms": float(forecast.ms(bits[None])[0]) * np.exp(frontier.MARGIN)}
    row = member._nearest(forecast, bits[None])
    assert not (row[cut] == 0).all() or row[-1] == 0
    assert [member._is_cut(row) for row in (bits, [0, 0, 0, 1, 1, 1, 1], [0, 2, 0, 0, 0, 0, 0])] == [False, False, True]
    least = float(forecast.gap(row[None])[0])
    told(member, 0, row, least)
    assert member._nearest(forecast, solved) is None, "nothing is expected to be nearer than what was measured"


def told(member, number, row, gap):
    """Tell of a point within all limits."""
    values = {"metric": Value(0.9), "latency_ms": Value(0.1), "size_bytes": Value(1e4)}
    member.tell(number, member._point(row), {}, Done(Measurement(values, facts={"gap": gap}), {"ms": -0.5}, "", "", Recipe()))


def test_what_is_expected_to_need_recovery_gets_it_at_once():
    network = Network(0)
    recovery = Domain("recovery:distill_steps", "recovery", (0, 100), ((), ()), ordered=True)
    space = SearchSpace((*network.space.domains, recovery), {})
    member = plugins.find("strategies", "frontier")(space, OBJECTIVES, (), 0, network.tables.as_dict())
    forecast, _ = member._solved()
    mild, strong = np.zeros(len(space.domains), dtype=int), np.array([3] * LAYERS + [0] * LAYERS + [0])
    mild[LAYERS] = 1
    assert forecast.gap(mild[None])[0] < 0.02 < forecast.gap(strong[None])[0]
    assert member._recovered(forecast, mild)[-1] == 0
    assert member._recovered(forecast, strong)[-1] == 1


@pytest.mark.parametrize(("gap", "again"), [(0.0004, False), (0.0006, True)])
def test_what_needed_no_distillation_is_not_asked_with_more_steps_of_it(gap, again):
    """Below a gap of 0.0005 no step is made: the file would be the same. Above, or with other knobs of recovery, it is another point."""
    network = Network(0)
    steps, rate = (Domain(f"recovery:{name}", "recovery", (0, 100), ((), ()), ordered=True) for name in ("distill_steps", "lr"))
    for recovery, told in (((steps,), again), ((steps, rate), True)):
        space = SearchSpace((*network.space.domains, *recovery), {})
        member = plugins.find("strategies", "frontier")(space, OBJECTIVES, (), 0, network.tables.as_dict())
        point = space.identity() | {"channels:0": 0.5, "recovery:distill_steps": 0}
        values = {"metric": Value(0.9), "latency_ms": Value(1.0), "size_bytes": Value(1e4)}
        member.tell(0, point, {}, Done(Measurement(values, {}, {"gap": gap}), {}, "", "", Recipe()))
        member.ask(1)
        row = member._indices(point | {"recovery:distill_steps": 100})
        assert not member._is_tried(tuple(int(i) for i in member._indices(point | {"channels:0": 0.25})))
        assert member._is_tried(tuple(int(i) for i in row)) is not told


def test_costs_that_break_a_limit_say_nothing_of_the_allowed_gap():
    """All too slow, the untouched model too: no drop was too large, so no gap is."""
    network = Network(1)
    strategy = plugins.load(
        "strategies",
        "frontier",
        space=network.space,
        objectives=OBJECTIVES,
        constraints=("ms", "max_drop"),
        seed=0,
        tables=network.tables.as_dict(),
    )
    for number in range(8):
        point, memo = strategy.ask(number)
        strategy.tell(number, point, memo, replace(network.judge(point), violations={"ms": 0.5, "max_drop": -0.2}))
    assert strategy._edge() is None
    point, memo = strategy.ask(8)
    strategy.tell(8, point, memo, replace(network.judge(point), violations={"ms": 0.5, "max_drop": 0.2}))
    assert strategy._edge() is not None


def test_a_limit_is_learnt_at_the_speed_of_the_tables():
    """60 ms at a quarter more than the tables' time is 48 ms of theirs."""
    network = Network(1)
    strategy = plugins.load(
        "strategies", "frontier", space=network.space, objectives=OBJECTIVES, constraints=("ms",), seed=0, tables=network.tables.as_dict()
    )
    point, memo = strategy.ask(0)
    whole = strategy._blank.whole_ms
    values = {"latency_ms": Value(1.25 * 0.8 * whole), "latency_ratio": Value(0.8), "size_bytes": Value(1.0), "metric": Value(0.9)}
    limit = 0.5 * whole
    broken = {"ms": 1.25 * 0.8 * whole / limit - 1}
    strategy.tell(0, point, memo, Done(Measurement(values, facts={"gap": 0.1}), broken, "m", "s", Recipe()))
    assert strategy._bounds["latency_ms"] == pytest.approx(limit / 1.25)
