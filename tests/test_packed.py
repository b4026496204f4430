"""Packed files: every model comes back bit for bit, sizes follow from counts, damage and newer versions are told in one line."""

import contextlib
import json

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
from networks import noise, seeded
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from autoslim import engine, packed, plugins, streams
from autoslim.cli.main import call
from autoslim.errors import UserError
from autoslim.packed import pack, unpack
from autoslim.recipe import Recipe, Step
from autoslim.streams import Stream

BODY = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2")
WEIGHTS = 4 * 32 * 32 * 9


def shipped(folder, name, model, runtime, original=None):
    """An .onnx file that the runtime wrote."""
    samples = [noise(8, 3, 8, 8, seed=seed) for seed in range(2)]
    draft = engine.compress(model, Recipe.of(RECIPES[name]), samples)
    base, path = folder / f"{name}.base.onnx", folder / f"{name}.onnx"
    runtime.export(draft, noise(1, 3, 8, 8), samples, base, original=original)
    runtime.finish(draft, base, samples, path)
    return path


RECIPES = {
    "untouched": [],
    "int8": [Step("bits", name, 8) for name in BODY],
    "sparse": [Step("sparsity", name, 0.9) for name in BODY],
    "two of four": [Step("sparsity", name, "2:4") for name in BODY],
    "codebook": [Step("codebook", name, 4) for name in BODY],
    "channel codebook": [Step("codebook", name, {"bits": 2, "per": "channel"}) for name in BODY],
    "powers": [Step("codebook", name, {"bits": 3, "levels": "pow2"}) for name in BODY],
    "sparse codebook": [Step(technique, name, value) for name in BODY for technique, value in (("sparsity", 0.75), ("codebook", 4))],
    "everything": [Step("sparsity", BODY[0], 0.8), Step("codebook", BODY[1], 3), Step("bits", BODY[2], 8), Step("channels", BODY[3], 16)][
        :3
    ],
}
#: most bytes of the body's weights, by hand: mask or entropy of the mask, indices, values; a tenth more for tables and corrections
BOUNDS = {
    "untouched": 4 * WEIGHTS,
    "int8": WEIGHTS,
    "sparse": 1.1 * (WEIGHTS * 0.469 / 8 + 4 * WEIGHTS / 10),
    "two of four": WEIGHTS / 8 + 4 * WEIGHTS / 2,
    "codebook": 1.1 * WEIGHTS / 2,
    "channel codebook": 4 * 32 * 4 * 4 + WEIGHTS / 4,
    "powers": 1.1 * WEIGHTS * 3 / 8,
    "sparse codebook": 1.1 * WEIGHTS * (0.811 + 0.25 * 4) / 8,
    "everything": 4 * WEIGHTS / 4 * (1 + 0.3 + 0.1 + 0.25),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder, model, runtime = tmp_path_factory.mktemp("shipped"), seeded(networks.Residual), plugins.load("runtimes", "onnxruntime_cpu")
    found = {"untouched": shipped(folder, "untouched", model, runtime)}
    return found | {name: shipped(folder, name, model, runtime, (found["untouched"], model)) for name in RECIPES if name not in found}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("entropy", [True, False])
def test_a_shipped_file_comes_back_byte_for_byte_and_is_small(models, name, entropy):
    path = models[name]
    made = pack(onnx.load(str(path)), entropy)
    assert unpack(made.content).SerializeToString(deterministic=True) == path.read_bytes()
    if entropy:
        others = 4 * (3 * 32 * 9 + 32 + 4 * 32 + 4 * 32 + 4) + 1500  # stem, head, biases; scales of integer layers
        assert made.payload < BOUNDS[name] + others
        assert made.container < 0.02 * len(made.content) + 500
    assert packed.packed_bytes(path) <= len(made.content)


def test_the_container_is_within_two_hundredths(models):
    """From 25 kB on; a header of a few hundred bytes is the least that the container has."""
    for name in RECIPES:
        made = pack(onnx.load(str(models[name])))
        assert made.container <= max(0.02 * len(made.content), 500)
        assert made.payload + made.graph + made.container == len(made.content)


def test_without_entropy_coding_the_payload_is_a_sum_over_counts(tmp_path):
    """An oracle of its own: bytes by hand for each constant of a graph that holds one of each kind."""
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random((30, 40)) < 0.75, 0, rng.normal(size=(30, 40))).astype(np.float32)
    live = int((sparse != 0).sum())
    arrays = {
        "dense": (rng.normal(size=(30, 40)).astype(np.float32), 1200 * 4),
        "dense again": (None, 0),  # equal to the one before: stored once
        "sparse": (sparse, min(150, gap_bytes(sparse), gap_bytes(sparse.T)) + 4 * live),
        "coded": (rng.normal(size=8).astype(np.float32)[rng.integers(0, 8, (30, 40))], 8 * 4 + 1200 * 3 // 8),
        "int8": (rng.integers(-128, 128, (30, 40)).astype(np.int8), 1200),
        "signs": (rng.integers(0, 2, 800).astype(np.int8), 100),
        "half": (rng.normal(size=(30, 40)).astype(np.float16), 2400),
    }
    arrays["dense again"] = arrays["dense"][0], 0
    model = holding({name: values for name, (values, _) in arrays.items()})
    assert pack(model, entropy=False).payload == sum(size for _, size in arrays.values())


def gap_bytes(values):
    places = [-1, *np.flatnonzero(np.ascontiguousarray(values))]
    gaps = [after - before - 1 for before, after in zip(places, places[1:], strict=False)]
    return min((sum(1 + gap // (2**width - 1) for gap in gaps) * width + 7) // 8 for width in range(1, 13))


def holding(arrays):
    """A model whose graph holds these constants and gives the sum of the first with its input."""
    constants = [numpy_helper.from_array(values, name) for name, values in arrays.items()]
    shape = list(arrays["dense"].shape)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    return helper.make_model(helper.make_graph([helper.make_node("Add", ["x", "dense"], ["y"])], "g", [x], [y], constants))


def test_constants_of_every_kind_and_place_come_back():
    weight = np.random.default_rng(1).normal(size=(6, 10)).astype(np.float32)
    nibbles = helper.make_tensor("int4", TensorProto.INT4, [7, 11], np.random.default_rng(2).bytes(38) + b"\x05", raw=True)
    typed = helper.make_tensor("typed", TensorProto.INT8, [8, 8], list(range(64)))
    floats = helper.make_tensor("floats", TensorProto.FLOAT, [64], [0.5 * i for i in range(64)])
    brain = helper.make_tensor("bf16", TensorProto.BFLOAT16, [40], [0.25] * 40)
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight)), helper.make_node("Identity", ["c"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [6, 10])],
    )
    branch = helper.make_node("If", ["flag"], ["y"], then_branch=inner, else_branch=inner)
    flag, y = helper.make_tensor_value_info("flag", TensorProto.BOOL, []), helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, 10])
    graph = helper.make_graph([branch], "g", [flag], [y], [nibbles, typed, floats, brain, numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    made = pack(model)
    assert unpack(made.content) == model
    assert made.coders["int4"] == made.coders["typed"] == "integers"
    assert made.coders["w"] == "plain"
    assert pack(model, entropy=False).payload < 77 // 2 + 64 + 64 * 4 + 240 + 200, "the weight in both branches is stored once"


def test_negative_zeros_of_whole_outputs_do_not_cost_the_mask():
    weight = np.where(np.random.default_rng(0).random((40, 50)) < 0.9, 0, np.random.default_rng(1).normal(size=(40, 50))).astype(np.float32)
    folded = weight * np.where(np.arange(40) % 3 == 0, -1, 1).astype(np.float32)[:, None]
    assert np.signbit(folded[folded == 0]).any()
    one, other = (pack(holding({"dense": values})) for values in (weight, folded))
    assert unpack(other.content) == holding({"dense": folded})
    assert other.payload <= one.payload + 10
    turned = holding({"dense": np.ascontiguousarray(folded.T)})
    assert unpack(pack(turned).content) == turned
    assert pack(turned).payload <= one.payload + 15


def test_outputs_of_the_unpacked_file_are_the_same(models, tmp_path):
    path = tmp_path / "back.onnx"
    assert call(["pack", str(models["sparse codebook"]), "-o", str(tmp_path / "m.slim")], False) == 0
    assert call(["unpack", str(tmp_path / "m.slim"), "-o", str(path)], False) == 0
    assert path.read_bytes() == models["sparse codebook"].read_bytes()
    x = noise(4, 3, 8, 8).numpy()
    results = []
    for one in (path, models["sparse codebook"]):
        session = onnxruntime.InferenceSession(str(one), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {session.get_inputs()[0].name: x})[0])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
@pytest.mark.parametrize("width", [1, 3, 8, 11])
def test_frequencies_reach_the_entropy(width, share):
    rng = np.random.default_rng(width)
    symbols = np.where(rng.random(60_000) < share, 0, rng.integers(0, 2**width, 60_000)).astype(np.uint32)
    stream = Stream(symbols, width)
    how, data = streams.encode(stream)
    assert np.array_equal(streams.decode(how, data, len(symbols), width), symbols)
    counts = np.bincount(symbols)
    shares = counts[counts > 0] / len(symbols)
    bound = -(shares * np.log2(shares)).sum() * len(symbols) / 8
    assert bound - 1 <= len(data) <= min(1.005 * bound + 2 * 2**width + 8, stream.fixed_bytes)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 16])
