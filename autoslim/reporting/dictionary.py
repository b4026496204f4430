"""The data dictionary: type, unit and meaning of every column of front, trials and ablation; dictionary.csv is written from it."""

from typing import NamedTuple

from autoslim.reporting.ablation import COLUMNS
from autoslim.tables import FRONT_COLUMNS, TRIAL_COLUMNS


class Column(NamedTuple):
    """``kind``: text, integer, number or boolean."""

    kind: str
    unit: str
    meaning: str


_TEST, _VAL = "on the test split (or on test_split)", "on the validation split"
_LOW, _HIGH = "lower end of the 95 % interval", "upper end of the 95 % interval"

SHARED = {
    "key": Column("text", "", "hash of the recipe; equal recipes have equal keys"),
    "latency_ms": Column("number", "ms", "median (p50) time of one run of the timed input"),
    "latency_ms_low": Column("number", "ms", f"latency_ms: {_LOW}"),
    "latency_ms_high": Column("number", "ms", f"latency_ms: {_HIGH}"),
    "latency_ratio": Column("number", "1", "time as a ratio to the untouched model's file, timed in turn"),
    "size_bytes": Column("integer", "bytes", "bytes of the file on disk"),
    "macs": Column("integer", "1", "multiply-accumulates of the counted layers, one sample"),
    "params": Column("integer", "1", "parameters of the compressed model, zeros included"),
    "peak_memory_bytes": Column("number", "bytes", "resident memory that opening and running the file adds to a process"),
    "energy_mj": Column("number", "mJ", "energy of one run, told by the device or by the processors' counters"),
    "metric_val": Column("number", "the metric's", f"the leading metric {_VAL}"),
    "summary": Column("text", "", "what was done, in words"),
}
FRONT = {
    "schema_version": Column("integer", "", "version of these columns"),
    "label": Column("text", "", "untouched, uniform-int8, uniform-channels-SHARE, or empty"),
    "feasible": Column("boolean", "", "within all limits of the latest run, with verified figures"),
    "metric": Column("text", "", "name of the leading metric"),
    "metric_direction": Column("text", "", "max or min: which way is better"),
    "metric_test": Column("number", "the metric's", f"the leading metric {_TEST}"),
    "metric_test_low": Column("number", "the metric's", f"metric_test: {_LOW}"),
    "metric_test_high": Column("number", "the metric's", f"metric_test: {_HIGH}"),
    "drop_test": Column("number", "the metric's", f"how much worse than untouched {_TEST}; negative is better"),
    "drop_test_low": Column("number", "the metric's", f"drop_test: {_LOW}, paired with the untouched model"),
    "drop_test_high": Column("number", "the metric's", f"drop_test: {_HIGH}, paired with the untouched model"),
    "n_test": Column("integer", "samples", "samples scored"),
    "latency_ratio_low": Column("number", "1", f"latency_ratio: {_LOW}"),
    "latency_ratio_high": Column("number", "1", f"latency_ratio: {_HIGH}"),
    "size_ratio": Column("number", "1", "size_bytes divided by the untouched file's"),
    "target": Column("text", "", "runtime that ran the file"),
    "threads": Column("integer", "", "threads that were timed"),
    "batch": Column("integer", "samples", "batch of the timed input that weighs most"),
    "model_file": Column("text", "", "path below the output folder"),
    "recipe_file": Column("text", "", "path below the output folder"),
    "sha256": Column("text", "", "hash of the model's file"),
    "throughput": Column("number", "samples/s", "batch divided by latency_ms"),
    "latency_p95_ms": Column("number", "ms", "95th percentile of the time of one run"),
    "drop_val": Column("number", "the metric's", f"how much worse than untouched {_VAL}"),
    "drop_expected": Column(
        "number", "the metric's", "drop_val weighed with the drop that the gap stands for, as all results of the study tell it"
    ),
    "metric_val_low": Column("number", "the metric's", f"metric_val: {_LOW}"),
    "metric_val_high": Column("number", "the metric's", f"metric_val: {_HIGH}"),
    "gap": Column("number", "nats or 1", "how far the file's outputs are from the original's on held-out inputs of the train split"),
    "test_split": Column("text", "", "test, or val if the task has no test split"),
    "outside": Column("boolean", "", "a rival that is no point of the search space: shown beside the points, never recommended or counted"),
}
_CUT = "; beyond 32,767 characters, a spreadsheet's most, the CSV is cut and ends in '... (shortened)', the Parquet file is whole"
TRIALS = {
    "number": Column("integer", "", "the trial's number; 0 is the untouched model"),
    "label": Column("text", "", "as in front; also corner, the strongest point"),
    "end": Column("text", "", "done, rejected, failed or running"),
    "rung": Column("text", "", "where it was rejected: predicted, timed or quick"),
    "reason": Column("text", "", "why it failed"),
    "detail": Column("text", "", "one line about the failure"),
    "cached_from": Column("integer", "", "number of the trial that this one repeats"),
    "feasible": Column("boolean", "", "no limit known to be broken, with figures of the search"),
    "violations": Column("text", "JSON", f"per limit: measured / limit - 1; at most 0 holds{_CUT}"),
    "seconds": Column("text", "JSON", "seconds per phase"),
    "recipe": Column("text", "JSON", f"the recipe{_CUT}"),
    "point": Column("text", "JSON", f"the strategy's point{_CUT}"),
}
ABLATION = {
    "kind": Column("text", "", "point: the recipe of a verified point, measured again; search: a whole search"),
    "without": Column("text", "", "the family of techniques that was taken out; empty: none, the whole recipe"),
    "point": Column("text", "", "key of the point that was taken apart"),
    "end": Column("text", "", "done or failed"),
    "detail": Column("text", "", "why it failed"),
    "feasible": TRIALS["feasible"],
    "metric_val_low": FRONT["metric_val_low"],
    "metric_val_high": FRONT["metric_val_high"],
    "drop_val": FRONT["drop_val"],
    "latency_ratio_low": FRONT["latency_ratio_low"],
    "latency_ratio_high": FRONT["latency_ratio_high"],
    "size_ratio": FRONT["size_ratio"],
    "evaluations": Column("integer", "", "evaluations that the search without the family made"),
    "hypervolume": Column("number", "1", "hypervolume that it reached, on validation data, as in summary.json"),
    "hypervolume_whole": Column("number", "1", "hypervolume that this study had reached after as many evaluations"),
    "seconds": Column("number", "s", "what the row took: of one candidate, or of the whole search"),
    "recipe": TRIALS["recipe"],
}
#: columns of tables whose study asked for the measurement
ON_REQUEST = {
    "energy_mj": SHARED["energy_mj"],
    "energy_mj_low": Column("number", "mJ", f"energy_mj: {_LOW}"),
    "energy_mj_high": Column("number", "mJ", f"energy_mj: {_HIGH}"),
}
TABLES = {
    "ablation": {name: ABLATION.get(name) or SHARED[name] for name in COLUMNS},
    "front": {name: FRONT.get(name) or SHARED[name] for name in FRONT_COLUMNS if name in FRONT or name in SHARED},
    "trials": {name: TRIALS.get(name) or SHARED[name] for name in TRIAL_COLUMNS if name in TRIALS or name in SHARED},
}


def column(table: str, name: str) -> Column:
    """What a column means; columns that are neither in the contract nor measured on request are further metrics of the task."""
    return (
        TABLES[table].get(name)
        or ON_REQUEST.get(name)
        or Column("number", "the metric's", f"{name.removeprefix('metric_')}: a further metric of the task {_TEST}")
    )
