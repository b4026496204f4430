"""Rankings of channels against the formulas of their papers, computed another way; ranks over groups of the same form by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import noise, seeded
from torch import nn

from autoslim import coverage, engine, plugins, ranking
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.rankings import _gates, surgeon
from autoslim.recipe import Recipe, Step


class Net(nn.Module):
    """Two convolutions with a batch norm between them; ``gate`` multiplies what the second one and the side branch read."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)
        self.side, self.head = nn.Conv2d(6, 5, 1), nn.Linear(5, 4)

    def forward(self, x, gate=None):
        x = F.relu(self.norm(self.a(x)))
        x = x if gate is None else x * gate[:, None, None]
        return self.head(F.relu(self.b(x) + self.side(x)).mean((2, 3)))


def drafted(build=Net, shape=(3, 6, 6), n=24):
    model, x = seeded(build), noise(n, *shape, seed=3)
    structure = coverage.analyse(model, x[:1])
    return engine.compress(model, Recipe(), [x[: n // 2], x[n // 2 :]], structure=structure), x


def score(name, draft, group="a"):
    return plugins.load("rankings", name).scores(draft, {group: draft.structure.groups[group]})[group]


def test_norms_of_filters_by_hand():
    draft, _ = drafted()
    weight = draft.model.a.weight.detach().double().numpy().reshape(6, -1)
    np.testing.assert_allclose(score("l1", draft), np.linalg.norm(weight, 1, axis=1) / 27)
    np.testing.assert_allclose(score("l2", draft), np.linalg.norm(weight, 2, axis=1) / 27**0.5)


def test_batch_norm_scales_are_read_and_a_group_without_is_left_to_energy():
    draft, _ = drafted()
    np.testing.assert_allclose(score("scale", draft), draft.model.norm.weight.detach().abs().double())
    assert score("scale", draft, "b") is None
    member = plugins.load("techniques", "channels", criterion="scale", round_to=1)
    with torch.no_grad():
        member.apply(draft, {"a": {"criterion": "scale", "keep": 3}, "b": {"criterion": "scale", "keep": 2}})
    assert draft.notes == ["channels: b by energy, scale says nothing of them"]


def test_a_neuron_that_never_fires_goes_first():
    draft, x = drafted()
    draft.model.norm.bias.data[4] = -100.0
    with torch.no_grad():
        fired = F.relu(draft.model.norm(draft.model.a(x))) > 0
    found = score("firing", draft)
    np.testing.assert_allclose(found, fired.double().mean((0, 2, 3)), rtol=1e-6)
    assert found.argmin() == 4
    assert found[4] == 0


def slopes(model, x):
    """(samples, channels) derivatives of the loss with respect to gates that are really there."""
    rows = []
    for number in range(len(x)):
        gate = torch.ones(6, requires_grad=True)
        rows.append(torch.autograd.grad(_gates.surprise(model(x[number : number + 1], gate), number), gate)[0])
    return torch.stack(rows).double()


def test_taylor_and_fisher_are_moments_of_the_derivatives_of_gates():
    draft, x = drafted()
    gates = slopes(draft.model, x)
    torch.testing.assert_close(score("taylor", draft), gates.abs().mean(0), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(score("fisher", draft), gates.square().mean(0) / 2, rtol=1e-3, atol=1e-9)


def test_the_loss_has_the_fisher_information_of_the_networks_own_answer():
    """Squares of drawn derivatives have the mean diag(p) - p p' of a softmax, and the identity over the variance for outputs of any size."""
    scores = torch.tensor([[1.0, 0.0, -1.0]])
    drawn = []
    for number in range(4000):
        leaf = scores.clone().requires_grad_(True)
        drawn.append(torch.autograd.grad(_gates.surprise(leaf, number), leaf)[0][0])
    p = scores.softmax(1)[0]
    torch.testing.assert_close(torch.stack(drawn).square().mean(0), p * (1 - p), rtol=0.12, atol=0.0)
    wide = torch.full((1, 2, 8), 3.0)
    drawn = []
    for number in range(2000):
        leaf = wide.clone().requires_grad_(True)
        drawn.append(torch.autograd.grad(_gates.surprise({"out": leaf}, number), leaf)[0])
    assert float(torch.stack(drawn).square().mean()) == pytest.approx(1 / 9, rel=0.05)


def test_hidden_units_of_a_recurrent_layer_have_gates_too():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    draft, x = drafted(Words, (3, 5), 8)
    found = score("taylor", draft, "rnn")
    assert found.shape == (6,)
    assert bool((found > 0).all())
    draft.model.rnn.weight_hh_l0.data[:, 2] = 0.0
    draft.model.head.weight.data[:, 2] = 0.0
    assert score("fisher", draft, "rnn")[2] == 0, "nobody reads it"


def left_over(module, rows, goal, columns):
    """Mean squared error, summed over outputs, of the best weight on some columns."""
    solved = np.linalg.lstsq(rows[:, columns], goal, rcond=None)[0]
    return float(np.square(rows[:, columns] @ solved - goal).sum(1).mean())


def test_the_surgeon_removes_what_least_squares_can_make_up_for(monkeypatch):
    monkeypatch.setattr(surgeon, "DAMPING", 1e-9)
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7)).eval(), noise(200, 5, seed=1)
    draft = engine.compress(model, Recipe(), [x], structure=coverage.analyse(model, x[:1]))
    found = score("surgeon", draft, "0")
    rows = F.relu(model[0](x)).detach().double().numpy()
    goal = rows @ model[2].weight.detach().double().numpy().T
    alone = [left_over(model[2], rows, goal, [c for c in range(6) if c != gone]) for gone in range(6)]
    first = int(np.argmin(alone))
    assert int(found.argmin()) == first
    assert float(found[first]) == pytest.approx(alone[first], rel=1e-3)
    pairs = [
        left_over(model[2], rows, goal, [c for c in range(6) if c not in (first, gone)]) if gone != first else np.inf for gone in range(6)
    ]
    second = int(np.argmin(pairs))
    assert int(found.argsort()[1]) == second
    assert float(found[second]) == pytest.approx(pairs[second], rel=1e-3)
    kept = torch.tensor([c for c in range(6) if c not in (first, second)])
    plugins.load("rankings", "surgeon").settle(draft, [(draft.structure.groups["0"], kept)])
    expected = np.linalg.lstsq(rows[:, kept.numpy()], goal, rcond=None)[0].T
    np.testing.assert_allclose(draft.model[2].weight.detach()[:, kept], expected, rtol=1e-3, atol=1e-4)
    assert bool((draft.model[2].weight.detach()[:, [first, second]] == 0).all())


def test_the_surgeons_cut_loses_less_than_the_same_channels_cut_without_it():
    """What each reader gave before the cut, all positions counted, on channels that have little to say of each other."""
    draft, x = drafted(n=64)
    read = {}
    draft.model.b.register_forward_pre_hook(lambda module, args: read.update(x=args[0].detach()))
    draft.model(x)
    group, member = draft.structure.groups["a"], plugins.load("rankings", "surgeon")
    kept = torch.topk(score("surgeon", draft), 4).indices.sort().values
    plain = {name: draft.model.get_submodule(name).weight.detach().clone() for name in ("b", "side")}
    member.settle(draft, [(group, kept)])
    gone = [c for c in range(6) if c not in kept.tolist()]
    for name, pad in (("b", 1), ("side", 0)):
        want, cut = F.conv2d(read["x"], plain[name], padding=pad), plain[name].clone()
        cut[:, gone] = 0.0
        errors = [
            float((F.conv2d(read["x"], weight, padding=pad) - want).square().mean())
            for weight in (cut, draft.model.get_submodule(name).weight.detach())
        ]
        assert errors[1] < errors[0]


class Blocks(nn.Module):
    """Two bottlenecks of one form and other widths, and a layer of another form."""

    class Bottleneck(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.up, self.down = nn.Linear(8, width), nn.Linear(width, 8)

        def forward(self, x):
            return x + self.down(F.relu(self.up(x)))

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two, self.head = nn.Linear(4, 8), self.Bottleneck(12), self.Bottleneck(20), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.two(self.one(self.stem(x))))


def test_isomorphic_groups_share_one_rank():
    draft, _ = drafted(Blocks, (4,))
    groups = draft.structure.groups
    assert set(groups) == {"stem", "one.up", "two.up"}
    forms = {name: ranking.isomorphism(draft.model, group) for name, group in groups.items()}
    assert forms["one.up"] == forms["two.up"] != forms["stem"]
    draft.model.one.up.weight.data *= 10.0
    ranks = torch.cat([score("l2", draft, name) for name in ("one.up", "two.up")])
    best = set(torch.topk(ranks, 16).indices.tolist())
    expected = len([place for place in best if place < 12]), len([place for place in best if place >= 12])
    value = {"criterion": "l2", "keep": 0.5, "scope": "isomorphic", "round_to": 1}
    chosen = ranking.choose(draft, dict.fromkeys(groups, value), "channels")
    assert {group.name: len(kept) for group, kept in chosen} == {"stem": 4, "one.up": expected[0], "two.up": expected[1]}
    assert expected == (12, 4)
    everything = ranking.choose(draft, dict.fromkeys(groups, value | {"scope": "global", "round_to": 4}), "channels")
    counts = {group.name: len(kept) for group, kept in everything}
    assert counts["one.up"] == 12
    assert all(count % 4 == 0 for count in counts.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0.5, "criterion": "luck"},
        {"keep": 4, "scope": "global"},
        {"criterion": "l1"},
        {"keep": 0.5, "scope": "row"},
        {"keep": 0.5, "by": 1},
    ],
)
def test_values_that_are_none_are_refused(wrong):
    with pytest.raises(UserError, match=r"channels of a: got .* allowed: a share"):
        plugins.load("techniques", "channels").effective(Unit("a", ("a",), {"size": 8}), wrong)
    with pytest.raises(UserError, match="channels: criterion is 'luck', allowed: energy, firing"):
        plugins.load("techniques", "channels", criterion="luck")


