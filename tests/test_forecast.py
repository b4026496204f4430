"""forecast.py and effects.py: composition by hand formulas, learning from results that follow a known law."""

import itertools

import numpy as np
import pytest

from autoslim import effects
from autoslim.forecast import Forecast, Tables, guessed, nonnegative
from autoslim.space import Domain, SearchSpace

CHANNELS = Domain("channels:a", "channels", (1.0, 0.5, 0.25), ((), (("a", 32),), (("a", 16),)), ordered=True)
DEPTH = Domain("depth:b", "depth", (False, True), ((), (("b", True),)))
INNER = Domain("channels:b.c", "channels", (1.0, 0.5), ((), (("b.c", 8),)))
BITS = Domain("bits:all", "bits", (32, 8), ((), (("a", 8), ("b.c", 8))))
STEPS = Domain("recovery:distill_steps", "recovery", (0, 50), ((), ()), ordered=True)
SPACE = SearchSpace((CHANNELS, DEPTH, INNER, BITS, STEPS), {})
BASE = {
    "macs": {"a": 1000.0, "b.c": 3000.0},
    "params": {"a": 100.0, "b.c": 300.0},
    "times": {"float": {"a": 0.3, "b.c": 0.5, "": 0.2}, "integer": {"a": 0.15, "b.c": 0.2}, "latency": 2.0},
}


def answer(domain, choice, loss, a=(1.0, 1.0), bc=(1.0, 1.0), integer=()):
    """What a worker says of one choice, from shares (macs, params) of the two layers."""
    return {
        "domain": domain,
        "choice": choice,
        "loss": loss,
        "macs": {"a": 1000 * a[0], "b.c": 3000 * bc[0]},
        "params": {"a": 100 * a[1], "b.c": 300 * bc[1]},
        "integer": list(integer),
    }


MEASURED = [
    answer("channels:a", 1, 0.01, a=(0.5, 0.5), bc=(0.5, 0.5)),
    answer("channels:a", 2, 0.04, a=(0.25, 0.25), bc=(0.25, 0.25)),
    answer("depth:b", 1, 0.1, bc=(0.0, 0.0)),
    answer("channels:b.c", 1, 0.02, bc=(0.5, 0.5)),
    answer("bits:all", 1, 0.001, integer=("a", "b.c")),
]


@pytest.fixture
def tables():
    return effects.tables(SPACE, BASE, MEASURED, size=2000.0)


@pytest.fixture
def forecast(tables):
    return Forecast(SPACE, tables)


def rows(*points):
    return np.array(points)


def test_choices_that_were_not_measured_cost_what_their_values_say():
    """Where the time ended the measuring: a forecast in which they save nothing would send the search into what is far too large."""
    forecast = Forecast(SPACE, effects.tables(SPACE, BASE, [], size=2000.0))
    whole, float_rest = 2000.0, 2000.0 - 4 * 400
    assert forecast.bytes(rows([0, 0, 0, 0, 0]))[0] == pytest.approx(whole)
    assert forecast.bytes(rows([0, 0, 0, 1, 0]))[0] == pytest.approx(400 + float_rest), "a quarter of the weights"
    assert forecast.bytes(rows([2, 0, 0, 0, 0]))[0] == pytest.approx(4 * (25 + 300) + float_rest)
    assert forecast.cost("macs", rows([1, 0, 1, 0, 0]))[0] == pytest.approx(500 + 1500)
    assert forecast.cost("macs", rows([0, 1, 0, 0, 0]))[0] == pytest.approx(1000), "nothing is left of a block"
    assert forecast.ms(rows([0, 0, 0, 1, 0]))[0] < forecast.ms(rows([0, 0, 0, 0, 0]))[0], "integer kernels"


