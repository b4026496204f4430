"""Sparsity: exact counts, patterns that hold, and second-order updates against least squares solved by themselves."""

import copy
import itertools

import networks
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import coverage, engine, plugins, readings
from autoslim.criteria import obs
from autoslim.criteria.obs import DAMPING
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.techniques import _patterns as patterns

UNIT = Unit("head", ("head",))
CRITERIA = plugins.names("criteria")


STRUCTURES = {}


def sparse(model, choices, samples):
    """A draft; the structure of a model is looked at once."""
    kind = type(model).__name__
    if kind not in STRUCTURES:
        STRUCTURES[kind] = coverage.analyse(model, samples[0])
    return engine.compress(
        model, Recipe.of(Step("sparsity", name, value) for name, value in choices.items()), samples, structure=STRUCTURES[kind]
    )


def residual():
    return seeded(networks.Residual), [noise(16, 3, 8, 8, seed=seed) for seed in range(4)]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_share_of_zeros_is_the_one_asked_for(criterion, share):
    model, samples = residual()
    names = ["stem", "blocks.0.conv1", "head"]
    draft = sparse(model, {name: {"share": share, "criterion": criterion} for name in names}, samples)
    for name in names:
        weight = draft.model.get_submodule(name).weight
        zeros = float((weight == 0).double().mean())
        assert zeros == pytest.approx(share, abs=0.5 / weight[0].numel() if criterion == "wanda" else 1 / 128)
        assert torch.equal(weight == 0, draft.masks[name] == 0)
    others = set(dict(model.named_parameters())) - {f"{name}.weight" for name in names}
    state, untouched = draft.model.state_dict(), model.state_dict()
    assert all(torch.equal(state[name], untouched[name]) for name in others)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("text", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4)])
def test_n_of_every_m_inputs_stay(criterion, text, n, m):
    model, samples = residual()
    draft = sparse(model, {"blocks.0.conv1": {"pattern": text, "criterion": criterion}, "head": {"pattern": text}}, samples)
    for name in ("blocks.0.conv1", "head"):
        weight = draft.model.get_submodule(name).weight
        runs = weight.flatten(2).transpose(1, 2).reshape(-1, m) if weight.dim() > 2 else weight.reshape(-1, m)
        assert (draft.masks[name].sum() / draft.masks[name].numel()).item() == n / m
        assert bool(((runs != 0).sum(1) <= n).all())
        if criterion != "obs":
            assert torch.equal(weight, model.get_submodule(name).weight * draft.masks[name]), "what stays is not moved or changed"


@pytest.mark.parametrize("criterion", CRITERIA)
def test_blocks_go_as_a_whole(criterion):
    model, samples = residual()
    draft = sparse(model, {"blocks.1.conv2": {"pattern": "4x2", "share": 0.5, "criterion": criterion}}, samples)
    kept = draft.masks["blocks.1.conv2"].permute(0, 2, 3, 1).reshape(8, 4, 9, 16, 2)
    assert set(kept.sum((1, 4)).unique().tolist()) == {0.0, 8.0}
    assert float(kept.mean()) == 0.5


def test_a_pattern_that_does_not_fit_leaves_the_layer_whole_and_says_so():
    model, samples = residual()
    draft = sparse(model, {"stem": {"pattern": "2:4"}}, samples)
    assert torch.equal(draft.model.stem.weight, model.stem.weight)
    assert draft.notes == ["sparsity: stem left whole, 32 outputs by 3 inputs do not fit pattern 2:4"]
    assert draft.masks == {}


def test_a_threshold_takes_exactly_what_is_below_it():
    model, samples = residual()
    draft = sparse(model, {"head": {"threshold": 0.1}}, samples)
    assert torch.equal(draft.model.head.weight, torch.where(model.head.weight.abs() < 0.1, 0.0, model.head.weight))


def test_a_global_share_is_the_share_of_all_layers_together():
    model, samples = residual()
    names = ["stem", "blocks.0.conv1", "head"]
    draft = sparse(model, {name: {"share": 0.6, "scope": "global"} for name in names}, samples)
    weights = torch.cat([model.get_submodule(name).weight.detach().abs().flatten() for name in names])
    bound = weights.sort().values[round(0.6 * len(weights)) - 1]
    for name in names:
        before = model.get_submodule(name).weight
        assert torch.equal(draft.model.get_submodule(name).weight, torch.where(before.abs() <= bound, 0.0, before))


@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_global_shares_of_other_criteria_add_up(criterion):
    model, samples = residual()
    names = ["stem", "blocks.0.conv1", "head"]
    draft = sparse(model, {name: {"share": 0.5, "scope": "global", "criterion": criterion} for name in names}, samples)
    masks = torch.cat([draft.masks[name].flatten() for name in names])
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.03)
    assert len({round(float(draft.masks[name].mean()), 2) for name in names}) > 1, "layers differ"


