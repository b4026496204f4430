"""A study in a real PostgreSQL, started here from the distribution's package: the same record, also while the server goes away."""

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

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


class Server:
    """A PostgreSQL in ``folder`` on a free port, run by the user postgres where this is root."""

    def __init__(self, folder, programs):
        self.data, self._programs = folder / "data", programs
        self._as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        if self._as:
            shutil.chown(folder, "postgres")
        self.call("initdb", "-D", self.data, "-U", "autoslim", "--auth=trust", "-N")
        self.start()
        self.url = f"postgresql+psycopg://autoslim@127.0.0.1:{self.port}/postgres"

    def call(self, program, *words):
        told = [*self._as, str(self._programs / program), *map(str, words)]
        done = subprocess.run(told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data} -c fsync=off"
        self.call("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def stop(self):
        """As a crash: no farewell to clients."""
        self.call("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("psycopg")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if Path("/usr/lib/postgresql").is_dir() else []
    if not found and os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "postgresql"], capture_output=True, check=False, timeout=240)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not here and could not be installed from the distribution")
    folder = Path("/tmp") / f"autoslim-pg-{os.getpid()}"  # a path that the user postgres may enter
    folder.mkdir(mode=0o755)
    made = Server(folder, found[-1])
    yield made
    made.stop()
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


def test_a_server_that_goes_away_costs_no_trial_and_doubles_none(tmp_path, server):
    """Hundreds of trials are asked and told while the server is stopped as in a crash, twice, the second time for long."""
    study, numbers, errors = opened(tmp_path, server, "away"), [], []
    done = threading.Event()

    def work():
        try:
            while not done.is_set():
                number = study.ask(POINT, RECIPE)
                study.tell(number, DONE, ("ms",), ("metric", "latency_ms"))
                numbers.append(number)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for seconds in (1, 12):
            before = len(numbers)
            while len(numbers) < before + 20:
                assert not errors, errors
                time.sleep(0.05)
            server.stop()
            stopped = len(numbers)
            time.sleep(seconds)
            assert len(numbers) <= stopped + 1  # it was really away
            server.start()
        before, stop = len(numbers), time.monotonic() + 30
        while len(numbers) < before + 20 and time.monotonic() < stop:
            time.sleep(0.05)
    finally:
        done.set()
        thread.join(30)
    assert not errors, errors
    entries = study.entries()
    study.close()
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 60
    assert [entry.number for entry in entries] == numbers
    assert all(entry.outcome == DONE for entry in entries)


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
