"""A study in a real PostgreSQL and a real MariaDB, started here from the distribution's packages: the same record, also while the server
goes away."""

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import databases
import faults
import pytest

from autoslim.candidate import Done, Failed
from autoslim.errors import AutoSlimError, UserError
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, Step
from autoslim.space import Domain, SearchSpace
from autoslim.storage import Patient, backend, hidden
from autoslim.study import Study

pytestmark = pytest.mark.slow
SPACE = SearchSpace((Domain("bits:a", "bits", (32, 8), ((), (("a", 8),))),), {})
POINT, RECIPE = {"bits:a": 8}, Recipe.of([Step("bits", "a", 8)])
DONE = Done(Measurement({"metric": Value(0.9), "latency_ms": Value(3.0)}), {"ms": 0.5}, "c/model.onnx", "ab" * 32, RECIPE)


@pytest.fixture(scope="module", params=[databases.PostgreSQL, databases.MySQL], ids=["postgresql", "mysql"])
def server(request):
    folder = Path("/tmp") / f"autoslim-{request.param.__name__}-{os.getpid()}"  # a path that the servers' users may enter
    folder.mkdir(mode=0o755)
    try:
        made = request.param(folder)
        yield made
        made.stop()
    finally:
        shutil.rmtree(folder)


def opened(tmp_path, server, name):
    study = Study.open(tmp_path, name, ["max", "min"], server.url)
    study.use(SPACE)
    return study


def test_the_record_is_the_same_as_in_a_journal(tmp_path, server):
    study = opened(tmp_path, server, "same")
    for outcome in (DONE, Failed("crash", "killed")):
        study.tell(study.ask(POINT, RECIPE, "seed", {"state": [1]}), outcome, ("ms",), ("metric", "latency_ms"))
    study.ask(POINT, RECIPE)
    study.close()
    again = opened(tmp_path, server, "same")
    try:
        assert [entry.outcome for entry in again.entries()[:2]] == [DONE, Failed("crash", "killed")]
        assert again.entries()[2].outcome.reason == "interrupted"
        assert again.entries()[0].point == POINT
    finally:
        again.close()


def test_a_server_that_goes_away_changes_nothing_that_a_search_finds(tmp_path, server):
    """The server is stopped as in a crash while a search asks and tells, twice, the second time for half a minute (PostgreSQL)."""
    trials, outages, found, errors = 60, {20: 1, 40: 30 if server.url.startswith("postgresql") else 5}, [], []
    executor = faults.Struck(faults.Alone(tmp_path, 0.05), lambda ends: None)

    def work():
        try:
            found.extend(faults.search(tmp_path, executor, trials, server.url))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for count, seconds in outages.items():
            while len(executor.ends) < count and not errors:
                time.sleep(0.01)
            server.stop()
            stopped = len(executor.ends)
            time.sleep(seconds)
            assert thread.is_alive()
            assert not errors, errors
            assert len(executor.ends) <= stopped + 1 < trials - 1  # it was really away, and in the middle
            server.start()
    finally:
        thread.join(90)
    assert not errors, errors
    faults.check(tmp_path / "calm", found, trials, executor.ends)


def test_what_is_long_comes_back_whole(tmp_path, server):
    """Coverage and tables of a large network are longer than a TEXT of MySQL."""
    long = {f"layer{number}": [number] * 20 for number in range(3000)}
    study = opened(tmp_path, server, "long")
    try:
        for told in (long, {"short": 1}, long):
            study.set_fact("coverage", told)
            assert study.fact("coverage") == told
        assert study.facts()["coverage"] == long
    finally:
        study.close()
    assert Study.read(tmp_path, "long", server.url).facts()["coverage"] == long


def test_patience_ends_with_a_line_that_says_what_to_do(tmp_path, server):
    import optuna

    storage = Patient(optuna.storages.get_storage(server.url), patience=1.0)
    server.stop()
    try:
        with pytest.raises(AutoSlimError, match="does not answer since .* run the same command again"):
            storage.get_all_studies()
        with pytest.raises(UserError, match="--storage: cannot open"):
            backend(tmp_path, server.url)
    finally:
        server.start()


def test_a_lost_answer_does_not_make_a_second_trial(tmp_path, server):
    """The connection breaks after the server has made the trial: the next attempt takes that one."""
    import optuna
    from sqlalchemy.exc import OperationalError

    inner = optuna.storages.get_storage(server.url)
    storage = Patient(inner)
    number = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "lost")
    real, broken = inner.create_new_trial, []

    def lossy(*args, **kwargs):
        made = real(*args, **kwargs)
        if not broken:
            broken.append(made)
            raise OperationalError("insert", {}, Exception("the connection is gone"))
        return made

    inner.create_new_trial = lossy
    first, second = (storage.create_new_trial(number) for _ in range(2))
    assert first == broken[0]
    assert second != first
    assert len(inner.get_all_trials(number)) == 2


def test_a_proxy_of_the_database_serves_as_well(tmp_path, server):
    pytest.importorskip("grpc")
    port = databases.free_port()
    code = (
        f"import optuna; optuna.storages.run_grpc_proxy_server(optuna.storages.get_storage({server.url!r}), host='127.0.0.1', port={port})"
    )
    process = subprocess.Popen([os.sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        url = f"grpc://127.0.0.1:{port}"
        study = Study.open(tmp_path, "proxied", ["max", "min"], url)
        study.use(SPACE)
        study.tell(study.ask(POINT, RECIPE), DONE, ("ms",), ("metric", "latency_ms"))
        study.close()
    finally:
        process.kill()
        process.wait()
    assert Study.read(tmp_path, "proxied", server.url).entries()[0].outcome == DONE


def test_a_password_is_never_shown(tmp_path):
    assert hidden("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    with pytest.raises(UserError) as caught:
        backend(tmp_path, "postgresql+psycopg://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(caught.value)
