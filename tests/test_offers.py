"""offers.py, fitting.py: what of a space does not fit the network is told, all at once, with its line and what is allowed."""

import types

import networks
import pytest
import torch
from torch import nn

from autoslim import coverage, offers, plugins
from autoslim.budget import Budget, Limit
from autoslim.errors import UserError
from autoslim.evaluator import Evaluator
from autoslim.spec import load_study

MODEL, EXAMPLE = networks.ZOO["residual"]()
STRUCTURE = coverage.analyse(MODEL, EXAMPLE)


def space(freeze=(), ties=(), **layers):
    techniques = {name: {"layers": list(globs)} for name, globs in layers.items()} or {"bits": {}}
    return {"techniques": techniques, "freeze": list(freeze), "ties": [list(globs) for globs in ties]}


def test_globs_that_match_nothing_come_in_one_message_with_names_that_exist():
    wrong = space(["nolayer*", "blocks.*"], [["blocks.0.conv1", "blocks.9.*"]], bits=["blocks.0.convv1"], channels=["*"])
    with pytest.raises(UserError) as caught:
        offers.build(wrong, STRUCTURE, {})
    first, second, third = str(caught.value).splitlines()
    assert first.startswith(
        "space: freeze.0 is 'nolayer*', which matches nothing that can be compressed in this network, allowed: globs that do, such as "
    )
    assert second.startswith("space: ties.0.1 is 'blocks.9.*'")
    assert third.startswith("space: techniques.bits.layers.0 is 'blocks.0.convv1'")
    assert third.endswith("such as blocks.0.conv1, blocks.1.conv1, blocks.0.conv2")


#: what two runtimes make faster: one has integer kernels, the other none
LIVE = "format=8 ranges=dynamic"
INTEGERS, PLAIN = {"bits": (8,), "sparsity": ()}, {"bits": (), "sparsity": ()}


@pytest.mark.parametrize(("accelerates", "left"), [(None, {32, 8, "w4"}), (INTEGERS, {32, 8}), (PLAIN, set())])
def test_where_time_alone_counts_what_is_not_faster_is_left_out(accelerates, left):
    told = {"techniques": {"bits": {"values": [32, 8, "w4"]}, "sparsity": {"values": [0.0, 0.5]}, "channels": {}}, "freeze": [], "ties": []}
    found, notes = offers.build(told, STRUCTURE, {}, accelerates=accelerates)
    of = {technique: [one for one in found.domains if one.technique == technique] for technique in ("bits", "sparsity", "channels")}
    assert {choice for domain in of["bits"] for choice in domain.choices} == left
    assert bool(of["sparsity"]) == (accelerates is None)
    assert of["channels"]
    assert ["no faster with it" in note for note in notes] == ([] if accelerates is None else [True, True])


@pytest.mark.parametrize(("runtime", "left"), [("onnxruntime_cpu", {32, 8, LIVE}), ("openvino_cpu", {32, 8})])
def test_ranges_found_at_every_run_are_offered_for_time_where_there_are_kernels_for_them(runtime, left):
    if runtime == "openvino_cpu":
        pytest.importorskip("openvino")
    member = plugins.load("runtimes", runtime)
    told = {"techniques": {"bits": {"values": [32, 8, {"format": 8, "ranges": "dynamic"}]}}, "freeze": [], "ties": []}
    for fast, expected in ((None, {32, 8, LIVE}), (member.accelerates, left)):
        found, _ = offers.build(told, STRUCTURE, member.supports, accelerates=fast)
        assert {choice for domain in found.domains for choice in domain.choices} == expected


@pytest.mark.parametrize(
    ("objectives", "budget", "alone"),
    [
        (("metric", "latency_ms"), {}, True),
        (("metric", "throughput"), {"ms": Limit(5.0, False)}, True),
        (("metric", "latency_ms", "size_bytes"), {}, False),
        (("metric", "latency_ms"), {"mb": Limit(1e6, False)}, False),
        (("metric",), {}, False),
    ],
)
def test_what_the_study_asks_about_decides(objectives, budget, alone):
    job = types.SimpleNamespace(objectives=objectives, budget=Budget(budget, None))
    assert Evaluator.time_alone.fget(types.SimpleNamespace(job=job)) is alone


