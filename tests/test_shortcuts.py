"""tasks/shortcut.py: --model torchvision:, hf: and onnx: from tiny networks made here; files agree with who made them."""

import csv
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from autoslim import coverage, plugins, task
from autoslim.engine import compress
from autoslim.errors import UserError
from autoslim.inputs import call, distance
from autoslim.recipe import Recipe, Step
from autoslim.spec import SHORTCUT_TASK, StudySpec
from autoslim.tasks import _source

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "##s", "the", "a", "was", "very", "dog", "fox", "over", "lazy"]
SIZES = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
BERT = {**SIZES, "max_position_embeddings": 40}
CLOSE = 1e-4  # float32 rounding of a few layers, relative


def shortcut(model, data="random:2", **args):
    return task.load(SHORTCUT_TASK, {"model": model, "data": data, **args})


def first(found, split="val"):
    return next(iter(found.batches(split)))


# -- tiny networks ----------------------------------------------------------------------------------------------------------


def save_tokenizer(folder):
    """A WordPiece tokenizer of WORDS that frames a text with [CLS] and [SEP]."""
    words = {word: number for number, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=names, **special).save_pretrained(folder)


def save_bert(folder, kind="BertForSequenceClassification", **options):
    """A trained-looking BERT: random weights large enough that its answers differ."""
    torch.manual_seed(0)
    net = getattr(transformers, kind)(transformers.BertConfig(**BERT, initializer_range=0.3, **options)).eval()
    net.save_pretrained(folder)
    save_tokenizer(folder)
    return net


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """(folder of a classifier of three classes, the network that was saved)."""
    folder = tmp_path_factory.mktemp("bert")
    return folder, save_bert(folder, num_labels=3)


class Convolutions(nn.Module):
    """A residual block, and a flattening that an exporter writes as a reshape."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1))
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(nn.functional.avg_pool2d(x + self.block(x), 2).flatten(1))


class Mixed(nn.Module):
    """Two inputs of two types, linear layers on sequences, Gelu, two outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, tokens, scale):
        x = self.embed(tokens)
        x = self.norm(x + self.down(nn.functional.gelu(self.up(x))))
        return self.head(x.mean(1)) * scale, x


