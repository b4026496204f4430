"""Whole searches on a small network, as a user runs them: real processes, real runtime, real storage."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

HERE = Path(__file__).parent
TASK, PLAIN, HOSTILE = (str(HERE / "tasks" / name) for name in ("tiny.py", "plain.yaml", "hostile.yaml"))
#: two points of the front beside the rivals: each verified file takes seconds
SEARCH = ("search", "--task", TASK, "--space", PLAIN, "--verify", 2)


def autoslim(*words, cwd=None, **options):
    """Run the console script's module and return the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=300, check=False, **options
    )


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search: (folder, process)."""
    out = tmp_path_factory.mktemp("study") / "out"
    done = autoslim(*SEARCH, "--trials", 8, "--budget-ms", "1000", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


def test_output_contract(finished):
    """Every file of the contract is there and agrees with the others and with the disk."""
    out, done = finished
    summary = json.loads((out / "summary.json").read_text())
    front = rows(out / "front.csv")
    assert summary["feasible"]
    seconds = summary["seconds"]
    assert {"preparation", "tables", "search", "verification"} == set(seconds["phases"])
    assert all(spent > 0 for spent in seconds["phases"].values())
    assert 0.8 * seconds["total"] < sum(seconds["phases"].values()) < 1.01 * seconds["total"]
    assert seconds["controller"] < seconds["phases"]["search"]
    assert summary["verified"] == len(front)
    assert {"untouched", "uniform-int8", "uniform-channels-0.5"} <= {row["label"] for row in front}
    for row in front:
        model = out / row["model_file"]
        assert model.stat().st_size == int(row["size_bytes"])
        assert (out / row["recipe_file"]).is_file()
        assert model.with_name("card.md").is_file()
        assert float(row["latency_ratio_low"]) <= float(row["latency_ratio"]) <= float(row["latency_ratio_high"])
        assert float(row["metric_test_low"]) <= float(row["metric_test"]) <= float(row["metric_test_high"])
    untouched = next(row for row in front if row["label"] == "untouched")
    assert float(untouched["metric_test"]) == 1.0  # the labels are the network's own answers
    assert float(untouched["drop_test"]) == 0.0
    assert len(rows(out / "trials.csv")) == summary["asked"]
    assert (out / "figures" / "pareto_latency.png").read_bytes().startswith(b"\x89PNG")
    assert "report:" in done.stdout
    assert "does not bind" in done.stdout


def test_record_opens_with_optuna_alone(finished):
    """The study in the journal is an ordinary Optuna study that holds only finished trials."""
    out, _ = finished
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "study.journal")))
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert all(trial.state.is_finished() for trial in study.trials)
    assert all("failed" in trial.constraints and "ms" in trial.constraints for trial in study.trials)
    assert len(study.best_trials) >= 1


def test_report_and_pick_work_without_torch(finished, tmp_path):
    """Report and pick need the record alone: torch is made impossible to import, and the tables come out byte for byte."""
    out, _ = finished
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('torch must not be needed')")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    again = tmp_path / "again"
    done = autoslim("report", out, "--out", again, env=environment)
    assert done.returncode == 0, done.stderr
    for name in ("front.csv", "trials.csv"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
    picked = autoslim("pick", out, "--budget-mb", "100%", "--json", env=environment)
    assert picked.returncode == 0
    assert json.loads(picked.stdout)["feasible"] is True
    none = autoslim("pick", out, "--budget-ms", "0.0000001", env=environment)
    assert none.returncode == 3
    assert "closest" in none.stdout


@pytest.mark.slow
def test_lost_files_are_made_again_from_their_recipes(finished, tmp_path):
    """A study whose model files are gone is whole again after the same command: every front point has a file that is what the
    tables say, and no evaluation is counted twice."""
    out, _ = finished
    again = tmp_path / "out"
    shutil.copytree(out, again)
    before = json.loads((again / "summary.json").read_text())
    keys = {row["key"] for row in rows(again / "front.csv")}
    for file in again.glob("models/*/model.onnx"):
        file.unlink()
    done = autoslim(*SEARCH, "--trials", 8, "--budget-ms", "1000", "--out", again)
    assert done.returncode == 0, done.stderr
    assert "lost their files and are made again" in done.stdout + done.stderr
    front = rows(again / "front.csv")
    assert {row["key"] for row in front} == keys
    for row in front:
        model = again / row["model_file"]
        assert model.stat().st_size == int(row["size_bytes"])
        assert hashlib.sha256(model.read_bytes()).hexdigest() == row["sha256"]
    after = json.loads((again / "summary.json").read_text())
    assert after["evaluations"] == before["evaluations"]
    assert after["asked"] > before["asked"]
    replaced = [row for row in rows(again / "trials.csv") if row["cached_from"]]
    assert {row["key"] for row in replaced} >= keys - {next(row["key"] for row in front if row["label"] == "untouched")}


def test_same_command_again_evaluates_nothing_new(finished):
    """Resuming a finished study repeats no evaluation."""
    out, _ = finished
    before = json.loads((out / "summary.json").read_text())
    done = autoslim(*SEARCH, "--trials", 8, "--budget-ms", "1000", "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr
    after = json.loads((out / "summary.json").read_text())
    assert (after["evaluations"], after["asked"]) == (before["evaluations"], before["asked"])


@pytest.mark.slow
def test_apply_remakes_the_shipped_file(finished, tmp_path):
    """A recipe applied to the same weights gives a file of the same size; bench times it against the shipped one."""
    out, _ = finished
    row = next(row for row in rows(out / "front.csv") if row["label"] == "uniform-int8")
    made = tmp_path / "model.onnx"
    done = autoslim("apply", out / row["recipe_file"], "--task", TASK, "-o", made)
    assert done.returncode == 0, done.stderr
    assert made.stat().st_size == int(row["size_bytes"])
    timed = autoslim("bench", made, out / row["model_file"], "--seconds", 1, "--json")
    assert json.loads(timed.stdout)["ratio"]["value"] > 0


def test_tampered_file_is_not_verified(finished):
    """A verifier refuses a file whose bytes are not the recorded ones."""
    from autoslim.errors import AutoSlimError
    from autoslim.search import job_of
    from autoslim.spec import load_study
    from autoslim.task import load
    from autoslim.verification import Verifier

    out, _ = finished
    spec = load_study(None, {"task": TASK, "space": PLAIN})
    verifier = Verifier(job_of(spec, out), load(TASK))
    file = str(out / "models/untouched/model.onnx")
    with pytest.raises(AutoSlimError, match="was changed"):
        verifier.verify(file, file, "0" * 64)


@pytest.mark.slow
def test_hostile_candidates_end_alone(tmp_path):
    """A crash, a hang, a memory hog and an exception end their own candidate with a reason; the search goes on."""
    out = tmp_path / "out"
    done = autoslim(
        "search",
        "--task",
        TASK,
        "--space",
        HOSTILE,
        "--trials",
        12,
        "--strategy",
        "tpe",
        "--trial-timeout",
        "20s",
        "--trial-memory-mb",
        "1500",
        "--out",
        out,
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["failed"]) == {"crash", "timeout", "memory", "error"}
    assert summary["done"] >= 4  # untouched and small, each in float and int8
    ends = [row["end"] for row in rows(out / "trials.csv")]
    assert "running" not in ends


@pytest.mark.slow
def test_unreachable_budget_is_answered_with_the_floor(tmp_path):
    """A limit below the strongest corner: exit status 3, the smallest measured value, the closest point saved."""
    out = tmp_path / "out"
    done = autoslim(*SEARCH, "--budget-macs", "10", "--trials", 8, "--out", out, "--quiet")
    assert done.returncode == 3, done.stderr
    assert "cannot be met" in done.stderr
    assert "is the smallest measured" in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert summary["best"] is None
    assert (out / summary["closest"]["model_file"]).is_file()
    assert summary["evaluations"] < 8


def begin(out, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "autoslim", *map(str, SEARCH), "--out", str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_trials(process, count):
    """Read progress lines until so many trials have ended."""
    seen = 0
    for line in process.stderr:
        seen += "trial" in line and "hypervolume" in line
        if seen >= count:
            return
    raise AssertionError("the search ended early")


def wait_for_workers(out, seconds=60):
    """Until the workers of a run have a log, which it begins once it holds the study."""
    end = time.monotonic() + seconds
    while not (out / "worker.log").is_file():
        assert time.monotonic() < end, "the search did not begin"
        time.sleep(0.05)


def native_trials(journal):
    """{number: trial} as Optuna alone reads them."""
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    [name] = optuna.get_all_study_names(storage)
    return {trial.number: trial for trial in optuna.load_study(study_name=name, storage=storage).trials}


def key_of(trial):
    return trial.user_attrs["autoslim"]["key"]


@pytest.mark.slow
def test_kill_nine_then_resume_loses_and_doubles_nothing(tmp_path):
    """kill -9 in the middle: the same command goes on; finished trials stay, no key is evaluated twice, none stays RUNNING."""
    out = tmp_path / "out"
    process = begin(out, "--trials", "8")
    wait_for_trials(process, 2)
    process.kill()
    process.wait()
    time.sleep(0.5)
    journal = out / "study.journal"
    before = native_trials(journal)
    assert len([trial for trial in before.values() if trial.state.is_finished()]) >= 2
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker')  # what a power loss in the middle of a write leaves
    done = autoslim(*SEARCH, "--trials", 8, "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr
    after = native_trials(journal)
    for number, trial in before.items():
        assert after[number].params == trial.params
        assert key_of(after[number]) == key_of(trial)
        if trial.state.is_finished():
            assert after[number] == trial, "state, values, attributes and times are those of the first run"
        else:
            assert after[number].state == optuna.trial.TrialState.FAIL
    trials = rows(out / "trials.csv")
    assert [int(row["number"]) for row in trials] == list(range(len(trials)))
    assert all(row["end"] in ("done", "failed", "rejected") for row in trials)
    evaluated = [row["key"] for row in trials if row["end"] == "done" and not row["cached_from"]]
    assert len(evaluated) == len(set(evaluated))
    interrupted = {row["key"] for row in trials if row["reason"] == "interrupted"}
    assert interrupted <= set(evaluated)


@pytest.mark.slow
def test_ctrl_c_once_finishes_with_a_verified_front(tmp_path):
    """One Ctrl-C: exit status 130, and the front of what there is is verified and reported."""
    out = tmp_path / "out"
    process = begin(out, "--trials", "200")
    wait_for_trials(process, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert len(rows(out / "front.csv")) >= 2
    assert json.loads((out / "summary.json").read_text())["stopped"] == "interrupted"


@pytest.mark.slow
def test_second_run_in_the_same_folder_is_refused(tmp_path):
    """While a run holds the study, another one ends with status 4 and says so in one line."""
    out = tmp_path / "out"
    process = begin(out, "--trials", "200")
    try:
        wait_for_workers(out)
        second = autoslim(*SEARCH, "--out", out, "--quiet")
        assert second.returncode == 4
        assert "in use" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
    finally:
        process.kill()
        process.communicate()


def test_another_task_in_the_same_folder_is_refused(finished, tmp_path):
    """Results of unlike things do not mix: one line, status 2, and nothing of the old study is touched."""
    out, _ = finished
    other = tmp_path / "tiny.py"
    other.write_text(Path(TASK).read_text().replace("torch.manual_seed(0)", "torch.manual_seed(1)"))
    untouched = (out / "models/untouched/model.onnx").read_bytes()
    done = autoslim("search", "--task", other, "--space", PLAIN, "--out", out, "--quiet")
    assert done.returncode == 2
    assert "begun with another task, weights" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (out / "models/untouched/model.onnx").read_bytes() == untouched


@pytest.mark.slow
def test_ctrl_c_twice_stops_at_once_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "out"
    process = begin(out, "--trials", "6")
    wait_for_trials(process, 2)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert not (out / "summary.json").exists(), "nothing was verified any more"
    before = {trial.number: trial for trial in native_trials(out / "study.journal").values() if trial.state.is_finished()}
    done = autoslim(*SEARCH, "--trials", 6, "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr
    after = native_trials(out / "study.journal")
    assert all(after[number] == trial for number, trial in before.items())
    trials = rows(out / "trials.csv")
    evaluated = [row["key"] for row in trials if row["end"] == "done" and not row["cached_from"]]
    assert len(evaluated) == len(set(evaluated)) >= 6
    assert {row["key"] for row in trials if row["reason"] == "interrupted"} <= set(evaluated)


@pytest.mark.slow
def test_throughput_is_an_objective(tmp_path):
    words = ["--objectives", "metric,throughput", "--trials", "5", "--out", tmp_path / "out"]
    done = autoslim(*SEARCH, *words, "--quiet")
    assert done.returncode == 0, done.stderr
    study = native_trials(tmp_path / "out" / "study.journal")
    told = [trial.values for trial in study.values() if trial.values]
    front = rows(tmp_path / "out" / "front.csv")
    assert all(float(row["throughput"]) == pytest.approx(1000 * int(row["batch"]) / float(row["latency_ms"])) for row in front)
    assert len(told) >= 4
    assert all(len(values) == 2 and values[1] > 100 for values in told), "samples a second, more is better"
    assert {"uniform-int8", "untouched"} <= {row["label"] for row in front}


@pytest.mark.slow
def test_data_may_be_larger_than_the_memory(tmp_path):
    """A pass over 4 GB by a worker that may take 1.5 GB, in a run whose processes together take less than the data."""
    words = ["search", "--task", HERE / "tasks/large.py", "--space", PLAIN, "--out", tmp_path, "--trials", 2, "--verify", 1]
    done = autoslim(*words, "--workers", 1, "--trial-memory-mb", 1500, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["failed"] == {}
    assert summary["evaluations"] == 2
    assert summary["peak_bytes_of_run"] < 320 * 64 * 3 * 128 * 128 * 4
    front = rows(tmp_path / "front.csv")
    assert {int(row["n_test"]) for row in front} == {320 * 64}
