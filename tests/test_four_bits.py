"""Weights of four bits under float kernels: blocks, layers that keep eight bits, and rounding layer after layer, each against its definition."""

import networks
import numpy as np
import onnx
import pytest
import torch
from networks import noise, seeded
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import nn

from autoslim import calibration, coverage, formats, onnx_bits, onnx_storage, plugins, prediction, replaying, rounding
from autoslim.engine import Draft
from autoslim.inputs import rows as rows_of
from autoslim.onnx_graph import Graph

RUNTIME = "onnxruntime_cpu"


def shipped(model, x, bits, folder):
    """(draft, file, notes) of a network with ``bits`` {layer: value}, calibrated on ``x``."""
    runtime, structure, base, path = (
        plugins.load("runtimes", RUNTIME),
        coverage.analyse(model, x[:1]),
        folder / "base.onnx",
        folder / "m.onnx",
    )
    runtime.export(Draft(model, structure, x[:1]), x[:1], [], base)
    draft = Draft(model, structure, x[:1], bits=bits)
    return draft, path, runtime.finish(draft, base, [x], path)


def run(path, x):
    return plugins.load("runtimes", RUNTIME).open(path, 1).run(x)


def weights(path):
    """{name: type} of the narrow weights of a file."""
    kinds = {onnx.TensorProto.INT4: 4, onnx.TensorProto.INT8: 8}
    return {item.name.split(".weight")[0]: kinds[item.data_type] for item in onnx.load(path).graph.initializer if item.data_type in kinds}


@pytest.mark.parametrize(
    ("inputs", "block"), [(1152, 32), (96, 32), (144, 24), (240, 30), (112, 28), (80, 20), (40, 20), (16, 16), (9, 9), (37, 37), (169, 169)]
)
def test_blocks_are_the_greatest_divisor_from_32_down_to_16(inputs, block):
    assert formats.block_of(inputs) == block


def test_bytes_of_a_weight_follow_from_its_blocks():
    form = formats.parse("w4")
    assert formats.weight_bytes(form, 10, 144) == 10 * 144 // 2 + 10 * 6 * 2, "six blocks of 24, a step of 16 bits each"
    assert formats.weight_bytes(form, 10, 9) == 10 * 9 + 10 * 2, "nine weights per output: eight bits, a step per output"
    insisting = formats.parse({"format": "w4", "fallback": "never"})
    assert formats.weight_bytes(insisting, 10, 9) == 10 * 9 // 2 + 10 * 2


def test_depthwise_filters_keep_eight_bits_unless_told_never(tmp_path):
    model, x = seeded(networks.Depthwise), noise(16, 3, 8, 8)
    model.down = nn.Conv2d(16, 40, 3)
    model.head = nn.Linear(40, 4)
    bits = dict.fromkeys(["dw", "down", "head"], "w4")
    draft, path, notes = shipped(model.eval(), x, bits, tmp_path)
    assert notes == ("bits: dw have few weights per output and are stored in 8 bits; fallback: never insists",)
    assert weights(path) == {"dw": 8, "down": 4, "head": 4}
    draft, path, notes = shipped(model, x, bits | {"dw": {"format": "w4", "fallback": "never"}}, tmp_path)
    assert (weights(path), notes) == ({"dw": 4, "down": 4, "head": 4}, ())


def test_few_weights_of_a_recurrent_layer_keep_eight_bits(tmp_path):
    model, x = seeded(lambda: nn.Sequential(nn.GRU(13, 64, batch_first=True))), torch.randn(8, 5, 13, generator=torch.manual_seed(0))
    draft, path, notes = shipped(model, x, {"0": "w4"}, tmp_path)
    assert sorted(item.data_type for item in onnx.load(path).graph.initializer if len(item.dims) == 3 and item.dims[-1] > 1) == sorted(
        [onnx.TensorProto.INT8, onnx.TensorProto.INT4]
    )
    assert notes == ("bits: 0 have few weights per output and are stored in 8 bits; fallback: never insists",)
    assert prediction.layer_bytes(draft)["0"] == 192 * 13 + 192 * 2 + 192 * 32 + 192 * 2 * 2 + 2 * 192 * 4