def save_onnx(path, net, inputs, names=None, free=True):
    """What torch.onnx writes today; the batch axis is free or two."""
    axes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs) if free else None
    program = torch.onnx.export(net.eval(), inputs, dynamo=True, dynamic_shapes=axes, input_names=names, verbose=False)
    program.save(str(path), external_data=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: (file, network, inputs of two)}; the names of the inputs are no names of Python."""
    torch.manual_seed(0)
    folder, found = tmp_path_factory.mktemp("onnx"), {}
    for name, net, inputs, names, free in (
        ("cnn", Convolutions(), (torch.randn(2, 3, 8, 8),), ["an.image"], True),
        ("fixed", Convolutions(), (torch.randn(2, 3, 8, 8),), ["x"], False),
        ("mixed", Mixed(), (torch.randint(0, 10, (2, 6)), torch.randn(2, 1)), ["the.tokens", "scale"], True),
    ):
        found[name] = save_onnx(folder / f"{name}.onnx", net, inputs, names, free), net, inputs
    return found


def by_file(path, *arrays):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    return tuple(torch.from_numpy(x) for x in session.run(None, {n: a.numpy() for n, a in zip(names, arrays, strict=True)}))


# -- the words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["resnet18", "timm:vit", "hf:", "onnx", ":x"])
def test_an_unknown_kind_is_answered_with_the_known(wrong):
    with pytest.raises(UserError, match=f"--model: got '{wrong}', allowed: torchvision:NAME, hf:PATH_OR_NAME, onnx:FILE; "):
        shortcut(wrong).model()


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("torchvision:resnet8", {}, "torchvision has no 'resnet8'; did you mean resnet"),
        (
            "torchvision:resnet18",
            {"weights": "BEST"},
            "--task-arg weights: got 'BEST', allowed: a file, random:N, or IMAGENET1K_V1, DEFAULT",
        ),
        ("torchvision:resnet18", {"weights": "random:0"}, "--task-arg weights=random:N: got '0', allowed: an integer from 1"),
        ("torchvision:resnet18", {"size": "big"}, "--task-arg size: got 'big', allowed: an integer from 1"),
        ("torchvision:resnet18", {"length": "8"}, "'length' is no argument of --model torchvision:..., allowed: weights, size"),
        ("onnx:nowhere.onnx", {"size": "8"}, "'size' is no argument of --model onnx:..., allowed: none"),
        ("onnx:nowhere.onnx", {}, "--model: no file 'nowhere.onnx'"),
    ],
)
def test_wrong_arguments_are_named(model, args, message):
    found = shortcut(model, **args)
    with pytest.raises(UserError, match=message):
        found.example_input(), found.model()


@pytest.mark.parametrize("name", ["bert", "cnn"])
@pytest.mark.parametrize("data", ["random", "random:", "imagefolder:x", "parquet:x"])
def test_unknown_data_is_answered_with_what_the_network_takes(bert, files, name, data):
    model, own = (f"hf:{bert[0]}", "csv:FOLDER") if name == "bert" else (f"onnx:{files['cnn'][0]}", "npz:FOLDER")
    with pytest.raises(UserError, match=f"--data: got '{data}', allowed: {own} .* or random:N"):
        first(shortcut(model, data))


def test_a_number_of_random_batches_is_a_number(bert):
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(UserError, match=f"--data random:N: got '{wrong}', allowed: an integer from 1"):
            first(shortcut(f"hf:{bert[0]}", f"random:{wrong}"))


@pytest.mark.parametrize(("name", "extra"), [("transformers", "hf"), ("onnx2torch", "onnx-import")])
def test_a_missing_package_names_its_extra(bert, files, monkeypatch, name, extra):
    monkeypatch.setitem(sys.modules, name, None)
    model = f"hf:{bert[0]}" if extra == "hf" else f"onnx:{files['cnn'][0]}"
    with pytest.raises(UserError, match=rf"needs the package '{name}'; pip install 'autoslim\[{extra}\]'") as caught:
        shortcut(model).model()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "name"),
    [("torchvision:resnet18", "resnet18"), ("hf:/models/mini.v2/", "mini.v2"), ("hf:org/mini", "mini"), ("onnx:/a/b.onnx", "b")],
)
def test_a_study_is_named_after_the_last_part_of_a_path(model, name):
    assert StudySpec(task=SHORTCUT_TASK, task_args={"model": model}).resolved_name() == name


# -- torchvision ------------------------------------------------------------------------------------------------------------


def test_torchvision_without_weights_is_the_same_everywhere():
    found = shortcut("torchvision:squeezenet1_1", size="32")
    nets = [found.model()]
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    nets.append(found.model())
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random numbers go on"
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert found.example_input().shape == (1, 3, 32, 32)
    assert [x.shape for x, y in found.batches("val") if y is None] == [(16, 3, 32, 32)] * 2


def test_estimated_statistics_are_those_of_the_noise_and_tell_inputs_apart():
    """Each batch norm of the first layers, where a batch has many values, has the mean and the variance of what comes in."""
    plain, found = shortcut("torchvision:resnet18", size="32"), shortcut("torchvision:resnet18", size="32", weights="random:1")
    net, seen = found.model(), {}
    assert all(torch.equal(a, b) for a, b in zip(plain.model().parameters(), net.parameters(), strict=True)), "the weights are the same"
    assert not any(module.training for module in net.modules())
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.momentum == 0.1
            assert module.num_batches_tracked == 1
            module.register_forward_pre_hook(lambda own, inputs, name=name: seen.update({name: inputs[0]}))
    noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    images = torch.cat([x for x, _ in found.batches("test")])
    with torch.no_grad():
        net(noise)
        early = {name: (net.get_submodule(name), inputs) for name, inputs in seen.items() if name.startswith(("bn1", "layer1"))}
        assert len(early) == 5
        for norm, inputs in early.values():
            torch.testing.assert_close(norm.running_var, inputs.var((0, 2, 3)), rtol=0.02, atol=1e-4)
            torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)), rtol=0.02, atol=1e-2)
        classes, before = net(images).argmax(1), plain.model()(images).argmax(1)
    assert len(classes.unique()) >= 2 * len(before.unique())
    assert found.notes == ("random weights, batch norms' statistics estimated on 16 images of noise: agreement is no accuracy",)
    assert plain.notes == ("random weights: agreement with the original is no accuracy",)


def save_images(folder):
    for split in ("train", "val"):
        for number, label in enumerate(("cat", "dog")):
            (folder / split / label).mkdir(parents=True)
            Image.new("RGB", (40, 30), (200 * number, 10, 10)).save(folder / split / label / "0.png")


def test_folders_of_images(tmp_path):
    save_images(tmp_path)
    found = shortcut("torchvision:squeezenet1_1", f"imagefolder:{tmp_path}", size="32")
    images, labels = first(found)
    assert (images.shape, labels.tolist()) == ((2, 3, 32, 32), [0, 1])
    assert not found.has("test")


# -- Hugging Face -----------------------------------------------------------------------------------------------------------


def test_a_classifier_gives_the_logits_of_the_saved_network(bert):
    folder, net = bert
    found = shortcut(f"hf:{folder}", length="12")
    example = found.example_input()
    assert {name: value.shape for name, value in example.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (1, 12)
    )
    assert example["attention_mask"].all(), "the example is a full text"
    with torch.no_grad():
        torch.testing.assert_close(call(found.model(), example), net(**example).logits)
    assert "network.bert.encoder.layer.0.intermediate.dense" in dict(found.model().named_modules())


def test_an_encoder_gives_hidden_states_that_are_zero_at_padding(tmp_path):
    net = save_bert(tmp_path, "BertModel")
    found = shortcut(f"hf:{tmp_path}", f"csv:{tmp_path}", length="8")
    write(tmp_path / "val.csv", [("good film", "ignored")])
    inputs, targets = first(found)
    assert targets is None, "a network without classes has no labels"
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    with torch.no_grad():
        got, want = call(found.model(), inputs), net(**inputs).last_hidden_state
    torch.testing.assert_close(got[:, :4], want[:, :4])
    assert not got[:, 4:].any()
    assert not [name for name, _ in found.model().named_parameters() if "pooler" in name], "hidden states need no pooler"


def test_a_pretrained_masked_language_model_is_its_encoder(tmp_path):
    net = save_bert(tmp_path, "BertForMaskedLM")
    found = shortcut(f"hf:{tmp_path}", length="8")
    with torch.no_grad():
        torch.testing.assert_close(call(found.model(), found.example_input()), net.bert(**found.example_input()).last_hidden_state)


def test_half_precision_weights_become_float32(tmp_path):
    save_bert(tmp_path, "BertModel").half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in shortcut(f"hf:{tmp_path}").model().parameters()} == {torch.float32}


def test_random_tokens_are_framed_differ_by_split_and_repeat(bert):
    found = shortcut(f"hf:{bert[0]}", "random:3", length="10")
    splits = {split: [inputs["input_ids"] for inputs, _ in found.batches(split)] for split in ("train", "val", "test")}
    assert all(len(batches) == 3 for batches in splits.values())
    tokens = splits["val"][0]
    assert tokens.shape == (16, 10)
    assert set(tokens[:, 0].tolist()) == {2}
    assert set(tokens[:, -1].tolist()) == {3}
    assert set(tokens[:, 1:-1].flatten().tolist()) <= set(range(4, len(WORDS)))
    assert not torch.equal(tokens, splits["test"][0])
    assert torch.equal(tokens, first(found)[0]["input_ids"])
    assert not found.has_targets()


def write(path, rows, header=("text", "label")):
    with path.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])


def of_csv(bert, tmp_path, val, train=(), **args):
    write(tmp_path / "val.csv", val)
    if train:
        write(tmp_path / "train.csv", train)
    return shortcut(f"hf:{bert[0]}", f"csv:{tmp_path}", length="8", **args)


def test_csv_with_numbers(bert, tmp_path):
    inputs, targets = first(of_csv(bert, tmp_path, [("good, very good", 2), ("bad", 0)]))
    assert targets.tolist() == [2, 0]
    good, very, cls, sep, unknown = (WORDS.index(word) for word in ("good", "very", "[CLS]", "[SEP]", "[UNK]"))
    assert inputs["input_ids"][0].tolist() == [cls, good, unknown, very, good, sep, 0, 0]
    assert inputs["attention_mask"][0].tolist() == [1] * 6 + [0] * 2


def test_csv_names_of_a_nameless_network_are_numbered_in_sorted_order_over_all_files(bert, tmp_path):
    found = of_csv(bert, tmp_path, [("a", "zebra"), ("a", "cat")], train=[("a", "dog")])
    assert first(found)[1].tolist() == [2, 0]
    assert first(found, "train")[1].tolist() == [1]


def test_csv_names_are_the_networks_own(tmp_path):
    save_bert(tmp_path, id2label={0: "Positive", 1: "Negative"}, label2id={"Positive": 0, "Negative": 1})
    found = of_csv((tmp_path, None), tmp_path, [("a", "negative"), ("a", "POSITIVE")])
    assert first(found)[1].tolist() == [1, 0], "not the sorted order"
    strange = tmp_path / "strange"
    strange.mkdir()
    with pytest.raises(UserError, match="got the label 'neutral', allowed for this network: positive, negative"):
        first(of_csv((tmp_path, None), strange, [("a", "neutral")]))


def test_csv_is_read_in_batches_of_sixteen(bert, tmp_path):
    found = of_csv(bert, tmp_path, [("good", 1)] * 37)
    assert [len(targets) for _, targets in found.batches("val")] == [16, 16, 5]


def test_csv_without_labels_has_no_targets(bert, tmp_path):
    write(tmp_path / "val.csv", [("good",)], header=("text",))
    found = shortcut(f"hf:{bert[0]}", f"csv:{tmp_path}")
    assert not found.has_targets()
    assert not found.has("test")
    write(tmp_path / "train.csv", [("good", 1)])
    with pytest.raises(UserError, match="val.csv' has no column label, but another file there has"):
        first(found)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", 3)], "got the label '3', allowed for this network: 0, 1, 2"),
        ([("a", -1)], "got the label '-1', allowed for this network: 0, 1, 2"),
        ([("a", label) for label in "wxyz"], r"4 different labels \(w, x, y, z, ...\), but the network has 3 classes"),
        ([("a",)], "val.csv' line 2 is too short, expected text and label"),
    ],
)
def test_wrong_labels_are_named(bert, tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        first(of_csv(bert, tmp_path, rows))


def test_wrong_files_are_named(bert, tmp_path):
    found = shortcut(f"hf:{bert[0]}", f"csv:{tmp_path}")
    with pytest.raises(UserError, match="no file '.*val.csv'; expected train.csv, val.csv, test.csv in"):
        first(found)
    write(tmp_path / "val.csv", [("a", 1)], header=("sentence", "label"))
    with pytest.raises(UserError, match="has the columns sentence, label, expected text and label"):
        first(found)


@pytest.mark.parametrize("length", ["41", "3", "long"])
def test_a_length_that_the_network_does_not_take_is_refused(bert, length):
    with pytest.raises(UserError, match=f"--task-arg length: got '{length}', allowed: an integer from 4 to 40"):
        shortcut(f"hf:{bert[0]}", length=length).example_input()
    assert shortcut(f"hf:{bert[0]}").example_input()["input_ids"].shape == (1, 40), "128, or what the network takes"


def test_folders_that_are_no_network_are_refused_in_one_line(bert, tmp_path):
    for make, message in (
        (lambda folder: None, "cannot be loaded by AutoConfig"),
        (lambda folder: save_bert(folder, "BertForTokenClassification"), "is a BertForTokenClassification, allowed: encoders whose names"),
        (lambda folder: headless(folder, bert[1]), r"lacks the weights of 2 parameters \(classifier.bias, ...\)"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        make(folder)
        with pytest.raises(UserError, match=message) as caught:
            shortcut(f"hf:{folder}").model()
        assert "\n" not in str(caught.value)


def headless(folder, net):
    """A folder that says it has a classifier, and has only the rest."""
    net.save_pretrained(folder, state_dict={k: v for k, v in net.state_dict().items() if not k.startswith("classifier")})


def test_images_come_from_the_networks_own_processor(tmp_path):
    torch.manual_seed(0)
    told = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8, num_labels=2
    )
    net = transformers.ViTForImageClassification(told).eval()
    net.save_pretrained(tmp_path)
    found = shortcut(f"hf:{tmp_path}")
    assert found.example_input()["pixel_values"].shape == (1, 3, 16, 16), "no processor: the config's size"
    save_images(tmp_path)
    pictures = shortcut(f"hf:{tmp_path}", f"imagefolder:{tmp_path}")
    with pytest.raises(UserError, match="cannot be loaded by AutoImageProcessor"):
        first(pictures)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    inputs, labels = first(pictures)
    assert (inputs["pixel_values"].shape, labels.tolist()) == ((2, 3, 16, 16), [0, 1])
    with torch.no_grad():
        torch.testing.assert_close(call(found.model(), inputs), net(**inputs).logits)
    with pytest.raises(UserError, match="'length' is no argument of a network that takes images"):
        shortcut(f"hf:{tmp_path}", length="8").example_input()


def test_bits_channels_and_depth_of_a_hugging_face_network(bert, tmp_path):
    """All three at once: fewer parameters and bytes, and the files compute what the compressed network computes."""
    found = shortcut(f"hf:{bert[0]}", length="12")
    model, batch = found.model(), first(found)[0]
    structure = coverage.analyse(model, found.example_input())
    width, layer = "network.bert.encoder.layer.1.intermediate.dense", "network.bert.encoder.layer.0"
    assert width in structure.groups
    assert layer in structure.blocks
    steps = [Step("channels", width, 0.5), Step("depth", layer, True), Step("bits", width, 8), Step("bits", "network.classifier", 8)]
    draft = compress(model, Recipe.of(steps), [batch], structure=structure)
    assert draft.model.get_submodule(width).out_features == 128
    assert "network.bert.encoder.layer.0.output.dense" not in dict(draft.model.named_modules())
    assert sum(p.numel() for p in draft.model.parameters()) < 0.5 * structure.params
    runtime, floats, eight = plugins.load("runtimes", "onnxruntime_cpu"), tmp_path / "float.onnx", tmp_path / "eight.onnx"
    assert runtime.export(draft, found.example_input(), [batch], floats) == ()
    assert runtime.finish(draft, floats, [batch], eight) == ()
    with torch.no_grad():
        want = call(draft.model, batch)
    assert distance(runtime.open(floats, 1).run(batch), want) < CLOSE
    assert distance(runtime.open(eight, 1).run(batch), want) < 0.1, "eight bits of two layers"
    assert eight.stat().st_size < floats.stat().st_size


@pytest.mark.slow
def test_profile_of_a_folder_from_the_command_line(bert):
    words = ["profile", "--model", f"hf:{bert[0]}", "--data", "random:4", "--task-arg", "length=16", "--json"]
    done = subprocess.run([sys.executable, "-m", "autoslim", *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["family"] == "transformer"
    assert found["coverage"]["params"] == sum(parameter.numel() for parameter in bert[1].parameters())
    assert {"bits", "channels", "depth"} <= {name for name, row in found["coverage"]["techniques"].items() if row["units"]}


# -- ONNX -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "mixed"])
def test_a_converted_file_computes_what_the_file_computes(files, name):
    path, net, inputs = files[name]
    found = shortcut(f"onnx:{path}")
    batch, targets = first(found)
    assert targets is None
    arrays = [batch] if name == "cnn" else list(batch.values())
    with torch.no_grad():
        got = call(found.model(), batch)
    assert distance(got, by_file(path, *arrays) if name == "mixed" else by_file(path, *arrays)[0]) < CLOSE
    assert distance(got, net(*arrays)) < CLOSE
    assert isinstance(got, tuple) == (name == "mixed")


def test_layers_have_the_names_and_kinds_of_the_network_that_was_exported(files):
    for name in ("cnn", "mixed"):
        path, net, _ = files[name]
        found = {layer: type(module) for layer, module in shortcut(f"onnx:{path}").model().named_modules()}
        for layer, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm):
                assert found[layer] is type(module), (name, layer)
    parameters = sum(parameter.numel() for parameter in shortcut(f"onnx:{path}").model().parameters())
    assert parameters == sum(parameter.numel() for parameter in net.parameters()), "the table of words is counted too"


def test_the_inputs_are_those_of_the_graph(files):
    assert shortcut(f"onnx:{files['cnn'][0]}").example_input().shape == (1, 3, 8, 8)
    assert shortcut(f"onnx:{files['fixed'][0]}").example_input().shape == (2, 3, 8, 8)
    found = shortcut(f"onnx:{files['mixed'][0]}")
    assert {name: (x.shape, x.dtype) for name, x in found.example_input().items()} == {
        "the_tokens": ((1, 6), torch.int64),
        "scale": ((1, 1), torch.float32),
    }
    tokens = torch.cat([inputs["the_tokens"] for inputs, _ in found.batches("train")])
    assert (tokens.shape, int(tokens.min()), int(tokens.max())) == ((32, 6), 0, 9), "rows of the table of ten"
    assert torch.equal(first(found)[0]["scale"], first(found)[0]["scale"])
    assert [len(inputs) for inputs, _ in shortcut(f"onnx:{files['fixed'][0]}").batches("val")] == [2] * 16


def test_arrays_of_one_input_with_classes(files, tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3, 8, 8)), np.arange(20) % 4
    np.savez(tmp_path / "val.npz", x=x, y=y)
    found = shortcut(f"onnx:{files['cnn'][0]}", f"npz:{tmp_path}")
    assert torch.equal(found.example_input(), torch.from_numpy(x[:1]).float())
    batches = list(found.batches("val"))
    assert [len(targets) for _, targets in batches] == [16, 4]
    order = torch.tensor(_source.mixed(20))
    assert order.tolist() != sorted(order.tolist()) == list(range(20)), "classes that lie one after the other come mixed"
    assert torch.equal(torch.cat([targets for _, targets in batches]), torch.from_numpy(y)[order])
    assert torch.equal(
        torch.cat([inputs["an.image"] if isinstance(inputs, dict) else inputs for inputs, _ in batches]), torch.from_numpy(x).float()[order]
    )
    score = found.score(task.predictor(found.model()), "val")
    want = by_file(files["cnn"][0], torch.from_numpy(x).float())[0].argmax(1).numpy()
    assert score.values == {"top-1 accuracy": pytest.approx((want == y).mean())}
    assert not found.has("test")
    fixed = shortcut(f"onnx:{files['fixed'][0]}", f"npz:{tmp_path}")
    np.savez(tmp_path / "val.npz", x=x[:19], y=y[:19])
    assert [len(targets) for _, targets in fixed.batches("val")] == [2] * 9, "what does not fill a batch is left out"


def test_arrays_of_several_inputs_by_their_names_without_classes(files, tmp_path):
    np.savez(tmp_path / "val.npz", **{"the.tokens": np.ones((5, 6), np.int32), "scale": np.full((5, 1), 2.0)})
    inputs, targets = first(shortcut(f"onnx:{files['mixed'][0]}", f"npz:{tmp_path}"))
    assert targets is None
    assert (inputs["the_tokens"].dtype, inputs["the_tokens"].shape, inputs["scale"].tolist()) == (torch.int64, (5, 6), [[2.0]] * 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((2, 3, 8, 8))}, "has the arrays image, expected 'an.image' or 'x'"),
        ({"x": np.zeros((2, 3, 9, 8))}, r"has 'an.image' of shape \(2, 3, 9, 8\), expected \(samples, 3, 8, 8\)"),
        ({"x": np.zeros((2, 3, 8, 8)), "y": np.zeros(3, int)}, r"arrays of \[2, 3\] samples"),
        ({"x": np.zeros((2, 3, 8, 8)), "y": np.zeros(2)}, r"'y' of shape \(2,\) and type float64, expected one integer class per sample"),
    ],
)
def test_wrong_arrays_are_named(files, tmp_path, arrays, message):
    np.savez(tmp_path / "val.npz", **arrays)
    with pytest.raises(UserError, match=message):
        first(shortcut(f"onnx:{files['cnn'][0]}", f"npz:{tmp_path}"))


def test_an_operator_that_cannot_be_converted_is_named(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 4] y) {
        d = Det(x2) x2 = Identity(x) y = Hardmax(x) }"""
    text = text.replace("d = Det(x2) x2 = Identity(x) ", "")
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(UserError, match=r"m.onnx' has operators that onnx2torch cannot convert: Hardmax \(opset 17\); ") as caught:
        shortcut(f"onnx:{path}").model()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(UserError, match="m.onnx' is no valid ONNX file"):
        shortcut(f"onnx:{path}").model()


