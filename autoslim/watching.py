"""The report of a running study, served on loopback only, written anew whenever the record has changed.

The page asks ``version`` every two seconds and loads itself again when it differs; nothing is evaluated and nothing is written to the study.
Of the journal only what was appended is read, and a large page is made less often: at most a tenth of the time goes into it.
"""

import base64
import hashlib
import sys
import threading
import time
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from autoslim import reading
from autoslim.errors import AutoSlimError, UserError
from autoslim.reporting import cards, figures, page
from autoslim.reporting.context import Material
from autoslim.reporting.summary import history, summarise

HOST = "127.0.0.1"
#: names that a browser on this machine may use; any other is a foreign page that points here (DNS rebinding)
NAMES = ("127.0.0.1", "localhost", "[::1]")
#: seconds between two looks at a storage whose changes cannot be seen from a file
PAUSE = 5.0
#: a page that took a second to make stays as it is for ten
REST = 10.0


class Live:
    """The page of a study as it is now; thread-safe."""

    def __init__(self, folder: Path, name: str | None = None, storage: str | None = None) -> None:
        self.folder, self.name, self.storage = folder, name, storage
        self._lock = threading.Lock()
        self._seen, self._page, self._rested = "", b"", 0.0
        self._study = reading.read(folder, name, storage)  # raises UserError at once where there is no study

    def version(self) -> str:
        """What changes when the record does, and not before the last page has been shown for a while."""
        if self._seen and time.monotonic() < self._rested:
            return self._seen
        if self.storage is None:
            try:
                told = (self.folder / "study.journal").stat()
                return f"{told.st_size}-{told.st_mtime_ns}"
            except OSError:  # moved or deleted, or no journal at all
                pass
        return str(int(time.monotonic() / PAUSE))

    def page(self) -> bytes:
        """The page of the latest version, made when it is asked for."""
        with self._lock:
            seen = self.version()
            if seen != self._seen:
                begun = time.monotonic()
                self._page, self._seen = self.render(seen).encode(), seen
                self._rested = time.monotonic() + REST * (time.monotonic() - begun)
            return self._page

    def latest(self) -> Any:
        """The study as it is now."""
        if isinstance(self._study, reading.Reading):
            self._study.refresh()
            return self._study
        return reading.read(self.folder, self.name, self.storage)

    def render(self, version: str) -> str:
        """The page as it is now; where the record cannot be read, a page that says so and asks again."""
        try:
            material = Material(self.latest())
            summary, volumes = summarise(material), history(material.entries, material.context)
            numbers = figures.numbers(figures.chart_tables(material, summary, volumes))
            return page.render(material, summary, volumes, numbers, [cards.card_of(material, row) for row in material.rows], live=version)
        except AutoSlimError as error:
            return waiting(str(error), version)
        except OSError as error:
            return waiting(f"{self.folder}: the record cannot be read ({error.strerror or error}); this page looks for it again", version)


ASK = """
setInterval(async () => {
  try { if ((await (await fetch("version", {cache: "no-store"})).text()) !== document.body.dataset.version) location.reload(); } catch { }
}, 2000);
"""


def waiting(why: str, version: str) -> str:
    """The page before there is anything to show."""
    digest = base64.b64encode(hashlib.sha256(ASK.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; connect-src 'self'; img-src data:"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<link rel="icon" href="data:,"><title>AutoSlim</title></head><body data-version="{escape(version)}"><p>{escape(why)}</p>'
        f"<script>{ASK}</script></body></html>"
    )


class Handler(BaseHTTPRequestHandler):
    """Two addresses: the page and its version. Files of the folder are not served."""

    live: Live

    def do_GET(self) -> None:
        """Answer / and /version; anything else, and any foreign host name, is refused."""
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in NAMES:
            self.answer(403, b"this page is served to this machine only", "text/plain")
        elif self.path in ("/", "/index.html"):
            self.answer(200, self.live.page(), "text/html; charset=utf-8")
        elif self.path == "/version":
            self.answer(200, self.live.version().encode(), "text/plain")
        else:
            self.answer(404, b"only the page is served; files are in the folder", "text/plain")

    def answer(self, status: int, body: bytes, kind: str) -> None:
        """Send one whole answer that no browser keeps."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Answers in threads that end with it; what goes wrong with one request is one line, and a browser that went away is nothing."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called inside the handling of the exception."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"watch: a request could not be answered ({type(error).__name__}: {error})", file=sys.stderr)


def serve(live: Live, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted; ``ready`` is told the address. Raises UserError for a port that is taken."""
    handler = type("LiveHandler", (Handler,), {"live": live})
    try:
        server = Server((HOST, port), handler)
    except OSError as error:
        raise UserError(f"--port: got {port}, which cannot be used ({error.strerror}); give another one, or 0 for any") from None
    with server:
        ready(f"http://{HOST}:{server.server_address[1]}/")
        server.serve_forever(poll_interval=0.2)
