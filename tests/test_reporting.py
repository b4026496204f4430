"""Reports of synthetic studies: the same bytes for the same study, numbers against laws and reference implementations, texts as texts."""

import html.parser
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import studies
from autoslim import report, tables
from autoslim.budget import feasible
from autoslim.candidate import Done
from autoslim.hindsight import spearman
from autoslim.reporting import cards, dictionary, figures, files, importances, markdown, page, page_data, words
from autoslim.reporting.context import Material
from autoslim.reporting.contributions import contributions, shapley
from autoslim.reporting.layers import layer_rows
from autoslim.reporting.singles import singles_of
from autoslim.reporting.summary import history, spent, summarise, where_time_went

ROOT = Path(__file__).parents[1]
EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(study_folder):
    return studies.make(study_folder, 60, ("stem", EVIL, "=cmd()", "head"))


@pytest.fixture(scope="module")
def material(study):
    return Material(study)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, report.write(study, out)


def test_the_same_study_gives_the_same_bytes_of_every_file(study, written, tmp_path):
    out, _ = written
    report.write(study, tmp_path)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert {"front.csv", "trials.csv", "front.parquet", "trials.parquet", "dictionary.csv", "summary.json", "report.html"} <= set(names)
    assert {"figures/pareto_latency.svg", "figures/pareto_latency.png"} <= set(names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_another_process_with_another_hash_seed_writes_the_same_bytes(study_folder, written, tmp_path):
    out, _ = written
    code = "import sys; from pathlib import Path; from autoslim import report; from autoslim.study import Study\nreport.write(Study.read(Path(sys.argv[1])), Path(sys.argv[2]))"
    environment = os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    subprocess.run([sys.executable, "-c", code, str(study_folder), str(tmp_path)], check=True, cwd=ROOT, env=environment)
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in names if (tmp_path / name).read_bytes() != (out / name).read_bytes()] == []


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["front", "trials"])
def test_the_tables_of_a_small_study_are_the_golden_ones(tmp_path, name):
    """tests/golden was written by ``files.write_tables`` of this very study; a wanted change of the tables is committed there, to be read in
    the difference. Numbers may differ in the last digits between processors."""
    files.write_tables(Material(studies.make(tmp_path, 12, ("stem", "head"), verify=3)), tmp_path)
    found, golden = (pd.read_csv(folder / f"{name}.csv", keep_default_na=False) for folder in (tmp_path, GOLDEN))
    assert list(found.columns) == list(golden.columns)
    for column in golden.columns:
        for got, wanted in zip(found[column], golden[column], strict=True):
            assert plain(got) == plain(wanted), column


