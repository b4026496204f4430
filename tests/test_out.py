"""cli/_out.py: standard output has the answer alone, whatever else is printed meanwhile."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TASK = Path(__file__).parent / "tasks" / "tiny.py"
#: prints as Python does, as a library below Python does, and as a child does
LOUD = """
import ctypes, subprocess, sys
sys.path.insert(0, {folder!r})
from tiny import *
from tiny import model as quiet

def noise(word):
    print("python", word)
    ctypes.CDLL(None).puts(b"library")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "child"], check=True)

noise("while loading")

def model():
    noise("while making the model")
    return quiet()
"""


@pytest.fixture
def loud(tmp_path):
    path = tmp_path / "loud.py"
    path.write_text(LOUD.format(folder=str(TASK.parent)))
    return path


def autoslim(*words, **told):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], text=True, check=False, timeout=200, **told)


def test_json_is_alone_on_standard_output_and_nothing_that_was_printed_is_lost(loud):
    done = autoslim("profile", "--task", loud, "--json", capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["family"]
    for word in ("python while loading", "python while making the model", "library", "child"):
        assert word in done.stderr


def test_one_file_for_both_has_both(loud, tmp_path):
    with (tmp_path / "both").open("w") as both:
        assert autoslim("profile", "--task", loud, stdout=both, stderr=subprocess.STDOUT).returncode == 0
    text = (tmp_path / "both").read_text()
    assert "python while loading" in text
    assert "recommended space" in text


def test_help_and_version_are_answers():
    for words in (["--help"], ["--version"], ["list", "--help"], ["list", "spaces"]):
        done = autoslim(*words, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout


def test_a_reader_who_goes_away_ends_the_command_without_a_trace(tmp_path):
    """More than a pipe holds, so that the write fails while somebody waits."""
    script = f"{sys.executable} -c \"from autoslim.cli import _out\nwith _out.reserved():\n    _out.say('x' * 300000)\" | head -c 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "x"
    assert done.stderr.count("BrokenPipeError") <= 1, "the error itself, and not another at Python's end"
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_are_no_reason_to_fail(closed):
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m autoslim list spaces {closed}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert ("cnn" in done.stdout) == (closed == "2>&-")


def test_the_stream_is_everybody_s_again_at_the_end():
    script = "from autoslim.cli import _out\nwith _out.reserved():\n    print('aside')\n    _out.say('answer')\nprint('after')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("answer\nafter\n", "aside\n")
