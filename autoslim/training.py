"""Long distillation of one candidate by several workers with Ray Train: each step's batch is cut into shards and gradients are averaged,
so that the result is that of one worker with the whole batch, up to float noise.

Replicated (DistributedDataParallel) by default; ``sharded`` spreads weights, gradients and optimizer, and the teacher's weights, over the
workers (FSDP, Zhao et al. 2023, https://arxiv.org/abs/2304.11277) for training that one worker's memory does not hold: each keeps its part
and sees one layer whole at a time. Each builds the networks once, whole, before it gives up the rest. Recipes, seeds and weights travel;
modules do not.
"""

import io
import itertools
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim import task as tasks
from autoslim.digest import hashed
from autoslim.engine import Draft, compress, weight_of
from autoslim.errors import AutoSlimError, UserError
from autoslim.inputs import Inputs, batch_size, call, rows, tensors
from autoslim.layers import COUNTED
from autoslim.recipe import Recipe
from autoslim.recovery import CLIP

#: calibration batches that a worker's own compression needs; the weights come from the caller
CALIBRATION = 2
#: the file of a checkpoint, and how many are kept
CHECKPOINT, KEPT = "training.pt", 2


@dataclass(frozen=True)
class Plan:
    """What every worker is told; plain data. ``weights`` is a state dict as torch.save writes it."""

    task: str
    recipe: Mapping[str, Any]
    weights: bytes
    steps: int
    task_args: Mapping[str, str] = field(default_factory=dict)
    max_samples: int | None = None
    part: str | None = None
    lr: float = 1e-3
    labels: float = 0.0
    sharded: bool = False
    every: int = 50
    threads: int = 1


def run_name(plan: Plan, task: tasks.Task) -> str:
    """What the checkpoints of a run are kept under: another plan, task or original finds none of them. The weights that the plan begins
    with do not count, since a checkpoint has its own."""
    told = {name: value for name, value in vars(plan).items() if name not in ("weights", "every", "threads")}
    original = itertools.chain.from_iterable(task.model().state_dict().items())
    return f"training-{hashed(json.dumps(told, sort_keys=True), task.fingerprint(), *original):016x}"


