"""Targets behind a command: a shell script runs the file in a process of its own and prints JSON; every fault has its reason."""

import json
import stat
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from autoslim import command, device, energy, plugins, spec
from autoslim.cli.main import call
from autoslim.command import Answer, Command
from autoslim.errors import DeviceFailed, UserError
from autoslim.job import Job
from autoslim.meters import Meters

BOARD = Path(__file__).parent / "tasks" / "board.py"
TINY = BOARD.with_name("tiny.py")
ONE = [(torch.zeros(2, 3), 1.0)]


def script(folder, body, name="bench.sh"):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


@pytest.fixture
def board(tmp_path):
    """A target that runs the file with ONNX Runtime in another process, and keeps a list of what it was called for."""
    path = script(tmp_path, f'echo "$1" >> {tmp_path}/calls\nexec {sys.executable} {BOARD} "$1"')
    return f"cmd:{path} {{file}}"


def shipped(folder, name="model.onnx", width=16):
    """A real file of the tiny network."""
    path = folder / name
    sys.path.insert(0, str(TINY.parent))
    import tiny

    torch.onnx.export(tiny.Tiny(width).eval(), (tiny.example_input(),), str(path), dynamo=False)
    return path


def test_the_answer_is_the_whole_output_or_its_last_line():
    assert command.read('{\n "times_ms": [1, 2.5]\n}') == Answer((1.0, 2.5))
    told = command.read(
        'loading {weights}\n{"times_ms": 9}\n{"times_ms": 3, "energy_mj": 0.5, "batch": 4, "peak_memory_bytes": 7, "x": 1}\n'
    )
    assert told == Answer((3.0,), 0.5, 7.0, 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("done\n", "no JSON object but 'done'"),
        ("[1, 2]", "no JSON object"),
        ('{"time": 3, "energy_mJ": 2}', "has no times_ms but time, energy_mJ"),
        ('{"times_ms": []}', "times_ms is empty"),
        ('{"times_ms": [1, "fast"]}', "times_ms holds 'fast', allowed: numbers above 0"),
        ('{"times_ms": [1, NaN]}', "times_ms holds nan"),
        ('{"times_ms": [0]}', "times_ms holds 0"),
        ('{"times_ms": [1], "energy_mj": -1}', "energy_mj holds -1"),
        ('{"times_ms": [true]}', "times_ms holds True"),
    ],
)
def test_an_answer_that_is_none_is_told(text, message):
    with pytest.raises(DeviceFailed, match=message) as caught:
        command.read(text)
    assert caught.value.reason == "device"


def test_faults_of_the_command_have_their_reasons(tmp_path, monkeypatch):
    failing = Command(f"{script(tmp_path, 'echo device offline >&2; exit 3')} {{file}}")
    with pytest.raises(DeviceFailed, match="ended with status 3: device offline"):
        failing.ask(tmp_path / "m.onnx", 1)
    monkeypatch.setenv(command.VARIABLE, "0.3")
    slow = Command(f"{script(tmp_path, 'sleep 60 & sleep 61', 'slow.sh')} {{file}}")
    begun = time.monotonic()
    with pytest.raises(DeviceFailed, match=r"no answer within 0.3 s \(AUTOSLIM_CMD_TIMEOUT\)") as caught:
        slow.ask(tmp_path / "m.onnx", 1)
    assert caught.value.reason == "timeout"
    assert time.monotonic() - begun < 30, "its children do not hold the pipe open"
    assert not [one for one in psutil.Process().children(recursive=True) if one.name() == "sleep"]
    monkeypatch.setenv(command.VARIABLE, "soon")
    with pytest.raises(UserError, match="AUTOSLIM_CMD_TIMEOUT: got 'soon', allowed: seconds above 0"):
        Command("run {file}")


def test_a_file_with_blanks_and_the_threads_reach_the_command(tmp_path):
    place = tmp_path / "my files; rm"
    place.mkdir()
    (place / "m.onnx").write_text("12.5")
    ask = Command("""printf '{"times_ms": [%s, %s]}' "$(cat {file})" {threads}""")
    assert ask.ask(place / "m.onnx", 3).times_ms == (12.5, 3.0)


@pytest.mark.parametrize("runtime", ["cmd", "cmd:", "cmd:./bench.sh", "torch_eager:x", "nothing:{file}", "onnxruntime_cpu:{file}"])
def test_a_runtime_without_a_command_or_with_one_too_many_is_refused(runtime):
    with pytest.raises(UserError, match="'cmd:COMMAND' with {file} in the command"):
        spec.load_study(None, {"runtime": runtime})
    with pytest.raises(UserError):
        plugins.load("runtimes", runtime)