class Chain(nn.Module):
    """Layers whose inputs go together."""

    def __init__(self, depth=4):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(64, 64) for _ in range(depth))
        with torch.no_grad():
            self.mix = nn.Parameter(torch.randn(64, 6) @ torch.randn(6, 64) / 3 + 0.1 * torch.eye(64), requires_grad=False)

    def forward(self, x):
        x = x @ self.mix
        for part in self.parts:
            x = torch.relu(part(x)) @ self.mix
        return x


def test_each_layer_is_rounded_for_what_the_rounded_ones_before_give_it(tmp_path, monkeypatch):
    """The rows that the last of three layers is rounded for, against the file's own layers, run by hand."""
    model, x = (
        seeded(lambda: nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))),
        torch.randn(50, 32),
    )
    rows = []
    monkeypatch.setattr(onnx_bits, "integer_of", spy(rows, onnx_bits.integer_of))
    _, path, _ = shipped(model, x, dict.fromkeys(["0", "2", "4"], "w4"), tmp_path)
    held = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    value = x.numpy()
    for place, (name, seen) in enumerate(zip(["0", "2", "4"], rows, strict=True)):
        np.testing.assert_allclose(seen, value - value.mean(0), atol=1e-4, err_msg=f"layer {place}")
        whole, step = held[f"{name}.weight_int4"].astype(np.float32), held[f"{name}.weight_step"].astype(np.float32)
        value = np.maximum(value @ (whole * step).reshape(whole.shape[0], -1).T + held[f"{name}.bias"], 0)


def spy(rows, function):
    """``function`` that notes the rows it was given."""

    def noted(matrix, steps, site, given, free, damping):
        rows.append(given)
        return function(matrix, steps, site, given, free, damping)

    return noted


def test_rounding_layer_after_layer_loses_less_on_fresh_inputs(tmp_path, monkeypatch):
    model = seeded(Chain)
    x, fresh = (torch.randn(512, 64, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    bits, lost = {f"parts.{n}": "w4" for n in range(4)}, {}
    for how in ("in turn", "at once"):
        if how == "at once":
            monkeypatch.setattr(replaying.Replay, "seen", lambda self, tensors: {})
        _, path, _ = shipped(model, x, bits, tmp_path)
        with torch.no_grad():
            lost[how] = float((run(path, fresh) - model(fresh)).square().mean())
    assert lost["in turn"] < 0.9 * lost["at once"]


def test_the_part_of_a_graph_before_a_tensor_gives_what_the_whole_gives(tmp_path):
    model, x = seeded(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))), torch.randn(5, 8)
    _, path, _ = shipped(model, x, {}, tmp_path)
    whole = onnx.load(tmp_path / "base.onnx")
    reader = Graph(whole).readers["2.weight"][0].input[0]
    part = replaying.before(whole, [reader])
    assert [node.op_type for node in part.graph.node] == [node.op_type for node in whole.graph.node][:-1]
    assert {item.name for item in part.graph.initializer} == {"0.weight", "0.bias"}


def test_weights_follow_inputs_that_rounding_moved():
    """One input twice as large as it was: least squares halves the weight, the damping keeps a share of it."""
    before = np.random.default_rng(0).normal(size=(4000, 1))
    got = rounding.aligned(np.array([[3.0]]), 2 * before, before)
    assert got[0, 0] == pytest.approx(3 * (1 - 0.5 / (1 + rounding.ALIGNING)))
    rows = np.random.default_rng(1).normal(size=(100, 6))
    weight = np.random.default_rng(2).normal(size=(3, 6))
    np.testing.assert_allclose(rounding.aligned(weight, rows, rows), weight)


