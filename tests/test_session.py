"""The options of ONNX Runtime's sessions, by name, and what an opened session says of itself."""

import onnxruntime
import pytest

from autoslim import host
from autoslim.runtimes import onnxruntime_cpu


@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_are_pinned(monkeypatch, threads):
    """As many threads as told, one operator at a time, all optimisations, no spinning while idle; each further thread has a core of its own,
    which ONNX Runtime counts from 1."""
    monkeypatch.setattr(host, "cores", lambda: (0, 2))
    options = onnxruntime_cpu.session_options(threads)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    if threads == 2:
        assert options.get_session_config_entry("session.intra_op_thread_affinities") == "3"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry("session.intra_op_thread_affinities")