def plain(value):
    """A cell with its numbers, inside of JSON too, to ten digits."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number.group()):.9e}", str(value))


def test_a_report_needs_no_torch(written):
    code = (
        "import sys, autoslim.report, autoslim.reporting.comparison, autoslim.reporting.comparison_page, autoslim.reporting.picking, autoslim.reporting.gate\n"
        "import autoslim.watching, autoslim.checking, autoslim.repairing, autoslim.reporting.exporting, autoslim.reporting.markdown\n"
        "print(sorted({'torch', 'sklearn', 'mlflow', 'pyarrow', 'matplotlib', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# -- tables -----------------------------------------------------------------------------------------------------------------


def test_parquet_and_csv_hold_the_same_numbers(written):
    out, _ = written
    for name in ("front", "trials"):
        left, right = pd.read_csv(out / f"{name}.csv"), pd.read_parquet(out / f"{name}.parquet")
        assert list(left.columns) == list(right.columns)
        for column in left.select_dtypes("number").columns:
            np.testing.assert_array_equal(left[column].to_numpy(float), right[column].astype("Float64").to_numpy(float, na_value=np.nan))


def test_the_dictionary_says_of_every_column_what_it_is(written):
    out, _ = written
    told = pd.read_csv(out / "dictionary.csv", keep_default_na=False)
    for name in ("front", "trials"):
        assert list(told[told.table == name].column) == list(pd.read_csv(out / f"{name}.csv").columns)
        assert set(dictionary.TABLES[name]) == set(tables.FRONT_COLUMNS if name == "front" else tables.TRIAL_COLUMNS)
    assert (told.meaning.str.len() > 5).all()
    assert dictionary.column("front", "metric_macro F1").kind == "number"


def test_energy_has_its_interval_and_its_meaning(material):
    key, row = next((key, row) for key, row in material.verified.items() if material.points[key].label == "")
    found = tables.front_row(material.points[key], {**row, "energy_mj": {"value": 2.5, "low": 2.25, "high": 2.75}}, material.context)
    assert ("energy of one run, mJ", "2.5", "2.25 to 2.75") in cards.figures(found, material.context)
    assert {dictionary.column("front", name).unit for name in found if name.startswith("energy_mj")} == {"mJ"}
    assert "further metric" not in dictionary.column("front", "energy_mj").meaning


def test_types_in_parquet_are_those_of_the_dictionary(written):
    out, _ = written
    kinds = {"text": ("string", "str", "large_string"), "integer": ("Int64",), "number": ("float64",), "boolean": ("boolean",)}
    frame = pd.read_parquet(out / "trials.parquet", dtype_backend="numpy_nullable")
    for name in frame.columns:
        assert str(frame[name].dtype).lower() in {kind.lower() for kind in (*kinds[dictionary.column("trials", name).kind], "Float64")}, (
            name
        )


def test_a_spreadsheet_runs_nothing(tmp_path):
    frame = pd.DataFrame({"text": ["=1+1", "-2 blocks", "@x", "+a", "plain", None], "number": [-1.5, 2, 3, 4, 5, 6]})
    found = files.defused(frame)
    assert list(found.text[:5]) == ["'=1+1", "'-2 blocks", "'@x", "'+a", "plain"]
    assert found.number[0] == -1.5


# -- numbers ----------------------------------------------------------------------------------------------------------------


def test_the_history_is_the_hypervolume_of_every_prefix(material):
    context = material.context
    found, slow = [], []
    for entry in material.entries:
        if entry.cached_from is None and entry.outcome is not None:
            if isinstance(entry.outcome, Done) and feasible(entry.outcome.violations):
                found.append(entry.outcome.measurement)
            slow.append(tables.hypervolume(found, context["untouched"], context["objectives"], "max"))
    volumes = history(material.entries, context)
    assert volumes == pytest.approx(slow)
    assert volumes[-1] == pytest.approx(summarise(material)["hypervolume"]["value"])
    assert len(set(volumes)) > 3


def test_layers_of_a_point_follow_the_law_of_the_study(material):
    singles = singles_of(material)
    entry = next(entry for entry in material.entries if isinstance(entry.outcome, Done) and not entry.label)
    layers = ["stem", EVIL, "=cmd()", "head"]
    _, ms, size, macs = studies.law(entry.point, layers)
    assert singles.total("ms", entry.point) == pytest.approx(ms)
    assert singles.total("bytes", entry.point) == pytest.approx(size)
    assert singles.total("macs", entry.point) == pytest.approx(macs)
    charts = figures.numbers(figures.chart_tables(material, summarise(material), []))
    rows = layer_rows(material, singles, charts["layer_map"], entry.point)
    assert [row["layer"] for row in rows] == layers
    assert sum(row["ms_share"] for row in rows) == pytest.approx(1)
    assert sum(row["ms_share"] * row["ms_left"] for row in rows) == pytest.approx(ms / studies.BASE_MS)


def test_shapley_of_the_glove_game():
    """Two left gloves and one right: the right one's owner gets 2/3 (Shapley and Shubik 1969)."""

    def value(group):
        return float("right" in group and ("left" in group or "other" in group))

    assert shapley(["left", "other", "right"], value) == pytest.approx({"left": 1 / 6, "other": 1 / 6, "right": 2 / 3})


def test_contributions_multiply_to_the_whole_forecast(material):
    singles = singles_of(material)
    entry = next(entry for entry in material.entries if isinstance(entry.outcome, Done) and len(entry.outcome.recipe.techniques()) == 2)
    rows = contributions(material, singles, entry)
    assert [row["technique"] for row in rows] == ["bits", "channels"]
    for cost in ("ms", "bytes", "macs"):
        assert math.prod(row[cost] for row in rows) == pytest.approx(singles.total(cost, entry.point) / singles.total(cost, {}))
    assert rows[0]["macs"] == pytest.approx(1.0), "bits change no multiply-accumulate"
    alone = rows[0]["alone"]
    assert alone["number"] == 2, "the uniform int8 rival is bits alone"
    assert alone["latency_ratio"] == pytest.approx(0.6)


def test_importances_agree_with_optuna(tmp_path):
    """Optuna's PED-ANOVA smooths a little differently; the order and the shares must be the same up to that."""
    import optuna.importance as reference

    study = studies.make(tmp_path, 240, ("a", "b", "c"))
    ours = importances.explained(Material(study))
    for place, (objective, sign) in enumerate([("metric", -1), ("latency_ms", 1), ("size_bytes", 1)]):
        theirs = reference.get_param_importances(
            study.optuna, evaluator=reference.PedAnovaImportanceEvaluator(), target=lambda trial, p=place, s=sign: s * trial.values[p]
        )
        assert ours[objective] == pytest.approx(theirs, abs=0.08), objective
        names = sorted(theirs)
        assert spearman(np.array([ours[objective][n] for n in names]), np.array([theirs[n] for n in names])) > 0.8
        assert sum(ours[objective].values()) == pytest.approx(1, abs=1e-4)