def test_values_have_one_short_form():
    unit = Unit("a", ("a",), {"size": 32})
    plain, told = plugins.load("techniques", "channels"), plugins.load("techniques", "channels", criterion="fisher")
    assert plain.effective(unit, {"keep": 0.5, "criterion": "energy"}) == 16
    assert told.effective(unit, 0.5) == {"criterion": "fisher", "keep": 16}
    assert plain.effective(unit, {"keep": 1.0, "criterion": "l1"}) is None
    wide = {"criterion": "energy", "keep": 0.5, "round_to": 8, "scope": "global"}
    assert plain.effective(unit, {"keep": 0.5, "scope": "global"}) == wide
    recipe = Recipe.of([Step("channels", "a", wide), Step("channels", "b", {"criterion": "l1", "keep": 4})])
    assert recipe.by("channels")["a"] == wide


def test_groups_that_a_criterion_says_nothing_of_are_not_ranked_with_others():
    """Batch-norm scales of a beside energies of b, whose unit is another: each keeps its own share."""
    draft, _ = drafted()
    draft.model.norm.weight.data.mul_(1e-6)
    value = {"criterion": "scale", "keep": 0.5, "scope": "global", "round_to": 1}
    chosen = ranking.choose(draft, {"a": value, "b": value}, "channels")
    assert {group.name: (group.size, len(kept)) for group, kept in chosen} == {"a": (6, 3), "b": (5, 3)}
