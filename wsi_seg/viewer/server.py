"""Starting the server: what must be there, the port, the token, and the address to open."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from wsi_seg.core.errors import OutputError, UsageError, WsiSegError
from wsi_seg.core.files import reason_of
from wsi_seg.viewer.app import create_app
from wsi_seg.viewer.connections import MOST_CONNECTIONS, BoundedConnection
from wsi_seg.viewer.folders import find_results
from wsi_seg.viewer.security import Access, is_loopback, own_names
from wsi_seg.viewer.state import Places

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str = "127.0.0.1"
    """Any but a loopback address demands a token, which is made at the start."""
    port: int = 0
    """0 takes any that is free."""


def serve(
    places: Places, address: Address, announce: Callable[[str], object], *, browser: bool = False
) -> None:
    """Serve until interrupted.

    Args:
        places: folders that may be read; `static` is added.
        address: where to listen.
        announce: told the URL to open, once the server listens.
        browser: open it in the user's browser.

    Raises:
        OutputError: there are no results, or the page was not built.
        UsageError: the port is taken, or the address is not one of this machine.
    """
    check_places(places)
    host = address.host
    with bind(host, address.port) as listening:
        bound = listening.getsockname()[1]
        token = None if is_loopback(host) else secrets.token_urlsafe(32)
        access = Access(host, token, cookie=f"wsi_seg_{bound}", names=own_names())
        app = create_app(replace(places, static=STATIC), access)
        url = url_of(host, bound, token)
        announce(url)
        if browser:
            # Some browsers stay in the foreground of the terminal that starts them.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # the token is in an address
            server_header=False,
            proxy_headers=False,
            http=BoundedConnection,
            ws="none",
            lifespan="on",
            limit_concurrency=MOST_CONNECTIONS + 1,  # uvicorn counts the one that asks
            timeout_graceful_shutdown=3,
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def check_places(places: Places) -> None:
    """Raise OutputError or UsageError where a folder is not there or holds nothing to show."""
    for folder, option in ((places.slides, "--slides"), (places.runs, "--allow-run")):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{option} {folder}: no such folder")
    if places.runs is not None:
        places.out.mkdir(parents=True, exist_ok=True)
    elif not places.out.is_dir():
        raise OutputError(f"{places.out}: no such folder; give the folder of wsi-seg run --output")
    elif not find_results(places.out.resolve()):
        raise OutputError(
            f"{places.out}: holds no results of wsi-seg; run wsi-seg run SLIDE -o {places.out}, "
            "or pass --allow-run DIR to start runs from the browser"
        )
    _check_page(STATIC)


def _check_page(static: Path) -> None:
    if (static / "index.html").is_file():
        return
    reason = static / "MISSING.txt"
    why = " ".join(reason.read_text(encoding="utf-8").split()) if reason.is_file() else "it was not built"
    raise WsiSegError(f"{static}: the viewer's page is missing: {why}")


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UsageError: the port is taken, or there is no such address.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"--host {host}: no address of this machine ({reason_of(error)})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"port {port} of {host} cannot be used ({reason_of(error)}); "
            "choose another with --port, or 0 for any that is free"
        ) from error
    return listening


def url_of(host: str, port: int, token: str | None) -> str:
    """Return the URL to open; of a server on all addresses, by the machine's name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")
