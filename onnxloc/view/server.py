"""A server for this machine only, that can do nothing but show runs."""

import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import Any

from onnxloc.errors import OptionError
from onnxloc.report.runs_page import render_message
from onnxloc.view.collection import Collection
from onnxloc.view.pages import OWN_POLICY, Page, Pages

__all__ = ["ViewServer", "serve"]

HOST = "127.0.0.1"
# A connection that says nothing for so many seconds is closed.
PATIENCE = 30
MAX_TARGET = 4_096
# Browsers open a handful of connections; more at once are somebody's mistake.
MAX_CONNECTIONS = 32
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class ViewServer(ThreadingHTTPServer):
    """Serves the pages of some folders on 127.0.0.1.

    Parameters
    ----------
    paths : sequence of Path
        Run folders, or folders that hold some.
    port : int
        Where it listens; 0 for any port that is free.

    Raises
    ------
    RunError
        If one of the paths is no folder.
    OptionError
        If the port is taken or may not be used.
    """

    daemon_threads = True

    def __init__(self, paths: Sequence[Path], port: int = 0) -> None:
        place = ", ".join(str(path) for path in paths)
        self.pages = Pages(Collection(paths), place)
        self._connections = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise OptionError(
                f"cannot listen on port {port}: {error}; choose another one with --port, or 0 for "
                "any that is free"
            ) from error

    @property
    def url(self) -> str:
        """Address of the first page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a browser on this machine calls the server by.

        A page from elsewhere can make its own name lead here; its browser then sends that name.
        """
        port = self.server_address[1]
        names = {f"{name}:{port}" for name in (HOST, "localhost")}
        # Browsers leave out the usual port.
        return frozenset(names | ({HOST, "localhost"} if port == 80 else set()))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or close where too many are busy."""
        if not self._connections.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make place for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: socket | Any, client_address: Any) -> None:
        """Pass over a browser that went away before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: ViewServer
    timeout = PATIENCE
    server_version = "onnxloc"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].strip().lower() not in self.server.hosts:
            self._send(
                _refusal(HTTPStatus.MISDIRECTED_REQUEST, f"This server is {self.server.url} only."),
                body=body,
            )
        elif len(self.path) > MAX_TARGET:
            self._send(_refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "The address is too long."),
                       body=body)  # fmt: skip
        else:
            self._send(self._page(), body=body)

    def _page(self) -> Page:
        try:
            return self.server.pages.answer(self.path)
        except Exception as error:
            # A fault of onnxloc's own, or a file that changed while it was read. A browser that
            # gets no answer asks again and again.
            traceback.print_exception(error)
            text = "This page could not be made; the terminal says why."
            return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, text)

    def _send(self, page: Page, *, body: bool) -> None:
        content = page.html.encode("utf-8", errors="replace")
        self.send_response(page.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", page.policy)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what cannot be answered: another method, or what is no HTTP."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        page = _refusal(status, "Only GET and HEAD are answered.")
        content = page.html.encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Connection", "close")
        self.send_header("Content-Security-Policy", OWN_POLICY)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: addresses are the user's own business."""


def _refusal(status: HTTPStatus, text: str) -> Page:
    return Page(status, render_message(status.phrase, text))


def serve(
    paths: Sequence[Path],
    port: int = 0,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve folders of runs until interrupted.

    Parameters
    ----------
    paths : sequence of Path
        Run folders, or folders that hold some.
    port : int
        Where it listens; 0 for any port that is free.
    ready : callable, optional
        Called with the address once the server answers.

    Raises
    ------
    RunError, OptionError
        As `ViewServer`.
    """
    with ViewServer(paths, port) as server:
        if ready is not None:
            ready(server.url)
        server.serve_forever()
