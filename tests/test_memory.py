"""memory.py: bytes that real files add to a process, asked for early and fetched later."""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoslim.budget import Budget
from autoslim.job import Job
from autoslim.memory import Probe

TASK = """
import torch

def model(): return torch.nn.Linear(4, 4)
def example_input(): return torch.zeros(1, 4)
def data(split): return [(torch.zeros(1, 4), torch.zeros(1, dtype=torch.long))]
"""


def write(path, megabytes):
    """A file that multiplies (1, 4) by a constant as large as told."""
    wide = int(megabytes * 1e6 / 16)
    weight = numpy_helper.from_array(np.ones((4, wide), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, wide])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture
def probe(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    return Probe(Job(str(tmp_path / "task.py"), {}, "onnxruntime_cpu", 1, str(tmp_path), Budget({}), ("metric",), {}))


def test_a_file_asked_for_early_gets_its_own_answer(probe, tmp_path):
    small, large = write(tmp_path / "small.onnx", 1), write(tmp_path / "large.onnx", 100)
    probe.ask(large)
    assert probe.measure(large) > 1e8
    probe.ask(large)  # and nobody comes for it
    assert probe.measure(small) < 5e7
    assert probe.measure(large) > 1e8


def test_a_file_that_does_not_open_is_told_and_the_next_is_measured(probe, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    probe.ask(tmp_path / "broken.onnx")
    with pytest.raises(RuntimeError, match="memory of broken.onnx could not be measured"):
        probe.measure(tmp_path / "broken.onnx")
    assert probe.measure(write(tmp_path / "small.onnx", 1)) < 5e7


def test_a_process_that_ends_before_it_is_asked_is_a_file_that_could_not_be_measured(tmp_path):
    probe = Probe(Job("task.py", {}, "onnxruntime_cpu", 1, str(tmp_path), Budget({}), ("metric",), {}))
    probe._command = [sys.executable, "-c", "import os, time; os.close(0); os.close(1); time.sleep(30)"]
    probe.start()
    process = probe._process
    try:
        assert process.stdout.read() == "", "it reads and writes no longer, but still is there"
        probe.ask(tmp_path / "m.onnx")
        with pytest.raises(RuntimeError, match=r"memory of m.onnx could not be measured \(the measuring process ended\)"):
            probe.measure(tmp_path / "m.onnx")
    finally:
        process.kill()
        process.communicate()


def test_what_a_task_prints_while_it_is_loaded_is_no_answer(tmp_path):
    (tmp_path / "task.py").write_text("print('17', flush=True)\n" + TASK)
    probe = Probe(Job(str(tmp_path / "task.py"), {}, "onnxruntime_cpu", 1, str(tmp_path), Budget({}), ("metric",), {}))
    assert probe.measure(write(tmp_path / "small.onnx", 1)) > 1e4
