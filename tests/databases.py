"""Database servers for tests, from the distribution's packages: started in a folder on a free port, stopped as in a crash."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def as_user(name):
    """Words before a command that must not run as root."""
    return ["runuser", "-u", name, "--"] if os.getuid() == 0 else []


def programs(package, find):
    """What ``find`` gives, after an attempt to install the distribution's package where nothing is there; skips the test without."""
    if find() is None and os.getuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", package], capture_output=True, check=False, timeout=240)
    found = find()
    if found is None:
        pytest.skip(f"{package} is not here and could not be installed from the distribution")
    return found


class PostgreSQL:
    def __init__(self, folder):
        pytest.importorskip("psycopg")
        self._programs = programs("postgresql", lambda: max(Path("/usr/lib/postgresql").glob("*/bin"), default=None))
        self.data, self._as, port = folder / "data", as_user("postgres"), free_port()
        if self._as:
            shutil.chown(folder, "postgres")
        self._options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data} -c fsync=off"
        self.call("initdb", "-D", self.data, "-U", "autoslim", "--auth=trust", "-N")
        self.start()
        self.url = f"postgresql+psycopg://autoslim@127.0.0.1:{port}/postgres"

    def call(self, program, *words):
        told = [*self._as, str(self._programs / program), *map(str, words)]
        done = subprocess.run(told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/", timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def start(self):
        self.call("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", self._options, "start")

    def stop(self):
        """As a crash: no farewell to clients."""
        self.call("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")


class MySQL:
    """MariaDB, which is what distributions give for MySQL."""

    def __init__(self, folder):
        self._driver = pytest.importorskip("pymysql")
        self._server = programs("mariadb-server", lambda: shutil.which("mariadbd"))
        self.data, self._as, self._port = folder / "data", as_user("mysql"), free_port()
        self._surroundings = os.environ | {"TMPDIR": str(folder)}
        if self._as:
            shutil.chown(folder, "mysql")
        told = [
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]
        done = subprocess.run([*self._as, *told], capture_output=True, text=True, cwd="/", env=self._surroundings, timeout=60)
        assert done.returncode == 0, done.stderr
        self.start()
        self._connected().cursor().execute("CREATE DATABASE autoslim")
        self.url = f"mysql+pymysql://root@127.0.0.1:{self._port}/autoslim"

    def _connected(self):
        return self._driver.connect(host="127.0.0.1", port=self._port, user="root")

    def start(self):
        told = [
            "--no-defaults",
            f"--datadir={self.data}",
            f"--port={self._port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.data}/socket",
        ]
        told += [f"--pid-file={self.data}/pid", "--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=32M"]
        with (self.data / "log").open("ab") as log:
            self._process = subprocess.Popen([*self._as, self._server, *told], stdout=log, stderr=log, cwd="/", env=self._surroundings)
        stop = time.monotonic() + 60
        while True:
            try:
                self._connected().close()
                return
            except self._driver.err.OperationalError:
                assert self._process.poll() is None, (self.data / "log").read_text(errors="replace")[-2000:]
                assert time.monotonic() < stop, "MariaDB did not start"
                time.sleep(0.2)

    def stop(self):
        """As a crash: no farewell to clients."""
        os.kill(int((self.data / "pid").read_text()), signal.SIGKILL)
        self._process.wait(30)
