"""The command line from outside: help, wrong words, wrong files; each answer is one line per mistake and status 2."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import studies
from autoslim.cli.main import call
from autoslim.errors import AutoSlimError, UserError
from autoslim.executors import local
from autoslim.recipe import Recipe
from autoslim.spec import load_study
from autoslim.storage import backend

TASK = str(Path(__file__).parent / "tasks" / "tiny.py")


def autoslim(*words):
    """What a command line answers, in this process: starting another one takes longer than most answers."""
    told, wrong, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGINT)
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(wrong):
            status = call([str(word) for word in words], False)
    finally:
        signal.signal(signal.SIGINT, before)
    return types.SimpleNamespace(returncode=status, stdout=told.getvalue(), stderr=wrong.getvalue())


def console(*words):
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
        (["search", "--max-drop", "0.1", "--drop-type", "both"], ["--drop-type: got 'both'", "absolute, relative"]),
        (["search", "--max-drop", "1pp", "--drop-type", "relative"], ["--drop-type", "--max-drop 1pp", "bare number"]),
        (["pick", "nofolder", "--drop-type", "relative"], ["--drop-type", "no --max-drop"]),
        (["search", "--trials", "-3"], ["--trials", "'-3'", "an integer from 1"]),
        (["search", "--time", "soon"], ["--time", "'soon'", "10m"]),
        (["search", "--strategy", "magic"], ["--strategy", "'magic'", "tpe"]),
        (["search", "--executor", "moon"], ["--executor", "'moon'", "local"]),
        (["search", "--runtime", "abacus"], ["--runtime", "'abacus'", "onnxruntime_cpu"]),
        (["search", "--objectives", "metric,beauty"], ["--objectives", "latency_ms"]),
        (["search", "--objectives", "latency_ms,size_bytes"], ["--objectives", "metric and at least one other"]),
        (["search", "--space", "desert"], ["'desert'", "cnn", "transformer"]),
        (["search", "nosuchstudy"], ["'nosuchstudy'", "digits"]),
        (["search", "--preset", "toaster"], ["--preset: got 'toaster', allowed: edge, mobile, server"]),
        (["search", "digits_steps"], ["digits_steps: got a fixed pipeline", "`autoslim steps digits_steps`"]),
        (["search", "--target", "shelf"], ["--target: got 'shelf'", "executor local", "'cmd:COMMAND'", "--executor ray_tune"]),
        (["search", "--address", "moon:1"], ["--address: got 'moon:1'", "executor local", "--executor ray_tune"]),
        (["search", "--cache", "/proc/x"], ["--cache: got '/proc/x'", "allowed: a folder that can be written"]),
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
        (["search", "--seed", "4294967296"], ["--seed: got '4294967296', allowed: an integer from 0 to 4294967295"]),
        (["search", "--workers", "99999"], ["--workers: got 99999, allowed: 0 (one per physical core) to"]),
        (["search", "--max-samples", "0"], ["--max-samples", "'0'"]),
        (["search", "--verify", "0"], ["--verify", "'0'"]),
        (["search", "--threads", "x"], ["--threads", "x"]),
        (["search", "--storage", "nosuch://x"], ["--storage", "nosuch://x"]),
        (["serch"], ["serch", "search"]),
        (["search", "--budjet-ms", "3"], ["--budjet-ms", "--budget-ms"]),
        (["pick", "nowhere"], ["nowhere", "no study here"]),
        (["pick", "x", "--storage", "nofile"], ["--storage: got 'nofile'", "no file"]),
        (["pick", "x", "--storage", "sqlite:///no.db"], ["--storage: got 'sqlite:///no.db'", "no file 'no.db'"]),
        (["pick", "x", "--weights", "metric=1,metric=2"], ["--weights: got metric twice"]),
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


@pytest.mark.parametrize("words", [("list", "fruit"), ("search", "--trials", "-3"), ("pick", "nowhere"), ("serch",)])
def test_the_console_answers_as_the_function_does(words):
    told, done = autoslim(*words), console(*words)
    assert (done.returncode, done.stdout, done.stderr) == (told.returncode, told.stdout, told.stderr)
    assert done.returncode == 2


def test_a_journal_in_a_folder_that_is_not_there_is_told_in_one_line(tmp_path):
    storage = tmp_path / "nowhere" / "j.log"
    with pytest.raises(
        UserError, match=r"--storage: got '.*j.log', allowed: a journal in a folder that is there and can be written \(No such"
    ):
        backend(tmp_path, str(storage))
    assert not storage.parent.exists()


def test_a_storage_that_cannot_be_opened_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "Worker", lambda *_: pytest.fail("a worker was started"))
    done = autoslim("search", "--storage", "nosuch://x", "--quiet", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "--storage: cannot open 'nosuch://x'" in done.stderr


@pytest.mark.parametrize("place", ["file", "/proc/x"])
def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path, place, capsys):
    """A file where a folder is wanted, and a folder of the kernel's."""
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / place)
    assert call(["search", "--quiet", "--out", folder], False) == 2
    assert f"--out: got '{folder}'" in one_line(capsys)
    studies.make(tmp_path / "study", 12)
    assert call(["report", str(tmp_path / "study"), "--out", folder], False) == 2
    assert f"--out: got '{folder}'" in one_line(capsys)


