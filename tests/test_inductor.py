"""Files of PyTorch's compiler: what they refuse, that bench knows them, that they are told apart from programs."""

import os
import shutil
import zipfile

import pytest
import torch
from networks import noise
from torch import nn

from autoslim import plugins
from autoslim.cli.bench import runtime_of
from autoslim.cli.main import call
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.structure import Structure

NAME = "torch_inductor"


def test_without_a_compiler_the_message_says_what_to_install(tmp_path, monkeypatch):
    runtime, draft = plugins.load("runtimes", NAME), Draft(nn.Linear(3, 2), Structure({}, {}, {}), noise(1, 3))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"torch_inductor: needs a C\+\+ compiler, got 'g\+\+', which is not found; apt-get install g\+\+"):
        runtime.export(draft, noise(1, 3), [], tmp_path / "m.pt2")
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(UserError, match="got 'no-such-compiler -O2'"):
        runtime.export(draft, noise(1, 3), [], tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_package_is_told_from_a_program_by_what_it_holds(tmp_path):
    for name, inside in (("compiled", "m/data/aotinductor/model/a.so"), ("program", "m/models/model.json")):
        with zipfile.ZipFile(tmp_path / f"{name}.pt2", "w") as file:
            file.writestr(inside, "x")
    (tmp_path / "broken.pt2").write_bytes(b"no zip")
    assert [runtime_of(tmp_path / f"{name}.pt2") for name in ("compiled", "program", "broken")] == [NAME, "torch_eager", "torch_eager"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("no C++ compiler")
    path, model = tmp_path_factory.mktemp("inductor") / "m.pt2", nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    plugins.load("runtimes", NAME).export(Draft(model, Structure({}, {}, {}), noise(1, 6)), noise(1, 6), [], path)
    return path, model


@pytest.mark.slow
def test_inputs_that_do_not_fit_are_refused_and_others_may_lie_as_they_like(file):
    path, model = file
    session = plugins.load("runtimes", NAME).open(path, 1)
    for wrong in (noise(2, 5), noise(2, 6).double(), (noise(2, 6), noise(2, 6)), noise(6)):
        with pytest.raises(ValueError, match=r"torch_inductor: got .*allowed \(None is any size\): \[\(torch.float32, \[None, 6\]\)\]"):
            session.run(wrong)
    turned = noise(6, 4).T
    torch.testing.assert_close(session.run(turned), model(turned).detach(), rtol=1e-5, atol=1e-5)
    assert [one.shape for one in session.example()] == [(1, 6)]


@pytest.mark.slow
def test_threads_are_those_that_are_asked_for_and_are_set_back(file):
    before = torch.get_num_threads()
    run = plugins.load("runtimes", NAME).open(file[0], before + 1).bind(noise(2, 6))
    assert [tuple(one.shape) for one in run()] == [(2, 3)]
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_bench_times_a_file_that_comes_alone(file, capsys):
    assert call(["bench", str(file[0]), "--seconds", "0.2", "--rounds", "4"], False) == 0
    assert "p50" in capsys.readouterr().out
