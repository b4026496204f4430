"""Distillation over several workers gives what one worker with the whole batch gives, also sharded and after a restart."""

import copy
import io
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as processes
from torch import distributed as dist

from autoslim import task as tasks
from autoslim.engine import compress
from autoslim.recipe import Recipe, Step
from autoslim.recovery import gap
from autoslim.training import Learner, Plan, weights_of

pytestmark = pytest.mark.slow
TASK = str(Path(__file__).parent / "tasks" / "tiny.py")
RECIPE = Recipe.of([Step("student", "", {"builder": "small"})])


def plan(**changes):
    task = tasks.load(TASK)
    draft = compress(task.model(), RECIPE, [next(iter(task.batches("train")))[0]], students=task.students(task.model()))
    told = {"task": TASK, "recipe": RECIPE.as_dict(), "weights": weights_of(draft.model), "steps": 12, "lr": 0.01, "every": 12}
    return Plan(**told | changes)


def alone(told, **more):
    """(state told at the end, all states) of one process without a group."""
    seen = []
    Learner(told).learn(lambda state: seen.append(copy.deepcopy(state)), **more)
    return seen[-1], seen


def member(rank, world, port, told, path):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.set_num_threads(1)
    seen = []
    Learner(told).learn(seen.append)
    if rank == 0:
        torch.save(seen[-1], path)
    dist.destroy_process_group()


def together(told, world, path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(member, (world, port, told, str(path)), nprocs=world)
    return torch.load(path, weights_only=True)


def distance(left, right):
    return max(float((left["model"][name].float() - right["model"][name].float()).abs().max()) for name in left["model"])


def moved(told, state):
    before = torch.load(io.BytesIO(told.weights), weights_only=True)
    return max(float((before[name].float() - state["model"][name].float()).abs().max()) for name in before)


@pytest.mark.parametrize("sharded", [False, True])
def test_three_workers_give_what_one_gives(tmp_path, sharded):
    """Three shards of 32 samples are uneven (10, 11, 11), so a plain mean over workers would show."""
    told = plan(sharded=sharded)
    one, _ = alone(plan())
    many = together(told, 3, tmp_path / "state.pt")
    assert moved(told, one) > 0.02
    assert distance(one, many) < 2e-4
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-3)


def test_the_loss_is_that_of_recovery(tmp_path):
    """One step's loss is recovery.gap on the whole batch."""
    learner = Learner(plan(steps=1, every=1))
    inputs, _ = next(learner.batches(0))
    with torch.no_grad():
        wanted = gap(learner.bare(inputs), learner.teacher(inputs))
    assert learner.step(inputs, None) == pytest.approx(float(wanted), rel=1e-5)


def test_training_narrows_the_gap():
    told = plan(steps=60, every=60)
    learner = Learner(told)
    held = [(inputs, learner.teacher(inputs)) for inputs, _ in learner.task.batches("val")]

    def wide():
        with torch.no_grad():
            return sum(float(gap(learner.bare(inputs), wanted)) for inputs, wanted in held)

    before = wide()
    learner.learn(lambda state: None)
    assert wide() < 0.5 * before


def test_a_restart_goes_on_where_the_checkpoint_was(tmp_path):
    whole, states = alone(plan(every=5))
    assert [state["step"] for state in states] == [5, 10, 12]
    again, _ = alone(plan(every=5), state=states[0])
    assert distance(whole, again) < 1e-6
    assert again["step"] == 12