def one_line(capsys):
    told = capsys.readouterr().err.strip()
    assert "\n" not in told
    return told


JOURNALS = {
    "list": b"[1, 2]\n",
    "empty": b'{"a": 1}\n',
    "no study": b'{"op_code":4,"worker_id":"a"}\n',
    "no trial": b'{"op_code":6,"worker_id":"a"}\n',
    "bytes": b"\x00\xff\xfe\n",
}


@pytest.mark.parametrize("line", JOURNALS.values(), ids=JOURNALS)
@pytest.mark.parametrize("command", ["pick", "report", "status"])
def test_a_journal_that_is_none_is_told_in_one_line(tmp_path, capsys, command, line):
    (tmp_path / "study.journal").write_bytes(line)
    assert call([command, str(tmp_path)], False) == 2
    assert f"{tmp_path}/study.journal: a line near byte 0 is" in one_line(capsys)


RECIPES = {
    "a recovery that there is not": (b"schema: 1\nrecovery: {foo: 8}\n", "unknown key 'foo', allowed: resolve, bn"),
    "a unit that is no text": (b"schema: 1\ntechniques: {bits: {1: 8, a: 8}}\n", "1 is no name of a technique or unit"),
    "a text that is not UTF-8": ("name: \u00e4".encode("latin-1"), "cannot be read"),
}


@pytest.mark.parametrize(("text", "told"), RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("command", [["apply", "-o", "x.onnx"], ["check", "--max-drop", "1pp"]], ids=["apply", "check"])
def test_a_recipe_that_is_none_is_told_in_one_line(tmp_path, capsys, command, text, told):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text)
    assert call([command[0], str(path), *command[1:]], False) == 2
    line = one_line(capsys)
    assert str(path) in line
    assert told in line


def test_reading_makes_no_storage_and_a_damaged_list_of_workers_is_told(tmp_path, capsys):
    studies.make(tmp_path / "study", 12)
    assert call(["pick", str(tmp_path / "study"), "--storage", str(tmp_path / "new.journal")], False) == 2
    assert not (tmp_path / "new.journal").exists()
    capsys.readouterr()
    (tmp_path / "study" / "workers.json").write_text("{")
    assert call(["status", str(tmp_path / "study")], False) == 2
    assert "workers.json: is damaged" in one_line(capsys)


@pytest.mark.parametrize("kind", ["tensorboard", "dashboard"])
def test_a_place_of_another_tool_that_cannot_be_written_is_told_in_one_line(tmp_path, capsys, kind):
    pytest.importorskip({"tensorboard": "tensorboardX", "dashboard": "optuna_dashboard"}[kind])
    studies.make(tmp_path, 12)
    assert call(["report", str(tmp_path), "--to", f"{kind}=/proc/x"], False) == 2
    assert f"--to {kind}: got '/proc/x', which cannot be written or reached" in one_line(capsys)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """A shipped file that takes (1, 4)."""
    path = tmp_path_factory.mktemp("file") / "linear.onnx"
    net = torch.nn.Linear(4, 2)
    torch.onnx.export(net, (torch.zeros(1, 4),), str(path), dynamo=False)
    return str(path)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--seconds", "nan"], ["--seconds: got nan, allowed: a number above 0"]),
        (["--seconds=-1"], ["--seconds: got -1.0, allowed: a number above 0"]),
        (["--rounds", "0"], ["--rounds", "4"]),
        (["--threads", "9999"], ["--threads: got 9999, allowed: 1 to ", str(len(os.sched_getaffinity(0)))]),
        (["--task", TASK], [f"--task: got '{TASK}'", "linear.onnx does not take"]),
    ],
)
def test_wrong_words_of_bench_are_answered_in_one_line(linear, words, parts, capsys):
    assert call(["bench", linear, *words], False) == 2
    told = one_line(capsys)
    for part in parts:
        assert part in told


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


