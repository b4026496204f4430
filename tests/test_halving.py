"""strategies/halving.py: few points get much distillation, and they are the right ones; children cost no more than their parents."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from autoslim import plugins
from autoslim.candidate import Done, Failed, Rejected
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import Domain, SearchSpace
from autoslim.strategies import _hopes, _ladder, halving
from autoslim.strategies._additive import Additive

STEPS = (20, 60, 180)
WIDTHS, DEPTHS = (1.0, 0.75, 0.5, 0.375, 0.25), (1.0, 0.5, 0.25)


def knob(name, choices):
    return Domain(f"student:{name}", "student", choices, tuple(() if c in (1.0, False) else (("", {name: c}),) for c in choices))


SPACE = SearchSpace(
    (
        knob("width", WIDTHS),
        knob("depth", DEPTHS),
        knob("early", (False, True)),
        Domain("bits:all", "bits", (32, 8, "w4a8"), ((), (("a", 8),), (("a", "w4a8"),))),
        Domain("recovery:distill_steps", "recovery", STEPS, ((), (), ()), True),
    ),
    {},
)
OBJECTIVES = (("metric", "max"), ("latency_ms", "min"), ("size_bytes", "min"))


def toy(point, limit=0.03):
    """Smaller loses more, early down-sampling costs little and saves much, training helps as a power of the steps."""
    width, depth, early, bits = (point[name] for name in ("student:width", "student:depth", "student:early", "bits:all"))
    changed = (width, depth, early) != (1.0, 1.0, False)
    steps = point["recovery:distill_steps"]
    gap = (0.01 + 0.4 * (1 - width) ** 2 + 0.1 * (1 - depth) + 0.05 * early) * (20 / steps) ** 0.7 if changed else 1e-4
    gap += {32: 0.0, 8: 0.002, "w4a8": 0.006}[bits]
    ms = (0.1 + width) * (0.3 + depth) * (0.4 if early else 1.0) * (1.0 if bits == 32 else 0.5)
    size = width**2 * (0.2 + depth) * {32: 1.0, 8: 0.25, "w4a8": 0.125}[bits]
    values = {"metric": Value(0.95 - gap), "latency_ms": Value(ms), "size_bytes": Value(size)}
    broken = {"max_drop": gap / limit - 1}
    return Done(Measurement(values, facts={"gap": gap}), broken, "m", "s", Recipe(), {"recover": steps / 10 if changed else 0.0})


def member(seed=0, constraints=("max_drop",), **options):
    return plugins.load("strategies", "halving", space=SPACE, objectives=OBJECTIVES, constraints=constraints, seed=seed, **options)


def driven(strategy, count):
    """[(point, outcome)] of ask and tell in turn."""
    history = []
    for number in range(count):
        point, memo = strategy.ask(number)
        assert memo["whole"] is True
        outcome = toy(point)
        strategy.tell(number, point, memo, outcome)
        history.append((point, outcome))
    return history


def changed(point):
    return (point["student:width"], point["student:depth"], point["student:early"]) != (1.0, 1.0, False)


@pytest.mark.parametrize("seed", range(3))
def test_each_rung_has_a_third_of_the_points_below_at_most(seed):
    history = driven(member(seed), 60)
    trained = [
        {tuple(v for n, v in p.items() if n != "bits:all") for p, _ in history if p[_ladder.STEPS] == s and changed(p)} for s in STEPS
    ]
    counts = [len(one) for one in trained]
    assert counts[0] > 3 * counts[1] - 3 > 0
    assert counts[1] > 3 * counts[2] - 3 > 0
    first = next(i for i, (p, _) in enumerate(history) if p[_ladder.STEPS] > STEPS[0])
    assert first >= 8, "no point goes on before the first population is known"


def test_it_begins_with_every_choice_and_with_the_strongest_points():
    first = [point for point, _ in driven(member(), 8)]
    strength = [
        WIDTHS.index(p["student:width"]) / 4 + DEPTHS.index(p["student:depth"]) / 2 + p["student:early"] for p in first if changed(p)
    ]
    assert strength == sorted(strength, reverse=True)
    assert len(set(strength)) > 3
    for name, choices in (("student:width", WIDTHS), ("student:depth", DEPTHS), ("student:early", (False, True))):
        assert {point[name] for point in first} == set(choices)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_is_asked_twice_and_what_goes_on_was_measured_below(seed):
    history = [tuple(point.items()) for point, _ in driven(member(seed), 60)]
    assert len(set(history)) == len(history)
    seen = set()
    for items in history:
        point = dict(items)
        level = STEPS.index(point[_ladder.STEPS])
        key = tuple(value for name, value in point.items() if name not in ("bits:all", _ladder.STEPS))
        if level:
            assert (key, level - 1) in seen
        seen.add((key, level))


def best_within(history):
    """The least product of costs among what keeps the limit."""
    return min(o.measurement.get("latency_ms") * o.measurement.get("size_bytes") for _, o in history if o.violations["max_drop"] <= 0)


def test_it_finds_cheaper_points_within_the_limit_than_random_does_with_as_much_training():
    """Over five seeds, and against random points that are all trained longest until they have cost as many steps."""
    ours, luck, whole = [], [], (SPACE.identity(), toy(SPACE.identity()))
    for seed in range(5):
        history = driven(member(seed), 45)
        ours.append(best_within([*history, whole]))
        budget = sum(point[_ladder.STEPS] for point, _ in history if changed(point))
        generator, drawn = np.random.default_rng(seed), []
        while budget > 0:
            point = {domain.name: domain.choices[generator.integers(len(domain.choices))] for domain in SPACE.domains} | {
                _ladder.STEPS: STEPS[-1]
            }
            drawn.append((point, toy(point)))
            budget -= STEPS[-1]
        luck.append(best_within([*drawn, whole]))
    assert sum(math.log(a) for a in ours) < sum(math.log(b) for b in luck) - 1.0
    assert sum(a <= b * 1.01 for a, b in zip(ours, luck, strict=True)) >= 4


def test_children_mix_two_parents_change_at_most_two_choices_and_cost_no_more():
    strategy = member()
    driven(strategy, 30)
    gap, costs = strategy._hopes.learnt()
    parents = [hope.told for hope in strategy._hopes.hoped(gap).values()]
    generator = np.random.default_rng(0)
    rows = [strategy._bred(parents, costs, generator) for _ in range(200)]
    kept = [row for row in rows if row is not None]
    assert 20 < len(kept) < 200, "some were refused for what they would cost"
    largest = [max(one.costs[i] for one in parents) for i in range(2)]
    for row in kept:
        assert all(
            float(cost(np.array([row]))[0]) <= math.log(most * halving.ROOM) + 1e-9 for cost, most in zip(costs, largest, strict=True)
        )
        near = min(sum(c not in (a, b) for c, a, b in zip(row[:4], x.row[:4], y.row[:4], strict=True)) for x in parents for y in parents)
        assert near <= 2


def test_twins_in_bits_follow_what_was_trained_longer():
    history = driven(member(), 60)
    top = [point for point, _ in history if point[_ladder.STEPS] > STEPS[0]]
    both = {}
    for point in top:
        both.setdefault(tuple(v for n, v in point.items() if n != "bits:all"), set()).add(point["bits:all"])
    assert any({8, "w4a8"} <= one for one in both.values()), "one is smaller, the other nearer"


def trainings(history):
    """Steps of the trainings, in the order in which they are begun; other bits of a trained point need none."""
    seen = {}
    for point, _ in history:
        seen.setdefault(tuple(value for name, value in point.items() if name != "bits:all"), point[_ladder.STEPS])
    return list(seen.values())


def test_nothing_long_is_begun_that_cannot_end_in_time():
    strategy = member()
    history = driven(strategy, 12)
    known = len(trainings(history))
    strategy.spare = 1.0
    for number in range(12, 36):
        point, memo = strategy.ask(number)
        strategy.tell(number, point, memo, toy(point))
        history.append((point, None))
    assert set(trainings(history)[known:]) == {STEPS[0]}
    assert max(trainings(driven(member(), 36))[known:]) == STEPS[-1], "with time some would have gone on"


def test_the_drop_tells_at_which_gap_the_limit_lies():
    strategy = member()
    assert strategy._hopes.edge() is None
    driven(strategy, 10)
    assert math.exp(strategy._hopes.edge()) == pytest.approx(0.03, rel=0.01), "in the toy the allowed drop is a gap of 0.03"
    free = member(constraints=())
    driven(free, 10)
    assert free._hopes.edge() is None


def test_what_longer_distillation_brings_is_assumed_until_it_is_known():
    strategy = member()
    driven(strategy, 6)
    assert strategy._hopes.relief(strategy._hopes.learnt()[0], 0) == pytest.approx(-_hopes.LEARNING * math.log(STEPS[-1] / STEPS[0]))
    driven(strategy, 60)
    assert strategy._hopes.relief(strategy._hopes.learnt()[0], 0) == pytest.approx(-0.7 * math.log(STEPS[-1] / STEPS[0]), rel=0.25), (
        "the toy's law"
    )
    assert strategy._hopes.relief(strategy._hopes.learnt()[0], 2) == 0.0


def test_only_the_training_takes_longer_with_the_steps():
    strategy = member()
    point, memo = strategy.ask(0)
    strategy.tell(0, point, memo, replace(toy(point), seconds={"pool": 50.0, "recover": 2.0, "score": 8.0}))
    (one,) = strategy._hopes.told.values()
    assert [strategy._hopes.seconds(one, level) for level in range(3)] == pytest.approx([10.0, 14.0, 26.0])


def test_what_goes_on_from_its_last_rung_takes_only_the_other_steps():
    """A tenth of a second a step; of 20 steps 16 are those of a longer one, of 60 steps 48."""
    space = replace(SPACE, fixed_recovery={"schedule": "stable"})
    strategy = plugins.load("strategies", "halving", space=space, objectives=OBJECTIVES, constraints=("max_drop",), seed=0)
    point, memo = strategy.ask(0)
    strategy.tell(0, point, memo, replace(toy(point), seconds={"recover": 2.0, "score": 8.0}))
    hopes = strategy._hopes
    (one,) = hopes.told.values()
    assert [hopes.seconds(one, level) for level in (1, 2)] == pytest.approx([8 + 4.4, 8 + 16.4])
    assert hopes.climb() == pytest.approx(3 * 8 + 0.1 * (20 + 44 + 132))
    longer = point | {_ladder.STEPS: STEPS[1]}
    strategy.tell(1, longer, memo, replace(toy(longer), seconds={"recover": 4.4, "score": 8.0}))
    assert hopes.seconds(hopes.told[1], 2) == pytest.approx(8 + 13.2)


def test_when_time_runs_out_what_was_begun_goes_on_instead_of_new_points():
    """A training takes steps / 10 seconds, so that all rungs take 26; with 25 left nothing new could climb them, but 18 suffice for the last."""
    strategy, begun = member(), []
    for number in range(40):
        strategy.spare = 1000.0 if number < 12 else 25.0
        point, memo = strategy.ask(number)
        begun.append(point)
        strategy.tell(number, point, memo, toy(point))
    before, late = trainings([(p, None) for p in begun[:12]]), trainings([(p, None) for p in begun])
    assert late[len(before)] > STEPS[0]
    went = [point for point in begun[12:] if point[_ladder.STEPS] == STEPS[-1]]
    assert went
    known = [{**point, _ladder.STEPS: STEPS[0], "bits:all": None} for point in begun[:12]]
    assert all({**point, _ladder.STEPS: STEPS[0], "bits:all": None} in known for point in went[:3]), "no new structures"


def test_a_limit_on_costs_says_nothing_of_the_gap():
    """The untouched model and other cheap losses break a limit on time; the allowed gap is that of the drop alone."""
    strategy = member(constraints=("max_drop", "ms"))
    for number in range(12):
        point, memo = strategy.ask(number)
        end = toy(point)
        strategy.tell(number, point, memo, replace(end, violations=end.violations | {"ms": 1.0}))
    edge = strategy._hopes.edge()
    assert edge == pytest.approx(math.log(0.03), abs=0.01)


def test_what_failed_is_neither_asked_again_nor_learnt_from():
    strategy = member()
    point, memo = strategy.ask(0)
    strategy.tell(0, point, memo, Failed("untreatable", "x"))
    assert all(strategy.ask(number)[0] != point for number in range(1, 20))


def test_a_sum_of_effects_is_found_again():
    generator = np.random.default_rng(0)
    rows = np.stack([generator.integers(3, size=200), generator.integers(4, size=200)], 1)
    values = np.exp(1.0 + np.array([0.0, 0.5, -1.0])[rows[:, 0]] + np.array([0.3, 0.1, -0.2, 2.0])[rows[:, 1]])
    model = Additive((3, 4), rows, values)
    every = np.array([(a, b) for a in range(3) for b in range(4)])
    want = 1.0 + np.array([0.0, 0.5, -1.0])[every[:, 0]] + np.array([0.3, 0.1, -0.2, 2.0])[every[:, 1]]
    np.testing.assert_allclose(model(every), want, atol=0.03)
    assert model.effect(1, 3) - model.effect(1, 1) == pytest.approx(1.9, abs=0.03)
    assert not np.isnan(Additive((3, 4), rows, np.full(200, np.nan))(every)).any()


def cramped(point, most=0.122):
    """The toy under a limit on the time, held before anything is trained."""
    whole = toy(point)
    load = whole.measurement.get("latency_ms") / most - 1
    if load <= 0:
        return replace(whole, violations={**whole.violations, "ms": load})
    values = {name: value for name, value in whole.measurement.values.items() if name != "metric"}
    return Rejected("timed", Measurement(values), {"ms": load}, Recipe(), {"export": 1.0})


def test_under_limits_that_nothing_keeps_it_asks_for_what_comes_nearest():
    """Fewer than three in ten of all points keep the limit on the time, of its own most; none that breaks it goes on. Of those that keep it the
    one that loses least, by brute force, is trained to the end, or one that loses hardly more."""
    every = [dict(zip((d.name for d in SPACE.domains), row, strict=True)) for row in itertools.product(*(d.choices for d in SPACE.domains))]
    kept = [end for end in map(cramped, every) if end.violations["ms"] <= 0]
    least = min(end.violations["max_drop"] for end in kept)
    assert len(kept) < 0.3 * len(every)
    assert least > 0
    excess = []
    for seed in range(4):
        strategy, history = member(seed, constraints=("ms", "max_drop")), []
        for number in range(40):
            point, memo = strategy.ask(number)
            outcome = cramped(point)
            strategy.tell(number, point, memo, outcome)
            history.append((point, outcome))
        assert np.mean([outcome.violations["ms"] <= 0 for _, outcome in history[8:20]]) > 0.8
        assert all(outcome.violations["ms"] <= 0 for point, outcome in history if point[_ladder.STEPS] > STEPS[0])
        excess.append(min(o.violations["max_drop"] for point, o in history if point[_ladder.STEPS] == STEPS[-1] and changed(point)) - least)
    assert np.mean(excess) < 0.12
