"""The command line from outside: help, wrong words, wrong files; each answer is one line per mistake and status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

TASK = str(Path(__file__).parent / "tasks" / "tiny.py")


def autoslim(*words):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "command",
    ["search", "sweep", "worker", "status", "report", "pick", "compare", "check", "watch", "apply", "bench", "profile", "list", "doctor"],
)
def test_every_command_has_help_with_an_example(command):
    done = autoslim(command, "--help")
    assert done.returncode == 0
    assert "Example: autoslim" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["search", "--budget-ms", "abc"], ["--budget-ms", "'abc'", "allowed", "60%"]),
        (["search", "--budget-mb", "-3"], ["--budget-mb", "'-3'"]),
        (["search", "--budget-macs", "0"], ["--budget-macs", "'0'"]),
        (["search", "--budget-memory-mb", "nan"], ["--budget-memory-mb", "'nan'"]),
        (["search", "--max-drop", "lots"], ["--max-drop", "'lots'", "1pp"]),
        (["search", "--trials", "-3"], ["--trials", "'-3'", "an integer from 1"]),
        (["search", "--time", "soon"], ["--time", "'soon'", "10m"]),
        (["search", "--strategy", "magic"], ["--strategy", "'magic'", "tpe"]),
        (["search", "--executor", "moon"], ["--executor", "'moon'", "local"]),
        (["search", "--runtime", "abacus"], ["--runtime", "'abacus'", "onnxruntime_cpu"]),
        (["search", "--objectives", "metric,beauty"], ["--objectives", "latency_ms"]),
        (["search", "--objectives", "latency_ms,size_bytes"], ["--objectives", "metric and at least one other"]),
        (["search", "--space", "desert"], ["'desert'", "cnn", "transformer"]),
        (["search", "nosuchstudy"], ["'nosuchstudy'", "digits"]),
        (["search", "--preset", "toaster"], ["'toaster'", "mobile"]),
        (["search", "--task", "nowhere.py"], ["--task", "nowhere.py"]),
        (["search", "--task", "no_such_module_at_all"], ["--task", "no_such_module_at_all"]),
        (["search", "--task-arg", "novalue"], ["--task-arg", "'novalue'", "name=value"]),
        (["search", "--task", TASK, "--task-arg", "colour=red"], ["colour"]),
        (["search", "--model", "torchvision:resnet18", "--task", TASK], ["--model", "--task"]),
        (["search", "--data", "imagefolder:x"], ["--data", "--model"]),
        (["search", "--workers", "x"], ["--workers", "'x'"]),
        (["search", "--trial-timeout", "x"], ["--trial-timeout", "'x'"]),
        (["search", "--trial-memory-mb", "x"], ["--trial-memory-mb", "'x'"]),
        (["search", "--seed", "x"], ["--seed", "'x'"]),
        (["search", "--max-samples", "0"], ["--max-samples", "'0'"]),
        (["search", "--verify", "0"], ["--verify", "'0'"]),
        (["search", "--threads", "x"], ["--threads", "x"]),
        (["search", "--storage", "nosuch://x"], ["--storage", "nosuch://x"]),
        (["serch"], ["serch", "search"]),
        (["search", "--budjet-ms", "3"], ["--budjet-ms", "--budget-ms"]),
        (["pick", "nowhere"], ["nowhere", "no study here"]),
        (["report", "nowhere"], ["nowhere", "no study here"]),
        (["watch", "nowhere"], ["nowhere", "no study here"]),
        (["compare", "nowhere", "elsewhere"], ["nowhere", "no study here"]),
        (["compare", "a", "b", "--format", "pdf"], ["--format", "'pdf'", "text, md, json"]),
        (["pick", "x", "--knee", "--weights", "metric=1"], ["--knee", "--weights"]),
        (["pick", "x", "--weights", "beauty=1"], ["--weights", "'beauty=1'", "latency_ms"]),
        (["report", "x", "--format", "pdf"], ["--format", "'pdf'", "files, md"]),
        (["check", "nofile.yaml", "--max-drop", "1pp"], ["nofile.yaml"]),
        (["bench", "nofile.onnx"], ["nofile.onnx"]),
        (["apply", "nofile.yaml", "-o", "x.onnx"], ["nofile.yaml"]),
        (["list", "fruit"], ["'fruit'", "techniques"]),
    ],
)
def test_wrong_words_are_answered_in_one_line(words, parts, tmp_path):
    extra = ["--quiet", "--out", tmp_path / "out"] if words[0] == "search" else []
    done = autoslim(*words, *extra)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_all_mistakes_of_a_study_come_at_once_with_their_lines(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("trials: many\nstrategy: magic\nbudget:\n  ms: fast\n  msx: 3\nbudgets: {}\n")
    done = autoslim("search", study, "--out", tmp_path / "out")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 5
    for number, word in ((1, "trials"), (2, "strategy"), (4, "budget.ms"), (5, "msx"), (6, "did you mean budget?")):
        assert any(f"study.yaml:{number}:" in line and word in line for line in lines), (number, word, lines)


def test_all_mistakes_of_a_space_come_at_once_with_their_lines(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("techniques:\n  chanels: {}\n  bits: {tie: everywhere}\n  depth: {values: 3}\nfreez: []\n")
    done = autoslim("search", "--space", space, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 4, done.stderr
    for number, word in ((2, "channels"), (3, "none, block, stage, all"), (4, "a list"), (5, "did you mean freeze?")):
        assert any(f"space.yaml:{number}:" in line and word in line for line in done.stderr.splitlines()), (number, done.stderr)


def test_broken_yaml_and_repeated_keys_name_their_line(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("trials: 3\ntask: [\n")
    assert "broken.yaml:3" in autoslim("search", broken, "--out", tmp_path / "o").stderr
    twice = tmp_path / "twice.yaml"
    twice.write_text("trials: 3\nseed: 1\ntrials: 4\n")
    assert "twice.yaml:3: trials is given twice" in autoslim("search", twice, "--out", tmp_path / "o").stderr


def test_debug_shows_the_trace():
    assert "Traceback" in autoslim("list", "fruit", "--debug").stderr


def test_lists_name_every_member():
    assert {"channels", "bits"} <= {line.split()[0] for line in autoslim("list", "techniques").stdout.splitlines()}
    assert {"cnn", "rnn", "transformer"} <= {line.split()[0] for line in autoslim("list", "spaces").stdout.splitlines()}
    assert autoslim("doctor").returncode == 0


def test_help_loads_nothing_heavy():
    code = "import sys; sys.argv=['autoslim','--help']\nfrom autoslim.cli.main import call\ncall(['--help'], False)\nprint([m for m in ('torch','optuna','pandas','onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
