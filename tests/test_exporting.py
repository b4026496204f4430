"""Exports, read back with the other tools' own readers."""

import json
import shutil
import time
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest

import studies
from autoslim import reading, report
from autoslim.candidate import Done
from autoslim.cli.main import call
from autoslim.errors import StudyInUse, UserError
from autoslim.reporting import exporting
from autoslim.reporting.context import Material
from autoslim.study import Lease


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    study = studies.make(out, 24)
    report.write(study, out)
    return out


def read(out):
    return Material(reading.read(out))


def test_tensorboard_gets_every_candidate_and_point(written, tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    material = read(written)
    for _ in range(2):  # the second replaces the first
        exporting.export("tensorboard", material, exporting.Source(written, written), str(tmp_path))
    tags = {}
    [own] = tmp_path.iterdir()
    assert own.name == f"{material.name}-{exporting.study_key(material)[:8]}"
    for path in (own / "search").glob("events*"):
        for record in records(path):
            event = Event.FromString(record)
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value.simple_value))
    done = list(material.by_key.values())
    assert len(tags["candidates/latency_ms"]) == len(done)
    steps = dict(tags["candidates/metric"])
    assert steps[done[0].number] == pytest.approx(done[0].outcome.measurement.get("metric"), rel=1e-6)
    assert len(list((own / "points").iterdir())) == len(material.rows)


def test_two_studies_of_one_name_have_two_keys_and_a_moved_one_keeps_its_own(written, tmp_path):
    other = studies.make(tmp_path / "other", 12)
    moved = shutil.copytree(written, tmp_path / "moved")
    assert exporting.study_key(Material(other)) != exporting.study_key(read(written)) == exporting.study_key(read(moved))


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
        exporting.export("dashboard", read(written), exporting.Source(written, written), "")
    material = read(written)
    study = material.study.optuna
    found = {meta.filename: meta for meta in get_all_artifact_meta(study)}
    assert len(found) == len(get_all_artifact_meta(study)), "nothing twice"
    cards = {f"{row['label'] or row['key'][:8]}-card.md" for row in material.rows}
    there = {Path(file).name for file in exporting.FILES if file != "ablation.csv"}  # this study was not taken apart
    assert set(found) == there | cards
    stored = written / "artifacts" / found["untouched-card.md"].artifact_id
    assert stored.read_bytes() == (written / "models" / material.rows[0]["key"] / "card.md").read_bytes()
    notes = [
        value for name, value in study._storage.get_study_system_attrs(study._study_id).items() if name.startswith("dashboard:note_str")
    ]
    assert any("the recommended file" in note for note in notes)


def test_a_study_that_another_machine_writes_is_left_alone(tmp_path):
    pytest.importorskip("optuna_dashboard")
    study = studies.make(tmp_path, 12)
    report.write(study, tmp_path)
    note = {"id": "another", "host": "elsewhere", "pid": 1, "until": time.time() + 600}
    study.optuna.set_user_attr("lease", note)
    material = read(tmp_path)
    with pytest.raises(StudyInUse):
        exporting.export("dashboard", material, exporting.Source(tmp_path, tmp_path), "")
    assert read(tmp_path).study.optuna.user_attrs["lease"] == note


def test_mlflow_gets_a_run_per_point(written, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    material = read(written)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):  # the second finds the first's runs
        exporting.export("mlflow", material, exporting.Source(written, written), uri)
    assert list((tmp_path / "here").iterdir()) == [], "nothing in the working directory"
    assert list((written / "mlartifacts").rglob("card.md"))
    client = mlflow.MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name(material.name).experiment_id])
    points = {run.data.tags["autoslim.key"]: run for run in runs if "autoslim.key" in run.data.tags}
    assert len(runs) == len(points) + 1, "nothing twice"
    assert set(points) == {row["key"] for row in material.rows}
    for row in material.rows:
        assert points[row["key"]].data.metrics["latency_ms"] == pytest.approx(row["latency_ms"])


def test_an_unknown_destination_and_a_missing_package_are_named(written, monkeypatch):
    with pytest.raises(UserError, match="--to: got 'excel', allowed: mlflow, tensorboard, dashboard"):
        exporting.export("excel", read(written), exporting.Source(written, written), "")
    monkeypatch.setitem(exporting.EXTRAS, "mlflow", ("mlflow", "a_package_that_is_not_there"))
    with pytest.raises(UserError, match=r"pip install 'autoslim\[mlflow\]'"):
        exporting.export("mlflow", read(written), exporting.Source(written, written), "")


def test_the_dashboard_waits_for_the_study_s_own_lease_and_names_its_storage(written, tmp_path):
    """The report may be written elsewhere; the study is still the one of its folder."""
    pytest.importorskip("optuna_dashboard")
    elsewhere = exporting.Source(tmp_path, written)
    lease = Lease(written)
    try:
        with pytest.raises(StudyInUse):
            exporting.export("dashboard", read(written), elsewhere, "")
    finally:
        lease.release()
    told = exporting.export("dashboard", read(written), elsewhere, "")
    assert f"optuna-dashboard {written / 'study.journal'} --artifact-dir {tmp_path / 'artifacts'}" in told
    assert "optuna-dashboard sqlite:///s.db" in exporting.export(
        "dashboard", read(written), exporting.Source(tmp_path, written, "sqlite:///s.db"), ""
    )
    assert read(written).study.optuna.metric_names == list(studies.OBJECTIVES)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--to", "excel"], "--to: got 'excel', allowed: mlflow, tensorboard, dashboard"),
        (["-f", "md", "--to", "tensorboard"], "--to: nothing is written with --format md"),
        (["-o", "/proc/nope"], "--out: got '/proc/nope', allowed: a folder that can be written"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(tmp_path, capsys, words, part):
    studies.make(tmp_path, 12)
    before = set(tmp_path.iterdir())
    assert call(["report", str(tmp_path), *words], False) == 2
    told = capsys.readouterr()
    assert part in told.err
    assert len(told.err.splitlines()) == 1
    assert told.out == ""
    assert set(tmp_path.iterdir()) == before


def test_optuna_dashboard_serves_the_study(written):
    """Its own web application, asked as a browser asks it: the study, every trial with its end, and the violations as user attributes."""
    dashboard = pytest.importorskip("optuna_dashboard")
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    app = dashboard.wsgi(JournalStorage(JournalFileBackend(str(written / "study.journal"))))

    def get(path):
        environ, ends = {}, []
        setup_testing_defaults(environ)
        environ |= {"PATH_INFO": path, "QUERY_STRING": "after=0"}
        body = b"".join(app(environ, lambda status, headers, trace=None: ends.append(status)))
        assert ends == ["200 OK"], path
        return json.loads(body)

    material = read(written)
    [summary] = get("/api/studies")["study_summaries"]
    assert summary["study_name"] == material.name
    trials = get(f"/api/studies/{summary['study_id']}")["trials"]
    assert len(trials) == len(material.entries)
    done = [entry for entry in material.entries if isinstance(entry.outcome, Done) and entry.cached_from is None]
    complete = {trial["number"]: trial for trial in trials if trial["state"] == "Complete"}
    assert {entry.number for entry in done} <= set(complete)
    for entry in done[:5]:
        told = {attr["key"]: attr["value"] for attr in complete[entry.number]["user_attrs"]}
        assert any("violation" in name for name in told), sorted(told)
        assert complete[entry.number]["values"][0] == pytest.approx(entry.outcome.measurement.get("metric"))
