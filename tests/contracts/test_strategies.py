"""What every member of strategies/ owes: points of the space, the same ones again, and no surprise at any outcome."""

import json

import pytest

from autoslim import plugins
from autoslim.candidate import Done, Failed, Rejected
from autoslim.errors import UserError
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import Domain, SearchSpace

SHARES = (1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)


def shares(name):
    return Domain(
        f"channels:{name}", "channels", SHARES, tuple(() if share == 1 else ((name, int(64 * share)),) for share in SHARES), ordered=True
    )


SPACE = SearchSpace((shares("a"), shares("b"), Domain("bits:all", "bits", (32, 8), ((), (("a", 8),)))), {})
OBJECTIVES = (("metric", "max"), ("latency_ms", "min"))


#: a proposal of a Gaussian process takes a second or two
SLOW = ("gp",)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in plugins.names("strategies")])
def make(request):
    """A function (seed) -> new strategy of the member."""

    def build(seed=0):
        return plugins.load("strategies", request.param, space=SPACE, objectives=OBJECTIVES, constraints=("ms",), seed=seed)

    build.name = request.param
    return build


def judge(point, limit=0.3):
    """A toy network: time and accuracy rise with both shares, 8 bits halve the time; too slow is rejected without a metric."""
    a, b, bits = point["channels:a"], point["channels:b"], point["bits:all"]
    time = (a + b) / 2 * (1.0 if bits == 32 else 0.5)
    broken = {"ms": time / limit - 1}
    found = Measurement({"metric": Value((a * b) ** 0.25 - (0.0 if bits == 32 else 0.01)), "latency_ms": Value(time)})
    if broken["ms"] > 0:
        return Rejected("timed", Measurement({"latency_ms": Value(time)}), broken, Recipe())
    return Done(found, broken, "m", "s", Recipe())


def drive(strategy, numbers, outcome=judge):
    """Ask and tell in turn; returns [(number, point, memo as a record gives it back, outcome)]."""
    history = []
    for number in numbers:
        point, memo = strategy.ask(number)
        end = outcome(point)
        strategy.tell(number, point, memo, end)
        history.append((number, point, json.loads(json.dumps(memo)), end))
    return history


def frozen(points):
    return [tuple(sorted(point.items())) for point in points]


def test_points_are_of_the_space_and_memos_are_plain_data(make):
    every = set(frozen(SPACE.points()))
    for number, point, memo, _ in drive(make(), range(20)):
        assert frozen([point])[0] in every, number
        assert json.loads(json.dumps(memo)) == memo
        SPACE.decode(point)


def test_the_same_seed_number_and_history_give_the_same_points(make):
    one, other = ([point for _, point, _, _ in drive(make(7), range(24))] for _ in range(2))
    assert one == other


def test_seeds_differ_and_numbers_differ(make):
    points = {seed: frozen(point for _, point, _, _ in drive(make(seed), range(8))) for seed in (1, 2)}
    assert points[1] != points[2]
    assert len(set(points[1])) > 4, "eight draws of 128 points"


def resumed(make, told):
    """(strategy that went on, its history, new one that was told that history)."""
    first, again = make(3), make(3)
    history = drive(first, range(told))
    for number, point, memo, outcome in history:
        again.tell(number, point, memo, outcome)
    return first, history, again


@pytest.mark.parametrize("told", [5, 20])
def test_a_resumed_strategy_does_not_begin_again(make, told):
    _, history, again = resumed(make, told)
    got = frozen(point for _, point, _, _ in drive(again, range(told, told + 6)))
    assert got != frozen(point for _, point, _, _ in history[:6])
    assert len(set(got)) > 1


@pytest.mark.parametrize("told", [5, 20])
def test_a_resumed_strategy_proposes_what_the_old_one_would_have(make, told):
    first, _, again = resumed(make, told)
    expected = frozen(point for _, point, _, _ in drive(first, range(told, told + 6)))
    assert frozen(point for _, point, _, _ in drive(again, range(told, told + 6))) == expected


def test_every_outcome_is_taken_in_any_order_also_of_points_it_never_asked(make):
    strategy = make()
    asked = {number: strategy.ask(number) for number in range(6)}
    done = Done(Measurement({"metric": Value(0.5), "latency_ms": Value(1.0)}), {"ms": -0.5}, "m", "s", Recipe())
    ends = [Failed("crash", "x"), Rejected("predicted", Measurement({}), {"ms": 3.0}, Recipe()), done]
    for number in (4, 0, 5, 2):
        strategy.tell(number, *asked[number], ends[number % 3])
    for number, end in zip((100, 50, 7), ends, strict=True):
        strategy.tell(number, SPACE.strongest(), {}, end)
    strategy.tell(101, SPACE.identity(), {"unknown": [1, "x"], "deep": {"a": None}}, done)
    for number in (200, 201):
        point, memo = strategy.ask(number)
        assert set(point) == {domain.name for domain in SPACE.domains}
        strategy.tell(number, point, memo, ends[0])
    for number in (1, 3):
        strategy.tell(number, *asked[number], ends[0])


def test_failures_alone_do_not_stop_it(make):
    history = drive(make(), range(30), lambda point: Failed("export", "no"))
    assert len(set(frozen(point for _, point, _, _ in history))) > 10


def test_telling_changes_nothing_that_the_caller_holds(make):
    strategy = make()
    point, memo = strategy.ask(0)
    before = json.dumps([point, dict(memo)], sort_keys=True)
    strategy.tell(0, point, memo, judge(point))
    strategy.ask(1)
    assert json.dumps([point, dict(memo)], sort_keys=True) == before


def feasible_share(name, seed, trials=40):
    strategy = plugins.load("strategies", name, space=SPACE, objectives=OBJECTIVES, constraints=("ms",), seed=seed)
    return sum(isinstance(end, Done) for *_, end in drive(strategy, range(trials))) / trials


def test_tpe_learns_from_rejections_where_random_cannot():
    """Over five seeds; a third of the toy's points are feasible, so random finds about that share."""
    ours, luck = (sum(feasible_share(name, seed) for seed in range(5)) / 5 for name in ("tpe", "random"))
    assert ours > luck + 0.1


def test_options_are_those_of_the_member():
    with pytest.raises(UserError, match="unknown option 'popul"):
        plugins.load("strategies", "random", space=SPACE, objectives=OBJECTIVES, constraints=(), seed=0, population=4)
