"""watch: served to this machine only, and the version changes when the record does. A real server answers."""

import html
import threading
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer

import pytest

import studies
from autoslim import watching
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


def test_the_page_knows_the_version_it_shows_and_the_version_changes(folder, address):
    version = get(f"{address}/version")
    page = get(f"{address}/")
    assert f'"live":"{version}"' in page
    assert "connect-src 'self'" in html.unescape(page)
    Study.read(folder).set_fact("note", "something new")
    assert get(f"{address}/version") != version
    assert f'"live":"{get(f"{address}/version")}"' in get(f"{address}/")


@pytest.mark.parametrize(
    ("path", "headers", "status"), [("/study.journal", {}, 404), ("/../etc/passwd", {}, 404), ("/", {"Host": "example.org"}, 403)]
)
def test_nothing_else_is_served_and_to_nobody_else(address, path, headers, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(address + path, **headers)
    assert caught.value.code == status


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
