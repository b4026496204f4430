"""check as a pipeline runs it: real files, a real verifier, exit statuses, and a repair that mends."""

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TASK, PLAIN = (str(HERE / "tasks" / name) for name in ("tiny.py", "plain.yaml"))
STRONG = "schema: 1\nrecovery: {resolve: false, bn: false, bias: false}\ntechniques:\n  channels: {stem: 2}\n"

pytestmark = pytest.mark.slow


def check(recipe, *words):
    space = ["--space", PLAIN] if "--repair" in words else []
    return subprocess.run(
        [sys.executable, "-m", "autoslim", "check", str(recipe), "--task", TASK, *space, *map(str, words)],
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def test_a_recipe_that_fails_is_told_and_then_mended(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(STRONG)
    failed = check(recipe, "--max-drop", "1pp", "--junit", tmp_path / "j.xml", "--markdown", tmp_path / "m.md")
    assert failed.returncode == 3, failed.stderr
    assert xml.parse(tmp_path / "j.xml").getroot().get("failures") == "1"
    assert (tmp_path / "m.md").read_text().startswith("**The recipe does not hold: drop on the test split")
    out = tmp_path / "out"
    mended = check(recipe, "--max-drop", "1pp", "--repair", "--json", "--out", out)
    assert mended.returncode == 0, mended.stderr
    told = json.loads(mended.stdout)
    assert told["repaired"]
    assert told["tried"] > 1
    assert hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest() == told["row"]["sha256"]
    assert told["row"]["changes"]["classes"], "the tiny network's labels are classes"
    assert [row["what"] for row in told["row"]["changes"]["outputs"]] == [
        "same class as the original",
        "KL divergence from the original, nats",
    ]
    assert {path.name for path in out.iterdir()} >= {"model.onnx", "recipe.yaml"}
    assert not (out / "candidates").exists()
    again = check(out / "recipe.yaml", "--max-drop", "1pp")
    assert again.returncode == 0, "the repaired recipe holds by itself"


def test_a_recipe_of_another_network_and_a_missing_limit(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schema: 1\ntechniques:\n  channels: {nosuch.layer: 2}\n")
    done = check(recipe, "--max-drop", "1pp")
    assert done.returncode == 3
    assert "no unit 'nosuch.layer'" in done.stdout
    recipe.write_text(STRONG.replace("stem: 2", "stem: 2, nosuch.layer: 2"))
    mended = check(recipe, "--max-drop", "1pp", "--repair")
    assert mended.returncode == 0, mended.stderr
    assert "no file could be made of the recipe" in mended.stderr
    assert "holds after a repair" in mended.stdout
    none = check(recipe)
    assert none.returncode == 2
    assert "no limit is given" in none.stderr
