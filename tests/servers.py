"""Servers on loopback for tests: a web server whose manners can be chosen, and S3 as moto has it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "slides"
CHUNK = 65_536
POLL_SECONDS = 0.01


@dataclass
class Traffic:
    """Requests that a server saw, and the faults it is set to make."""

    bytes_sent: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of each request."""
    refuse: int | None = None
    """Status to answer everything with."""
    truncate: int = 0
    """So many of the next answers with a body end half-way."""
    ranges: bool = True
    """Honor `Range`."""
    sizes: bool = True
    """Send the length of files."""
    puts_left: int | None = None
    """After so many uploads no more are taken."""

    def puts(self) -> list[str]:
        return [path for method, path in self.requests if method == "PUT"]

    def reset(self) -> None:
        self.bytes_sent = 0
        self.requests.clear()


class _WebHandler(BaseHTTPRequestHandler):
    """Serves the files of a folder."""

    protocol_version = "HTTP/1.1"

    def __init__(self, traffic: Traffic, folder: Path, *arguments: Any) -> None:
        self.traffic, self.folder = traffic, folder
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        traffic = self.traffic
        path = self.folder / self.path.partition("?")[0].lstrip("/")
        traffic.requests.append((self.command, self.path))
        if traffic.refuse or not path.is_file():
            self.send_response(traffic.refuse or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size, asked = path.stat().st_size, self.headers.get("Range")
        start, stop = 0, size
        if asked and traffic.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last or stop - 1) + 1, stop)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        else:
            self.send_response(200)
        if traffic.sizes:
            self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Connection", "close")
        self.end_headers()
        if not body:
            return
        with path.open("rb") as file:
            file.seek(start)
            piece = file.read(stop - start)
        if traffic.truncate and len(piece) > 1:
            traffic.truncate -= 1
            piece = piece[: len(piece) // 2]
        self.close_connection = True
        try:
            for at in range(0, len(piece), CHUNK):
                self.wfile.write(piece[at : at + CHUNK])
                traffic.bytes_sent += len(piece[at : at + CHUNK])
        except ConnectionError:  # the client has seen enough
            return

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def web_server(folder: Path) -> Iterator[tuple[str, Traffic]]:
    """Serve a folder; yields its address and what is told and known of the traffic."""
    traffic = Traffic()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_WebHandler, traffic, folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", traffic
        server.shutdown()
        thread.join()


class _QuietHandler(WSGIRequestHandler):
    def log(self, *arguments: object) -> None:
        pass


@contextmanager
def s3_server(patch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """Run moto's S3 with an empty bucket, and point the environment at it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    traffic = Traffic()
    moto = DomainDispatcherApplication(create_backend_app)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        traffic.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"]))
        refused = bool(traffic.refuse)
        if environ["REQUEST_METHOD"] == "PUT" and traffic.puts_left is not None:
            traffic.puts_left -= 1
            refused = traffic.puts_left < 0
        if refused:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
            start_response(f"{traffic.refuse or 403} No", [("Content-Length", str(len(body)))])
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]
        pieces = []
        for piece in moto(environ, start_response):
            traffic.bytes_sent += len(piece)
            if traffic.truncate and environ["REQUEST_METHOD"] == "GET" and len(piece) > 1000:
                traffic.truncate -= 1
                piece = piece[: len(piece) // 2]
            pieces.append(piece)
        return pieces

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True)
    thread.start()
    urlopen(Request(f"http://127.0.0.1:{server.server_port}/moto-api/reset", method="POST")).close()
    patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(BUCKET)
    traffic.reset()
    try:
        yield traffic
    finally:
        server.shutdown()
        thread.join()
        s3fs.S3FileSystem.clear_instance_cache()