def test_wanda_by_hand():
    weight = torch.tensor([[1.0, -2.0, 3.0, 4.0], [4.0, 3.0, -2.0, 1.0]])
    inputs = torch.diag(torch.tensor([10.0, 1.0, 1.0, 0.1]))  # norms 10, 1, 1, 0.1; scores 10 2 3 .4 and 40 3 2 .1
    made, kept = plugins.load("criteria", "wanda").prune(weight, inputs, patterns.Anywhere(0.5, per_row=True))
    assert kept.tolist() == [[True, False, True, False], [True, True, False, False]]
    assert torch.equal(made, weight * kept)


def test_one_weight_removed_is_the_optimal_brain_surgeon():
    inputs, weight = noise(200, 6).double() @ noise(6, 6, seed=3).double(), noise(1, 6, seed=5).double()
    weight[0, 0] = 1e-3  # the first column has the least to lose, and all others may make up for it

    def choose(scores):
        kept = torch.ones_like(scores, dtype=torch.bool)
        kept[0, 0] = False
        return kept

    choose.step, choose.width = None, 1
    made, _ = plugins.load("criteria", "obs").prune(weight, inputs, choose)
    hessian = inputs.t() @ inputs
    inverse = torch.linalg.inv(hessian + DAMPING * hessian.diagonal().mean() * torch.eye(6))
    expected = weight - weight[0, 0] / inverse[0, 0] * inverse[0]  # Hassibi & Stork, eq. 5
    expected[0, 0] = 0
    torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-12)


def test_updates_in_batches_of_columns_are_those_of_all_columns_at_once(monkeypatch):
    inputs, weight, member = noise(64, 48) @ noise(48, 48, seed=1), noise(6, 48, seed=2), plugins.load("criteria", "obs")
    whole, _ = member.prune(weight, inputs, patterns.Few(2, 4))
    monkeypatch.setattr(obs, "COLUMNS", 8)
    parts, _ = member.prune(weight, inputs, patterns.Few(2, 4))
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_second_order_loses_less_than_wanda_and_wanda_less_than_magnitude():
    mixing = noise(48, 48, seed=1) * torch.linspace(0.05, 2, 48)
    inputs, weight = noise(512, 48) @ mixing, noise(24, 48, seed=2)
    errors = {}
    for name in CRITERIA:
        member = plugins.load("criteria", name)
        made, _ = member.prune(weight, inputs, patterns.Anywhere(0.6, member.per_row))
        errors[name] = float((inputs @ (made - weight).t()).square().sum() / (inputs @ weight.t()).square().sum())
    assert errors["obs"] < 0.75 * errors["wanda"] < 0.75 * errors["magnitude"]


def test_two_of_four_lies_between_the_best_of_all_masks_and_magnitude():
    """The floor by brute force: all 6 masks of one row of four weights, each solved by least squares."""
    totals = torch.zeros(3)
    for seed in range(40):
        inputs = noise(64, 4, seed=seed).double() @ noise(4, 4, seed=seed + 100).double()
        weight = noise(1, 4, seed=seed + 200).double()
        goal = inputs @ weight[0]
        made, kept = plugins.load("criteria", "obs").prune(weight, inputs, patterns.Few(2, 4))
        assert int(kept.sum()) == 2
        pairs = [inputs[:, list(pair)] for pair in itertools.combinations(range(4), 2)]
        best = min(float((part @ torch.linalg.lstsq(part, goal).solution - goal).square().sum()) for part in pairs)
        plain = weight[0] * (weight[0].abs() >= weight[0].abs().sort().values[2])
        errors = [best, *(float((inputs @ one - goal).square().sum()) for one in (made[0], plain))]
        assert errors[1] >= best - 1e-9
        totals += torch.tensor(errors) / float(goal.square().sum())
    assert totals[0] <= totals[1] < 0.8 * totals[2]


@pytest.mark.parametrize("build", [networks.Grouped, networks.Depthwise], ids=["grouped", "depthwise"])
@pytest.mark.parametrize("criterion", ["wanda", "obs"])
def test_groups_of_a_convolution_read_their_own_inputs(build, criterion):
    model = seeded(build)
    name = "g" if build is networks.Grouped else "dw"
    samples = [noise(8, 3, 8, 8)]
    seen = {}
    readings.visit(copy.deepcopy(model), [name], samples, lambda key, module, inputs: seen.update({key: (module, inputs)}))
    module, inputs = seen[name]
    outputs = torch.einsum("ngc,goc->ngo", inputs, readings.as_matrices(module)).flatten(1) + module.bias
    whole = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: whole.append(out))
    with torch.no_grad():
        model(samples[0])
    handle.remove()
    flat = whole[0].flatten(2).transpose(1, 2).reshape(-1, outputs.shape[1])
    nearest = torch.cdist(outputs, flat).min(1).values
    assert float(nearest.max()) < 1e-3, "each row of readings gives one of the layer's outputs"
    draft = sparse(model, {name: {"share": 0.5, "criterion": criterion}}, samples)
    assert draft.notes == []
    if criterion == "wanda":
        scores = readings.as_matrices(model.get_submodule(name)).abs() * inputs.norm(dim=0)[:, None]
        bound = scores.sort(2).values[:, :, round(scores.shape[2] * 0.5) - 1, None]
        assert torch.equal(draft.masks[name].view_as(scores), (scores > bound).float()), "each group by its own inputs"
    assert float((draft.model.get_submodule(name).weight == 0).double().mean()) == pytest.approx(0.5, abs=0.06)


