"""What every member of runtimes/ owes: one file that opens anywhere and computes what the model computed."""

import os
import shutil
import subprocess
import sys

import networks
import onnx
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import engine, plugins, task
from autoslim.engine import Draft
from autoslim.errors import Untreatable, UserError
from autoslim.inputs import call, tensors
from autoslim.recipe import Recipe, Step
from autoslim.runtimes._dynamic import spec
from autoslim.structure import Structure

TOLERANCE = 1e-4  # float32 kernels of two libraries sum in different orders
INTEGER_KERNELS = {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "QLinearAdd"}


class Pair(nn.Module):
    """Two tensors in, by position or by name; a tuple out."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(6, 5), nn.Linear(4, 5)

    def forward(self, a, b):
        return self.left(a) + self.right(b), torch.relu(self.left(a))


class Named(Pair):
    """The same with a nested dict out."""

    def forward(self, a, b):
        first, second = super().forward(a, b)
        return {"scores": first, "extra": {"relu": second}}


#: name -> (network, inputs of n samples)
FORMS = {
    "tensor": (networks.Residual, lambda n: noise(n, 3, 8, 8, seed=n)),
    "tuple": (Pair, lambda n: (noise(n, 6, seed=n), noise(n, 4, seed=n + 1))),
    "dict": (Named, lambda n: {"a": noise(n, 6, seed=n), "b": noise(n, 4, seed=n + 1)}),
}
REOPEN = """
import sys, torch
from pathlib import Path
from autoslim import plugins
name, folder, suffix, *forms = sys.argv[1:]
runtime = plugins.load("runtimes", name)

def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for part in (value.values() if isinstance(value, dict) else value) for leaf in flat(part)]

