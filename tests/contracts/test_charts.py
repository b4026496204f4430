"""What every member of charts/ owes: numbers that can be checked, and the same ink for the same numbers."""

import json

import pytest

from autoslim import plugins


def verified(key, label, ratio, size, test, feasible=True):
    return {
        "key": key,
        "label": label,
        "feasible": feasible,
        "latency_ratio": ratio,
        "latency_ratio_low": ratio - 0.02,
        "latency_ratio_high": ratio + 0.03,
        "size_bytes": size,
        "metric_test": test,
        "metric_test_low": test - 0.01,
        "metric_test_high": test + 0.01,
    }


def tried(key, metric, ratio, size, feasible):
    return {"key": key, "label": "", "end": "done", "metric_val": metric, "latency_ratio": ratio, "size_bytes": size, "feasible": feasible}


TABLES = {
    "metric_name": "top-1 accuracy",
    "limits": {"latency_ratio": 0.6, "size_kb": 500.0},
    "history": [0.1, 0.1, 0.25],
    "seconds": {"compress": 1.0, "recover": 5.0, "export": 2.0},
    "forecasts": {"latency_ms": [[1.0, 1.1], [2.0, 1.8], [0.0, 1.0]], "size_bytes": [[10.0, 11.0]]},
    "front": [verified("k0", "untouched", 1.0, 1_000_000, 0.98), verified("k1", "", 0.4, 250_000, 0.97)],
    "trials": [
        tried("k0", 0.99, 1.0, 1_000_000, False),
        tried("k1", 0.98, 0.4, 250_000, True),
        tried("k2", 0.9, 0.3, 200_000, True),
        tried("k3", 0.8, 0.7, 600_000, False),
        tried("k4", None, 0.9, 900_000, False),
        tried("k5", 0.7, None, None, None),
    ],
    "coverage": {
        "layers": [{"name": "stem"}, {"name": "b1.conv"}, {"name": "b2.conv"}, {"name": "head"}],
        "groups": [{"name": "stem", "size": 32, "producers": ["stem", "b2.conv"]}],
    },
    "chosen_recipe": {
        "schema": 1,
        "recovery": {},
        "techniques": {
            "channels": {"stem": 8},
            "bits": {"head": 8},
            "depth": {"b1": True},
            "rank": {"head": {"share": 0.5, "method": "spatial"}},
            "sparsity": {"b2.conv": 0.75},
        },
    },
}
EMPTY = TABLES | {"limits": {}, "history": [], "front": [], "trials": [], "chosen_recipe": None, "seconds": {}, "forecasts": {}}


@pytest.fixture(params=plugins.names("charts"))
def chart(request):
    return plugins.load("charts", request.param)


def test_numbers_are_plain_and_leave_the_tables_alone(chart):
    before = json.dumps(TABLES)
    numbers = chart.numbers(TABLES)
    assert json.loads(json.dumps(numbers)) == numbers
    assert json.dumps(TABLES) == before
    assert chart.title


