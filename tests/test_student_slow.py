"""A search of students alone ships files that no removal of parts of the teacher could give."""

import csv
import subprocess
import sys

import onnx
import pytest

from autoslim.recipe import from_yaml

#: keys of a student's value that change the form of what stays
FORMS = {"separable", "early", "kernel", "activation", "share", "branches", "dense"}


def forms(path):
    """(strides of the first convolution, whether there are grouped ones, whether a weight is read twice) of a file."""
    graph = onnx.load(str(path)).graph
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    told = [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in nodes]
    read = [node.input[1] for node in nodes]
    return list(told[0].get("strides", [1, 1])), any(one.get("group", 1) > 1 for one in told), len(set(read)) < len(read)


@pytest.mark.slow
def test_students_alone_give_verified_points_that_removal_cannot(tmp_path):
    words = [
        "search",
        "--families",
        "student",
        "--strategy",
        "halving",
        "--max-drop",
        "10pp",
        "--trials",
        "11",
        "--verify",
        "8",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
        "-q",
    ]
    done = subprocess.run([sys.executable, "-m", "autoslim", *words], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    untouched = next(row for row in rows if row["label"] == "untouched")
    assert forms(tmp_path / untouched["model_file"]) == ([1, 1], False, False)
    other = []
    for row in rows:
        told = from_yaml((tmp_path / row["recipe_file"]).read_text()).by("student").get("", {})
        if set(told) & FORMS:
            found = forms(tmp_path / row["model_file"])
            assert found == ([2, 2] if told.get("early") else [1, 1], bool(told.get("separable")), found[2])
            other.append(row)
    assert len([row for row in other if float(row["size_ratio"]) < 1 and float(row["metric_test"]) > 0.9]) >= 3, [
        (row["summary"], row["metric_test"], row["size_ratio"]) for row in other
    ]