def test_what_cannot_be_read_falls_back_to_magnitude_and_says_so():
    class Up(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.head = nn.ConvTranspose2d(3, 8, 2, 2), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.head(self.up(x)).mean((2, 3))

    model, samples = seeded(Up), [noise(4, 3, 4, 4)]
    draft = sparse(model, {"up": {"share": 0.5, "criterion": "obs"}}, samples)
    assert draft.notes == ["sparsity: up by magnitude, what it reads cannot be told for obs"]
    assert int((draft.model.up.weight == 0).sum()) == model.up.weight.numel() // 2


def test_later_layers_read_what_pruned_ones_give():
    model, samples = seeded(networks.Mlp), [noise(64, 20)]
    both = sparse(model, {name: {"share": 0.7, "criterion": "obs"} for name in ("first", "second")}, samples)
    alone = sparse(model, {"second": {"share": 0.7, "criterion": "obs"}}, samples)
    assert not torch.equal(both.model.second.weight, alone.model.second.weight)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        ("2:4", {"pattern": "2:4", "share": 0.5}),
        ({"share": 0.25}, 0.25),
        ({"share": 0.5, "criterion": "wanda"}, {"criterion": "wanda", "share": 0.5}),
        ({"threshold": 0.1}, {"threshold": 0.1}),
        ({"share": 0, "criterion": "obs"}, None),
        ({"pattern": "1:4", "share": 0.75, "criterion": "obs"}, {"criterion": "obs", "pattern": "1:4", "share": 0.75}),
    ],
)
def test_values_have_one_short_form(value, expected):
    member = plugins.load("techniques", "sparsity")
    assert member.effective(UNIT, value) == expected
    if expected is not None:
        assert member.effective(UNIT, expected) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "4:2",
        "0x3",
        {"pattern": "2:4", "share": 0.6},
        {"threshold": 0.1, "share": 0.5},
        {"threshold": 0.1, "criterion": "obs"},
        {"threshold": 0},
        {"share": 0.5, "scope": "network"},
        {"share": 0.5, "criterion": "luck"},
        {"pattern": "4x1"},
        {"pattern": "4x1", "share": 0.5, "scope": "global"},
        {},
        True,
    ],
    ids=repr,
)
def test_values_that_do_not_go_together_are_refused(wrong):
    with pytest.raises(UserError, match="sparsity of head: got .*allowed: a share of zeros .*magnitude, obs, wanda"):
        plugins.load("techniques", "sparsity").effective(UNIT, wrong)


def test_options_of_a_space_become_part_of_the_value():
    member = plugins.load("techniques", "sparsity", criterion="wanda", scope="global")
    done = member.effective(UNIT, 0.5)
    assert done == {"criterion": "wanda", "scope": "global", "share": 0.5}
    assert member.effective(UNIT, done) == done
    assert plugins.load("techniques", "sparsity").effective(UNIT, done) == done
    plain = member.effective(UNIT, {"share": 0.5, "criterion": "magnitude"})
    assert member.effective(UNIT, plain) == plain
    with pytest.raises(UserError, match="sparsity: criterion is 'luck', allowed"):
        plugins.load("techniques", "sparsity", criterion="luck")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_each_matrix_of_a_recurrent_layer_loses_its_share(kind):
    model, samples = seeded(networks.Recurrent, kind, bidirectional=True), [noise(8, 7, 12)]
    draft = sparse(model, {"rnn": 0.3}, samples)
    names = [name for name, _ in model.rnn.named_parameters() if name.startswith("weight")]
    assert len(names) == 4
    for name in names:
        before, after = getattr(model.rnn, name).detach(), getattr(draft.model.rnn, name).detach()
        bound = before.abs().flatten().sort().values[round(0.3 * before.numel()) - 1]
        assert torch.equal(after, torch.where(before.abs() <= bound, 0.0, before))
        assert torch.equal(draft.masks[f"rnn.{name}"] != 0, after != 0)
    with torch.no_grad():
        for parameter in draft.model.parameters():
            parameter.add_(1.0)
    draft.constrain(draft.model)
    assert all(torch.equal(getattr(draft.model.rnn, name) != 0, draft.masks[f"rnn.{name}"] != 0) for name in names)


def test_matrices_of_a_recurrent_layer_go_by_magnitude_and_say_so():
    model, samples = seeded(networks.Recurrent), [noise(8, 7, 12)]
    draft = sparse(model, {"rnn": {"share": 0.5, "criterion": "obs"}, "head": {"share": 0.5, "criterion": "obs"}}, samples)
    assert [note.split(",")[0] for note in draft.notes] == [
        "sparsity: rnn.weight_ih_l0 by magnitude",
        "sparsity: rnn.weight_hh_l0 by magnitude",
    ]
    assert float((draft.model.rnn.weight_hh_l0 == 0).float().mean()) == pytest.approx(0.5)