@pytest.mark.parametrize("many", [20, 100, 1000])
def test_few_rows_are_shrunk_as_ledoit_and_wolf_have_it(many):
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(many, 40)) * np.linspace(0.5, 2, 40)
    share = ledoit_wolf_shrinkage(rows, assume_centered=True)
    assert rounding.shrinkage(rows) == pytest.approx(max(rounding.DAMPING, min(share, 0.9) / (1 - min(share, 0.9))), rel=1e-6)


def test_rows_of_one_sample_count_as_one():
    """Each row three times as one sample tells no more than once."""
    rows = np.random.default_rng(0).normal(size=(60, 10)) * np.linspace(0.5, 2, 10)
    again, samples = np.repeat(rows, 3, axis=0), np.repeat(np.arange(60), 3)
    assert rounding.shrinkage(again, samples) == pytest.approx(rounding.shrinkage(rows))
    assert rounding.shrinkage(again, samples) > 1.5 * rounding.shrinkage(again)


def test_the_noise_of_a_gram_matrix_is_that_between_samples():
    chance = np.random.default_rng(0)
    rows, samples = chance.normal(size=(30, 5)), chance.integers(0, 7, 30)  # samples of unequal sizes, among them larger ones than 5
    gram = rows.T @ rows / 30
    own = [rows[samples == one] for one in range(7)]
    noise = sum(np.square(part.T @ part - len(part) * gram).sum() for part in own) / 30**2
    share = min(noise / np.square(gram - np.trace(gram) / 5 * np.eye(5)).sum(), rounding.MOST_SHRINKAGE)
    assert rounding.shrinkage(rows, samples) == pytest.approx(share / (1 - share))


def noticed(values, geometry, mask=None):
    """What is kept of batches of one tensor, and of which sample each row is."""
    seen = calibration.Seen()
    for number, value in enumerate(values):
        calibration.take(seen, "x", value, [geometry], number, len(values), batch=3, mask=mask)
    return seen.rows_of(geometry)[:, 0], seen.samples_of(geometry)


@pytest.mark.parametrize(("shape", "axis"), [((3, 5, 4), 0), ((5, 3, 4), 1), ((2, 1, 3, 4), 2)])
def test_rows_know_their_sample(shape, axis):
    """Each value is the number of its sample: rows with equal values, and no others, have equal samples."""
    values = [np.broadcast_to(np.arange(3.0).reshape(3, *[1] * (len(shape) - axis - 1)) + 3 * batch, shape) for batch in range(2)]
    rows, samples = noticed(values, ())
    assert len(rows) == 2 * np.prod(shape[:-1])
    np.testing.assert_array_equal(np.unique(samples, return_inverse=True)[1].ravel(), rows[:, 0])


def test_rows_of_convolutions_know_their_sample():
    value = np.broadcast_to(np.arange(3.0).reshape(3, 1, 1, 1), (3, 2, 6, 6))
    rows, samples = noticed([value, value + 3], (1, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)))
    assert rows.shape == (2 * 3 * 16, 18)
    np.testing.assert_array_equal(np.unique(samples, return_inverse=True)[1].ravel(), rows[:, 0])


class Padded(nn.Module):
    """Words of which a mask tells which are there, as Hugging Face's encoders have it."""

    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(300, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, input_ids, attention_mask):
        there = attention_mask[..., None].float()
        return self.head((torch.relu(self.inner(self.table(input_ids))) * there).sum(1) / there.sum(1))


def test_padding_is_not_rounded_for(tmp_path, monkeypatch):
    model, rows = seeded(Padded), []
    words = torch.randint(1, 300, (6, 9), generator=torch.manual_seed(0))
    there = torch.arange(9) < torch.tensor([9, 4, 1, 7, 2, 5])[:, None]
    x = {"input_ids": words * there, "attention_mask": there.long()}
    monkeypatch.setattr(onnx_bits, "integer_of", spy(rows, onnx_bits.integer_of))
    shipped_words(model, x, {"inner": "w4"}, tmp_path)
    read = model.table(words)[there].detach().numpy()
    np.testing.assert_allclose(rows[0], read - read.mean(0), atol=1e-6)


