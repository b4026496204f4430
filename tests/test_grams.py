"""Second moments of what layers read: against whole matrices of readings, however few samples run at once and layers share a pass."""

import pytest
import torch
import torch.nn.functional as F
from networks import noise, seeded
from torch import nn

from autoslim import grams


class Twice(nn.Module):
    """A grouped convolution, a linear layer that runs twice, one that never runs; and the batch sizes that it saw."""

    def __init__(self):
        super().__init__()
        self.conv, self.again, self.idle = nn.Conv2d(4, 8, 3, 2, 1, groups=2), nn.Linear(8, 8), nn.Linear(3, 3)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.again(torch.tanh(self.again(x)))


def found(model, batches):
    return {name: moments for name, _, moments in grams.visit(model, batches)}


def mean_of(rows):
    """(rows, columns) -> their second moments."""
    return rows.T.double() @ rows.double() / len(rows)


@pytest.mark.parametrize(("room", "passes"), [(0, 3), (30, 1)])
def test_moments_are_those_of_all_readings_together(room, passes, monkeypatch):
    monkeypatch.setattr(grams, "SUMS", room)
    model, batches = seeded(Twice), [noise(21, 4, 9, 9), noise(5, 4, 9, 9, seed=1)]
    told = found(model, batches)
    assert set(told) == {"conv", "again"}
    x = torch.cat(batches)
    patches = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)  # 25 positions: all of them take part
    for group, moments in enumerate(told["conv"]):
        torch.testing.assert_close(
            moments.double(), mean_of(patches.reshape(-1, 36)[:, 18 * group : 18 * (group + 1)]), rtol=1e-4, atol=1e-5
        )
    with torch.no_grad():
        first = torch.relu(model.conv(x)).mean((2, 3))
    torch.testing.assert_close(told["again"][0].double(), mean_of(first), rtol=1e-4, atol=1e-5)
    assert max(model.sizes) <= grams.PIECE
    assert sum(model.sizes) == 26 * passes


def test_a_pass_holds_no_more_than_it_may():
    model = nn.Sequential(*(nn.Linear(columns, 2) for columns in (40, 40, 4, 200, 4, 4)))
    room = grams.SUMS * 4 * sum(parameter.numel() for parameter in model.parameters())
    told = grams.passes(model)
    assert [name for names in told for name in names] == list("012345")
    for names in told:
        needs = [4 * model.get_submodule(name).in_features ** 2 for name in names]
        assert sum(needs) <= room or len(needs) == 1
    assert ["3"] in told, "the widest alone is more than fits"


def test_hooks_are_taken_off_also_where_the_model_raises():
    model = seeded(Twice)
    with pytest.raises(RuntimeError):
        found(model, [noise(2, 5, 9, 9)])
    assert not any(module._forward_pre_hooks for module in model.modules())


# -- recurrent layers --------------------------------------------------------------------------------------------------------


class Steps(nn.Module):
    """A recurrent layer written step by step, for its readings: {matrix: [rows]}, from PyTorch's cells of the same weights."""

    CELLS = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def readings(self, sequences):
        """``sequences``: (steps, features) each, of any lengths."""
        found = {}
        for data in sequences:
            for level in range(self.layer.num_layers):
                sides = []
                for suffix in ("", "_reverse") if self.layer.bidirectional else ("",):
                    cell = self.CELLS[type(self.layer)](data.shape[1], self.layer.hidden_size)
                    name = f"_l{level}{suffix}"
                    cell.load_state_dict({key: getattr(self.layer, key + name) for key in cell.state_dict()})
                    state, outputs = None, []
                    for x in data.flip(0) if suffix else data:
                        hidden = torch.zeros(self.layer.hidden_size) if state is None else state[0] if isinstance(state, tuple) else state
                        found.setdefault(f"weight_ih{name}", []).append(x)
                        found.setdefault(f"weight_hh{name}", []).append(hidden)
                        state = cell(x, state)
                        outputs.append(state[0] if isinstance(state, tuple) else state)
                    outputs = torch.stack(outputs)
                    sides.append(outputs.flip(0) if suffix else outputs)
                data = torch.cat(sides, 1)
        return found


class Sequence(nn.Module):
    """A recurrent layer over padded batches, packed by the lengths where told."""

    def __init__(self, kind, packed, **told):
        super().__init__()
        self.cell, self.packed = kind(6, 5, batch_first=True, **told), packed

    def forward(self, x, lengths):
        if not self.packed:
            return self.cell(x)[0]
        data = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.cell(data)[0], batch_first=True)[0]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("told", [{}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("kind", Steps.CELLS)
def test_every_matrix_of_a_recurrent_layer_reads_what_its_cells_read(kind, told, packed):
    model, x, lengths = seeded(lambda: Sequence(kind, packed, **told)), noise(20, 7, 6), torch.arange(20) % 6 + 2
    given = [row[: length if packed else 7] for row, length in zip(x, lengths.tolist(), strict=True)]
    with torch.no_grad():
        wanted = {f"cell.{name}": mean_of(torch.stack(rows)) for name, rows in Steps(model.cell).readings(given).items()}
    told = found(model, [(x, lengths)])
    assert set(told) == set(wanted)
    for name, moments in told.items():
        torch.testing.assert_close(moments[0].double(), wanted[name], rtol=1e-4, atol=1e-6)


def test_states_that_a_layer_begins_with_are_read():
    layer, x, state = nn.GRU(4, 3), noise(1, 8, 4), noise(1, 8, 3, seed=1)  # one step of eight samples

    class Begun(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, state):
            return self.layer(x, hx=state)[0]

    told = grams.moments(Begun(), ["layer"], [(x, state)])  # the first axis of both is 1: they run as one piece
    torch.testing.assert_close(told["layer.weight_hh_l0"][0].double(), mean_of(state[0]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_cell_reads_in_every_call(kind):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = kind(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            state = None
            for step in range(x.shape[1]):
                state = self.cell(x[:, step], state)
            return self.head(state[0] if isinstance(state, tuple) else state)

    model, x = seeded(Loop), noise(20, 7, 6)
    layer = {nn.LSTMCell: nn.LSTM, nn.GRUCell: nn.GRU, nn.RNNCell: nn.RNN}[kind](6, 5, batch_first=True)
    layer.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    told = found(model, [x])
    assert set(told) == {"cell.weight_ih", "cell.weight_hh", "head"}
    with torch.no_grad():
        hidden = layer(x)[0]
    torch.testing.assert_close(told["cell.weight_ih"][0].double(), mean_of(x.reshape(-1, 6)), rtol=1e-4, atol=1e-6)
    before = torch.cat([torch.zeros(20, 1, 5), hidden[:, :-1]], 1)
    torch.testing.assert_close(told["cell.weight_hh"][0].double(), mean_of(before.reshape(-1, 5)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(told["head"][0].double(), mean_of(hidden[:, -1]), rtol=1e-4, atol=1e-6)


def test_an_lstm_with_projections_reads_them():
    model = seeded(lambda: nn.Sequential(nn.LSTM(6, 8, proj_size=3)))
    x = noise(5, 4, 6)
    told = grams.moments(model, ["0"], [x])
    with torch.no_grad():
        hidden = model[0](x)[0]
    before = torch.cat([torch.zeros(1, 4, 3), hidden[:-1]]).reshape(-1, 3)
    torch.testing.assert_close(told["0.weight_hh_l0"][0].double(), mean_of(before), rtol=1e-4, atol=1e-6)
    assert set(told) == {"0.weight_ih_l0", "0.weight_hh_l0"}
