"""Ablation: recipes with a family taken out, what the report says of them, and the command on real files."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import studies
from autoslim import ablating, report, spec
from autoslim.budget import Budget, Drop, Limit
from autoslim.errors import UserError
from autoslim.opening import spec_facts
from autoslim.recipe import Recipe, Step, from_yaml
from autoslim.reporting import ablation, dictionary
from autoslim.reporting.context import Material
from autoslim.study import Study

HERE = Path(__file__).parent
TASK = str(HERE / "tasks" / "tiny.py")
RECIPE = Recipe.of([Step("bits", "a", 8), Step("bits", "b", 8), Step("channels", "a", 4), Step("depth", "c", True)], {"distill_steps": 5})


def test_a_family_goes_with_all_its_steps_and_nothing_else_does():
    found = ablating.without(RECIPE)
    assert list(found) == ["bits", "channels", "depth"]
    for name, recipe in found.items():
        assert recipe.techniques() == RECIPE.techniques() - {name}
        assert all(recipe.by(other) == RECIPE.by(other) for other in recipe.techniques())
        assert recipe.recovery == RECIPE.recovery


def test_a_space_loses_one_family_and_never_all():
    space = spec.load_space(str(HERE / "tasks" / "plain.yaml")).model_dump()
    found = ablating.families(space)
    assert {name: set(told["techniques"]) for name, told in found.items()} == {
        "channels": {"depth", "bits"}, "depth": {"channels", "bits"}, "bits": {"channels", "depth"},
    }  # fmt: skip
    assert all(spec.SpaceSpec(**told).recovery == {"distill_steps": 2} for told in found.values())
    assert ablating.families({**space, "techniques": {"bits": {}}}) == {}


def test_the_settings_of_a_study_come_back_from_its_record():
    told = {"task": "t.py", "threads": 2, "seed": 5, "trials": 9, "strategy": "random", "budget": {"ms": "60%", "max_drop": "1pp"}}
    asked = spec.load_study(None, told)

    class Record:
        context = {"spec": json.loads(json.dumps(spec_facts(asked)))}
        facts = {}

        @classmethod
        def fact(cls, name):
            return cls.facts.get(name)

    found = ablating.spec_of(Record)
    assert spec_facts(found) == spec_facts(asked)
    Record.facts["identity"] = {"threads": 7}
    assert ablating.spec_of(Record).threads == 7, "the threads that the study began with, whatever the default is now"
    assert found.limits() == Budget({"ms": Limit(0.6, True)}, Drop(0.01, False))
    Record.context["spec"]["executor_options"] = {"target": "phone"}
    with pytest.raises(UserError, match="taken on bench 'phone'"):
        ablating.spec_of(Record)


# -- in the report ----------------------------------------------------------------------------------------------------------


def row(**told):
    known = {
        "kind": "point",
        "point": "aaaa",
        "key": "kkkk",
        "end": "done",
        "feasible": True,
        "metric_val_low": None,
        "metric_val_high": None,
    }
    known |= {
        "latency_ratio_low": None,
        "latency_ratio_high": None,
        "macs": 10,
        "params": 5,
        "seconds": 1.5,
        "summary": "=cmd",
        "recipe": {},
    }
    return known | told


@pytest.fixture
def taken(tmp_path):
    """A study with an ablation of three families, one of which failed, and one search."""
    studies.make(tmp_path, 20)
    rows = [
        row(without="", metric_val=0.9, drop_val=0.05, latency_ms=4.0, latency_ratio=0.4, size_bytes=1000, size_ratio=0.1),
        row(without="bits", metric_val=0.91, drop_val=0.04, latency_ms=6.0, latency_ratio=0.6, size_bytes=4000, size_ratio=0.4),
        row(without="depth", end="failed", detail="export: <script>alert(1)</script>", feasible=None),
        {"kind": "search", "without": "bits", "point": "", "end": "done", "evaluations": 9, "hypervolume": 0.2, "hypervolume_whole": 0.5, "seconds": 9.0},
    ]  # fmt: skip
    study = Study.open(tmp_path, "synthetic", ["max", "min", "min"])
    study.set_fact("ablation", rows)
    study.close()
    return tmp_path


def test_what_the_page_says_is_arithmetic_on_the_rows(taken):
    told = ablation.shown(Material(Study.read(taken)))
    whole, bits, depth = told["rows"]
    assert told["point"] == "aaaa"
    assert (whole["metric_change"], whole["time_factor"]) == (None, None)
    assert (bits["metric_change"], bits["time_factor"], bits["bytes_factor"]) == pytest.approx((0.01, 1.5, 4.0))
    assert depth["metric_change"] is None
    assert [one["lost"] for one in told["searches"]] == pytest.approx([0.3])


def test_the_table_the_dictionary_and_the_page(taken, tmp_path_factory):
    study, out = Study.read(taken), tmp_path_factory.mktemp("out")
    report.write(study, out)
    found, names = pd.read_csv(out / "ablation.csv"), pd.read_csv(out / "dictionary.csv", keep_default_na=False)
    assert list(found.columns) == list(ablation.COLUMNS)
    for path in out.glob("*.csv"):
        if path.stem != "dictionary":
            assert list(pd.read_csv(path).columns) == list(names[names.table == path.stem].column), path.name
    assert set(dictionary.TABLES["ablation"]) == set(ablation.COLUMNS)
    assert list(found.without.fillna("")) == ["", "bits", "depth", "bits"]
    assert found.summary[0] == "'=cmd"
    assert ",1000,0.1," in (out / "ablation.csv").read_text(), "whole numbers stay whole beside empty cells"
    assert (pd.read_parquet(out / "ablation.parquet").latency_ratio.dropna() == [0.4, 0.6]).all()
    page = (out / "report.html").read_text()
    table = page[page.index('<table id="ablation"') :]
    table = re.sub(r"<[^>]+>|\s+", " ", table[: table.index("</table>")])
    for text in ("+0.0100", "× 1.50", "× 4.00", "&lt;script&gt;"):
        assert text in table
    assert "+0.3000" in page[page.index('id="ablation-searches"') :]
    assert len(pd.read_csv(out / "trials.csv")) == 20, "ablations are no trials"


def test_a_study_that_was_not_taken_apart_has_no_table_and_says_what_to_do(tmp_path):
    report.write(studies.make(tmp_path / "study", 20), tmp_path / "out")
    assert not (tmp_path / "out" / "ablation.csv").exists()
    assert "autoslim ablate DIR" in (tmp_path / "out" / "report.html").read_text()


def test_a_point_is_named_by_the_beginning_of_its_key(tmp_path):
    material = Material(studies.make(tmp_path, 30))
    assert ablating.chosen(material, None)["key"] == material.chosen["key"]
    assert ablating.chosen(material, material.chosen["key"][:6])["key"] == material.chosen["key"]
    untouched = next(row["key"] for row in material.rows if row["label"] == "untouched")
    for wrong in ("zz", untouched):
        with pytest.raises(UserError, match="--point: got .*, allowed: the key of one verified point"):
            ablating.chosen(material, wrong)


# -- on real files ----------------------------------------------------------------------------------------------------------


def autoslim(*words):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.slow
def test_each_row_is_the_recipe_without_the_family_as_apply_makes_it(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("techniques:\n  channels: {values: [1.0, 0.5]}\n  bits: {values: [32, 8], tie: all}\nrecovery: {distill_steps: 2}\n")
    out = tmp_path / "out"
    done = autoslim("search", "--task", TASK, "--space", space, "--trials", 6, "--out", out, "-q")
    assert done.returncode == 0, done.stderr
    before = Study.read(out).entries()
    front = pd.read_csv(out / "front.csv")
    both = next(one for one in front.itertuples() if from_yaml((out / one.recipe_file).read_text()).techniques() == {"channels", "bits"})
    card = (out / both.model_file).with_name("card.md").read_text()
    code = card.partition("```python\n")[2].partition("\n```")[0]
    assert len(code.splitlines()) == 5
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=(out / both.model_file).parent, check=False)
    assert run.stdout.strip() == "[(1, 4)]", run.stderr
    done = autoslim("ablate", out, "--point", both.key[:10], "--search", "--trials", 4)
    assert done.returncode == 0, done.stderr
    assert Study.read(out).entries() == before, "the study's own trials stay as they were"
    with open(out / "ablation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(one["kind"], one["without"]) for one in rows] == [("point", ""), ("point", "bits"), ("point", "channels"), ("search", "channels"), ("search", "bits")]  # fmt: skip
    assert int(rows[0]["size_bytes"]) == both.size_bytes
    assert float(rows[0]["metric_val"]) == pytest.approx(both.metric_val, abs=0.02)
    for one in rows[1:3]:
        recipe, file = tmp_path / "recipe.yaml", tmp_path / f"{one['without']}.onnx"
        recipe.write_text(one["recipe"])
        made = autoslim("apply", recipe, "--task", TASK, "--out", file)
        assert made.returncode == 0, made.stderr
        assert abs(file.stat().st_size - int(one["size_bytes"])) <= 64, "the same recipe makes a file of the same bytes"
    for one in rows[3:]:
        names = {
            step.technique
            for entry in Study.read(out / "ablation" / f"without-{one['without']}").entries()
            for step in entry.outcome.recipe.steps
        }
        assert one["without"] not in names
        assert int(one["evaluations"]) <= 4
        assert 0 <= float(one["hypervolume_whole"]) <= json.loads((out / "summary.json").read_text())["hypervolume"]["value"]
