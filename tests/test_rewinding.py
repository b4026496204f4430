"""Rewinding: what was removed stays removed, what is left has the earlier weights, and training goes on from them."""

import copy
from pathlib import Path

import networks
import pytest
import torch
from networks import noise, seeded
from safetensors.torch import save_file
from torch import nn

from autoslim import engine, recovery, rewinding
from autoslim import task as tasks
from autoslim.application import evaluator_of
from autoslim.errors import Untreatable, UserError
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, judge, recover
from autoslim.settings import check
from autoslim.spec import load_study

OFF = {"resolve": False, "bn": False, "bias": False, "ln": False}
SPARSE = [Step("sparsity", name, 0.5) for name in ("stem", "blocks.0.conv1", "head")]
CUT = [Step("channels", "blocks.0.conv1", 16), Step("channels", "stem", 24)]


@pytest.fixture(autouse=True)
def nothing_is_enough(monkeypatch):
    """Random networks lose little by a cut: their gap counts here however small it is."""
    monkeypatch.setattr(recovery, "LOSSLESS", 0.0)


def quiet():
    """A pause that nobody waits for."""


def earlier(model, seed=5, size=1.0):
    """A state dict of the same network at another moment."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        for name, value in copy.deepcopy(model.state_dict()).items()
    }


def drafted(steps):
    model = seeded(networks.Residual)
    return model, engine.compress(model, Recipe.of(steps), [noise(8, 3, 8, 8)])


def test_masks_are_kept_and_the_rest_equals_the_checkpoint():
    model, draft = drafted(SPARSE)
    state = earlier(model)
    found = rewinding.rewound(draft, model, state).state_dict()
    assert found.keys() == state.keys()
    for name, value in found.items():
        mask = draft.masks.get(name.rpartition(".")[0]) if name.endswith("weight") else None
        assert torch.equal(value, state[name] if mask is None else state[name] * mask), name
    assert float((found["stem.weight"] == 0).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_channels_that_are_left_have_the_checkpoints_weights():
    model, draft = drafted(CUT)
    state = earlier(model)
    found = rewinding.rewound(draft, model, state)
    stream, hidden = draft.kept["stem", "out"], draft.kept["blocks.0.conv1", "out"]
    assert torch.equal(found.stem.weight, state["stem.weight"][stream])
    assert torch.equal(found.blocks[0].conv1.weight, state["blocks.0.conv1.weight"][hidden][:, stream])
    assert torch.equal(found.blocks[0].bn1.running_mean, state["blocks.0.bn1.running_mean"][hidden])
    assert torch.equal(found.head.weight, state["head.weight"][:, stream])


def test_what_was_replaced_stays_and_its_neighbours_go_back():
    model, draft = drafted([Step("rank", "blocks.0.conv2", 0.25), Step("depth", "blocks.1", True)])
    state, before = earlier(model), copy.deepcopy(draft.model.state_dict())
    found = rewinding.rewound(draft, model, state).state_dict()
    for name, value in found.items():
        own = name.startswith("blocks.0.conv2.") and name != "blocks.0.conv2.bias"
        assert torch.equal(value, before[name] if own or name not in state else state[name]), name


def test_neither_the_draft_nor_the_original_is_changed():
    model, draft = drafted(SPARSE)
    states = [copy.deepcopy(one.state_dict()) for one in (model, draft.model)]
    rewinding.rewound(draft, model, earlier(model))
    for one, state in zip((model, draft.model), states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


@pytest.fixture
def school():
    model = seeded(networks.Residual)
    batches = [noise(32, 3, 8, 8, seed=seed) for seed in range(6)]
    with torch.no_grad():
        pairs = [Lesson(x, model(x)) for x in batches]
    draft = engine.compress(model, Recipe.of(Step("sparsity", name, 0.9) for name in ("blocks.0.conv1", "blocks.1.conv1")), batches[:2])
    return model, draft, pairs[:4], pairs[4:]


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_training_goes_on_from_there_and_is_kept_where_it_ends_nearer(school, tmp_path, ending):
    model, draft, lessons, held = school
    path = tmp_path / f"early{ending}"
    (save_file if ending == ".safetensors" else torch.save)(earlier(model, size=0.01), str(path))
    before, masks = judge(draft.model, held, quiet), {name: mask.clone() for name, mask in draft.masks.items()}
    (note,) = recover(draft, model, lessons, held, OFF | {"rewind": str(path), "distill_steps": 40, "lr": 3e-3})
    assert note.startswith(f"distillation from rewound weights: gap {before:.4g} -> ")
    assert "at step" in note
    assert judge(draft.model, held, quiet) < before
    for name, mask in masks.items():
        assert torch.equal(draft.model.get_submodule(name).weight != 0, mask != 0)


def test_a_state_that_leads_nowhere_is_undone(school, tmp_path):
    model, draft, lessons, held = school
    path = tmp_path / "early.pt"
    torch.save(earlier(model, size=5.0), path)
    before = copy.deepcopy(draft.model.state_dict())
    (note,) = recover(draft, model, lessons, held, OFF | {"rewind": str(path), "distill_steps": 1})
    assert note.endswith("undone")
    assert all(torch.equal(value, before[name]) for name, value in draft.model.state_dict().items())


def test_files_that_do_not_fit_are_refused(tmp_path):
    model, draft = drafted(SPARSE)
    with pytest.raises(UserError, match=r"space.yaml: rewind is 'no.pt', allowed: an existing file of weights \(.pt, .pth, .safetensors\)"):
        check({"rewind": "no.pt"}, "space.yaml")
    with pytest.raises(UserError, match=r"rewind: the state dict is not of this network .*Missing key"):
        rewinding.rewound(draft, model, {"a": torch.zeros(1)})
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="rewind: .*text.pt does not open as a state dict"):
        rewinding.load(str(tmp_path / "text.pt"))
    torch.save({"epoch": 3, "model": {}}, tmp_path / "whole.pt")
    with pytest.raises(UserError, match="rewind: .*whole.pt holds a dict, expected a state dict"):
        rewinding.load(str(tmp_path / "whole.pt"))


def test_a_student_built_anew_has_no_earlier_weights():
    model = seeded(networks.Mlp)
    twin = nn.Sequential(nn.Linear(20, 4))
    draft = engine.compress(model, Recipe.of([Step("student", "", {"builder": "twin"})]), [noise(8, 20)], students={"twin": lambda: twin})
    with pytest.raises(Untreatable, match="rewind: a student was built anew"):
        rewinding.rewound(draft, model, model.state_dict())


def test_the_draft_says_what_initial_weights_are(school):
    model, draft, lessons, held = school
    settings = OFF | {"rewind": "initial", "distill_steps": 40, "lr": 3e-3}
    with pytest.raises(UserError, match=r"rewind: got 'initial', .* allowed: a file of weights, or a task with initial\(\)"):
        recover(draft, model, lessons, held, settings)
    state = earlier(model, size=0.01)
    draft.initial = lambda: state
    before = judge(draft.model, held, quiet)
    (note,) = recover(draft, model, lessons, held, settings)
    assert note.startswith("distillation from rewound weights")
    assert judge(draft.model, held, quiet) < before
    assert rewinding.state_of("initial", draft) is state


def test_the_digits_task_begins_where_its_training_began():
    it = tasks.load("autoslim.tasks.digits.task")
    trained = {key: value for key, value in it.model().state_dict().items() if value.dim() > 1}
    key = max(trained, key=lambda key: trained[key].numel())

    def alike(state):
        return float(torch.cosine_similarity(state[key].flatten(), trained[key].flatten(), dim=0))

    other = copy.deepcopy(it.model())
    torch.manual_seed(1)
    for module in other.modules():
        getattr(module, "reset_parameters", lambda: None)()
    assert alike(it.initial()) > 0.2
    assert abs(alike(other.state_dict())) < 0.1


def task_of(text, folder):
    """A task file: the tiny network's, with ``text`` after it."""
    source = Path(networks.__file__).parent / "tasks" / "tiny.py"
    (folder / "own.py").write_text(source.read_text(encoding="utf-8") + text, encoding="utf-8")
    return tasks.load(str(folder / "own.py"))


def test_what_a_task_may_give(tmp_path):
    it = task_of("\n\ndef initial():\n    return Tiny()\n", tmp_path)
    assert it.initial().keys() == it.model().state_dict().keys()
    with pytest.raises(UserError, match=r"initial\(\) returned a int, expected a torch.nn.Module or its state dict"):
        task_of("\n\ndef initial():\n    return 3\n", tmp_path).initial()
    with pytest.raises(UserError, match=r"rewind: initial, but the task defines no initial\(\)"):
        task_of("", tmp_path).initial()


@pytest.mark.parametrize("told", ["initial", ["", "initial"]])
def test_a_space_that_rewinds_to_what_the_task_does_not_give_is_refused_in_preparation(told, tmp_path):
    task_of("", tmp_path)
    evaluator = evaluator_of(load_study(None, {"task": str(tmp_path / "own.py")}), str(tmp_path))
    assert not list(evaluator.missing_initial({"recovery": {"rewind": ""}}))
    [line] = evaluator.missing_initial({"recovery": {"rewind": told}})
    assert line.startswith(f"space: recovery.rewind is {told!r}, ")
    assert "the task defines no initial()" in line