def test_a_format_costs_what_its_own_kernels_took():
    """And one whose kernels were not profiled what plain integers did; records of older versions tell no formats."""
    times = BASE["times"] | {"formats": {"format=8 ranges=dynamic": {"a": 0.03, "b.c": 0.4}}}
    told = {"a": "format=8 ranges=dynamic", "b.c": "w4a8"}
    shares = effects.shares_of(("a", "b.c"), BASE | {"times": times}, [None, answer("bits:all", 1, 0.001) | {"integer": told}])
    assert shares["slow"][1].tolist() == pytest.approx([0.1, 0.4])
    older = effects.shares_of(("a", "b.c"), BASE, [None, answer("bits:all", 1, 0.001, integer=("a",))])
    assert older["slow"][1].tolist() == pytest.approx([0.5, 1.0])


def test_what_was_measured_goes_before_what_a_value_says():
    found = effects.tables(SPACE, BASE, MEASURED[:1], size=2000.0).shares["channels:a"]
    assert found["bytes"][1].tolist() == [0.5, 0.5], "measured: its readers shrink too"
    assert found["bytes"][2].tolist() == [0.25, 1.0]
    threshold = Domain("sparsity:a", "sparsity", (0.0, 0.5), ((), (("a", 0.5),)))
    zeros = effects.tables(SearchSpace((threshold,), {}), BASE, [], size=2000.0).shares["sparsity:a"]
    assert zeros["macs"].min() == zeros["bytes"].min() == 1.0, "zeros cost what other weights cost"


def test_the_untouched_point_costs_what_was_measured(forecast):
    base = rows([0, 0, 0, 0, 0])
    forecast.fit_.floor = 0.0
    assert forecast.bytes(base)[0] == pytest.approx(2000.0)
    assert forecast.ms(base)[0] == pytest.approx(2.0)
    assert forecast.cost("macs", base)[0] == 4000


def test_shares_of_a_layer_multiply_and_integer_weights_take_a_quarter(forecast):
    forecast.fit_.floor = 0.0
    point = rows([1, 0, 1, 1, 0])  # half of a, half of b.c by itself and half through a, integer
    assert forecast.cost("macs", point)[0] == pytest.approx(1000 * 0.5 + 3000 * 0.5 * 0.5)
    assert forecast.bytes(point)[0] == pytest.approx(400 + 4 * 0.25 * (100 * 0.5 + 300 * 0.25))
    # layer times as shares of the latency: a 0.6, b.c 1.0, the rest 0.4; integer kernels take 0.5 and 0.4 of float ones
    assert forecast.ms(point)[0] == pytest.approx(0.4 + 0.6 * 0.5 * 0.5 + 1.0 * 0.4 * 0.25)


def test_bytes_of_a_format_are_those_that_it_needs():
    """Four bits and their steps, also where no integer kernel runs."""
    narrow = answer("bits:all", 1, 0.001) | {"bytes": {"a": 56.0, "b.c": 160.0}}
    forecast = Forecast(SPACE, effects.tables(SPACE, BASE, [*MEASURED[:-1], narrow], size=2000.0))
    assert forecast.bytes(rows([0, 0, 0, 1, 0]))[0] == pytest.approx(400 + 56 + 160)
    assert forecast.bytes(rows([0, 1, 0, 1, 0]))[0] == pytest.approx(400 + 56)


def test_time_has_a_floor_but_a_removed_layer_has_none(forecast):
    forecast.fit_.floor = 0.2
    gone, small = forecast.ms(rows([0, 1, 0, 0, 0], [2, 0, 0, 0, 0]))
    assert gone == pytest.approx(0.4 + 0.6)
    assert small == pytest.approx(0.4 + 0.6 * (0.2 + 0.8 * 0.25) + 1.0 * (0.2 + 0.8 * 0.25))


def test_losses_add_but_not_those_inside_a_removed_block(forecast):
    apart, inside, removed = forecast.gap(rows([1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]))
    assert apart == pytest.approx(0.01 + 0.02, rel=0.01)
    assert inside == removed == pytest.approx(0.01 + 0.1, rel=0.01)
    assert forecast.canonical(rows([1, 1, 1, 0, 0])).tolist() == [[1, 1, 0, 0, 0]]


