"""task.py: what a task may give, and which mistakes are named before they turn into wrong numbers."""

import itertools
import types

import pytest
import torch
from networks import noise
from torch import nn

from autoslim import task
from autoslim.errors import TaskFailed, UserError
from autoslim.inputs import call
from autoslim.task import Task


class Either(nn.Module):
    """Takes (x, scale) by position or by name."""

    def forward(self, x, scale=None):
        return x if scale is None else x * scale


def source(**parts):
    """A task of two batches of four; parts replace or remove (None)."""

    def data(split):
        if split == "test":
            raise KeyError(split)
        for seed in range(2):
            x = noise(4, 3, seed=seed)
            yield x, x.argmax(1)

    given = {"model": Either, "example_input": lambda: noise(1, 3), "data": data} | parts
    return types.SimpleNamespace(**{name: part for name, part in given.items() if part is not None})


def made(args=None, max_samples=None, **parts):
    return Task(source(**parts), "t", args, max_samples)


def batches(*pairs):
    return lambda split: iter(pairs)


# -- what is accepted -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: (x, torch.ones(len(x), 1)), lambda x: [x], lambda x: {"x": x, "scale": torch.ones(len(x), 1)}],
    ids=["tensor", "tuple", "list", "dict"],
)
def test_inputs_of_every_form_are_scored_and_capped(wrap):
    def data(split):
        for seed in range(2):
            x = noise(4, 3, seed=seed)
            yield wrap(x), x.argmax(1)

    for cap, n in ((None, 8), (5, 5), (4, 4), (100, 8)):
        found = made(data=data, example_input=lambda: wrap(noise(1, 3)), max_samples=cap)
        score = found.score(task.predictor(found.model()), "val")
        assert score.values == {"top-1 accuracy": 1.0}
        assert (score.n, len(score.per_unit)) == (n, n)


def test_the_model_comes_in_eval_mode():
    assert made(model=lambda: nn.Dropout().train()).model().training is False


def test_accuracy_is_the_share_of_right_classes():
    found = made(data=batches((torch.eye(4), torch.tensor([0, 1, 2, 0])), (torch.eye(4), torch.tensor([0, 0, 0, 0]))))
    score = found.score(lambda x: x, "val")
    assert score.values == {"top-1 accuracy": 0.5}
    assert score.per_unit.tolist() == [1, 1, 1, 0, 1, 0, 0, 0]


def test_a_metric_per_sample_and_a_metric_per_batch():
    sizes = (torch.zeros(4, 1), torch.zeros(4, 1)), (torch.zeros(2, 1), torch.zeros(2, 1))
    each = made(data=lambda split: iter(sizes), metric=lambda out, _: torch.arange(float(len(out))), METRIC_NAME="rank")
    score = each.score(lambda x: x, "val")
    assert score.values == {"rank": (0 + 1 + 2 + 3 + 0 + 1) / 6}
    assert (score.n, score.per_unit.tolist()) == (6, [0, 1, 2, 3, 0, 1])
    mean = made(data=lambda split: iter(sizes), metric=lambda out, _: float(len(out)))
    score = mean.score(lambda x: x, "val")
    assert score.values == {"metric": (4 * 4 + 2 * 2) / 6}, "batches count by their samples"
    assert score.n == 6
    assert score.per_unit is None, "batches of different sizes are no equal parts"
    even = made(data=lambda split: iter(sizes[:1] * 3), metric=lambda out, _: torch.tensor(0.5)).score(lambda x: x, "val")
    assert (even.n, even.per_unit.tolist()) == (12, [0.5] * 3)


def test_a_corpus_metric_with_its_direction():
    def evaluate(predict, batches):
        got = [(predict(x) - 1.0, y) for x, y in batches]
        return {"error": float(len(got)), "side": 7.0, "undeclared": 1.0}

    found = made(evaluate=evaluate, METRICS={"error": "min", "side": "max", "absent": "max"})
    score = found.score(lambda x: x, "val")
    assert found.metrics == {"error": "min", "side": "max", "absent": "max"}
    assert next(iter(found.metrics)) == "error"
    assert score.values == {"error": 2.0, "side": 7.0}
    assert (score.per_unit, score.n) == (None, 8)


def test_without_targets_the_metric_is_agreement():
    x = torch.eye(4)
    found = made(data=batches((x, None)))
    flipped = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert found.score(lambda _: flipped, "val", original=lambda x: x).per_unit.tolist() == [1, 1, 0, 0]
    other = made(data=batches((noise(4, 3, 5), None)))
    assert other.score(lambda x: x * 0.9, "val", original=lambda x: x).per_unit == pytest.approx([0.9] * 4, abs=1e-5)
    assert other.score(lambda x: -x, "val", original=lambda x: x).per_unit.tolist() == [0] * 4
    with pytest.raises(UserError, match="no targets and there is no original"):
        found.score(lambda x: x, "val")