class Told:
    """A command whose answers are known: the time is the file's content, plus a drift that both files see."""

    def __init__(self, extra=None):
        self.asked, self.extra = [], extra or (lambda path, number: {})

    def ask(self, path, threads):
        self.asked.append(path.stem)
        number = len(self.asked)
        return Answer((float(path.read_text()) * (1 + 0.01 * number),), **self.extra(path, number))


def times(folder, **told):
    for name, text in told.items():
        (folder / f"{name}.onnx").write_text(str(text))
    return [folder / f"{name}.onnx" for name in told]


def test_candidate_and_untouched_file_are_called_in_turn(tmp_path):
    a, b, base = times(tmp_path, a=3, b=5, base=10)
    told = Told()
    contest = device.DeviceContest(told, 1, ONE)
    contest.round(a, base, 0.0)
    assert told.asked == ["base", "a", "base", "a", "base", "a", "base"]
    told.asked.clear()
    contest.tournament([a, b], base, 0.0)
    assert told.asked == ["base", "a", "base", "b", "base"]


def test_figures_by_hand(tmp_path):
    a, base = times(tmp_path, a=3, base=10)
    contest = device.DeviceContest(Told(lambda path, number: {"energy_mj": float(number), "peak_memory_bytes": 100.0 * number}), 1, ONE)
    found = contest.round(a, base, 0.0)
    values = contest.values(found)
    ratios = [3 * (1 + 0.01 * n) / (10 * (1 + 0.01 * n)) for n in (2, 4, 6)]  # the drift of two neighbours is its own mean
    assert found.ratio.low == pytest.approx(min(ratios))
    assert found.ratio.high == pytest.approx(max(ratios))
    assert values["latency_ms"].value == pytest.approx(3 * 1.04)
    assert (values["latency_ms"].low, values["latency_ms"].high) == pytest.approx((3 * 1.02, 3 * 1.06))
    assert values["throughput"].value == pytest.approx(1000 * 2 / (3 * 1.04))
    assert (values["energy_mj"].value, values["energy_mj"].low, values["energy_mj"].high) == (4.0, 2.0, 6.0)
    assert values["peak_memory_bytes"].value == 600.0
    assert contest.settle(contest.tournament([a], base, 0.0) * 20).pairs == 20


def test_what_the_device_does_not_tell_every_time_is_unknown(tmp_path):
    a, base = times(tmp_path, a=3, base=10)
    contest = device.DeviceContest(Told(lambda path, number: {"energy_mj": 1.0} if number != 4 else {}), 1, ONE)
    assert "energy_mj" not in contest.values(contest.round(a, base, 0.0))


def test_a_fault_names_the_file(tmp_path):
    a, base = times(tmp_path, a="x", base=10)

    class Refuses(Told):
        def ask(self, path, threads):
            if path.stem == "a":
                raise DeviceFailed("offline", "timeout")
            return super().ask(path, threads)

    with pytest.raises(DeviceFailed, match=f"{tmp_path.name}/a.onnx: offline") as caught:
        device.DeviceContest(Refuses(), 1, ONE).round(a, base, 0.0)
    assert caught.value.reason == "timeout"


# -- energy and memory -------------------------------------------------------------------------------------------------------


def job(runtime, *objectives):
    return Job(str(TINY), {}, runtime, 1, "", spec.StudySpec().limits(), ("metric", *objectives), {})


def test_energy_without_a_source_is_refused_and_never_made_up(tmp_path):
    meters = Meters(job("onnxruntime_cpu", "energy_mj"), object(), tmp_path / "no such place")
    with pytest.raises(UserError, match="energy_mj has no source"):
        meters.refuse()
    Meters(job("onnxruntime_cpu", "latency_ms"), object(), tmp_path).refuse()
    asked = Meters(job("cmd:x {file}", "energy_mj"), plugins.load("runtimes", "cmd:x {file}"), tmp_path)
    asked.refuse()
    with pytest.raises(DeviceFailed, match="JSON has no energy_mj"):
        asked.asked({})
    with pytest.raises(DeviceFailed, match="JSON has no peak_memory_bytes"):
        Meters(job("cmd:x {file}", "peak_memory_bytes"), plugins.load("runtimes", "cmd:x {file}")).asked({})
    assert asked.memory_of(tmp_path) == {}, "this machine's memory is not the device's"


def zone(root, name, label, start, most=10**12):
    (root / name).mkdir(parents=True)
    for file, value in (("name", label), ("energy_uj", start), ("max_energy_range_uj", most)):
        (root / name / file).write_text(f"{value}\n")
    return root / name / "energy_uj"


