"""To other tools: MLflow, TensorBoard and optuna-dashboard. Each is an extra that is loaded only when it is named.

A destination is what stands after ``--to``: a folder, a tracking URI, or nothing for the dashboard.
"""

import hashlib
import importlib
import mimetypes
import re
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.candidate import Done
from autoslim.clock import sha256
from autoslim.errors import AutoSlimError, UserError
from autoslim.reporting import words
from autoslim.reporting.context import Material
from autoslim.storage import hidden
from autoslim.study import Lease

#: how a tracking URI begins that names a database
DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
#: name -> (extra of the package, module that must be there)
EXTRAS = {"mlflow": ("mlflow", "mlflow"), "tensorboard": ("tensorboard", "tensorboardX"), "dashboard": ("dashboard", "optuna_dashboard")}
NUMBERS = ("metric_test", "metric_val", "drop_test", "latency_ms", "latency_ratio", "size_bytes", "size_ratio", "macs", "params", "peak_memory_bytes", "throughput", "latency_p95_ms")  # fmt: skip
#: files of the report that travel with it, where they are there
FILES = (
    "report.html",
    "summary.json",
    "front.csv",
    "ablation.csv",
    "trials.csv",
    "dictionary.csv",
    "figures/pareto_latency.png",
    "figures/pareto_size.png",
    "figures/history.png",
)


@dataclass(frozen=True)
class Source:
    """Where a report was written, and where its study lives: the folder that holds its lease, and its storage (None: the folder's journal)."""

    out: Path
    folder: Path
    storage: str | None = None


def check(kind: str) -> None:
    """Raise UserError for an unknown kind or a package that is not installed."""
    if kind not in EXTRAS:
        raise UserError(f"--to: got {kind!r}, allowed: {', '.join(EXTRAS)}")
    extra, package = EXTRAS[kind]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(f"--to {kind}: needs the package {package!r}, which is not installed; pip install 'autoslim[{extra}]'") from None


def export(kind: str, material: Material, source: Source, where: str) -> str:
    """Send a study whose report is written; returns a sentence about where it is. Raises UserError as :func:`check`, and for a place that
    cannot be written or reached."""
    check(kind)
    try:
        return WRITERS[kind](material, source, where)
    except AutoSlimError:
        raise
    except Exception as error:  # of files, drivers and clients; the user named the place
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"--to {kind}: got {where or 'no place'!r}, which cannot be written or reached ({told}); give another one"
        ) from error


def to_mlflow(material: Material, source: Source, where: str) -> str:
    """One run of MLflow for the study, a nested one per verified point; an earlier export's runs are written again, not
    added to. ``where``: a tracking URI; default a SQLite file in ``source.out``. Where the URI is a database, which has no place for files,
    they lie below the ``source.out`` of the first study of that name (MLflow would take the working directory)."""
    import mlflow

    out = source.out
    uri = where or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(material.name)
    experiment = (
        known.experiment_id
        if known
        else client.create_experiment(
            material.name, artifact_location=(out / "mlartifacts").resolve().as_uri() if uri.startswith(DATABASES) else None
        )
    )
    owner = study_key(material)
    runs = known_runs(client, experiment, owner)
    chosen = material.chosen
    study = run_of(
        client, experiment, runs.pop("", None), material.name, {"autoslim.study": owner, "autoslim.task": material.context["task"]}
    )
    numbers_to(client, study, chosen or {})
    files_to(client, study, out, FILES)
    for row in material.rows:
        tags = {"mlflow.parentRunId": study.info.run_id, "autoslim.study": owner, "autoslim.feasible": str(row["feasible"])}
        tags |= {f"autoslim.{name}": row[name] for name in ("key", "summary", "sha256")}
        run = run_of(client, experiment, runs.pop(row["key"], None), row["label"] or row["key"], tags)
        numbers_to(client, run, row)
        files_to(client, run, out, (row["recipe_file"], str(Path(row["model_file"]).with_name("card.md"))))
    for run in runs.values():  # points that are verified no longer
        client.delete_run(run.info.run_id)
    return f"mlflow: experiment {material.name} at {uri} (mlflow ui --backend-store-uri {uri})"


def study_key(material: Material) -> str:
    """What tells a study from others of its name, on whatever machine and in whatever folder: when its first trial began."""
    first = material.study.optuna.get_trials(deepcopy=False)[0]
    return hashlib.sha256(f"{material.name}\n{first.datetime_start}".encode()).hexdigest()[:16]


def known_runs(client: Any, experiment: str, owner: str) -> dict[str, Any]:
    """{key of a point, or "" for the study: its run} of what was exported earlier."""
    found, token = {}, None
    while True:
        page = client.search_runs([experiment], f"tags.`autoslim.study` = '{owner}'", page_token=token)
        found |= {run.data.tags.get("autoslim.key", ""): run for run in page}
        token = page.token
        if not token:
            return found