def test_has_tells_splits_apart_without_using_up_a_pass():
    found = made()
    assert found.has("val")
    assert not found.has("test")
    assert len(list(found.batches("val"))) == 2


def test_latency_inputs_replace_the_example():
    assert made().latency_input.shape == (1, 3)
    assert made(latency_inputs=lambda: [(noise(9, 3), 0.5), (noise(2, 3), 0.5)]).latency_input.shape == (9, 3)
    assert made(latency_inputs=lambda: [noise(7, 3)]).latency_input.shape == (7, 3)


def test_latency_inputs_have_weights_that_sum_to_one():
    pair = (noise(1, 3), noise(1, 3))
    assert [weight for _, weight in made().latency_inputs()] == [1.0]
    told = made(latency_inputs=lambda: ((noise(n, 3), n) for n in (1, 3))).latency_inputs()
    assert [(len(inputs), weight) for inputs, weight in told] == [(1, 0.25), (3, 0.75)]
    assert made(latency_inputs=lambda: ((noise(n, 3), n) for n in (1, 3))).latency_input.shape == (3, 3), "the heaviest"
    told = made(latency_inputs=lambda: [pair, (pair, 3), {"x": noise(2, 3)}]).latency_inputs()
    assert [weight for _, weight in told] == pytest.approx([0.2, 0.6, 0.2]), "without a weight it is 1"
    assert told[0][0] is pair, "two tensors are inputs by position"
    assert told[1][0] is pair
    assert set(told[2][0]) == {"x"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([(torch.zeros(1, 3), 0.0)], "gave the weight 0.0"),
        ([(torch.zeros(1, 3), 1.0), (torch.zeros(1, 3), -2)], "gave the weight -2"),
        ([(torch.zeros(1, 3), float("nan"))], "gave the weight nan"),
        ([(torch.zeros(1, 3), float("inf"))], "gave the weight inf"),
        ([(torch.zeros(1, 3), "0.5")], "gave the weight '0.5'"),
        ([], "gave nothing"),
        ([0.5, 0.5], "gave an entry without a tensor"),
        (torch.zeros(2, 3), "returned Tensor"),
        ({"x": torch.zeros(1, 3)}, "returned dict"),
        (None, "returned NoneType"),
    ],
)
def test_wrong_latency_inputs_are_refused_in_one_line(given, words):
    with pytest.raises(UserError, match=rf"^task t: latency_inputs\(\) {words}.*expected a list of inputs[^\n]*$"):
        made(latency_inputs=lambda: given).latency_inputs()


def test_task_args_reach_the_functions_that_take_them():
    def data(split, size="4"):
        yield noise(int(size), 3), torch.zeros(int(size), dtype=torch.long)

    found = made({"size": "6", "width": "5"}, data=data, model=lambda width="3": nn.Linear(3, int(width)))
    assert found.model().out_features == 5
    assert len(next(iter(found.batches("val")))[0]) == 6
    assert made({"size": "6"}, data=data).fingerprint() != made({"size": "4"}, data=data).fingerprint()


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_the_same_iterator_twice_is_refused():
    once = iter([(noise(4, 3), torch.zeros(4))])
    found = made(data=lambda split: once)
    list(found.batches("val"))
    with pytest.raises(UserError, match=r"data\('val'\) handed out the same iterator twice"):
        found.batches("val")


def test_a_shrinking_pass_is_refused():
    lengths = itertools.chain([2], itertools.repeat(1))
    found = made(data=lambda split: iter([(noise(4, 3), torch.zeros(4))] * next(lengths)))
    assert len(list(found.batches("val"))) == 2
    with pytest.raises(UserError, match="gave 4 samples after 8 in an earlier pass"):
        list(found.batches("val"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda split: None, "returned NoneType, expected an iterable"),
        (lambda split: [], "gave no batch; is the path right"),
        (lambda split: [noise(4, 3)], "gave Tensor, expected pairs"),
        (lambda split: [(1, 2, 3)], "gave tuple, expected pairs"),
    ],
)
def test_data_of_a_wrong_form_is_refused(data, message):
    with pytest.raises(UserError, match=rf"task t: data\('val'\) {message}"):
        list(made(data=data).batches("val"))


