"""What is measured: names, units, directions and meanings in one table, and the value that carries a measurement."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Metric:
    """One column of every table. ``direction`` is the single source for "better"."""

    name: str
    unit: str
    direction: Direction
    meaning: str


METRICS = {
    metric.name: metric
    for metric in (
        Metric("metric", "", "max", "the task's leading metric on validation data, scored with the shipped file (direction: the task's)"),
        Metric("latency_ms", "ms", "min", "median (p50) time of one run of example_input on the shipped file"),
        Metric("latency_ratio", "", "min", "median of paired ratios to the untouched model's file, timed in turn"),
        Metric("throughput", "samples/s", "max", "example_input's batch size divided by the p50 latency"),
        Metric("size_bytes", "bytes", "min", "bytes on disk of everything the file needs"),
        Metric("macs", "", "min", "multiply-accumulates of convolutions, linear and recurrent layers for one sample"),
        Metric("params", "", "min", "parameters that the model stores, zeros included"),
        Metric("peak_memory_bytes", "bytes", "min", "resident memory that loading and running the file adds to a fresh process"),
        Metric("energy_mj", "mJ", "min", "energy of one run, as the device tells it or as the processors' own counters do"),
    )
}
OBJECTIVES = ("metric", "latency_ms", "size_bytes", "throughput", "macs", "params", "peak_memory_bytes", "energy_mj")


@dataclass(frozen=True)
class Value:
    """A number with the interval it is known to (95 %); ``low`` and ``high`` are None where no interval is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured on one shipped file, all of it in one target environment.

    ``values`` maps a name of METRICS to its Value; ``metric`` is in the task's own direction. ``others`` holds the task's
    further metrics. ``not_counted`` names what the counts leave out. Missing names are unknown, never zero.
    """

    values: Mapping[str, Value]
    others: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    not_counted: tuple[str, ...] = ()

    def get(self, name: str) -> float | None:
        found = self.values.get(name)
        return None if found is None else found.value

    def upper(self, name: str) -> float | None:
        """The upper end of the interval, or the value itself where there is none."""
        found = self.values.get(name)
        return None if found is None else found.value if found.high is None else found.high

    def as_dict(self) -> dict[str, Any]:
        """Plain data, which :meth:`from_dict` takes."""
        data = asdict(self)
        data["not_counted"] = list(self.not_counted)
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Measurement":
        values = {name: Value(**value) for name, value in data["values"].items()}
        return Measurement(values, data["others"], data["facts"], tuple(data["not_counted"]))


def direction_of(name: str, task_direction: Direction) -> Direction:
    """ "min" or "max" for one objective; the leading metric's direction is the task's."""
    return task_direction if name == "metric" else METRICS[name].direction


def loss_sign(direction: Direction) -> int:
    """+1 if smaller is better, -1 if larger is better: value * sign is always to be minimised."""
    return 1 if direction == "min" else -1
