"""The option database of networks of 1 M parameters: seconds and memory of all bits x zeros x ranks of every layer, from one calibration pass.

Run: ``python benchmarks/option_database.py [--threads 2] [--samples 256]``. Goals: under 60 s on two cores; memory below three times the
model plus the calibration activations. Each network runs in a process of its own, whose resident memory is looked at 200 times a second from
before the pass on. "Activations" are the most that one layer reads and gives for all samples; what all layers read is told beside it.
Weights are random: they change neither seconds nor bytes. Exits with 1 where a goal is missed.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autoslim import host, memory, options, readings, unrolling
from autoslim.inputs import tensors

SECONDS, TIMES = 60.0, 3.0
Made = tuple[nn.Module, Callable[[int], Tensor]]


def convolutions() -> Made:
    """The residual network of the digits task, wider."""
    from autoslim.tasks.digits.task import DigitsNet

    return DigitsNet((32, 64, 160)), lambda n: torch.randn(n, 1, 32, 32)


def transformer() -> Made:
    """A BERT encoder: 4 layers of 128, 32 words."""
    from transformers import BertConfig, BertModel

    told = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 1500}
    return BertModel(BertConfig(**told, attn_implementation="eager")), lambda n: torch.randint(0, 1500, (n, 32))


class Recurrent(nn.Module):
    """Convolution, two levels of an LSTM in both directions, and a head of letters: an acoustic model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = (
            nn.Conv1d(40, 128, 3, 2, 1),
            nn.LSTM(128, 148, 2, batch_first=True, bidirectional=True),
            nn.Linear(296, 29),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(torch.relu(self.stem(x)).transpose(1, 2))[0])


def recurrent() -> Made:
    """An acoustic model, a second of 100 frames."""
    return Recurrent(), lambda n: torch.randn(n, 40, 100)


NETWORKS: dict[str, Callable[[], Made]] = {"convolutions": convolutions, "transformer": transformer, "recurrent": recurrent}


def main() -> int:
    """Print a row per network; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--only", choices=[*NETWORKS], help="this network, in this process, as JSON")
    told = parser.parse_args()
    if told.only:
        print(json.dumps(measured(told.only, told.threads, told.samples)))
        return 0
    print(f"{host.processor()}, {told.threads} threads, {told.samples} samples")
    print(
        "| network | parameters | layers | options | seconds | memory added | 3 x model + activations | what all layers read |\n"
        + "|---" * 8
        + "|"
    )
    return max(row(name, told) for name in NETWORKS)


def row(name: str, told: argparse.Namespace) -> int:
    """Measure one network in a fresh process and print; 1 if a goal is missed."""
    words = [sys.executable, __file__, "--only", name, "--threads", str(told.threads), "--samples", str(told.samples)]
    found = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    allowed = TIMES * found["model"] + found["activations"]
    sizes = " | ".join(f"{size / 1e6:.1f} MB" for size in (found["added"], allowed, found["read"]))
    print(f"| {name} | {found['parameters']:,} | {found['layers']} | {found['options']:,} | {found['seconds']:.1f} | {sizes} |", flush=True)
    return int(found["seconds"] > SECONDS or found["added"] > allowed)


def measured(name: str, threads: int, samples: int) -> dict[str, float]:
    """Seconds, and bytes that the database added to this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    model.eval()
    options.database(model, [inputs(2)], (32, 4), (0.5,), (0.5,))  # what libraries load once is no memory of the database
    batch = inputs(samples)
    activations, read = activations_of(model, batch)
    memory.trim()
    before, peak, ended = resident(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    start = time.perf_counter()
    found = options.database(model, [batch])
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "parameters": parameters,
        "model": 4 * parameters,
        "layers": len(found),
        "options": sum(len(list(one.rows())) for one in found.values()),
        "seconds": seconds,
        "added": peak[0] - before,
        "activations": activations,
        "read": read,
    }


def activations_of(model: nn.Module, batch: Tensor) -> tuple[int, int]:
    """Bytes that the widest layer reads and gives, and that all layers read together."""
    known: list[tuple[int, int]] = []

    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        known.append(tuple(sum(4 * one.numel() for one in tensors(value)) for value in (args, output)))

    handles = [module.register_forward_hook(hook) for module in model.modules() if readings.readable(module) or unrolling.matrices(module)]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return max(read + given for read, given in known), sum(read for read, _ in known)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


if __name__ == "__main__":
    sys.exit(main())
