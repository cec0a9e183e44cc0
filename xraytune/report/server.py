"""Serve the report of a study on this machine; an open page reloads when the study has changed."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock

from xraytune.errors import MachineError, Problem
from xraytune.report.page import render
from xraytune.report.study import read_study

HOST = "127.0.0.1"


def serve(study: Path, *, port: int = 8888, cache: Path | None = None, on_start: Callable[[str], None]) -> None:
    """Serve the report of a study until interrupted; `on_start` is called with its address.

    Args:
        study: Folder of the study.
        port: 0 chooses a free one.
        cache: See `write_report`.
        on_start: Called once the server accepts connections.

    Raises:
        StudyError: There is no study, or it is damaged.
        MachineError: The port is in use.
    """
    page = _Page(study, cache)
    page.html()  # an error comes before the address

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/": page.html, "/version": page.version}.get(self.path)
            content = found().encode() if found else b"not found"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/" else "text/plain")
            self.send_header("Content-Length", f"{len(content)}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        fix = "give another one with --port, or 0 for a free one"
        raise MachineError(Problem(f"cannot listen on port {port}: {error.strerror}", fix=fix)) from error
    with server:
        on_start(f"http://{HOST}:{server.server_port}/")
        server.serve_forever()


class _Page:
    """The page of a study, rendered again when a file of the study has changed."""

    def __init__(self, study: Path, cache: Path | None) -> None:
        self._study, self._cache, self._lock = study, cache, Lock()
        self._version = self._html = ""

    def version(self) -> str:
        """Return a text that changes with the study."""
        files = [self._study / name for name in ("optuna.journal", "confirm/verdict.json")]
        return " ".join(f"{file.stat().st_mtime_ns}" for file in files if file.exists())

    def html(self) -> str:
        """Return the current page."""
        with self._lock:
            if (version := self.version()) != self._version:
                self._html, self._version = render(read_study(self._study, self._cache), live=version), version
            return self._html
