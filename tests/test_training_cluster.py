"""Distillation through Ray Train: what one process gives, also when a worker dies on the way."""

from collections import Counter
from pathlib import Path

import pytest
from test_training_slow import ATTENTIVE, RECIPE, TASK, alone, distance, moved, plan

from autoslim import task as tasks
from autoslim.engine import compress
from autoslim.errors import AutoSlimError
from autoslim.executors import _cluster
from autoslim.training import run_name, train

_cluster.quiet_ray()
pytestmark = pytest.mark.cluster
#: appended to the task: the worker that gets there first dies at its thirteenth batch of training data, once (five are drawn before the
#: first step); and every worker writes down how many samples each run of a network gets
MORTAL = """
from pathlib import Path

COUNT, WHOLE, RUN = [0], data, Tiny.forward


def data(split):
    for batch in WHOLE(split):
        COUNT[0] += split == "train"
        if COUNT[0] == 13:
            try:
                open(FOLDER + "/died", "x").close()
            except FileExistsError:
                pass
            else:
                while not list(Path(FOLDER).glob("run/*/checkpoint_manager_snapshot.json")):
                    time.sleep(0.1)  # Ray Train asks its workers for checkpoints every two seconds, and forgets what it was not told
                os._exit(9)
        yield batch


def forward(self, x):
    with open(FOLDER + "/runs", "a") as file:
        print(os.getpid(), len(x), file=file)
    return RUN(self, x)


Tiny.forward = forward
"""


@pytest.fixture(scope="module")
def ray():
    ray = _cluster.connect("", 2, 0, False, None)
    yield ray
    ray.shutdown()


@pytest.mark.parametrize(("sharded", "failures"), [(False, 1), (True, 0)])
def test_two_workers_give_what_one_gives_though_one_dies(tmp_path, ray, sharded, failures):
    """Twelve steps, a checkpoint every five; a worker dies in step 8. It is replaced, or that ends the training and the same call is made
    again: either way it goes on after step 5."""
    mortal, folder = tmp_path / "mortal.py", tmp_path / "run"
    mortal.write_text(Path(TASK).read_text() + f"\nFOLDER = {str(tmp_path)!r}\n" + MORTAL)
    told = plan(task=str(mortal), every=5, sharded=sharded)
    one, _ = alone(plan())
    task = tasks.load(TASK)
    draft = compress(task.model(), RECIPE, [next(iter(task.batches("train")))[0]], students=task.students(task.model()))
    if not failures:
        with pytest.raises(AutoSlimError, match="run the same command again to go on"):
            train(draft, told, 2, folder, failures=0)
    notes = train(draft, told, 2, folder, failures=failures)
    assert (tmp_path / "died").exists()
    assert notes[0].startswith(f"distillation: 12 steps over 2 workers{', sharded' * sharded}, last loss")
    assert moved(told, one) > 0.02
    assert distance(one, {"model": draft.model.state_dict()}) < 2e-4
    runs = [line.split() for line in (tmp_path / "runs").read_text().splitlines()]
    last = {pid for pid, _ in runs[-4:]}
    assert len(last) == 2
    halves = Counter(pid for pid, samples in runs if samples == "16")  # of batches of 32; the teacher and the student at each step
    assert {halves[pid] for pid in last} == {2 * (12 - 5)}
    assert len(list(folder.rglob("training.pt"))) == 2


def test_checkpoints_of_another_plan_task_or_original_are_not_taken_up(tmp_path):
    other = tmp_path / "tiny.py"
    other.write_text(Path(TASK).read_text().replace("manual_seed(0)", "manual_seed(1)"))
    changes = [{}, {"steps": 13}, {"sharded": True}, {"lr": 0.02}, {"recipe": {}}, {"labels": 0.5}]
    names = {run_name(plan(**told), tasks.load(TASK)) for told in changes}
    names |= {run_name(plan(), tasks.load(str(other))), run_name(plan(task=ATTENTIVE), tasks.load(ATTENTIVE))}
    assert len(names) == len(changes) + 2
    assert run_name(plan(), tasks.load(TASK)) == run_name(plan(weights=b"", every=3), tasks.load(TASK))