def test_bits_lie_without_gaps(width):
    symbols = np.random.default_rng(0).integers(0, 2**width, 37).astype(np.uint32)
    data = streams.to_bits(symbols, width)
    assert len(data) == (37 * width + 7) // 8
    assert int.from_bytes(data, "little") == sum(int(symbol) << (index * width) for index, symbol in enumerate(symbols))
    assert np.array_equal(streams.from_bits(data, 37, width), symbols)


def test_one_symbol_alone_costs_next_to_nothing():
    stream = Stream(np.full(10_000, 3, np.uint32), 2)
    how, data = streams.encode(stream)
    assert len(data) < 40
    assert np.array_equal(streams.decode(how, data, 10_000, 2), stream.symbols)


def rewritten(content, header=None, **arrays):
    """A packed file with another header or other arrays."""
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length])["__metadata__"] | (header or {})
    return save(load(content) | arrays, metadata=told)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[: len(content) // 2], "not a packed file"),
        (lambda content: b"", "not a packed file"),
        (lambda content: b"no container at all", "not a packed file"),
        (lambda content: save(load(content), metadata={"format": "pt"}), "not a packed file .its header has no 'autoslim.packed'."),
        (
            lambda content: rewritten(content, {"autoslim.packed": "2"}),
            "written in version '2' of the format, this AutoSlim reads up to 1; update it",
        ),
        (lambda content: rewritten(content, {"blake2b": "0" * 32}), "damaged, what it holds is not the model"),
        (lambda content: rewritten(content, data=load(content)["data"][:-5]), "damaged"),
        (lambda content: rewritten(content, data=np.append(load(content)["data"], np.uint8(0))), "damaged"),
        (lambda content: rewritten(content, index=load(content)["index"][::-1]), "damaged"),
        (lambda content: rewritten(content, graph=np.zeros(9, np.uint8)), "damaged"),
    ],
)
def test_a_file_that_is_not_whole_is_told_in_one_line(models, tmp_path, capsys, spoil, message):
    path = tmp_path / "m.slim"
    path.write_bytes(spoil(pack(onnx.load(str(models["sparse"]))).content))
    with pytest.raises(UserError, match=message) as caught:
        unpack(path.read_bytes(), str(path))
    assert str(path) in str(caught.value)
    assert call(["unpack", str(path), "-o", str(tmp_path / "back.onnx")], False) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "back.onnx").exists()