def test_more_recovery_promises_a_smaller_gap(forecast):
    less, more = forecast.gap(rows([1, 0, 0, 0, 0], [1, 0, 0, 0, 1]))
    assert more < less


def test_tables_survive_the_record(tables):
    again = Tables.from_dict(tables.as_dict())
    point = rows([2, 0, 1, 1, 0])
    assert Forecast(SPACE, again).bytes(point) == pytest.approx(Forecast(SPACE, tables).bytes(point), rel=1e-4)
    assert Forecast(SPACE, again).gap(point) == pytest.approx(Forecast(SPACE, tables).gap(point), rel=1e-4)


def test_what_results_follow_is_learnt(forecast):
    """Results with a constant, another speed and a steeper loss than the tables say: errors shrink to nearly nothing."""
    every = np.array(list(itertools.product(range(3), range(2), range(2), range(2), range(1))))
    law = Forecast(SPACE, forecast.tables)
    law.fit_.constant, law.fit_.scale, law.fit_.floor, law.fit_.shift, law.fit_.power = 0.3, 0.7, 0.1, 0.5, 1.3
    generator = np.random.default_rng(0)
    known = every[generator.permutation(len(every))[:12]]
    before = np.abs(forecast.ms(every) / law.ms(every) - 1).mean(), np.abs(np.log(forecast.gap(every) / law.gap(every))).mean()
    forecast.fit(known, law.ms(known), law.bytes(known), law.gap(known))
    after = np.abs(forecast.ms(every) / law.ms(every) - 1).mean(), np.abs(np.log(forecast.gap(every) / law.gap(every))).mean()
    assert after[0] < 0.03 < before[0]
    assert after[1] < 0.5 * before[1]
    assert forecast.fit_.floor == 0.1


def test_missing_measurements_teach_nothing_and_harm_nothing(forecast):
    point = rows([1, 0, 0, 0, 0])
    before = forecast.gap(point), forecast.ms(point)
    nothing = [float("nan")] * 5
    forecast.fit(np.zeros((5, 5), dtype=int), nothing, nothing, nothing)
    assert (forecast.gap(point), forecast.ms(point)) == before


def test_guessed_tables_say_that_later_choices_cost_less_and_lose_more():
    guess = Forecast(SPACE, guessed(SPACE))
    mild, strong = guess.ms(rows([0, 0, 0, 0, 0], [2, 1, 0, 1, 0]))
    assert strong < mild
    low, high = guess.gap(rows([1, 0, 0, 0, 0], [2, 0, 0, 0, 0]))
    assert low < high


@pytest.mark.parametrize(("left", "right", "expected"), [([[1, 0], [0, 1]], [2, 3], (2, 3)), ([[1, 1], [1, 2]], [1, 0], (0.5, 0))])
def test_nonnegative_least_squares(left, right, expected):
    assert nonnegative(np.array(left, dtype=float), np.array(right, dtype=float)) == pytest.approx(expected)


STEPPED = {  # kernels of half the channels take 0.6 of the time, of a quarter hardly less; integer ones win nothing by the first step
    "float": [{"a": 0.18, "b.c": 0.2}, {"a": 0.15, "b.c": 0.16}],
    "integer": [{"a": 0.15, "b.c": 0.08}, {"a": 0.12, "b.c": 0.08}],
}