def test_a_conversion_that_computes_something_else_is_refused(files, monkeypatch):
    from autoslim.tasks import _onnx_modules

    real = _onnx_modules.convert

    def wrong(graph, feed):
        net = real(graph, feed)
        net.head.bias.data += 1
        return net

    monkeypatch.setattr(_onnx_modules, "convert", wrong)
    with pytest.raises(UserError, match="computes something else than the file"):
        shortcut(f"onnx:{files['cnn'][0]}").model()


def test_a_graph_that_computes_its_shapes_is_fixed_at_the_example(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 2, 3] x) => (float[N, M] y)
        <float[6, 4] w = {0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23}, int64[1] at = {0}, int64[1] rest = {-1}> {
        s = Shape(x) n = Gather(s, at) to = Concat<axis = 0>(n, rest) flat = Reshape(x, to) y = MatMul(flat, w) }"""
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    found = shortcut(f"onnx:{path}")
    assert [len(inputs) for inputs, _ in found.batches("val")] == [1] * 32
    kinds = [type(module) for module in found.model().modules()]
    assert nn.Linear in kinds
    batch, _ = first(found)
    with torch.no_grad():
        assert distance(call(found.model(), batch), by_file(path, batch)[0]) < CLOSE


def test_a_converted_network_is_cut_and_shipped(files, tmp_path):
    found = shortcut(f"onnx:{files['cnn'][0]}")
    model, batch = found.model(), first(found)[0]
    structure = coverage.analyse(model, found.example_input())
    assert "block.0" in structure.groups
    draft = compress(model, Recipe.of([Step("channels", "block.0", 0.5), Step("bits", "stem", 8)]), [batch], structure=structure)
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    assert runtime.export(draft, found.example_input(), [batch], tmp_path / "base.onnx") == (), "the batch axis is free"
    assert runtime.finish(draft, tmp_path / "base.onnx", [batch], tmp_path / "m.onnx") == ()
    with torch.no_grad():
        want = call(draft.model, batch)
    assert distance(runtime.open(tmp_path / "base.onnx", 1).run(batch), want) < CLOSE
    assert distance(runtime.open(tmp_path / "m.onnx", 1).run(batch), want) < 0.1


def test_images_that_lie_class_by_class_come_mixed_and_alike_at_every_pass(tmp_path):
    """Recovery, calibration and --max-samples take what comes first."""
    for label in ("cat", "dog", "owl"):
        folder = tmp_path / "train" / label
        folder.mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (8, 8), (number, 10, 10)).save(folder / f"{number}.png")
    (tmp_path / "val").mkdir()
    found = shortcut("torchvision:squeezenet1_1", f"imagefolder:{tmp_path}", size="32")
    passes = [[int(label) for _, labels in found.batches("train") for label in labels] for _ in range(2)]
    assert passes[0] == passes[1]
    assert sorted(passes[0]) == [0] * 12 + [1] * 12 + [2] * 12
    assert set(passes[0][:8]) == {0, 1, 2}
