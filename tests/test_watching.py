"""watch: served to this machine only, and the version changes when the record does. A real server answers."""

import html
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer

import pytest

import studies
from autoslim import reading, watching
from autoslim.errors import UserError
from autoslim.study import Study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("study")
    studies.make(place, 24)
    return place


@pytest.fixture
def address(folder):
    handler = type("LiveHandler", (watching.Handler,), {"live": watching.Live(folder)})
    server = ThreadingHTTPServer((watching.HOST, 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://{watching.HOST}:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def get(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return answer.read().decode()


def test_the_page_knows_the_version_it_shows_and_the_version_changes(folder, address, monkeypatch):
    monkeypatch.setattr(watching, "REST", 0.0)
    version = get(f"{address}/version")
    page = get(f"{address}/")
    assert f'"live":"{version}"' in page
    assert "connect-src 'self'" in html.unescape(page)
    Study.read(folder).set_fact("note", "something new")
    assert get(f"{address}/version") != version
    assert f'"live":"{get(f"{address}/version")}"' in get(f"{address}/")


def test_a_look_reads_what_is_new_and_a_page_is_shown_for_ten_times_as_long_as_it_took(tmp_path, monkeypatch):
    studies.make(tmp_path, 24)
    now, read, built = [0.0], [], []
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    live = watching.Live(tmp_path)
    render, refresh, unpack = live.render, live._study.refresh, reading.unpack
    monkeypatch.setattr(live, "render", lambda version: now.__setitem__(0, now[0] + 3.0) or render(version))  # a page takes three seconds
    monkeypatch.setattr(live._study, "refresh", lambda: read.append(refresh()))
    monkeypatch.setattr(reading, "unpack", lambda trial: built.append(trial.number) or unpack(trial))
    first = live.page()
    assert sorted(set(built)) == list(range(24))
    assert read == [0]
    size = (tmp_path / "study.journal").stat().st_size
    Study.read(tmp_path).set_fact("note", "something new")
    now[0] = 3.0 + 29.0
    assert live.page() is first
    assert live.version() in first.decode()
    now[0] = 3.0 + 31.0
    assert live.version() not in first.decode()
    assert live.page() != first
    assert read == [0, (tmp_path / "study.journal").stat().st_size - size]
    assert len(built) == len(set(built)) == 24


@pytest.mark.parametrize(
    ("path", "headers", "status"), [("/study.journal", {}, 404), ("/../etc/passwd", {}, 404), ("/", {"Host": "example.org"}, 403)]
)
def test_nothing_else_is_served_and_to_nobody_else(address, path, headers, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address + path, **headers)
    assert caught.value.code == status


def test_a_browser_that_goes_away_leaves_no_trace(folder, capfd):
    server = watching.Server((watching.HOST, 0), type("LiveHandler", (watching.Handler,), {"live": watching.Live(folder)}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        get(f"http://{watching.HOST}:{server.server_address[1]}/")  # the page is made
        for _ in range(3):
            client = socket.create_connection(server.server_address)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset, in the middle of the page
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            client.recv(100)
            client.close()
        time.sleep(0.2)
        assert get(f"http://{watching.HOST}:{server.server_address[1]}/version")
    finally:
        server.shutdown()
        server.server_close()
    assert "Traceback" not in capfd.readouterr().err


def test_a_record_that_vanishes_is_one_line_and_is_looked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "REST", 0.0)
    monkeypatch.setattr(watching, "PAUSE", 0.01)
    studies.make(tmp_path, 24)
    live = watching.Live(tmp_path)
    assert b'id="data"' in live.page()
    (tmp_path / "study.journal").rename(tmp_path / "away")
    time.sleep(0.02)
    assert "the record cannot be read (No such file or directory)" in live.page().decode()
    (tmp_path / "away").rename(tmp_path / "study.journal")
    assert b'id="data"' in live.page()


def test_an_error_within_a_request_is_one_line(folder, capfd, monkeypatch):
    live = watching.Live(folder)
    monkeypatch.setattr(live, "version", lambda: 1 / 0)
    server = watching.Server((watching.HOST, 0), type("LiveHandler", (watching.Handler,), {"live": live}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        with pytest.raises(OSError, match="closed|reset"):
            get(f"http://{watching.HOST}:{server.server_address[1]}/version")
    finally:
        server.shutdown()
        server.server_close()
    assert capfd.readouterr().err == "watch: a request could not be answered (ZeroDivisionError: division by zero)\n"


def test_a_study_that_has_measured_nothing_yet_is_waited_for(tmp_path):
    Study.open(tmp_path, "new", ["max"]).close()
    text = watching.Live(tmp_path).page().decode()
    assert "nothing was measured yet" in text


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="no study here"):
        watching.Live(tmp_path)


def test_a_taken_port_is_named(folder):
    with ThreadingHTTPServer((watching.HOST, 0), watching.Handler) as taken, pytest.raises(UserError, match="--port: got"):
        watching.serve(watching.Live(folder), taken.server_address[1], print)
