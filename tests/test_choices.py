"""choices.py and spec.py: every mistake of a space file, of a study file and of the flags comes in one message."""

import re
import subprocess
import sys

import pytest

from autoslim import choices, plugins, spec, yamlfile
from autoslim.errors import UserError

SPACE = """techniques:
  bits: {values: [7, 8, banana]}
  channels:
    values:
      - 2.0
      - 0.5
      - -1
    options: {round_to: 0}
  heads: {values: [1.0, 7.5]}
  depth: {values: [maybe]}
  student: {values: {width: [1.0, 3.0], colour: [red]}}
  rank: {options: {metod: cp}}
  sparsity: {tie: everywhere}
"""


def mistakes(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        spec.load_space(str(path))
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_values_that_no_technique_takes_come_at_once_with_line_value_and_what_is_allowed(tmp_path):
    found = mistakes(tmp_path, SPACE)
    wanted = [
        ("2: techniques.bits.values.0 is 7, allowed: 32, ", "w4"),
        ("2: techniques.bits.values.2 is 'banana', allowed: 32, ", "w4"),
        ("5: techniques.channels.values.0 is 2.0, allowed: a share in (0.0, 1.0] or a whole number of channels, or", "taylor"),
        ("7: techniques.channels.values.2 is -1, allowed: a share in (0.0, 1.0]", "isomorphic"),
        ("8: techniques.channels.options is {'round_to': 0}, allowed: an integer from 1", ""),
        ("9: techniques.heads.values.1 is 7.5, allowed: a share in (0.0, 1.0]", "whole number of heads, or"),
        ("10: techniques.depth.values.0 is 'maybe', allowed: true", "false"),
        ("11: techniques.student.values.width.1 is 3.0, allowed: ", "width"),
        ("11: techniques.student.values.colour.0 is 'red', allowed keys of values: width", "depth"),
        ("12: techniques.rank.options is {'metod': 'cp'}, allowed: method, by", ""),
        ("13: techniques.sparsity.tie is 'everywhere', allowed: none, block, stage, all", ""),
    ]
    for begin, part in wanted:
        assert sum(line.startswith(begin) and part in line for line in found) == 1, (begin, found)
    assert len(found) == len(wanted)


@pytest.mark.parametrize("name", plugins.names("techniques"))
def test_what_a_technique_declares_is_no_mistake(name):
    values = list(plugins.load("techniques", name).values)
    assert choices.mistakes({"techniques": {name: {"values": [*values, *values]}}}, "s", {}) == []


def test_spaces_that_have_the_values_of_shipped_ones_load_no_torch(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text("techniques:\n  channels: {values: [1.0, 0.5]}\n  depth: {values: [false, true]}\n  bits: {values: [32, 8]}\n")
    code = f"import sys; from autoslim import spec; spec.load_space({str(path)!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
    assert [line[0] for line in mistakes(tmp_path, path.read_text().replace("[false, true]", "[0, 1]"))] == ["3", "3"], "0 is not false"


def test_mistakes_of_files_and_flags_come_together(tmp_path):
    study, space = tmp_path / "study.yaml", tmp_path / "space.yaml"
    study.write_text("trials: many\n")
    space.write_text("techniques:\n  bits: {values: [7]}\n")
    with pytest.raises(UserError) as caught:
        spec.load_study(str(study), {"seed": "x", "space": str(space), "budget": {"ms": "fast"}}, "toaster")
    preset, file, *flags, values = str(caught.value).splitlines()
    assert preset == "--preset: got 'toaster', allowed: edge, mobile, server"
    assert file.startswith(f"{study}:1: trials is 'many'")
    assert sorted(line.split(":")[0] for line in flags) == ["--budget-ms", "--seed"]
    assert values.startswith(f"{space}:2: techniques.bits.values.0 is 7")


def test_presets_are_shipped_studies_and_others_are_refused():
    assert set(spec.PRESETS) <= set(yamlfile.shipped("studies"))
    assert spec.load_study(None, {}, "mobile").threads == 1
    with pytest.raises(UserError, match="^--preset: got 'digits', allowed: edge, mobile, server$"):
        spec.load_study(None, {}, "digits")


def test_a_number_beyond_all_floats_is_a_line_too(tmp_path):
    [found] = mistakes(tmp_path, f"techniques:\n  gradual: {{values: [1{'0' * 400}]}}\n")
    assert found.startswith("2: techniques.gradual.values.0 is 1000")
    assert "allowed: " in found


def test_a_study_whose_task_is_not_there_says_so_with_its_line(tmp_path):
    """Nothing of the task is loaded for that; a task of the command line takes its place."""
    path = tmp_path / "study.yaml"
    for task in ("nowhere.py", "folder/task", "nosuch.module", ""):
        path.write_text(f"name: x\ntask: {task!r}\n")
        with pytest.raises(UserError, match=re.escape(f"{path}:2: task is {task!r}, allowed: a .py file")):
            spec.load_study(str(path), {})
        assert spec.load_study(str(path), {"task": "other.py"}).task == "other.py"
    (tmp_path / "mine.py").write_text("raise SystemExit('loaded')\n")
    path.write_text(f"task: {tmp_path / 'mine.py'}\n")
    assert spec.load_study(str(path), {}).task == str(tmp_path / "mine.py")