@pytest.mark.parametrize("tables", [TABLES, EMPTY], ids=["full", "empty"])
def test_ink_writes_a_png_and_the_same_one_for_the_same_numbers(chart, tables, tmp_path):
    numbers = json.loads(json.dumps(chart.numbers(tables)))
    for name in ("one.png", "below/two.png"):
        chart.ink(numbers, tmp_path / name)
    content = (tmp_path / "one.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert content == (tmp_path / "below" / "two.png").read_bytes()


@pytest.mark.parametrize("tables", [TABLES, EMPTY], ids=["full", "empty"])
def test_ink_writes_an_svg_and_the_same_one_for_the_same_numbers(chart, tables, tmp_path):
    numbers = chart.numbers(tables)
    for name in ("one.svg", "two.svg"):
        chart.ink(numbers, tmp_path / name)
    content = (tmp_path / "one.svg").read_bytes()
    assert b"<svg" in content
    assert content == (tmp_path / "two.svg").read_bytes()


def test_other_numbers_are_other_ink(chart, tmp_path):
    chart.ink(chart.numbers(TABLES), tmp_path / "full.png")
    chart.ink(chart.numbers(EMPTY), tmp_path / "empty.png")
    assert (tmp_path / "full.png").read_bytes() != (tmp_path / "empty.png").read_bytes()


def test_ink_leaves_the_style_of_the_process_alone(chart, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    chart.ink(chart.numbers(TABLES), tmp_path / "x.png")
    assert dict(matplotlib.rcParams) == before


def test_numbers_of_the_latency_chart():
    numbers = plugins.load("charts", "pareto_latency").numbers(TABLES)
    assert numbers["limit"] == 0.6
    assert numbers["metric"] == "top-1 accuracy"
    [own] = numbers["own"]
    assert own == pytest.approx(
        {"x": 0.4, "x_low": 0.38, "x_high": 0.43, "y": 0.97, "y_low": 0.96, "y_high": 0.98, "name": "k1", "feasible": True}
    )
    assert [(p["x"], p["name"]) for p in numbers["rivals"]] == [(1.0, "untouched")]
    assert numbers["others"] == [{"x": 0.3, "y": 0.9, "feasible": True}, {"x": 0.7, "y": 0.8, "feasible": False}], (
        "neither shown twice nor unmeasured"
    )


def test_numbers_of_the_size_chart_are_kilobytes():
    numbers = plugins.load("charts", "pareto_size").numbers(TABLES)
    assert numbers["limit"] == 500.0
    assert [(p["x"], p["x_low"], p["x_high"]) for p in numbers["own"]] == [(250.0, None, None)]
    assert [p["x"] for p in numbers["others"]] == [200.0, 600.0]


def test_numbers_of_the_history():
    assert plugins.load("charts", "history").numbers(TABLES) == {"evaluation": [1, 2, 3], "hypervolume": [0.1, 0.1, 0.25]}


def test_numbers_of_seconds_and_forecasts():
    assert plugins.load("charts", "seconds").numbers(TABLES) == {"phases": ["compress", "export", "recover"], "seconds": [1.0, 2.0, 5.0]}
    found = plugins.load("charts", "forecast").numbers(TABLES)
    assert found == {"predicted": [1.0, 2.0], "measured": [1.1, 1.8]}, "what is not above zero has no place on a logarithmic axis"


def test_the_layer_map_shows_the_steps_of_every_technique():
    coverage = {
        "layers": [{"name": name} for name in ("qkv", "fc")],
        "groups": [{"name": "fc", "size": 64, "producers": ["fc"]}, {"name": "attn", "size": 8, "producers": ["qkv"]}],
    }
    techniques = {
        "codebook": {"fc": {"bits": 4, "levels": "pow2"}},
        "gradual": {"fc": {"share": 0.75, "steps": 9}},
        "heads": {"attn": 6},
        "qat": {"qkv": {"format": "w4a8", "steps": 9}},
        "regularised": {"fc": 0.5},
        "student": {"": {"width": 0.5, "share": True}},
        "depth": {},
    }
    tables = {**TABLES, "coverage": coverage, "chosen_recipe": {"techniques": techniques}}
    found = plugins.load("charts", "layer_map").numbers(tables)
    assert found["columns"] == ["channels", "rank", "sparsity", "bits", "codebook", "gradual", "heads", "qat", "regularised", "student"]
    told = [
        dict(zip(found["columns"], zip(words, shares, strict=True), strict=True))
        for words, shares in zip(found["words"], found["shares"], strict=True)
    ]
    assert (told[0]["heads"], told[0]["qat"], told[0]["codebook"]) == (("6/8", 0.75), ("w4a8", 0.125), ("", 1.0))
    assert (told[1]["codebook"], told[1]["gradual"], told[1]["regularised"]) == (("4 bits", 0.125), ("0.75", 0.25), ("0.5", 1.0))
    assert {row["student"] for row in told} == {("width 0.5 share True", 1.0)}


def test_what_is_decided_for_a_layer_is_not_shown_at_the_others_of_the_group_that_bears_its_name():
    coverage = {"layers": [{"name": name} for name in ("a", "b")], "groups": [{"name": "a", "size": 32, "producers": ["a", "b"]}]}
    techniques = {"channels": {"a": 8}, "bits": {"a": 8}, "sparsity": {"a": 0.75}, "rank": {"b": 0.5}, "regularised": {"a": 0.5}}
    maps = [
        plugins.load("charts", "layer_map").numbers({**TABLES, "coverage": coverage, "chosen_recipe": {"techniques": told}})
        for told in (techniques, {"regularised": {"a": {"of": "channels", "strength": 0.5}}})
    ]
    assert maps[0]["columns"] == ["channels", "rank", "sparsity", "bits", "regularised"]
    assert maps[0]["words"] == [["8/32", "", "0.75", "8", "0.5"], ["8/32", "0.5", "", "32", ""]]
    assert [row[4] for row in maps[1]["words"]] == ["of channels strength 0.5"] * 2, "a group's, so of both"


def test_numbers_of_the_layer_map():
    numbers = plugins.load("charts", "layer_map").numbers(TABLES)
    assert numbers["columns"] == ["channels", "rank", "sparsity", "bits"]
    assert dict(zip(numbers["layers"], numbers["shares"], strict=True)) == {
        "stem": [0.25, 1.0, 1.0, 1.0],
        "b1.conv": [0.0, 0.0, 0.0, 0.0],
        "b2.conv": [0.25, 1.0, 0.25, 1.0],
        "head": [1.0, 0.5, 1.0, 0.25],
    }
    assert dict(zip(numbers["layers"], numbers["words"], strict=True)) == {
        "stem": ["8/32", "", "", "32"],
        "b1.conv": ["removed", "", "", ""],
        "b2.conv": ["8/32", "", "0.75", "32"],
        "head": ["", "0.5", "", "8"],
    }


def test_untouched_is_all_ones():
    shares = plugins.load("charts", "layer_map").numbers(EMPTY)["shares"]
    assert shares == [[1.0] * 4] * 4