def shipped_words(model, x, bits, folder):
    """(draft, file, notes) of a network with several inputs by name."""
    runtime, example = plugins.load("runtimes", RUNTIME), rows_of(x, 0, 2)
    structure, base, path = coverage.analyse(model, example), folder / "base.onnx", folder / "m.onnx"
    runtime.export(Draft(model, structure, example), example, [], base)
    draft = Draft(model, structure, example, bits=bits)
    return draft, path, runtime.finish(draft, base, [x], path)


def test_a_table_of_four_bits_is_read_as_its_file_says(tmp_path):
    """Each row by hand: sixteen columns share a step of 16 bits; the bytes are those of the formula."""
    model = seeded(lambda: nn.Sequential(nn.Embedding(300, 48)))
    words = torch.arange(300).reshape(30, 10)
    draft, path, notes = shipped(model, words, {"0": "w4"}, tmp_path)
    held = {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}
    steps, packed = (next(value for name, value in held.items() if name.endswith(end)) for end in ("_scale", "_quantized"))
    assert (steps.dtype, steps.shape, packed.dtype, packed.shape) == (np.float16, (300, 3), np.uint8, (300, 24))
    whole = np.stack([packed & 15, packed >> 4], -1).reshape(300, 3, 16).astype(np.float32) - 8
    want = (whole * steps[..., None].astype(np.float32)).astype(np.float16).astype(np.float32).reshape(300, 48)
    np.testing.assert_array_equal(run(path, words).reshape(300, 48).numpy(), want)
    assert np.abs(want - model[0].weight.detach().numpy()).max() < np.abs(model[0].weight.detach().numpy()).max() / 7
    assert (notes, prediction.layer_bytes(draft)["0"]) == ((), 300 * 48 / 2 + 300 * 3 * 2)


def test_a_table_of_few_entries_keeps_eight_bits_unless_told_never(tmp_path):
    model, words = seeded(lambda: nn.Sequential(nn.Embedding(29, 48))), torch.arange(28).reshape(4, 7)
    draft, path, notes = shipped(model, words, {"0": "w4"}, tmp_path)
    assert notes == ("bits: 0 is stored in 8 bits, it has 29 entries (fallback: never insists)",)
    assert prediction.layer_bytes(draft)["0"] == 29 * 48 + 4 * 48
    steps = np.abs(model[0].weight.detach().numpy()).max(0) / 127
    assert (np.abs(run(path, words).reshape(28, 48).numpy() - model[0].weight.detach().numpy()[:28]) <= 0.5001 * steps).all()
    draft, path, notes = shipped(model, words, {"0": {"format": "w4", "fallback": "never"}}, tmp_path)
    assert (notes, prediction.layer_bytes(draft)["0"]) == ((), 29 * 24 + 29 * 3 * 2)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 5)), (100, 32)),
        (lambda: nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 5)), (20, 7, 32)),
        (lambda: nn.Sequential(nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(), nn.Conv2d(12, 5, 3)), (12, 8, 8, 8)),
    ],
    ids=["Gemm", "MatMul and Add", "Conv"],
)
def test_biases_take_up_the_mean_error(build, shape, tmp_path):
    """On inputs all of whose rows were looked at, what a rounded network gives has the mean of what it gave; without, it has not."""
    model, x = seeded(build), torch.randn(shape, generator=torch.manual_seed(0)) + 1
    axes = [0, 2, 3] if len(shape) == 4 else list(range(len(shape) - 1))
    off = {}
    for bias in ("corrected", "plain"):
        _, path, _ = shipped(model, x, dict.fromkeys(["0", "2"], {"format": "w4", "bias": bias}), tmp_path)
        with torch.no_grad():
            off[bias] = float((run(path, x) - model(x)).mean(axes).abs().max())
    assert off["corrected"] < 1e-5
    assert off["plain"] > 1e-4


