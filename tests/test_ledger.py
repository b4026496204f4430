"""The ledger of leases: whatever happens to slots, every item ends exactly once; and files that travel are what they were."""

import random

import pytest

from autoslim.errors import AutoSlimError
from autoslim.executors import _files
from autoslim.executors._ledger import AVOID_SECONDS, Ledger


def test_items_are_given_in_order_to_those_who_may_do_them():
    ledger = Ledger()
    first, timing, second = ledger.put("evaluate", "a"), ledger.put("time", "t", bench=True), ledger.put("evaluate", "b")
    assert ledger.take("x:1", bench=False, work=True, now=0).number == first
    assert ledger.take("y:1", bench=False, work=True, now=0).number == second
    assert ledger.take("z:1", bench=False, work=True, now=0) is None
    assert ledger.take("b:1", bench=True, work=False, now=0).number == timing


def test_a_slot_that_did_not_hear_the_answer_gets_its_item_again():
    ledger = Ledger()
    number = ledger.put("evaluate", "a")
    ledger.put("evaluate", "b")
    assert [ledger.take("x:1", False, True, 0).number for _ in range(2)] == [number, number]


def test_a_silent_slot_loses_its_item_and_the_late_answer_does_not_count():
    ledger = Ledger(seconds=10)
    number = ledger.put("evaluate", "a")
    ledger.take("x:1", False, True, now=0)
    ledger.renew("x:1", now=5)
    ledger.expire(now=14.9)
    assert ledger.take("y:1", False, True, now=14.9) is None
    ledger.expire(now=15.1)
    assert ledger.take("y:1", False, True, now=15.1).number == number
    assert ledger.end(number, "y's")
    assert not ledger.end(number, "x's")
    assert list(ledger.ends) == [(number, "y's")]
    assert ledger.counts["late"] == 1


def test_the_first_answer_counts_even_from_a_slot_that_was_given_up():
    ledger = Ledger(seconds=10)
    number = ledger.put("evaluate", "a")
    ledger.take("x:1", False, True, now=0)
    ledger.expire(now=11)
    assert ledger.end(number, "x's after all")
    assert ledger.take("y:1", False, True, now=12) is None


def test_a_new_life_frees_what_the_old_one_held_and_asked_for():
    ledger = Ledger()
    number = ledger.put("evaluate", "a")
    other = ledger.put("evaluate", "b")
    ledger.take("x:1", False, True, 0)
    ledger.take("y:1", False, True, 0)
    ledger.put("time", "t", bench=True, asker="x:1")
    ledger.forget("x:2")
    assert ledger.take("bench:1", True, False, 0) is None
    assert ledger.take("x:2", False, True, 0).number == number
    assert ledger.leased[other].holder == "y:1"
    assert ledger.take("x:2", False, True, 0).losses == 1


def test_an_item_that_takes_three_workers_with_it_is_given_up_with_the_reason():
    ledger = Ledger()
    number = ledger.put("evaluate", "a")
    for life in range(3):
        assert ledger.take(f"x:{life}", False, True, 0).number == number
        ledger.forget(f"x:{life + 1}")
    assert list(ledger.ends) == [(number, ("lost", "its worker was lost, 3 times"))]
    assert ledger.take("x:9", False, True, 0) is None


def test_who_hands_back_does_not_get_the_same_item_at_once():
    ledger = Ledger()
    number = ledger.put("evaluate", "a")
    ledger.take("full:1", False, True, now=0)
    ledger.hand_back(number, "full:1", "no space left", now=0)
    assert ledger.take("full:1", False, True, now=AVOID_SECONDS - 1) is None
    assert ledger.take("roomy:1", False, True, now=1).number == number
    ledger.hand_back(number, "full:1", "a stranger's word", now=1)
    assert ledger.leased[number].holder == "roomy:1"


@pytest.mark.parametrize("seed", range(20))
def test_every_item_ends_exactly_once_whatever_happens(seed):
    """Random lives: slots take, end, die, go silent, hand back and answer late; at the end all items have one answer."""
    chance, ledger, now = random.Random(seed), Ledger(seconds=5, most_losses=4), 0.0
    put, ended, lives, held, late = [], [], dict.fromkeys("abcd", 0), {}, []
    for _ in range(600):
        now += chance.random()
        name = chance.choice("abcd")
        slot = f"{name}:{lives[name]}"
        if len(put) < 40 and chance.random() < 0.2:
            put.append(ledger.put("evaluate", len(put)))
        act = chance.random()
        if act < 0.4 and (item := ledger.take(slot, False, True, now)):
            held[slot] = item.number
        elif act < 0.7 and slot in held:
            ledger.end(held.pop(slot), "done")
        elif act < 0.78:
            if slot in held:
                late.append(held.pop(slot))
            lives[name] += 1
            ledger.forget(f"{name}:{lives[name]}")
        elif act < 0.83 and slot in held:
            ledger.hand_back(held.pop(slot), slot, "full", now)
        elif act < 0.87 and late:
            ledger.end(late.pop(), "done")
        ledger.expire(now)
        ended += [number for number, _ in ledger.ends]
        ledger.ends.clear()
    while item := ledger.take("last:1", False, True, now + 100):
        ledger.end(item.number, "done")
    ledger.expire(now + 100)
    while item := ledger.take("last:1", False, True, now + 200):
        ledger.end(item.number, "done")
    ended += [number for number, _ in ledger.ends]
    assert sorted(ended) == sorted(put)
    assert ledger.counts["lost"] > 5
    assert not ledger.waiting
    assert not ledger.leased


def test_files_arrive_as_they_were_or_not_at_all(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a").mkdir(parents=True)
    (source / "a/model.onnx").write_bytes(b"weights")
    packed = _files.pack(source, [source / "a/model.onnx", source / "missing"])
    assert list(packed) == ["a/model.onnx"]
    _files.unpack(target, packed)
    assert (target / "a/model.onnx").read_bytes() == b"weights"
    digest = packed["a/model.onnx"][0]
    with pytest.raises(AutoSlimError, match="b.onnx: arrived damaged"):
        _files.unpack(target, {"a.onnx": packed["a/model.onnx"], "b.onnx": (digest, b"Weights")})
    assert not (target / "a.onnx").exists()
    with pytest.raises(AutoSlimError, match="leads out of the folder"):
        _files.unpack(target, {"../out.onnx": packed["a/model.onnx"]})
    assert not (tmp_path / "out.onnx").exists()