@pytest.mark.parametrize("part", ["model", "example_input", "data"])
def test_a_missing_function_is_named(part):
    with pytest.raises(UserError, match=rf"task t: {part}\(\) is missing; a task defines model\(\), example_input\(\), data\(\)"):
        made(**{part: None})


def test_an_unknown_task_arg_is_named_with_the_known():
    with pytest.raises(UserError, match=r"no function takes the argument 'sze' of --task-arg, allowed: "):
        made({"sze": "6"})


def test_a_task_arg_that_autoslim_fills_itself_is_refused():
    with pytest.raises(UserError, match="split"):
        list(made({"split": "train"}).batches("val"))


def diverged():
    """A network of a training that went wrong."""
    net = nn.Linear(3, 2)
    net.weight.data[1, 2] = float("nan")
    return net


@pytest.mark.parametrize(
    ("parts", "act", "message"),
    [
        ({"model": lambda: 5}, lambda t: t.model(), "returned a int, expected a torch.nn.Module"),
        ({"example_input": lambda: [1, 2]}, lambda t: t.example_input(), "without a tensor"),
        ({"METRICS": {"wer": "low"}}, lambda t: t.metrics, "METRICS has wer='low', allowed: a name with 'min' or 'max'"),
        ({"METRICS": {}}, lambda t: t.metrics, "METRICS has no entry"),
        (
            {"evaluate": lambda predict, batches: {"f1": 1.0}, "METRICS": {"wer": "min"}},
            lambda t: t.score(None, "val"),
            "expected a dict with 'wer'",
        ),
        (
            {"data": batches((noise(4), torch.zeros(4)))},
            lambda t: t.score(lambda x: x, "val"),
            r"shape \(4,\) are not class scores; define metric",
        ),
        ({"metric": lambda outputs, targets: "good"}, lambda t: t.score(lambda x: x, "val"), r"metric\(\) gave 'good', expected a number"),
        ({"metric": lambda outputs, targets: None}, lambda t: t.score(lambda x: x, "val"), r"metric\(\) gave None, expected a number"),
        (
            {"evaluate": lambda predict, batches: {"f1": [0.5]}, "METRICS": {"f1": "max"}},
            lambda t: t.score(None, "val"),
            r"evaluate\(\) gave \[0.5\], expected a number",
        ),
        (
            {"data": batches((noise(8, 3), torch.zeros(5)))},
            lambda t: t.score(lambda x: x, "val"),
            r"targets of shape \(5,\) do not fit outputs of shape \(8, 3\), expected class numbers of shape \(8,\)",
        ),
        (
            {"data": batches((noise(4, 3), torch.zeros(4, 1)))},  # compared with (4,) it is a table of all pairs, and no accuracy
            lambda t: t.score(lambda x: x, "val"),
            r"targets of shape \(4, 1\) do not fit outputs of shape \(4, 3\)",
        ),
        (
            {"example_input": lambda: noise(1, 4), "model": lambda: nn.Linear(3, 2)},
            lambda t: t.refuse_unfit(t.model(), t.example_input()),
            r"the model on example_input\(\) raised RuntimeError: mat1 and mat2",
        ),
        (
            {"model": diverged},
            lambda t: t.refuse_unfit(t.model(), t.example_input()),
            r"the weight 'weight' with 1 of 6 values that are no finite numbers",
        ),
    ],
)
def test_other_mistakes_are_named(parts, act, message):
    with pytest.raises(UserError, match=message):
        act(made(**parts))


@pytest.mark.parametrize(
    "targets", [["a", "b", "c", "d"], [torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(2, 4), torch.zeros(1, 4)]], ids=["words", "boxes"]
)
def test_targets_that_are_a_list_of_one_per_sample_are_capped_with_the_inputs(targets):
    inputs, capped = next(iter(made(data=batches((noise(4, 3), targets)), max_samples=3).batches("val")))
    assert len(inputs) == 3
    assert len(capped) == 3
    assert capped[0] is targets[0]


# -- files ----------------------------------------------------------------------------------------------------------------

GOOD = """
import torch
from beside import WIDTH

def model():
    return torch.nn.Linear(WIDTH, 2)

def example_input():
    return torch.zeros(1, WIDTH)

def data(split):
    yield torch.zeros(4, WIDTH), torch.zeros(4, dtype=torch.long)
"""