def cost(weight, whole, steps, hessian):
    """tr((W - Q) H (W - Q)^T) of each output."""
    left = weight - whole * np.repeat(steps, weight.shape[1] // steps.shape[1], axis=1)
    return ((left @ hessian) * left).sum(1)


def test_descent_ends_where_no_integer_and_no_step_can_be_bettered(monkeypatch):
    monkeypatch.setattr(rounding, "SWEEPS", 200)
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(300, 4)) @ chance.normal(size=(4, 16)) + 0.3 * chance.normal(size=(300, 16))
    weight, gram = chance.normal(size=(5, 16)), rows.T @ rows
    hessian = gram + 0.02 * np.diag(gram).mean() * np.eye(16)
    steps = rounding.scales_of(weight, 4, 8, signed=True)
    begun = rounding.gptq(weight, steps, 4, gram, 0.02)
    whole, moved = rounding.refined(weight, begun, steps, 4, gram, 0.02, lambda steps: steps)
    least = cost(weight, whole, moved, hessian)
    assert (least < cost(weight, begun, steps, hessian)).all()
    assert whole.min() >= -8
    assert whole.max() <= 7
    for column in range(16):
        for change in (-1, 1):
            other = whole.astype(int)
            other[:, column] = np.clip(other[:, column] + change, -8, 7)
            assert (cost(weight, other, moved, hessian) >= least - 1e-9).all()
    for block in range(2):
        for share in (0.999, 1.001):
            other = moved.copy()
            other[:, block] *= share
            assert (cost(weight, whole, other, hessian) >= least - 1e-9).all()


def test_steps_that_move_are_steps_that_the_file_holds():
    chance = np.random.default_rng(1)
    weight, rows = chance.normal(size=(6, 32)), chance.normal(size=(200, 32))
    steps = onnx_storage.half_steps(rounding.scales_of(weight, 4, 16, signed=True))
    whole, moved = rounding.refined(weight, rounding.nearest(weight, steps, 4), steps, 4, rows.T @ rows, 0.01, onnx_storage.half_steps)
    assert (moved == moved.astype(np.float16)).all()
    assert (moved != steps).any()
    assert cost(weight, whole, moved, rows.T @ rows).sum() < cost(weight, rounding.nearest(weight, steps, 4), steps, rows.T @ rows).sum()


class OneStep(nn.Module):
    """A decoder that is told its state."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(32, 32, batch_first=True)

    def forward(self, x, state):
        return self.cell(x, state[None])[0]


def test_the_states_that_a_layer_begins_with_are_looked_at(tmp_path, monkeypatch):
    model, rows = seeded(OneStep), []
    x, state = torch.randn(20, 1, 32, generator=torch.manual_seed(0)), torch.randn(20, 32, generator=torch.manual_seed(1))
    monkeypatch.setattr(onnx_bits, "integer_of", spy(rows, onnx_bits.integer_of))
    runtime, structure = plugins.load("runtimes", RUNTIME), coverage.analyse(model, (x[:2], state[:2]))
    runtime.export(Draft(model, structure, (x[:2], state[:2])), (x[:2], state[:2]), [], tmp_path / "base.onnx")
    runtime.finish(
        Draft(model, structure, (x[:2], state[:2]), bits={"cell": "w4"}), tmp_path / "base.onnx", [(x, state)], tmp_path / "m.onnx"
    )
    of_inputs, of_states = rows
    np.testing.assert_allclose(of_inputs, x[:, 0].numpy(), rtol=1e-6)
    np.testing.assert_allclose(of_states[:20], state.numpy(), rtol=1e-6)
    assert of_states.shape == (40, 32), "states told, then outputs"