def run_of(client: Any, experiment: str, known: Any, name: str, tags: Mapping[str, str]) -> Any:
    """The known run with these tags, or a new one."""
    if known is None:
        return client.create_run(experiment, run_name=name, tags=dict(tags))
    for tag, value in tags.items():
        client.set_tag(known.info.run_id, tag, value)
    return known


def numbers_to(client: Any, run: Any, row: Mapping[str, Any]) -> None:
    """Log what the run does not say yet."""
    for name in NUMBERS:
        if row.get(name) is not None and run.data.metrics.get(name) != float(row[name]):
            client.log_metric(run.info.run_id, name, float(row[name]))


def files_to(client: Any, run: Any, out: Path, files: Sequence[str]) -> None:
    """Log the files that are there, over those of an earlier export, and end the run."""
    for file in files:
        if (out / file).is_file():
            client.log_artifact(run.info.run_id, str(out / file))
    client.set_terminated(run.info.run_id)


def to_tensorboard(material: Material, source: Source, where: str) -> str:
    """Scalars per evaluation, hypervolume, and the verified points as hyper-parameter runs. ``where``: the folder, in which the
    study has one of its own, after its name and key; default tensorboard below the report. What an earlier export of it wrote is replaced."""
    from tensorboardX import SummaryWriter

    from autoslim.reporting.summary import history

    own = f"{re.sub(r'[^a-zA-Z0-9_-]', '_', material.name)}-{study_key(material)[:8]}"
    folder = (Path(where) if where else source.out / "tensorboard") / own
    for old in folder.glob("**/events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(logdir=str(folder / "search")) as writer:
        for entry in material.entries:
            if isinstance(entry.outcome, Done) and entry.cached_from is None:
                for name, value in entry.outcome.measurement.values.items():
                    writer.add_scalar(f"candidates/{name}", value.value, entry.number)
        for step, value in enumerate(history(material.entries, material.context), 1):
            writer.add_scalar("hypervolume", value, step)
    for row in material.rows:
        with SummaryWriter(logdir=str(folder / "points" / (row["label"] or row["key"]))) as writer:
            numbers = {f"point/{name}": float(row[name]) for name in NUMBERS if row.get(name) is not None}
            writer.add_hparams({"what was done": row["summary"], "feasible": bool(row["feasible"])}, numbers, name="hparams")
    return f"tensorboard: {folder} (tensorboard --logdir {folder})"


def to_dashboard(material: Material, source: Source, where: str) -> str:
    """Figures, page and each verified point's card and recipe as artefacts of the Optuna study, and a note with the answer, so that
    optuna-dashboard shows them. ``where``: the artefact folder; default artifacts below the report. Raises StudyInUse while a search
    writes to the study, since this writes to it too."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import save_note

    from autoslim.reporting.summary import summarise

    folder = Path(where) if where else source.out / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    store, study = FileSystemArtifactStore(base_path=folder), material.study.optuna
    lease = Lease(source.folder)
    try:
        lease.claim(study)
    except BaseException:
        lease.release()  # the note in the study is another run's
        raise
    try:
        with warnings.catch_warnings():  # Optuna calls the names experimental
            warnings.simplefilter("ignore")
            study.set_metric_names(list(material.context["objectives"]))
        attach_all(material, source.out, store)
        save_note(study, words.answer(summarise(material), material.rows, material.context))
    finally:
        lease.release(study)
    storage = (
        hidden(source.storage) if source.storage and "://" in source.storage else source.storage or str(source.folder / "study.journal")
    )
    return f"dashboard: optuna-dashboard {shlex.quote(storage)} --artifact-dir {shlex.quote(str(folder))}"


def attach_all(material: Material, out: Path, store: Any) -> None:
    """Upload what is new: a file that was attached with the same content is not attached again."""
    from optuna.artifacts import upload_artifact

    study = material.study.optuna
    attached = dict(material.fact("artifacts") or {})
    wanted = {file: Path(file).name for file in FILES}
    for row in material.rows:  # finished trials take no artefact, so the study has them, with the point in the name
        for file in (row["recipe_file"], str(Path(row["model_file"]).with_name("card.md"))):
            wanted[file] = f"{words.point_name(row)}-{Path(file).name}"
    with tempfile.TemporaryDirectory() as folder:
        for file, name in wanted.items():
            if not (out / file).is_file() or attached.get(name) == (digest := sha256(out / file)[:16]):
                continue
            copy = shutil.copyfile(out / file, Path(folder) / name)
            kind = mimetypes.guess_type(name)[0] or "text/plain"
            upload_artifact(artifact_store=store, file_path=str(copy), study_or_trial=study, mimetype=kind)
            attached[name] = digest
    study.set_user_attr("artifacts", attached)


WRITERS: Mapping[str, Callable[[Material, Source, str], str]] = {
    "mlflow": to_mlflow,
    "tensorboard": to_tensorboard,
    "dashboard": to_dashboard,
}
