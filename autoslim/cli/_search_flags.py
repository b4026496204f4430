"""The flags that `autoslim search` alone has."""

from pathlib import Path
from typing import Annotated

import typer

Study = Annotated[
    str | None,
    typer.Argument(help="A study: a shipped name (autoslim list studies) or a YAML file. Default: the embedded digits network."),
]
Preset = Annotated[str | None, typer.Option("--preset", help="mobile, edge or server: objectives and threads for a class of devices.")]
Space = Annotated[str | None, typer.Option("--space", help="Search space: a shipped name, a YAML file, or auto.")]
Families = Annotated[
    str | None, typer.Option("--families", help="Search these techniques alone, such as student,bits (autoslim list techniques).")
]
Objectives = Annotated[
    str | None,
    typer.Option(
        "--objectives",
        help="Comma-separated, metric first: metric,latency_ms,size_bytes,throughput,macs,params,peak_memory_bytes,energy_mj.",
    ),
]
Strategy = Annotated[
    str | None, typer.Option("--strategy", help="frontier (default), tpe, nsga2, random and others (autoslim list strategies).")
]
Executor = Annotated[str | None, typer.Option("--executor", help="Where candidates run (autoslim list executors).")]
Trials = Annotated[str | None, typer.Option("--trials", "--n-trials", help="Evaluations to make, repeats not counted.")]
Time = Annotated[str | None, typer.Option("--time", "--timeout", help="Time for everything, verification included: 90s, 10m, 2h.")]
WarmStart = Annotated[
    str | None, typer.Option("--warm-start", help="Folder of a finished study whose front is measured first.", metavar="DIR")
]
Grid = Annotated[
    bool | None, typer.Option("--grid/--no-grid", help="Whether strategies without tables begin with the uniform grid (default: yes).")
]
Patience = Annotated[str | None, typer.Option("--patience", help="Stop after so many evaluations without gain; 0: never.")]
Workers = Annotated[str | None, typer.Option("--workers", help="Worker processes; default: one per physical core.")]
TrialTimeout = Annotated[str | None, typer.Option("--trial-timeout", help="End a candidate after this time.")]
TrialMemoryMb = Annotated[str | None, typer.Option("--trial-memory-mb", help="End a candidate whose process uses more memory.")]
Seed = Annotated[str | None, typer.Option("--seed", help="Random state.")]
MaxSamples = Annotated[str | None, typer.Option("--max-samples", help="At most so many samples of each split.")]
Verify = Annotated[str | None, typer.Option("--verify", help="At most so many points of the front are verified.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; default reports/<study>.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", envvar="OPTUNA_STORAGE", help="Any Optuna storage URL or a journal path; default: a journal in the output folder."
    ),
]
StudyName = Annotated[str | None, typer.Option("--study-name", help="Name of the study in its storage.")]
Cache = Annotated[
    Path | None, typer.Option("--cache", help="Folder of measured candidates that studies of one network on one machine share.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print summary.json instead of the sentence.")]