def test_the_hosts_counters_are_summed_over_packages_and_read_past_their_end(tmp_path):
    one = zone(tmp_path, "intel-rapl:0", "package-0", 900, 999)
    two = zone(tmp_path, "intel-rapl:1", "package-1", 50)
    zone(tmp_path, "intel-rapl:0:0", "core", 10)
    counters = energy.Counters(tmp_path)
    before = counters.read()
    one.write_text("100")  # 99 to the end, one to begin again, 100 from there
    two.write_text("80")
    assert energy.spent(before, counters.read()) == 200 + 30
    assert not energy.Counters(tmp_path / "none")


def test_energy_of_one_run_is_what_the_counters_gained(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    gained = {"uj": 0}

    def run():
        gained["uj"] += 7000
        counter.write_text(str(gained["uj"]))

    found = energy.Counters(tmp_path).per_run(run, windows=3, seconds=0.01)
    assert (found.value, found.low, found.high) == pytest.approx((7.0, 7.0, 7.0))


# -- whole commands ----------------------------------------------------------------------------------------------------------


def test_bench_prints_what_the_board_told(board, tmp_path, capsys):
    small, large = shipped(tmp_path, "small.onnx", 4), shipped(tmp_path, "large.onnx", 64)
    assert call(["bench", str(small), str(large), "--target", board, "--rounds", "4", "--seconds", "0.01", "--json"], False) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert row["energy_mj"]["value"] > 0
    assert row["peak_memory_bytes"]["value"] == 4096 + 4, "what the board said of its outputs, not this machine's memory"
    calls = [Path(line).stem for line in (tmp_path / "calls").read_text().split()]
    assert calls == ["large", "small", "large"] * 4
    assert call(["bench", str(small), "--target", "shelf"], False) == 2
    assert "--target: got 'shelf', allowed: 'cmd:COMMAND'" in capsys.readouterr().err


SMALL = ["--task", str(TINY), "--threads", "1", "--workers", "1", "--quiet", "--seed", "0"]


@pytest.mark.slow
def test_a_search_on_the_board(board, tmp_path, capsys):
    """Latency, energy and memory of every point are the board's; a file that it refuses fails with its reason."""
    out = tmp_path / "out"
    words = ["search", *SMALL, "--target", board, "--objectives", "metric,latency_ms,energy_mj,peak_memory_bytes"]
    code = call([*words, "--strategy", "random", "--trials", "2", "--no-grid", "--verify", "1", "--out", str(out), "--json"], False)
    assert code == 0, capsys.readouterr().err
    import pandas as pd

    front, trials = pd.read_csv(out / "front.csv"), pd.read_csv(out / "trials.csv")
    assert (front["peak_memory_bytes"] == 4100).all()
    assert np.isfinite(front["energy_mj"]).all()
    assert (trials.loc[trials["end"] == "done", "energy_mj"] > 0).all()
    assert set(front["target"]) == {board}
    calls = [Path(line).parts[-3:-1] for line in (tmp_path / "calls").read_text().split()]
    assert all("untouched" in pair[0] + pair[1] for pair in zip(calls, calls[1:], strict=False)), "never two candidates in a row"
    assert "energy of one run, mJ" in (out / "report.html").read_text()


@pytest.mark.slow
def test_a_candidate_that_the_board_refuses_fails_with_the_reason(tmp_path, capsys):
    """Files below half of the untouched one's bytes do not run on this board."""
    from autoslim.study import Study

    body = """[ "$(stat -c %s "$1")" -gt 9000 ] || { echo "unsupported operator" >&2; exit 9; }\necho '{"times_ms": [2, 2.1, 2]}'"""
    words = ["search", *SMALL, "--target", f"cmd:{script(tmp_path, body)} {{file}}", "--strategy", "random", "--trials", "6"]
    assert call([*words, "--verify", "1", "--out", str(tmp_path / "out")], False) in (0, 3), capsys.readouterr().err
    ends = [entry.outcome for entry in Study.read(tmp_path / "out", "tiny", None).entries()]
    failed = [end for end in ends if type(end).__name__ == "Failed"]
    assert failed
    assert all(end.reason == "device" and "status 9: unsupported operator" in end.detail for end in failed)


@pytest.mark.slow
def test_a_board_that_is_not_there_ends_the_search_in_one_line(tmp_path, capsys):
    words = ["search", *SMALL, "--target", "cmd:no_such_command {file}", "--out", str(tmp_path / "out")]
    assert call(words, False) == 2
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0
    assert "--target: untouched/model.onnx: the command ended with status 127" in told
