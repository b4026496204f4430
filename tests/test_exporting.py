"""Exports, read back with the other tools' own readers."""

from pathlib import Path

import pytest

import studies
from autoslim import report
from autoslim.errors import UserError
from autoslim.reporting import exporting
from autoslim.reporting.context import Material
from autoslim.study import Study


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    study = studies.make(out, 24)
    report.write(study, out)
    return out


def read(out):
    return Material(Study.read(out))


def test_tensorboard_gets_every_candidate_and_point(written, tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    material = read(written)
    exporting.export("tensorboard", material, written, str(tmp_path))
    tags = {}
    for path in (tmp_path / "search").glob("events*"):
        for record in records(path):
            event = Event.FromString(record)
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value.simple_value))
    done = list(material.by_key.values())
    assert len(tags["candidates/latency_ms"]) == len(done)
    steps = dict(tags["candidates/metric"])
    assert steps[done[0].number] == pytest.approx(done[0].outcome.measurement.get("metric"), rel=1e-6)
    assert len(list((tmp_path / "points").iterdir())) == len(material.rows)


def records(path):
    """The records of an event file: length (8 bytes), its check (4), content, its check (4)."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little")
        yield data[place + 12 : place + 12 + size]
        place += 16 + size


def test_the_dashboard_s_study_has_artefacts_once_and_the_answer_as_a_note(written):
    pytest.importorskip("optuna_dashboard")
    from optuna.artifacts import get_all_artifact_meta

    for _ in range(2):
        exporting.export("dashboard", read(written), written, "")
    material = read(written)
    study = material.study.optuna
    found = {meta.filename: meta for meta in get_all_artifact_meta(study)}
    assert len(found) == len(get_all_artifact_meta(study)), "nothing twice"
    cards = {f"{row['label'] or row['key'][:8]}-card.md" for row in material.rows}
    assert set(found) == {Path(file).name for file in exporting.FILES} | cards
    stored = written / "artifacts" / found["untouched-card.md"].artifact_id
    assert stored.read_bytes() == (written / "models" / material.rows[0]["key"] / "card.md").read_bytes()
    notes = [
        value for name, value in study._storage.get_study_system_attrs(study._study_id).items() if name.startswith("dashboard:note_str")
    ]
    assert any("the recommended file" in note for note in notes)


def test_mlflow_gets_a_run_per_point(written, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    material = read(written)
    exporting.export("mlflow", material, written, uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(material.name).experiment_id])
    points = {run.data.tags["autoslim.key"]: run for run in runs if "autoslim.key" in run.data.tags}
    assert set(points) == {row["key"] for row in material.rows}
    for row in material.rows:
        assert points[row["key"]].data.metrics["latency_ms"] == pytest.approx(row["latency_ms"])


def test_an_unknown_destination_and_a_missing_package_are_named(written, monkeypatch):
    with pytest.raises(UserError, match="--to: got 'excel', allowed: mlflow, tensorboard, dashboard"):
        exporting.export("excel", read(written), written, "")
    monkeypatch.setitem(exporting.EXTRAS, "mlflow", ("mlflow", "a_package_that_is_not_there"))
    with pytest.raises(UserError, match=r"pip install 'autoslim\[mlflow\]'"):
        exporting.export("mlflow", read(written), written, "")