def test_no_flipped_byte_goes_unnoticed(models):
    content = pack(onnx.load(str(models["everything"]))).content
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(place % 8)
        with contextlib.suppress(UserError):  # told; the other way out is a byte that carries nothing, such as padding
            assert unpack(bytes(spoilt)).SerializeToString(deterministic=True) == models["everything"].read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "missing.onnx", "-o", "x.slim"], "no file 'missing.onnx'"),
        (["pack", "{here}/note.txt", "-o", "x.slim"], "allowed: a name ending in .onnx, .yaml, .yml"),
        (["pack", "{here}/bad.onnx", "-o", "x.slim"], "bad.onnx: not an ONNX file"),
        (["unpack", "missing.slim", "-o", "x.onnx"], "no file 'missing.slim'"),
        (["unpack", "{here}/note.txt", "-o", "x.pt"], "allowed: a name ending in .onnx"),
    ],
)
def test_mistakes_on_the_command_line(words, message, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xfe nothing")
    assert call([word.format(here=tmp_path) for word in words], False) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_recipe_is_made_and_packed(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schema: 1\ntechniques: {codebook: {block.conv: 2}}\nrecovery: {resolve: false, bn: false, bias: false}\n")
    task = str((networks.__file__).replace("networks.py", "tasks/tiny.py"))
    assert call(["pack", str(recipe), "-o", str(tmp_path / "m.slim"), "--task", task, "--max-samples", "64"], False) == 0
    assert "weights" in capsys.readouterr().out
    model = unpack((tmp_path / "m.slim").read_bytes())
    weight = next(numpy_helper.to_array(item) for item in model.graph.initializer if list(item.dims) == [16, 16, 3, 3])
    assert max(len(np.unique(row)) for row in weight) <= 4