def test_a_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    (tmp_path / "good.py").write_text(GOOD)
    found = task.load(str(tmp_path / "good.py"))
    assert found.name == "good"
    assert call(found.model(), found.example_input()).shape == (1, 2)
    before = found.fingerprint()
    (tmp_path / "good.py").write_text(GOOD + "\n# changed\n")
    assert task.load(str(tmp_path / "good.py")).fingerprint() != before


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\ny = (\n", 2, "SyntaxError"),
        ("x = 1\n\nimport nosuchpackage\n", 3, "nosuchpackage"),
        ("def f():\n    1 / 0\n\nf()\n", 2, "ZeroDivisionError"),
    ],
)
def test_a_broken_file_is_reported_with_its_line(tmp_path, text, line, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=f"task broken.py: cannot be loaded, line {line}: .*{message}"):
        task.load(str(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such.py", "no file"),
        ("nosuch.module", "got 'nosuch.module', allowed: a path"),
        ("nosuch", "allowed: a path to a .py file, an importable module"),
    ],
)
def test_a_task_that_is_not_there_is_refused(name, message):
    with pytest.raises(UserError, match=f"--task: .*{message}"):
        task.load(name)


def test_the_embedded_task_keeps_the_contract():
    found = task.load("autoslim.tasks.digits.task", max_samples=100)
    score = found.score(task.predictor(found.model()), "val")
    assert score.n == 100
    assert score.values["top-1 accuracy"] > 0.95
    assert all(found.has(split) for split in ("train", "val", "test"))


def test_the_loss_may_take_inputs_and_task_args():
    source = types.SimpleNamespace(model=None, example_input=None, data=None)
    source.model = source.example_input = source.data = lambda *args: None
    source.loss = lambda outputs, targets, inputs, weight="1": float(weight) * (outputs - targets).abs().sum() + inputs.sum()
    task_ = task.Task(source, "t", {"weight": "2"})
    assert float(task_.loss()(torch.ones(2), torch.zeros(2), torch.ones(3))) == 7.0
    source.loss = lambda outputs, targets: (outputs - targets).abs().sum()
    assert float(task.Task(source, "t").loss()(torch.ones(2), torch.zeros(2), torch.ones(3))) == 2.0


def test_a_generator_that_yields_within_no_grad_leaves_gradients_as_they_were():
    def data(split):
        for _ in range(3):
            with torch.no_grad():
                yield noise(2, 4), torch.zeros(2)

    source = types.SimpleNamespace(model=lambda: nn.Linear(4, 2), data=data, example_input=lambda: noise(1, 4))
    drawn = Task(source, "lazy").batches("train")
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            next(drawn)
            assert torch.is_grad_enabled() is mode
    next(drawn)
    with torch.no_grad():
        del drawn  # the generator leaves its own block now
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_a_generator_that_is_within_no_grad_all_along_stays_there():
    weight = torch.ones(4, 4, requires_grad=True)

    def data(split):
        with torch.no_grad():
            for _ in range(3):
                yield noise(2, 4) @ weight, torch.zeros(2)

    source = types.SimpleNamespace(model=lambda: nn.Linear(4, 2), data=data, example_input=lambda: noise(1, 4))
    with torch.enable_grad():
        assert [inputs.requires_grad for inputs, _ in Task(source, "lazy").batches("train")] == [False] * 3
        assert torch.is_grad_enabled()


def test_an_iterator_that_is_handed_out_again_is_not_taken_for_a_missing_split():
    batches = iter([(noise(2, 4), torch.zeros(2))])
    source = types.SimpleNamespace(model=lambda: nn.Linear(4, 2), data=lambda split: batches, example_input=lambda: noise(1, 4))
    found = Task(source, "once")
    assert found.has("train")
    with pytest.raises(UserError, match="handed out the same iterator twice"):
        found.has("train")


def leaves(split):
    """As a script does that finds nothing."""
    raise SystemExit(f"no {split} here")


def leaves_later(split):
    leaves(split)
    yield


@pytest.mark.parametrize("data", [leaves, leaves_later])
def test_data_that_ends_the_process_is_told_as_the_task_s_fault(data):
    """Neither is the process ended nor the split taken for one that there is not."""
    with pytest.raises(TaskFailed, match=r"task t: data\('?\w*'?\) raised SystemExit: no train here"):
        made(data=data).has("train")


def test_an_error_in_the_middle_of_a_pass_is_the_task_s_and_one_at_its_beginning_may_mean_no_split():
    def data(split):
        if split == "test":
            raise FileNotFoundError("no test here")
        yield noise(4, 3), torch.zeros(4)
        raise OSError("the disk\nis gone")

    found = made(data=data)
    with pytest.raises(TaskFailed, match=r"task t: data\('val'\) raised OSError: the disk is gone"):
        list(found.batches("val"))
    assert not found.has("test")
