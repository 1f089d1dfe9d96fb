"""A Hugging Face hub on loopback that serves one file, with the faults that a test asks for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One file of a repository, and the requests for it."""

    content: bytes
    path: str
    """Of the file, such as `owner/name/resolve/main/file.pth`."""
    etag: str = ""
    """As the hub tells it; empty: the SHA-256 of the content."""
    cut: int | None = None
    """The next download ends after so many bytes, and all that follow are refused until this is None."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """Method and `Range` of each request."""
    url: str = ""

    @property
    def downloads(self) -> list[str | None]:
        return [asked for method, asked in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub, asked = self.hub, self.headers.get("Range")
        hub.requests.append((self.command, asked))
        known = {f"/{hub.path}", f"/{hub.path.replace('/main/', f'/{COMMIT}/')}"}
        if self.path not in known or (body and hub.cut == 0):
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(hub.content) - start))
        if asked:
            last = len(hub.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(hub.content)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hub.etag or hashlib.sha256(hub.content).hexdigest()}"')
        self.end_headers()
        if body:
            rest = hub.content[start:]
            self.wfile.write(rest if hub.cut is None else rest[: hub.cut])
            if hub.cut is not None:
                hub.cut = 0
                self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve until the end of the block; `hub.url` says where."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
