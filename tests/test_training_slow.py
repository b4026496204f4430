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
TASK, ATTENTIVE = (str(Path(__file__).parent / "tasks" / name) for name in ("tiny.py", "attentive.py"))
RECIPE = Recipe.of([Step("student", "", {"builder": "small"})])


def plan(**changes):
    task = tasks.load(changes.get("task", TASK))
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
    seen, learner = [], Learner(told)
    learner.learn(seen.append)
    held = torch.tensor([local(learner.model.parameters()), local(learner.teacher.parameters()), local(moments(learner.optimizer))])
    every = [torch.zeros_like(held) for _ in range(world)]
    dist.all_gather(every, held)
    if rank == 0:
        torch.save(seen[-1] | {"held": torch.stack(every)}, path)
    dist.barrier()  # nobody goes while another still reads
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may outlive the group, and the C++ library aborts for those that are left at an ordinary end


def local(tensors):
    """Elements that this process holds."""
    return sum((one.to_local() if hasattr(one, "to_local") else one).numel() for one in tensors)


def moments(optimizer):
    return [one for state in optimizer.state.values() for name, one in state.items() if name.startswith("exp_avg")]


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
    student, teacher = (sum(one.numel() for one in network.parameters()) for network in (Learner(plan()).bare, tasks.load(TASK).model()))
    whole = torch.tensor([student, teacher, 2 * student])  # Adam keeps two moments of each weight
    if sharded:
        assert torch.equal(many["held"].sum(0), whole)  # each element lies with one worker alone
        assert (many["held"] < 0.5 * whole).all()
    else:
        assert torch.equal(many["held"], whole.expand(3, 3))


def answers(state):
    """What the attentive student says on validation data with the weights of a state."""
    task = tasks.load(ATTENTIVE)
    network = task.students(task.model())["small"]().eval()
    network.load_state_dict(state["model"])
    with torch.no_grad():
        return torch.cat([network(inputs) for inputs, _ in task.batches("val")])


def test_weights_that_no_layer_s_call_reads_are_there_when_they_are_read(tmp_path):
    """Attention reads its projection's weight itself, and one weight belongs to two layers. Answers are compared, since the bias of attention's
    keys has no gradient but noise, which Adam makes as large as any other."""
    told = plan(task=ATTENTIVE)
    before = {"model": torch.load(io.BytesIO(told.weights), weights_only=True)}
    one, many = alone(told)[0], together(plan(task=ATTENTIVE, sharded=True), 2, tmp_path / "state.pt")
    assert (answers(one) - answers(before)).abs().max() > 0.02
    assert (answers(one) - answers(many)).abs().max() < 2e-4


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