def test_what_decides_nothing_is_not_important():
    generator = np.random.default_rng(0)
    deciding, idle = generator.integers(0, 4, 400), generator.integers(0, 4, 400)
    found = importances.ped_anova({"deciding": (deciding, 4), "idle": (idle, 4)}, deciding + 0.01 * generator.random(400))
    assert found["deciding"] > 0.95


def test_sensitivities_are_the_strongest_choices_alone(material):
    rows = importances.sensitivities(singles_of(material))
    worst = rows[0]
    assert worst["domain"] == "channels:head"
    assert worst["loss"] == pytest.approx(0.01 * 3 * 4)
    assert worst["ms"] == pytest.approx(0.75 / 4), "a quarter of the model, three quarters of it gone"


# -- the page ---------------------------------------------------------------------------------------------------------------


class Seen(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.text.append(data)


def test_names_from_a_users_model_are_only_text(written):
    content = (written[0] / "report.html").read_text(encoding="utf-8")
    seen = Seen()
    seen.feed(content)
    assert seen.tags.count("script") == 3, "the data, the chart library and the page's own script"
    assert any(EVIL in text for text in seen.text), "the name is shown"
    assert not [link for link in seen.links if "://" in link], "nothing is loaded from elsewhere"
    assert not any(tag in seen.tags for tag in ("img", "iframe", "object", "embed"))
    assert len(content.encode()) < 3_000_000


def test_data_in_a_script_cannot_end_it():
    text = page_data.for_script({"a": "</script><!-- &"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- &"}


def test_the_library_is_the_one_that_was_published():
    import hashlib

    folder = page.CHARTS.parent
    assert hashlib.sha256(page.CHARTS.read_bytes()).hexdigest() == (folder / "echarts.min.js.sha256").read_text().split()[0]
    assert {"LICENSE", "NOTICE"} <= {path.name for path in folder.iterdir()}


def test_the_page_s_numbers_are_those_of_the_tables(material):
    data = page_data.page_data(material, summarise(material), [0.5])
    assert [axis["id"] for axis in data["axes"]][:3] == ["metric", "latency_ms", "latency_ratio"]
    assert "energy_mj" not in [axis["id"] for axis in data["axes"]], "not measured, not offered"
    trials = data["trials"]
    shown = [entry for entry in material.entries if entry.cached_from is None]
    assert trials["number"] == [entry.number for entry in shown]
    lengths = {len(values) for name, values in trials.items() if name not in ("words", "strength")}
    assert lengths == {len(shown)}
    corner = trials["number"].index(1)
    assert (trials["strength"]["channels"][corner], trials["strength"]["bits"][corner]) == (1.0, 1.0)
    assert trials["strength"]["channels"][trials["number"].index(0)] == 0.0
    assert page_data.digits(0.123456789) == 0.12346
    assert page_data.digits(2.0) == 2
    assert page_data.digits(None) is None


def test_reports_of_studies_with_nothing_verified_and_nothing_done(tmp_path):
    early = studies.make(tmp_path / "early", 2, verify=0)
    early.set_fact("verified", None)
    early.set_fact("tables", None)
    summary = report.write(early, tmp_path / "out")
    assert summary["best"] is None
    assert "No candidate was verified" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


# -- cards and words --------------------------------------------------------------------------------------------------------


def test_a_card_tells_rates_files_licence_and_limits(material, written):
    out, _ = written
    row = next(row for row in material.rows if row["label"] == "uniform-int8")
    card = cards.card_of(material, row, out)
    rates = {what: (left, rate) for what, left, rate in card["rates"]}
    assert rates["latency"] == pytest.approx((0.6, 0.4))
    assert rates["file size"] == pytest.approx((0.25, 0.75))
    assert rates["parameters"] == pytest.approx((1.0, 0.0))
    assert card["licence"] == "MIT"
    text = (out / row["model_file"]).with_name("card.md").read_text(encoding="utf-8")
    for part in ("Licence of the original: MIT", row["sha256"], "InferenceSession", "Limits:", "bits:", "95 % interval"):
        assert part in text


def test_a_card_says_when_a_file_is_slower_which_kernels_are_not_integers_and_what_was_not_measured(material):
    mine = next(row for row in material.rows if row["label"] == "uniform-int8")
    checked, slow = material.verified[mine["key"]], mine | {"latency_ratio": 1.33, "latency_ratio_low": 1.2, "latency_ratio_high": 1.4}
    findings = [
        {"kind": "slower", "layer": "stem", "kernel": "", "ms": 0.1, "what": "0.2 ms, 0.1 ms in the other file", "fix": "give it 32"}
    ]
    kernels = {"kernels": {"meant": 2, "integer": 1, "layers": findings}}
    told = [cards.markdown(cards.card_of(material, row)) for row in (mine, slow)]
    assert ["slower than the untouched model here: 1.33 of its time" in text for text in told] == [False, True]
    assert all("how robust it is was not measured" in text for text in told)
    material.verified[mine["key"]] = checked | {"changes": {"checks": [], "not_measured": [], **kernels}}
    try:
        text = cards.markdown(cards.card_of(material, mine))
    finally:
        material.verified[mine["key"]] = checked
    assert "how robust" not in text
    assert "1 of 2 layers that were meant as integers run as integers." in text
    assert "stem: 0.2 ms, 0.1 ms in the other file; give it 32." in text


def test_the_report_names_files_that_are_slower_than_the_untouched_one(material):
    summary = report.summarise(material)
    rows = [dict(row) for row in material.rows]
    assert not any("Slower than" in text for text in words.asides(summary, rows))
    rows[1] |= {"label": "uniform-int8", "latency_ratio": 1.33, "latency_ratio_low": 1.2}
    rows[0] |= {"label": "untouched", "latency_ratio": 1.1, "latency_ratio_low": 1.05}
    told = [text for text in words.asides(summary, rows) if "Slower than" in text]
    assert told == ["Slower than the untouched model on this machine: uniform-int8 (1.33 of its time); their cards say which layers."]


def test_rates_are_before_minus_after_by_before_for_either_direction_of_the_metric():
    row = {"size_ratio": 0.5, "latency_ratio": 0.25, "params": 30.0, "macs": 5.0, "metric": "score", "peak_memory_bytes": None}
    untouched = {"params": 40.0, "macs": 50.0, "metric": 0.1}  # a validation score, which no rate on test data may use
    for direction, before, after in (("max", 0.8, 0.6), ("min", 4.0, 5.0)):
        lost = before - after if direction == "max" else after - before
        found = cards.rates(row | {"metric_direction": direction, "metric_test": after, "drop_test": lost}, untouched)
        assert found == [
            ("parameters", 0.75, 0.25), ("compute (multiply-accumulates)", 0.1, 0.9), ("score, drop", None, pytest.approx(0.25)),
            ("file size", 0.5, 0.5), ("latency", 0.25, 0.75),
        ]  # fmt: skip


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "INT64", "INT32", "UINT8", "BOOL", "DOUBLE"])
def test_the_five_lines_feed_what_the_file_takes(tmp_path, kind):
    import onnx
    from onnx import TensorProto, helper

    value = getattr(TensorProto, kind)
    told = [helper.make_tensor_value_info(name, value, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", told[:1], told[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx")
    said = []
    code = cards.SNIPPETS[".onnx"].format(file=tmp_path / "model.onnx")
    exec(code, {"print": said.append})
    assert said == [[(1, 3)]]


@pytest.mark.slow
def test_the_five_lines_load_what_torch_exported(tmp_path):
    import torch

    program = torch.export.export(torch.nn.Linear(3, 2).eval(), (torch.zeros(1, 3),))
    torch.export.save(program, tmp_path / "model.pt2")
    code, said = cards.SNIPPETS[".pt2"].format(file=tmp_path / "model.pt2"), []
    assert len(code.splitlines()) == 5
    exec(code, {"print": said.append})
    assert said[0].shape == (1, 2)


def test_the_five_lines_load_the_file(tmp_path, material):
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "model.onnx")
    code = cards.snippet(material.rows[0] | {"model_file": "models/k/model.onnx"}, material.context)
    assert len(code.splitlines()) == 5
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == "[(1, 3)]"


def test_markdown_keeps_its_table_whatever_a_model_is_called(material):
    text = markdown.render(material, summarise(material))
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {8}
    assert markdown.cell("a|b`<x>\n[y]") == r"a\|b\`\<x\> \[y\]"
    assert text.count("**") == 2, "one point is recommended"


def test_every_chart_is_written_as_svg_without_a_date(written):
    for path in (written[0] / "figures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "<svg" in text
        assert "<dc:date>" not in text


def test_numbers_of_the_charts_of_forecasts_and_seconds(material):
    found = figures.numbers(figures.chart_tables(material, summarise(material), []))
    ratio = [
        measured / predicted for predicted, measured in zip(found["forecast"]["predicted"], found["forecast"]["measured"], strict=True)
    ]
    assert ratio == pytest.approx([1 / 1.05] * len(ratio))
    assert len(ratio) > 20
    assert found["seconds"]["phases"][-1] == "recover"
    assert all(left <= right for left, right in itertools.pairwise(found["seconds"]["seconds"]))


def test_names_of_layers_and_classes_are_no_markup_in_a_card(material):
    card = cards.card_of(material, material.rows[-1])
    card |= {
        "words": f"cut {EVIL}",
        "notes": ["a | b"],
        "changes": {"classes": [{"class": EVIL + "|", "n": 3, "untouched": 1.0, "file": 0.5, "drop": 0.5, "low": -0.1, "high": 0.8}]},
    }
    text = cards.markdown(card).split("To load it")
    assert "<script>" not in "".join(part for i, part in enumerate("".join(text).split("```")) if i % 2 == 0), "outside of code"
    assert "a \\| b" in text[1]
    [row] = [line for line in text[1].splitlines() if "alert" in line and line.startswith("| ")]
    assert row.replace("\\|", "").count("|") == 7, "six cells"


@pytest.mark.parametrize(
    ("direction", "metric", "drop", "told"),
    [
        ("max", 0.9933, 0.0033, "0.9933"),
        ("min", 0.000412, 0.00001, "0.0004120"),
        ("min", 31.25, 1.0, "31.2500"),
        ("max", 0.0, 0.0, "0.0000"),
        ("min", 1.001, 1.0, "1.001000"),  # their difference is a little less than 0.001 as floats
    ],
)
def test_a_tiny_metric_keeps_its_digits(material, direction, metric, drop, told):
    """Of the untouched model's score four digits are seen, in every row of a study the same places."""
    row = dict(material.rows[0]) | {"metric_test": metric, "drop_test": drop, "metric_direction": direction, "drop_test_low": None}
    assert words.score(row, "metric_test") == told
    assert words.test_drop(row) == f"{drop:+.{len(told.partition('.')[2])}f}"
    assert cards.figures(row, material.context)[0][1] == told
    tile = next(tile for tile in page.tiles(row, material.context) if tile["label"].startswith("top-1"))
    assert tile["value"] == told


def test_the_parts_of_the_time_sum_to_the_whole_for_one_worker():
    seconds = {
        "total": 100.0,
        "controller": 3.0,
        "phases": {"preparation": 2.0, "tables": 7.0, "search": 60.0, "verification": 20.0},
        "prepare": {"analysis": 2.0},
        "candidates": {"analysis": 2.0, "score": 50.0},
    }
    found = where_time_went(seconds, 1)
    assert found == {"score": 50.0, "controller": 3.0, "preparation": 2.0, "tables": 7.0, "verification": 20.0, "rest": 18.0}
    assert sum(found.values()) == seconds["total"]
    assert where_time_went(seconds, 2) == seconds["candidates"], "side by side: no rest can be told"


def test_where_the_time_went_reads_what_a_summary_tells(material):
    seconds = summarise(material)["seconds"]
    found = where_time_went(seconds, 1)
    assert set(seconds["phases"]) - {"search"} <= set(found)
    assert {"tables", "verification"} <= set(seconds["phases"])


def test_the_history_over_seconds_goes_with_the_history_over_evaluations(material):
    found = spent(material.entries)
    assert len(found) == len(history(material.entries, material.context))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(sum(summarise(material)["seconds"]["candidates"].values()))


def test_no_cell_of_a_csv_is_longer_than_a_spreadsheet_holds(tmp_path):
    frame = files.defused(pd.DataFrame({"recipe": ["x" * 32_767, "x" * 32_768, "=" * 32_767, None], "number": [1, 2, 3, 4]}))
    assert frame.recipe[0] == "x" * 32_767
    assert [len(text) for text in frame.recipe[1:3]] == [32_767, 32_767]
    assert all(text.endswith("... (shortened)") for text in frame.recipe[1:3])
    assert "'... (shortened)'" in dictionary.column("trials", "recipe").meaning


def test_the_speed_benchmark_fails_where_a_goal_is_missed(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import report_speed

    goals = report_speed.Goals()
    for value, goal in ((1.0, 2.0), (None, 1.0), (9.0, None), (2.0, 2.0)):
        goals.row("fine", value, goal)
    assert goals.status() == 0
    goals.row("slow", 2.1, 2.0)
    assert goals.status() == 1
    assert "missed: slow: 2.10, expected at most 2.0" in capsys.readouterr().err
