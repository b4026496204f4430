"""What every member of coders/ owes: the same bits come back, or it does not take the array; sizes are those of its formula."""

import numpy as np
import pytest

from autoslim import plugins, streams

NAMES = plugins.names("coders")
RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=(24, 60)).astype("<f4")
SPARSE = np.where(RNG.random((24, 60)) < 0.8, 0, FLOATS).astype("<f4")
CODED = RNG.normal(size=16).astype("<f4")[RNG.integers(0, 16, (24, 60))]
ODD = FLOATS.copy()
ODD[0, :4] = [np.nan, -np.nan, np.inf, -0.0]
#: whole numbers of three bits times a step for each 16 values of a row, the last group of a row shorter
GROUPS = RNG.integers(-3, 4, (24, 60)).astype("<f4")
GROUPS[:, ::16] = 3
GROUPS = (GROUPS * np.repeat(RNG.random((24, 4)).astype("<f4"), 16, 1)[:, :60]).astype("<f4") + np.float32(0)
ARRAYS = {
    "normal": FLOATS,
    "sparse": SPARSE,
    "very sparse": np.where(RNG.random((40, 300)) < 0.995, 0, 1.5).astype("<f4"),
    "coded": CODED,
    "sparse and coded": np.where(SPARSE == 0, np.float32(0), CODED),
    "folded": (CODED * RNG.normal(size=(24, 1)).astype("<f4")).astype("<f4"),
    "even": (RNG.integers(-3, 4, (24, 60)) * np.repeat(RNG.random((24, 2)), 30, 1)[:, :60]).astype("<f4") + np.float32(0),
    "groups": GROUPS,
    "not numbers": ODD,
    "denormal": (FLOATS * np.float32(1e-41)).astype("<f4"),
    "constant": np.full((3, 50), 2.5, "<f4"),
    "zero": np.zeros((3, 50), "<f4"),
    "one row": FLOATS[:1],
    "one column": FLOATS[:, :1],
    "int8": RNG.integers(-127, 128, (24, 60)).astype("<i1"),
    "nibbles": RNG.integers(0, 16, (24, 61)).astype("<u1"),
    "int32": RNG.integers(-3000, 3000, (1, 40)).astype("<i4"),
    "int64": np.array([[2**62, -(2**62), 0, 5, 5, 5, 5, 5]], "<i8"),
    "half": FLOATS.astype("<f2").view("<u2"),
    "double": FLOATS.astype("<f8"),
}


def again(member, values):
    parts = member.split(values)
    if parts is None:
        return None
    found = []
    for stream in parts.streams:
        how, data = streams.encode(stream)
        found.append(streams.decode(how, data, len(stream.symbols), stream.width))
    return parts, member.join(list(parts.facts), found, values.shape, values.dtype)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_come_back_or_the_array_is_not_taken(name, kind):
    values = ARRAYS[kind]
    before = values.tobytes()
    found = again(plugins.load("coders", name), values)
    assert values.tobytes() == before
    if found is not None:
        parts, made = found
        assert made.dtype == values.dtype
        assert made.shape == values.shape
        assert made.tobytes() == before
        assert all(isinstance(fact, int) for fact in parts.facts)
        assert all(int(stream.symbols.max(initial=0)) < 2**stream.width for stream in parts.streams)


def test_plain_takes_everything():
    assert all(plugins.load("coders", "plain").split(values) is not None for values in ARRAYS.values())


def bits(count, width):
    return (count * width + 7) // 8


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("plain", "normal", 24 * 60 * 4),
        ("integers", "int8", 24 * 60),
        ("integers", "nibbles", bits(24 * 61, 4)),
        ("codebook", "coded", 16 * 4 + bits(24 * 60, 4)),
        ("codebook", "constant", 4),
        ("rows", "coded", 24 * 16 * 4 + bits(24 * 60, 4)),
        ("grid", "groups", 4 * 24 * 4 + bits(24 * 64, 3)),
        ("bitmask", "sparse", bits(24 * 60, 1) + 4 * int((SPARSE != 0).sum())),
        ("bitmask", "sparse and coded", bits(24 * 60, 1) + 16 * 4 + bits(int((SPARSE != 0).sum()), 4)),
    ],
)
def test_sizes_by_hand(name, kind, expected):
    assert plugins.load("coders", name).split(ARRAYS[kind]).fixed_bytes == expected


def test_gaps_by_hand():
    values = np.zeros((1, 100), "<f4")
    values[0, [0, 9, 99]] = 1.5  # gaps 0, 8, 89: at 5 bits 89 = 2 * 31 + 27, so 3 + 2 symbols; fewest bytes over all widths
    parts = plugins.load("coders", "gaps").split(values)
    sizes = {width: bits(3 + 8 // (2**width - 1) + 89 // (2**width - 1), width) for width in range(1, 13)}
    assert parts.fixed_bytes == min(sizes.values()) + 4


def test_a_factor_for_each_output_costs_a_few_bits_an_entry():
    values = ARRAYS["folded"]
    parts = plugins.load("coders", "scaled").split(values)
    correction = parts.streams[8]
    assert correction.width <= 3
    assert parts.fixed_bytes == 16 * 4 + 24 * 4 + bits(24 * 16, correction.width) + bits(24 * 60, 4)


def test_tables_of_outputs_that_have_nothing_in_common_are_not_scaled():
    assert (
        plugins.load("coders", "scaled").split(np.stack([RNG.normal(size=8).astype("<f4")[RNG.integers(0, 8, 60)] for _ in range(9)]))
        is None
    )