def test_a_wrong_kind_of_value_is_answered_in_words_of_yaml(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("techniques:\n  depth: [false]\n  bits: {values: [32, 8]}\nties: maybe\n")
    told = autoslim("search", "--space", space, "--out", tmp_path / "out").stderr
    assert "space.yaml:2: techniques.depth is [False], allowed: a mapping\n" in told
    assert "space.yaml:4: ties is 'maybe', allowed: a list\n" in told


def test_broken_yaml_and_repeated_keys_name_their_line(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("trials: 3\ntask: [\n")
    assert "broken.yaml:3" in autoslim("search", broken, "--out", tmp_path / "o").stderr
    twice = tmp_path / "twice.yaml"
    twice.write_text("trials: 3\nseed: 1\ntrials: 4\n")
    assert "twice.yaml:3: trials is given twice" in autoslim("search", twice, "--out", tmp_path / "o").stderr


def test_debug_shows_the_trace():
    assert "Traceback" in console("list", "fruit", "--debug").stderr


def test_lists_name_every_member():
    assert {"channels", "bits"} <= {line.split()[0] for line in autoslim("list", "techniques").stdout.splitlines()}
    assert {"cnn", "rnn", "transformer"} <= {line.split()[0] for line in autoslim("list", "spaces").stdout.splitlines()}
    assert autoslim("doctor").returncode == 0


def test_help_loads_nothing_heavy():
    code = "import sys; sys.argv=['autoslim','--help']\nfrom autoslim.cli.main import call\ncall(['--help'], False)\nprint([m for m in ('torch','optuna','pandas','onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_checkpoints_of_a_long_training_stay_until_it_has_ended(tmp_path, monkeypatch):
    """A training that fails leaves what the same command goes on from; one that ends leaves nothing."""
    from autoslim import training
    from autoslim.cli.apply import trainer
    from autoslim.executors import _cluster

    closed, fails = [], [True, False]
    monkeypatch.setattr(_cluster, "connect", lambda *told: types.SimpleNamespace(shutdown=lambda: closed.append(told)))

    def train(draft, plan, workers, folder):
        folder.mkdir(exist_ok=True)
        (folder / "step").write_text("5")
        if fails.pop(0):
            raise AutoSlimError("a worker was lost")
        return ["trained"]

    monkeypatch.setattr(training, "train", train)
    run = trainer(Recipe(), load_study(None, {}), tmp_path / "model.onnx", 10, 2, 0.001, False, "")
    draft = types.SimpleNamespace(model=torch.nn.Linear(1, 1))
    with pytest.raises(AutoSlimError, match="lost"):
        run(draft)
    assert (tmp_path / "model.onnx.training/step").is_file()
    assert run(draft) == ["trained"]
    assert not list(tmp_path.iterdir())
    assert len(closed) == 2


@pytest.mark.parametrize(("kind", "allowed"), [(None, 0.02), ("absolute", 0.02), ("relative", 0.01)])
def test_a_bare_drop_is_of_the_type_that_is_told(kind, allowed):
    """Of an untouched metric of 0.5: a drop of 0.02, or of 2 % of it."""
    from autoslim.budget import parse_drop
    from autoslim.cli._flags import drop_of

    assert parse_drop(drop_of("0.02", kind)).resolve(0.5) == pytest.approx(allowed)


def test_runtimes_are_listed_with_the_widths_that_they_store_and_compute_with(capsys):
    assert call(["list", "runtimes"], False) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "stores 4, 8, 16, 32 bits, computes with 8, 32; faster with less work and with bits 8, w4a8, ranges found at every run" in lines
    assert "stores 32 bits, computes with 32; faster with less work" in lines
