"""What comes back from a slot: a file that is not the one that was measured is no result, and the candidate is evaluated again."""

import hashlib

import pytest
import rays

from autoslim.candidate import Done, Failed
from autoslim.errors import UserError
from autoslim.executors._hands import Reply
from autoslim.executors.ray_tune import MOST_SENDS, Member
from autoslim.metrics import Measurement, Value

CANDIDATE = rays.candidate(3)
FILE = f"candidates/{CANDIDATE.recipe.key}/model.onnx"


def answer(measured, sent, **more):
    """A slot measured ``measured``; ``sent`` arrives, with the hash that its bytes have unless ``said``."""
    digest = hashlib.sha256(measured).hexdigest()
    said = more.get("said", hashlib.sha256(sent).hexdigest())
    outcome = Done(Measurement({"metric": Value(0.5)}), {}, FILE, digest, CANDIDATE.recipe)
    return Reply("ok", outcome, {FILE: (said, sent)})


class Played(Member):
    """The member's own code between two ends that are played here: what is put, and what ends."""

    def __init__(self, out, replies):
        super().__init__(rays.job(out))
        self._replies, self.puts, self.said = list(replies), [], []
        self.say = self.said.append

    def _put(self, verb, payload, bench=False):
        self.puts.append((verb, payload.number))
        return len(self.puts)

    def _ends(self, seconds):
        return [(len(self.puts), self._replies.pop(0))]


def drive(member):
    member.submit(CANDIDATE)
    while not (found := list(member.outcomes(0.0))):
        pass
    return found


WHOLE = answer(b"weights", b"weights")
DAMAGED = answer(b"weights", b"Weights", said=hashlib.sha256(b"weights").hexdigest())
ANOTHER = answer(b"weights", b"other weights")


@pytest.mark.parametrize("bad", [DAMAGED, ANOTHER])
def test_a_damaged_file_is_sent_for_again_and_the_whole_one_is_written(tmp_path, bad):
    member = Played(tmp_path, [bad, WHOLE])
    assert drive(member) == [(CANDIDATE, WHOLE.value)]
    assert (tmp_path / FILE).read_bytes() == b"weights"
    assert member.puts == [("evaluate", 3)] * 2
    assert member.said == ["trial 3: its files arrived damaged and it is evaluated again"]


def test_a_file_that_never_arrives_whole_is_a_failure_with_the_reason(tmp_path):
    member = Played(tmp_path, [ANOTHER] * MOST_SENDS)
    [(_, outcome)] = drive(member)
    assert isinstance(outcome, Failed)
    assert "is not the file that was measured" in outcome.detail
    assert len(member.puts) == MOST_SENDS
    assert not (tmp_path / FILE).exists()


def test_what_a_slot_reserves_is_what_the_study_says(tmp_path):
    member = Member(rays.job(tmp_path), workers=3, cpus=2, gpus=0.5, memory_mb=4000, address="auto")
    assert (member.slots, member._cpus, member._bundle) == (3, 2, {"GPU": 0.5, "memory": 4e9})
    with pytest.raises(UserError, match="--workers: got -1"):
        Member(rays.job(tmp_path), workers=-1)