def test_steps_of_kernels_are_those_of_the_files_that_were_profiled():
    """Where all groups stand at one position the layers take the profiled times; the choices of one layer's two sides share its step evenly."""
    tables = effects.tables(SPACE, BASE | {"times": BASE["times"] | {"ladder": STEPPED}}, MEASURED, size=2000.0)
    forecast = Forecast(SPACE, tables)
    for kind, bits in (("float", 0), ("integer", 1)):
        for level, spent in enumerate(STEPPED[kind], 1):
            told = forecast.ms(rows((level, 0, 1, bits, 0)))[0]  # 0.4: what the profile gives to no layer
            assert told == pytest.approx(0.4 + 2.0 * (spent["a"] + spent["b.c"]), rel=0.01)
    half = forecast.ms(rows((0, 0, 1, 0, 0)))[0]
    assert half == pytest.approx(0.4 + 2.0 * (0.3 + 0.5 * (0.2 / 0.5) ** 0.5), rel=0.01)
    again = Forecast(SPACE, Tables.from_dict(tables.as_dict()))
    np.testing.assert_allclose(again.ms(rows((1, 0, 1, 1, 0))), forecast.ms(rows((1, 0, 1, 1, 0))), rtol=1e-3)


def test_items_ask_for_the_loss_of_the_strongest_and_the_middle_choice():
    told = {(item["domain"], item["choice"]): item["loss"] for item in effects.items(SPACE)}
    assert told == {
        ("channels:a", 1): True,
        ("channels:a", 2): True,
        ("depth:b", 1): True,
        ("channels:b.c", 1): True,
        ("bits:all", 1): True,
    }
    five = Domain("channels:x", "channels", (1.0, 0.8, 0.6, 0.4, 0.2), ((), *((("x", n),) for n in (8, 6, 4, 2))), ordered=True)
    assert {item["choice"]: item["loss"] for item in effects.items(SearchSpace((five,), {}))} == {1: False, 2: True, 3: False, 4: True}


def test_with_many_domains_losses_are_measured_spread_over_the_network():
    many = tuple(
        Domain(f"channels:{i}", "channels", (1.0, 0.5, 0.25), ((), ((f"{i}", 4),), ((f"{i}", 2),)), ordered=True) for i in range(9)
    )
    told = effects.items(SearchSpace(many, {}), most=3)
    assert len(told) == 18, "what a choice does to size and work is measured for all"
    assert [item["domain"] for item in told if item["loss"]] == ["channels:0", "channels:4", "channels:8"]


def test_losses_that_were_not_measured_are_borrowed_from_the_neighbours_of_the_same_technique():
    three = tuple(Domain(f"channels:{i}", "channels", (1.0, 0.5), ((), ((f"{i}", 4),))) for i in range(3))
    depth = Domain("depth:x", "depth", (False, True), ((), (("x", True),)))
    found = effects.borrowed([*three, depth], {"channels:0": np.array([0.0, 0.01]), "channels:2": np.array([0.0, 0.04])})
    assert found["channels:1"] == pytest.approx([0.0, 0.02])
    assert found["depth:x"] == pytest.approx([0.0, 0.05])


def test_losses_between_measured_ones_follow_a_power_law_and_never_fall():
    domain = Domain("channels:x", "channels", (1.0, 0.8, 0.6, 0.4, 0.2), ((), *((("x", n),) for n in (8, 6, 4, 2))), ordered=True)
    told = [None, {"loss": None}, {"loss": 0.01}, {"loss": None}, {"loss": 0.16}]
    losses = effects.interpolated(domain, told)
    assert losses == pytest.approx([0, 0.01 / 4, 0.01, 0.01 * (3 / 2) ** 4, 0.16])
    assert effects.interpolated(domain, [None, {"loss": 0.5}, {"loss": 0.01}, None, {"loss": 0.2}])[2] == 0.5


def test_a_choice_that_cannot_be_made_is_named_and_hopeless(tables):
    bad = effects.hopeless({"domain": "depth:b", "choice": 1, "loss": True}, "RuntimeError: no\nway")
    found = effects.tables(SPACE, BASE, [*MEASURED[:2], bad, *MEASURED[3:]], 2000.0)
    assert found.loss["depth:b"][1] == effects.HOPELESS
    assert "depth:b" in found.notes[0]
    assert "no way" in found.notes[0]
