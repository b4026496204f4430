"""Files against the engine's model: the trained digits network on all of its data, networks of torchvision with random weights."""

import onnxruntime
import pytest
import torch
import torchvision
import zoo

from autoslim import coverage, plugins
from autoslim import task as tasks
from autoslim.engine import Draft, compress
from autoslim.inputs import call
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, recover
from autoslim.spec import load_study

pytestmark = pytest.mark.slow


def finished(model, example, samples, value, folder):
    """(runtime, float file, file with one value for every unit of bits, names of the units)."""
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    structure = coverage.analyse(model, example)
    base, path = folder / "float.onnx", folder / "bits.onnx"
    if not base.is_file():
        runtime.export(Draft(model, structure, example), example, [], base)
    units = plugins.load("techniques", "bits").units(structure)
    draft = compress(model, Recipe.of(Step("bits", unit, value) for unit in units), samples, structure=structure)
    runtime.finish(draft, base, samples, path)
    return runtime, base, path, list(units)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    told = load_study(None, {})
    task = tasks.load(told.task, told.task_args)
    model = task.model().eval()
    calibration = [inputs for _, (inputs, _) in zip(range(2), task.batches("train"), strict=False)]
    return task, model, calibration, tmp_path_factory.mktemp("digits")


@pytest.mark.parametrize(("value", "least"), [(32, 0.995), (16, 0.995), (8, 0.99), ("w8", 0.99), ("w4", 0.99), ("w4a8", 0.99)])
def test_digits_files_choose_the_classes_that_the_network_chooses(digits, value, least):
    task, model, calibration, folder = digits
    runtime, _, path, _ = finished(model, task.example_input(), calibration, value, folder)
    session, same, total = runtime.open(path, 1), 0, 0
    with torch.no_grad():
        for inputs, _ in task.batches("val"):
            got, want = session.run(inputs).argmax(1), call(model, inputs).argmax(1)
            same, total = same + int((got == want).sum()), total + len(want)
    assert same / total >= least


#: technique -> a value on all of its units; of blocks one is removed
VALUES = zoo.VALUES | {"channels": 0.75, "student": {"width": 0.75}, "rank": 0.5}


@pytest.mark.parametrize("technique", [name for name in VALUES if name not in ("bits", "heads")])  # the network has no attention
def test_files_of_every_technique_choose_the_classes_that_the_engines_model_chooses(digits, technique, tmp_path):
    """In float, and with eight bits in every layer beside."""
    task, model, calibration, _ = digits
    example, runtime = task.example_input(), plugins.load("runtimes", "onnxruntime_cpu")
    structure, member = coverage.analyse(model, example), plugins.load("techniques", technique)
    units = member.units(structure)
    steps = [Step(technique, key, told) for key, unit in units.items() if (told := member.effective(unit, VALUES[technique])) is not None]
    steps = steps[-1:] if technique == "depth" else steps
    eight = [Step("bits", unit, 8) for unit in plugins.load("techniques", "bits").units(structure)] if technique != "qat" else []
    draft = compress(model, Recipe.of([*steps, *eight]), calibration, structure=structure)
    teacher = [Lesson(inputs, call(model, inputs)) for inputs in calibration]
    recover(draft, model, teacher, teacher[:1], {"resolve": technique == "channels", "bias": False})
    base, path = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    runtime.export(draft, example, calibration, base)
    runtime.finish(draft, base, calibration, path)
    files, same, total = (runtime.open(base, 1), runtime.open(path, 1)), [0, 0], 0
    with torch.no_grad():
        for inputs, _ in task.batches("val"):
            want = call(draft.model, inputs).argmax(1)
            total += len(want)
            same = [count + int((file.run(inputs).argmax(1) == want).sum()) for count, file in zip(same, files, strict=True)]
    assert same[0] / total >= 0.995
    assert same[1] / total >= 0.99


@pytest.mark.parametrize(("name", "limit"), [("resnet18", 0.05), ("mobilenet_v2", None)])
def test_networks_with_random_weights_agree_as_integers(name, limit, tmp_path):
    """An untrained mobilenet_v2 amplifies whatever is changed (weights of 8 bits alone move a third of its outputs' spread), so that
    only its kernels are looked at."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    images = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # statistics of the batch norms that fit the weights, without which nothing but a constant comes out
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
                module.train()
        model(images)
    model.eval()
    runtime, base, path, units = finished(model, images[:1], [images[:16]], 8, tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    import onnx

    run = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert run.count("QLinearConv") + run.count("QGemm") == len(units)
    assert not {"Conv", "FusedConv", "Gemm", "MatMul"} & set(run)
    with torch.no_grad():
        want = model(images[16:])
    got = runtime.open(path, 1).run(images[16:])
    spread = want - want.mean(0)
    error = float((got - want).square().sum() / spread.square().sum())
    assert limit is None or error < limit, "share of what tells one image from another"
    assert path.stat().st_size < base.stat().st_size * 0.3
