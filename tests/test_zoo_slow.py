"""Every network of the zoo: a coverage report that people can read, every technique that applies, export and parity of the file."""

import pytest
import torch
import zoo
from torch import nn

from autoslim import coverage, plugins
from autoslim.baking import baked
from autoslim.engine import compress
from autoslim.errors import ExportFailed
from autoslim.inputs import call, tensors
from autoslim.layers import count
from autoslim.recipe import Recipe, Step

pytestmark = pytest.mark.slow


class Loop(nn.Module):
    """Control flow of Python: a loop over steps, other layers on odd ones, weights that run several times."""

    def __init__(self):
        super().__init__()
        self.even, self.odd, self.head = nn.Linear(12, 12), nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12)), nn.Linear(12, 4)

    def forward(self, x):
        for step in range(4):
            x = x + (self.odd(x) if step % 2 else torch.relu(self.even(x)))
        return self.head(x)


class Gate(nn.Module):
    """Control flow on the data: which layer runs depends on what comes in."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x):
        return self.left(x) if float(x.sum()) > 0 else self.right(x)


NETWORKS = {**zoo.SMALL, "loop": (Loop, zoo.noise(1, 12), 0.0)}
#: networks whose weights mostly lie in no layer: in parameters of their own, in cells, tables or transposed convolutions
LOOSE = {"listed", "custom", "gru cell", "lstm cell", "recommender", "shuffle", "generator"}


def recipe_of(structure, *names):
    """All units of some techniques, each with its value of zoo.VALUES."""
    steps = []
    for name in names:
        technique = plugins.load("techniques", name)
        units = technique.units(structure).items()
        steps += [Step(name, key, told) for key, unit in units if (told := technique.effective(unit, zoo.VALUES[name])) is not None]
    return Recipe.of(steps)


def changed(model, other):
    """Whether any tensor of a network differs from another's."""
    one, two = model.state_dict(), other.state_dict()
    return one.keys() != two.keys() or any(one[key].shape != two[key].shape or not torch.equal(one[key], two[key]) for key in one)


def test_every_technique_is_tried():
    assert set(zoo.VALUES) == set(plugins.names("techniques"))


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_report_techniques_export_and_parity(name, tmp_path):
    build, example, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = baked(build().eval(), example)  # as a task hands it out
    with torch.no_grad():
        shapes = [leaf.shape for leaf in tensors(call(model, example))]
    structure = coverage.analyse(model, example)
    techniques = {name: plugins.load("techniques", name) for name in zoo.VALUES}
    report = coverage.report(structure, techniques)
    assert all(why and "\n" not in why for why in report["left_out"].values())
    if name not in LOOSE:
        assert min(report["techniques"][one]["params_share"] for one in ("bits", "sparsity")) > 0.5
    before, applied = count(model, example), []
    for technique in zoo.VALUES:
        recipe = recipe_of(structure, technique)
        if not recipe.steps:
            continue
        draft = compress(model, recipe, [example], structure=structure)
        assert draft.bits or changed(model, draft.model) or draft.notes, technique
        with torch.no_grad():
            assert [leaf.shape for leaf in tensors(call(draft.model, example))] == shapes, technique
        assert all(after <= base for after, base in zip(count(draft.model, example), before, strict=True)), technique
        applied.append(technique)
    assert {"sparsity", "gradual", "regularised", "bits", "qat"} <= set(applied)
    draft = compress(model, recipe_of(structure, "channels", "heads", "bits"), [example], structure=structure)
    zoo.ship_and_compare(draft, example, tmp_path)


def test_control_flow_on_the_data_is_told_in_one_line(tmp_path):
    model, example = Gate().eval(), torch.ones(1, 12)
    structure = coverage.analyse(model, example)
    assert "right" in structure.left_out or "right" in structure.idle
    draft = compress(model, Recipe.of([Step("sparsity", "left", 0.5)]), [example], structure=structure)
    with pytest.raises(ExportFailed, match="onnxruntime_cpu: export failed") as caught:
        plugins.load("runtimes", "onnxruntime_cpu").export(draft, example, [example], tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
