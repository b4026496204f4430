"""The installed console script in an empty folder: shipped spaces and studies are found, the main job runs to its end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SCRIPT = Path(sys.executable).with_name("autoslim")


def installed(*words, cwd):
    return subprocess.run([str(SCRIPT), *words], capture_output=True, text=True, cwd=cwd, timeout=600, check=False)


def test_spaces_and_studies_come_with_the_package(tmp_path):
    spaces = {line.split()[0] for line in installed("list", "spaces", cwd=tmp_path).stdout.splitlines()}
    studies = {line.split()[0] for line in installed("list", "studies", cwd=tmp_path).stdout.splitlines()}
    assert {"cnn", "rnn", "transformer"} <= spaces
    assert {"digits", "mobile", "edge", "server"} <= studies


def test_the_main_job_runs_in_an_empty_folder(tmp_path):
    """`autoslim search --budget-ms 20` with few trials: exit status 0, a verified front, a file smaller than the untouched."""
    done = installed("search", "--budget-ms", "20", "--trials", "6", "--verify", "3", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "reports" / "digits" / "summary.json").read_text())
    assert summary["verified"] >= 4
    assert summary["best"]["size_ratio"] < 0.3
    assert summary["best"]["drop_test"] < 0.02
    assert "ms" in summary["already_met_by_untouched"]


def test_the_shipped_study_binds_and_is_met(tmp_path):
    """`autoslim search digits`: 40 % of the time and 1 pp of accuracy."""
    done = installed("search", "digits", "--trials", "6", "--verify", "3", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "reports" / "digits" / "summary.json").read_text())
    assert summary["already_met_by_untouched"] == []
    assert summary["best"]["latency_ratio_high"] <= summary["time_share"] == 0.4
    assert summary["best"]["drop_val"] <= summary["max_drop"] + 1e-9


def test_a_preset_and_another_runtime(tmp_path):
    """The second runtime and a preset, on the embedded network: no integer kernels there, so none is offered."""
    (tmp_path / "space.yaml").write_text("techniques:\n  channels: {values: [1.0, 0.5], tie: stage}\n  bits: {values: [32, 8], tie: all}\n")
    words = ("search", "--preset", "mobile", "--runtime", "torch_eager", "--space", "space.yaml", "--trials", "4", "--verify", "2")
    done = installed(*words, "--quiet", "--out", "eager", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "eager" / "summary.json").read_text())
    assert summary["best"]["target"] == "torch_eager"
    assert summary["best"]["threads"] == 1
    assert summary["best"]["model_file"].endswith(".pt2")