TIES = {
    "none": {f"bits:stages.{stage}.{block}.{layer}" for stage in "01" for block in "01" for layer in "02"},
    "block": {"bits:stages.0.0", "bits:stages.0.1", "bits:stages.1.0", "bits:stages.1.1"},
    "stage": {"bits:stages.0", "bits:stages.1"},
    "all": {"bits:all"},
}


@pytest.mark.parametrize("level", TIES)
def test_decisions_are_tied_by_the_place_in_the_network(level):
    def block():
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.Sequential(*(nn.Sequential(block(), block()) for _ in range(2)))

        def forward(self, x):
            return self.stages(x)

    structure = coverage.analyse(Stages().eval(), torch.randn(1, 8))
    told = {"techniques": {"bits": {"values": [32, 8], "tie": level}}, "freeze": [], "ties": []}
    found, _ = offers.build(told, structure, {})
    assert {domain.name for domain in found.domains} == TIES[level]
    assert sum(len(domain.effects[1]) for domain in found.domains) == 8, "every layer is decided once"


WRONG = """\
techniques:
  channels:
    values: [1.0,
             0.5]
    layers: [blocks.0.conv1, nolayer]
  bits: {values: [32, 8]}
  student:
    values:
      - null
      - {builder: tiny}
freeze:
  - headd
ties:
  - [stem*, blocks.*]
  - [head]
recovery:
  rewind: ["", initial]
"""


def test_every_mistake_comes_with_its_line_in_the_file_the_value_and_what_is_allowed(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(WRONG)
    spec = load_study(None, {"space": str(path)})
    task = types.SimpleNamespace(students=lambda model: {"small": None}, initial=no_initial)
    told = types.SimpleNamespace(task=task, model=MODEL, job=types.SimpleNamespace(places=spec.space_places()))
    content = spec.space_content()
    more = [*Evaluator.unknown_students(told, content), *Evaluator.missing_initial(told, content)]
    with pytest.raises(UserError) as caught:
        offers.build(content, STRUCTURE, {"bits": (32, 8)}, spec.space_places(), more)
    found = dict(line.removeprefix(f"{path}:").split(": ", 1) for line in str(caught.value).splitlines())
    assert list(found) == ["12", "5", "15", "10", "17"]
    assert found["12"].startswith("freeze.0 is 'headd', which matches nothing")
    assert found["12"].endswith("such as head")
    assert found["5"].startswith("techniques.channels.layers.1 is 'nolayer', which matches nothing")
    assert (
        found["15"]
        == "ties.1 is ['head'], which ties nothing (head of bits alone), allowed: globs of two or more units that one technique treats"
    )
    assert found["10"] == "techniques.student.values.1 is {'builder': 'tiny'}, allowed builders: small"
    assert found["17"].startswith("recovery.rewind is ['', 'initial'], but task x: ")


def test_an_unknown_technique_is_an_unknown_key_with_its_line(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("techniques:\n  chanels: {values: [1.0]}\n")
    with pytest.raises(UserError) as caught:
        load_study(None, {"space": str(path)}).space_content()
    assert str(caught.value).startswith(f"{path}:2: unknown key 'techniques.chanels', allowed: bits, channels, ")


def no_initial():
    raise UserError("task x: recovery has rewind: initial, but the task defines no initial()")


def untreated_by_rank():
    """A layer that low rank leaves alone."""
    units = offers.members(space(rank=["*"]))["rank"].units(STRUCTURE)
    return min(set(STRUCTURE.layers) - {layer for unit in units.values() for layer in unit.layers})


def test_a_frozen_layer_that_no_technique_treats_is_no_mistake():
    found, _ = offers.build(space([untreated_by_rank()], rank=["*"]), STRUCTURE, {})
    assert found.domains


def test_layers_are_matched_by_units_of_their_technique():
    other = untreated_by_rank()
    with pytest.raises(UserError, match=f"rank.layers.0 is '{other}'"):
        offers.build(space(rank=[other]), STRUCTURE, {})


def convolutions_before_large_linear_layers():
    stages = [layer for _ in range(8) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(8 * 16 * 16, 64), nn.Linear(64, 4)), torch.zeros(1, 8, 16, 16)


def attention_layers():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 64, batch_first=True), 3), torch.zeros(1, 12, 16)


@pytest.mark.parametrize(("network", "family"), [(convolutions_before_large_linear_layers, "cnn"), (attention_layers, "transformer")])
def test_the_family_is_where_weights_and_work_are(network, family):
    assert offers.family(coverage.analyse(*network())) == family