for form in forms:
    told = torch.load(Path(folder, form + ".pt"), weights_only=True)
    got = runtime.open(Path(folder, form, "model" + suffix), 1).run(told["inputs"])
    assert type(got) is type(told["outputs"]), (form, type(got))
    for one, other in zip(flat(got), flat(told["outputs"]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
print("same")
"""


def forms_of(name):
    """The forms that a member's files are made of."""
    return [form for form in FORMS if name not in COMPILED or form != "tensor"]


def draft_of(model, example):
    return Draft(model, Structure({}, {}, {}), example)


#: members whose files are compiled, which takes seconds each
COMPILED = {"torch_inductor", "executorch_xnnpack"}
#: members whose files take the shapes of the example alone, and what they say of it; other batches run in pieces
PLANNED = {
    "executorch_xnnpack": "the file takes the shapes of the example, DYNAMIC_SHAPES or not, since its memory is planned ahead; "
    "other batches run in pieces"
}
MEMBERS = [pytest.param(name, marks=[pytest.mark.slow] * (name in COMPILED)) for name in plugins.names("runtimes")]
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


@pytest.fixture(scope="module", params=MEMBERS)
def shipped(request, tmp_path_factory):
    """(runtime's name, runtime, folder): each form exported and finished below the folder."""
    try:
        runtime = plugins.load("runtimes", request.param)
    except UserError as error:
        pytest.skip(str(error))
    if request.param == "torch_inductor" and COMPILER is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp(request.param)
    for form in forms_of(request.param):
        build, inputs = FORMS[form]
        model = seeded(build)
        draft, base, path = draft_of(model, inputs(1)), folder / form / f"base{runtime.suffix}", folder / form / f"model{runtime.suffix}"
        notes = runtime.export(draft, inputs(1), [], base)
        assert notes == ((PLANNED[request.param],) if request.param in PLANNED else ()), "the batch axis is free"
        assert runtime.finish(draft, base, [], path) == ()
        with torch.no_grad():
            torch.save({"inputs": inputs(3), "outputs": call(model, inputs(3))}, folder / f"{form}.pt")
    return request.param, runtime, folder


@pytest.mark.parametrize("form", FORMS)
def test_the_file_computes_what_the_model_computes(shipped, form):
    name, runtime, folder = shipped
    if form not in forms_of(name):
        pytest.skip("compiling takes seconds")
    build, inputs = FORMS[form]
    model = seeded(build)
    session = runtime.open(folder / form / f"model{runtime.suffix}", 1)
    for n in (1, 2, 5):
        with torch.no_grad():
            expected = call(model, inputs(n))
        torch.testing.assert_close(session.run(inputs(n)), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_file_needs_nothing_but_itself(shipped):
    name, runtime, folder = shipped
    done = subprocess.run(
        [sys.executable, "-c", REOPEN, name, str(folder), runtime.suffix, *forms_of(name)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "same"


@pytest.mark.parametrize("form", FORMS)
def test_nothing_lies_beside_the_file(shipped, form):
    name, runtime, folder = shipped
    if form not in forms_of(name):
        pytest.skip("compiling takes seconds")
    assert sorted(path.name for path in (folder / form).iterdir()) == [f"base{runtime.suffix}", f"model{runtime.suffix}"]
    assert (folder / form / f"model{runtime.suffix}").stat().st_size > 0


def test_bind_runs_on_the_inputs_it_was_given(shipped):
    _, runtime, folder = shipped
    inputs = FORMS["tuple"][1](2)
    run = runtime.open(folder / "tuple" / f"model{runtime.suffix}", 1).bind(inputs)
    with torch.no_grad():
        expected = tensors(seeded(Pair)(*inputs))
    for _ in range(2):
        for got, want in zip(run(), expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(got), want, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_damaged_file_is_untreatable(shipped, tmp_path):
    name, runtime, folder = shipped
    path = tmp_path / f"half{runtime.suffix}"
    path.write_bytes((folder / "tuple" / f"model{runtime.suffix}").read_bytes()[:200])
    with pytest.raises(Untreatable, match=f"{name}: .* does not open"):
        runtime.open(path, 1)


class Unexportable(nn.Module):
    """Branches on its data, which no tracer follows."""

    def forward(self, x):
        return x * 2 if float(x.sum()) > float(x.std()) else x.nonzero()


def test_what_cannot_be_exported_is_untreatable_and_leaves_nothing(shipped, tmp_path):
    name, runtime, _ = shipped
    with pytest.raises(Untreatable, match=f"{name}: export failed"):
        runtime.export(draft_of(Unexportable(), noise(2, 3)), noise(2, 3), [], tmp_path / f"m{runtime.suffix}")
    assert list(tmp_path.iterdir()) == []


def test_bits_that_are_not_supported_are_refused(shipped, tmp_path):
    name, runtime, folder = shipped
    if 8 in runtime.supports.get("bits", (8,)):
        pytest.skip(f"{name} has integer kernels")
    draft = draft_of(seeded(networks.Residual), noise(1, 3, 8, 8))
    draft.bits["head"] = 8
    with pytest.raises(Untreatable, match=f"{name}: has no integer kernels"):
        runtime.finish(draft, folder / "tensor" / f"base{runtime.suffix}", [], tmp_path / f"m{runtime.suffix}")
    assert list(tmp_path.iterdir()) == []


# -- free axes ---------------------------------------------------------------------------------------------------------------

FIXED = "the file takes a fixed batch: the exporter could not free the batch axis"
REFUSED = "DYNAMIC_SHAPES was not followed: the exporter refused it"
ANY = torch.export.Dim.DYNAMIC


class Sequence(nn.Module):
    """Sequences of any length."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def forward(self, x):
        return torch.relu(self.layer(x)).mean(1)


#: DYNAMIC_SHAPES -> (notes, shapes that the file must take)
TOLD = {
    "by name, with texts": ({"x": {0: "batch", 1: "length"}}, (), [(1, 7), (3, 7), (1, 9), (3, 2)]),
    "by position, length alone": (({1: ANY},), (FIXED,), [(1, 7), (1, 9), (3, 2)]),
    "an input that is not there": (({1: ANY}, {1: ANY}), (REFUSED,), [(1, 7), (3, 7)]),
}


@pytest.mark.parametrize("told", TOLD)
def test_dynamic_shapes_of_the_task_are_followed_or_said_not_to_be(shipped, told, tmp_path):
    """The example is a batch of one, whose axis tracers take for a constant."""
    name, runtime, _ = shipped
    if name == "torch_inductor" or (name in COMPILED and told != next(iter(TOLD))):
        pytest.skip("compiling takes seconds; torch_eager shares what follows them")
    model, (given, notes, takes) = seeded(Sequence), TOLD[told]
    if name in PLANNED:
        notes, takes = (PLANNED[name],), [(1, 7), (3, 7)]
    path = tmp_path / f"m{runtime.suffix}"
    assert runtime.export(draft_of(model, noise(1, 7, 6)), noise(1, 7, 6), [], path, dynamic_shapes=given) == notes
    session = runtime.open(path, 1)
    for shape in takes:
        x = noise(*shape, 6)
        torch.testing.assert_close(session.run(x), model(x).detach(), rtol=TOLERANCE, atol=TOLERANCE)


def test_dynamic_shapes_in_the_form_that_torch_takes():
    x, axes = noise(1, 7, 6), {0: ANY}
    assert spec(axes, x) == (axes,)
    assert spec((axes,), x) == spec([axes], x) == (axes,)
    assert spec({"x": axes}, x) == {"x": axes}
    assert spec((axes, None), (x, x)) == (axes, None)
    assert spec({"a": axes, "b": None}, {"a": x, "b": x}) == {"a": axes, "b": None}


# -- integers in ONNX Runtime -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(the embedded task, its network's layers, float file, file with 8 bits in every layer)."""
    found = task.load("autoslim.tasks.digits.task")
    model, example = found.model(), found.example_input()
    calibration = [inputs for inputs, _ in found.batches("train")][:4]
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    draft = engine.compress(model, Recipe.of(Step("bits", name, 8) for name in layers), [example])
    runtime, folder = plugins.load("runtimes", "onnxruntime_cpu"), tmp_path_factory.mktemp("digits")
    runtime.export(draft, example, calibration, folder / "float.onnx")
    assert runtime.finish(draft, folder / "float.onnx", calibration, folder / "int8.onnx") == ()
    return found, layers, folder / "float.onnx", folder / "int8.onnx"


def optimised(path, target):
    """Kinds of the nodes that ONNX Runtime really runs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath, options.log_severity_level = str(target), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(target)).graph.node]


def test_eight_bits_run_as_integers(digits, tmp_path):
    _, layers, floats, integers = digits
    kinds = optimised(integers, tmp_path / "optimised.onnx")
    weighted = [kind for kind in kinds if kind in INTEGER_KERNELS - {"QLinearAdd"}]
    assert len(weighted) == len(layers), "every layer has its integer kernel"
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(kinds), "and no weight is left in a float kernel"
    assert not INTEGER_KERNELS & set(optimised(floats, tmp_path / "float.onnx"))


def test_eight_bits_are_a_quarter_of_the_bytes(digits):
    _, _, floats, integers = digits
    assert integers.stat().st_size < 0.35 * floats.stat().st_size


def test_eight_bits_agree_with_float(digits):
    found, _, floats, integers = digits
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    sessions = runtime.open(floats, 2), runtime.open(integers, 2)
    same = torch.cat([sessions[0].run(x).argmax(1) == sessions[1].run(x).argmax(1) for x, _ in found.batches("val")])
    assert len(same) == 400
    assert same.float().mean() >= 0.99


def test_bits_of_one_layer_leave_the_others_in_float(digits, tmp_path):
    found, layers, floats, _ = digits
    runtime, draft = plugins.load("runtimes", "onnxruntime_cpu"), draft_of(found.model(), found.example_input())
    draft.bits["head"] = 8
    calibration = [inputs for inputs, _ in found.batches("train")][:1]
    runtime.finish(draft, floats, calibration, tmp_path / "m.onnx")
    kinds = optimised(tmp_path / "m.onnx", tmp_path / "optimised.onnx")
    assert sum(kind in ("Conv", "FusedConv") for kind in kinds) == len(layers) - 1
    assert sum(kind in INTEGER_KERNELS for kind in kinds) == 1


@pytest.mark.parametrize("name", plugins.names("runtimes"))
def test_what_is_accelerated_is_supported(name):
    try:
        runtime = plugins.find("runtimes", name)
    except UserError as error:
        pytest.skip(str(error))
    assert name == "cmd" or {"bits", "sparsity", "gradual", "codebook"} <= set(runtime.accelerates)
    for technique, values in runtime.accelerates.items():
        known = getattr(runtime, "supports", {}).get(technique, values)
        assert set(values) <= set(known) - {32}, technique