def train(draft: Draft, plan: Plan, workers: int, folder: Path, cpus: int = 1, gpus: float = 0.0, failures: int = 3) -> list[str]:
    """Distil ``draft.model`` in place over ``workers`` of the Ray that this process is connected to; returns notes.

    ``folder`` holds the last checkpoints, on a file system that all workers see; the same call goes on from the last one. A lost worker is
    replaced up to ``failures`` times. Raises UserError where the draft cannot be trained so, and AutoSlimError where workers are lost or
    fail more often.
    """
    if plan.sharded and draft.masks:
        raise UserError("--sharded: the recipe has zeros that must stay zero, which sharded training does not keep; leave the flag out")
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    folder.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        work,
        train_loop_config={"plan": plan},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=run_name(plan, tasks.load(plan.task, plan.task_args, plan.max_samples, plan.part)),
            storage_path=str(folder.resolve()),
            failure_config=FailureConfig(max_failures=failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise AutoSlimError(
            f"training: {' '.join(str(error).split())[-300:]}; run the same command again to go on from the last checkpoint"
        ) from None
    with result.checkpoint.as_directory() as place:
        state = torch.load(Path(place) / CHECKPOINT, map_location="cpu", weights_only=True)
    draft.model.load_state_dict(state["model"])
    return [
        f"distillation: {state['step']} steps over {workers} workers{', sharded' if plan.sharded else ''}, last loss {state['loss']:.4g}"
    ]


def work(config: Mapping[str, Any]) -> None:
    """One worker's loop, inside Ray Train."""
    import ray.train

    plan: Plan = config["plan"]
    torch.set_num_threads(plan.threads)
    known = ray.train.get_checkpoint()
    state = None
    if known is not None:
        with known.as_directory() as place:
            state = torch.load(Path(place) / CHECKPOINT, map_location="cpu", weights_only=True)

    def save(told: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as place:
            first = dist.get_rank() == 0
            if first:
                torch.save(told, Path(place) / CHECKPOINT)
            metrics = {"step": told["step"], "loss": told["loss"]}
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(place) if first else None)

    Learner(plan).learn(save, state)


class Learner:
    """The model, its teacher and the optimizer of one worker; with one process and no group it is the reference of the others."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.task = tasks.load(plan.task, plan.task_args, plan.max_samples, plan.part)
        self.teacher = self.task.model()
        draft = self._draft()
        draft.model.load_state_dict(torch.load(io.BytesIO(plan.weights), map_location="cpu", weights_only=True))
        self.masks, self.bare = draft.masks, draft.model.eval()
        for parameter in self.bare.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.model = self._spread(self.bare)
        if plan.sharded and dist.is_initialized():
            shard(self.teacher, self.task.example_input())
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trainable, lr=plan.lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._pace)
        self.loss = self.task.loss() if plan.labels and self.task.has_targets() else None

    def _draft(self) -> Draft:
        """The compressed network's shape; its weights are replaced."""
        split = "train" if self.task.has("train") else "val"
        calibration = [inputs for (inputs, _), _ in zip(self.task.batches(split), range(CALIBRATION), strict=False)]
        return compress(self.teacher, Recipe.from_dict(self.plan.recipe), calibration, students=self.task.students(self.teacher))

    def _spread(self, model: nn.Module) -> nn.Module:
        if self.world == 1 and not dist.is_initialized():
            return model
        if not self.plan.sharded:
            return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        return shard(model, self.task.example_input())

    def _pace(self, step: int) -> float:
        """A short warm-up and a cosine, as in recovery.distil."""
        warm_up = max(1, self.plan.steps // 6)
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm_up) / max(1, self.plan.steps - warm_up)))

    def batches(self, skip: int) -> Iterator[tuple[Inputs, Any]]:
        """The task's training batches, again and again; the first ``skip`` were seen before a restart. Batches with fewer samples than
        there are workers are left out."""
        split, count = ("train" if self.task.has("train") else "val"), 0
        while True:
            before = count
            for inputs, targets in self.task.batches(split):
                if batch_size(inputs) >= self.world:
                    count += 1
                    if count > skip:
                        yield inputs, targets
            if count == before:
                raise UserError(f"--workers: got {self.world}, which is more than the samples of any training batch")

    def learn(self, save: Any, state: Mapping[str, Any] | None = None) -> None:
        """All steps; ``save`` is called by every worker every ``plan.every`` steps and at the end, with the whole state in rank 0."""
        begun = 0
        if state is not None:
            self._restore(state)
            begun = int(state["step"])
        data = self.batches(begun)
        for step in range(begun + 1, self.plan.steps + 1):
            value = self.step(*next(data))
            if step % self.plan.every == 0 or step == self.plan.steps:
                save({**self._state(), "step": step, "loss": value})

    @torch.enable_grad()
    def step(self, inputs: Inputs, targets: Any) -> float:
        """One step on this worker's shard; the loss of the whole batch."""
        size = batch_size(inputs)
        start, stop = (size * place // self.world for place in (self.rank, self.rank + 1))
        part = rows(inputs, start, stop)
        with torch.no_grad():
            wanted = call(self.teacher, part)
        args = call(self.model, part)
        share = (stop - start) / size
        objective = self._gap(args, wanted, share)
        if self.loss is not None and targets is not None:
            own = rows(targets, start, stop, size)
            objective = objective + self.plan.labels * self.loss(args, own, part) * share
        self.optimizer.zero_grad()
        (objective * self.world).backward()  # averaged over the workers: the gradient of the sum of the shares
        nn.utils.clip_grad_norm_([parameter for parameter in self.model.parameters() if parameter.requires_grad], CLIP)
        self.optimizer.step()
        self.schedule.step()
        for name, mask in self.masks.items():
            weight_of(self.bare, name).data.mul_(mask)
        return float(self._sum(objective.detach()))

    def _gap(self, outputs: Any, wanted: Any, share: float) -> Tensor:
        """This shard's part of recovery.gap over the whole batch: the parts of all shards sum up to it."""
        got, want = tensors(outputs), tensors(wanted)
        if len(want) == 1 and want[0].dim() == 2 and want[0].shape[1] > 1 and want[0].is_floating_point():
            return share * F.kl_div(F.log_softmax(got[0], 1), F.log_softmax(want[0], 1), reduction="batchmean", log_target=True)
        parts = []
        for a, b in zip(got, want, strict=True):
            if b.is_floating_point():
                whole = self._sum(torch.stack([b.double().square().sum(), torch.tensor(float(b.numel()), dtype=torch.double)]))
                parts.append((a - b).square().sum() / whole[1] / (whole[0] / whole[1]).clamp_min(1e-12))
        return torch.stack(parts).mean().float() if parts else torch.zeros((), requires_grad=True)

    def _sum(self, value: Tensor) -> Tensor:
        if dist.is_initialized():
            value = value.clone()
            dist.all_reduce(value)
        return value

    def _state(self) -> dict[str, Any]:
        """Model and optimizer, whole; every worker must take part."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

        model, optimizer = get_state_dict(self.model, self.optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        return {"model": model, "optimizer": optimizer, "schedule": self.schedule.state_dict()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(full_state_dict=True),
        )
        self.schedule.load_state_dict(state["schedule"])


def shard(model: nn.Module, example: Inputs) -> nn.Module:
    """Spread a model's parameters over the workers, in place, layer by layer. A layer gathers its parameters when it is called; what belongs
    to layers that are not called on ``example`` (an attention reads its projection's weight itself) or to several is gathered for the whole
    run of the model."""
    from torch.distributed.fsdp import fully_shard

    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, args: called.add(module)) for module in model.modules()]
    with torch.no_grad():
        call(model, example)
    for hook in hooks:
        hook.remove()
    owners = Counter(id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False))
    for module in list(model.modules()):
        own = list(module.parameters(recurse=False))
        if isinstance(module, COUNTED) and module in called and own and all(owners[id(parameter)] == 1 for parameter in own):
            fully_shard(module, reshard_after_forward=True)
    return fully_shard(model, reshard_after_forward=True)


def weights_of(model: nn.Module) -> bytes:
    """A model's state dict as bytes."""
    place = io.BytesIO()
    torch.save(model.state_dict(), place)
    return place.getvalue()
