"""To other tools: MLflow, TensorBoard and optuna-dashboard. Each is an extra that is loaded only when it is named.

A destination is what stands after ``--to``: a folder, a tracking URI, or nothing for the dashboard.
"""

import importlib
import mimetypes
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoslim.candidate import Done
from autoslim.clock import sha256
from autoslim.errors import UserError
from autoslim.reporting import words
from autoslim.reporting.context import Material
from autoslim.study import Lease

#: name -> (extra of the package, module that must be there)
EXTRAS = {"mlflow": ("mlflow", "mlflow"), "tensorboard": ("tensorboard", "tensorboardX"), "dashboard": ("dashboard", "optuna_dashboard")}
NUMBERS = ("metric_test", "metric_val", "drop_test", "latency_ms", "latency_ratio", "size_bytes", "size_ratio", "macs", "params", "peak_memory_bytes", "throughput", "latency_p95_ms")  # fmt: skip
#: files of the report that travel with it, where they are there
FILES = (
    "report.html",
    "summary.json",
    "front.csv",
    "trials.csv",
    "dictionary.csv",
    "figures/pareto_latency.png",
    "figures/pareto_size.png",
    "figures/history.png",
)


def export(kind: str, material: Material, out: Path, where: str) -> str:
    """Send a study whose report is in ``out``; returns a sentence about where it is. Raises UserError for an unknown kind or a package that is
    not installed."""
    if kind not in EXTRAS:
        raise UserError(f"--to: got {kind!r}, allowed: {', '.join(EXTRAS)}")
    extra, package = EXTRAS[kind]
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise UserError(f"--to {kind}: needs the package {package!r}, which is not installed; pip install 'autoslim[{extra}]'") from None
    return WRITERS[kind](material, out, where)


def to_mlflow(material: Material, out: Path, where: str) -> str:
    """One run of MLflow for the study, a nested one per verified point. ``where``: a tracking URI; default a SQLite file in ``out``."""
    import mlflow

    uri = where or f"sqlite:///{(out / 'mlflow.db').resolve()}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(material.name)
    experiment = (
        known.experiment_id
        if known
        else client.create_experiment(material.name, artifact_location=None if where else (out / "mlartifacts").resolve().as_uri())
    )
    chosen = material.chosen
    study = client.create_run(experiment, run_name=material.name, tags={"autoslim.task": material.context["task"]})
    for name in NUMBERS:
        if chosen and chosen.get(name) is not None:
            client.log_metric(study.info.run_id, name, float(chosen[name]))
    for file in FILES:
        if (out / file).is_file():
            client.log_artifact(study.info.run_id, str(out / file))
    client.set_terminated(study.info.run_id)
    for row in material.rows:
        run = client.create_run(
            experiment,
            run_name=row["label"] or row["key"],
            tags={
                "mlflow.parentRunId": study.info.run_id,
                "autoslim.key": row["key"],
                "autoslim.summary": row["summary"],
                "autoslim.sha256": row["sha256"],
            },
        )
        for name in NUMBERS:
            if row.get(name) is not None:
                client.log_metric(run.info.run_id, name, float(row[name]))
        client.log_param(run.info.run_id, "feasible", row["feasible"])
        for file in (row["recipe_file"], str(Path(row["model_file"]).with_name("card.md"))):
            if (out / file).is_file():
                client.log_artifact(run.info.run_id, str(out / file))
        client.set_terminated(run.info.run_id)
    return f"mlflow: experiment {material.name} at {uri} (mlflow ui --backend-store-uri {uri})"


def to_tensorboard(material: Material, out: Path, where: str) -> str:
    """Scalars per evaluation, hypervolume, and the verified points as hyper-parameter runs. ``where``: the folder; default ``out``/tensorboard."""
    from tensorboardX import SummaryWriter

    from autoslim.reporting.summary import history

    folder = Path(where) if where else out / "tensorboard"
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


def to_dashboard(material: Material, out: Path, where: str) -> str:
    """Figures, page and each verified point's card and recipe as artefacts of the Optuna study, and a note with the answer, so that
    optuna-dashboard shows them. ``where``: the artefact folder; default ``out``/artifacts."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import save_note

    from autoslim.reporting.summary import summarise

    folder = Path(where) if where else out / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    store, study = FileSystemArtifactStore(base_path=folder), material.study.optuna
    lease = Lease(out)  # writes to the study, so nobody else may
    try:
        lease.claim(study)
        attach_all(material, out, store)
        save_note(study, words.answer(summarise(material), material.rows, material.context))
    finally:
        lease.release(study)
    return f"dashboard: optuna-dashboard STORAGE --artifact-dir {folder}"


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
    material.study.set_fact("artifacts", attached)


WRITERS: Mapping[str, Callable[[Material, Path, str], str]] = {
    "mlflow": to_mlflow,
    "tensorboard": to_tensorboard,
    "dashboard": to_dashboard,
}
