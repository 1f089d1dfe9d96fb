"""Access control: the outermost layer of the server, before any route.

- The Host header must name this machine, else a foreign page whose name leads here (DNS rebinding) could ask.
- With a token, each request must bring it: once in the address, from then on in a cookie, or as a bearer.
- What another site's page asks for is refused but for opening the page itself; what changes something must
  come from this very origin.
- Bodies are small, addresses are short, and each answer says what a page may load and do.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wsi_seg.viewer.responses import error_reply

MOST_BODY = 64 * 1024
# Of what is drawn in a review: outlines of `MOST_CORNERS` in `wsi_seg.review.entries`.
MOST_REVIEW_BODY = 8 * 2**20
REVIEW = re.compile(r"/api/slides/[0-9a-f]+/review(/\w+)?")
MOST_ADDRESS = 4096
REPORT = re.compile(r"/api/slides/[0-9a-f]+/report\.html")
# Reports come from results folders, whoever made them: no script, nothing of this server, own styles.
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'none'"
)
SAFE_METHODS = ("GET", "HEAD")
METHODS = (*SAFE_METHODS, "POST", "DELETE")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class Access:
    """From where the server may be asked, and with what."""

    host: str = "127.0.0.1"
    """Address that it is bound to."""
    token: str | None = None
    """Token that every request must carry; None: no token is asked for."""
    cookie: str = "wsi_seg"
    """Name of the cookie that holds the token."""
    names: frozenset[str] = field(default_factory=frozenset)
    """Further names of this machine."""

    def is_own_name(self, host: str) -> bool:
        """Tell whether a Host header names this machine; the port may be another, as behind a tunnel."""
        name = _host_name(host)
        if name is None:
            return False
        if name in LOOPBACK or name == self.host.lower() or name in self.names:
            return True
        # No name that somebody else answers for leads to an address: addresses cannot be rebound.
        return not is_loopback(self.host) and _is_address(name)

    def has_token(self, given: str) -> bool:
        return self.token is None or hmac.compare_digest(
            given.encode("utf-8", "replace"), self.token.encode()
        )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def own_names() -> frozenset[str]:
    """Return the names that this machine goes by."""
    name = socket.gethostname().lower()
    return frozenset({name, f"{name}.local"})


class Guard:
    """ASGI middleware that lets through what `Access` allows, and adds `HEADERS` to each answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # no WebSockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        send = self._with_headers(scope, send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await error_reply(*refusal)(scope, receive, send)
            return
        most = _most_body(scope)
        try:
            await self._app(scope, _BoundedBody(receive, most), send)
        except _BodyTooLarge:
            await error_reply(413, f"the request is longer than {most} bytes")(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers, method = Headers(scope=scope), scope["method"]
        if method not in METHODS:
            return 405, f"the method {method[:20]} is not allowed"
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_ADDRESS:
            return 414, f"the address is longer than {MOST_ADDRESS} bytes"
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._access.is_own_name(hosts[0]):
            return 403, "the Host header does not name this server; open the address that it has printed"
        length = headers.get("content-length", "0")
        most = _most_body(scope)
        if not (length.isascii() and length.isdigit() and int(length[:12]) <= most):
            return 413, f"the request is longer than {most} bytes"
        if not _same_origin(headers, scope, hosts[0]):
            return 403, "a page of another site asks; open the address that this server has printed"
        if not self._access.has_token(self._token(scope)):
            return 401, "the token is missing or wrong; open the address that this server has printed"
        return None

    def _token(self, scope: Scope) -> str:
        """Return the token of a request; that of the address counts for the page alone."""
        request = Request(scope)
        bearer = request.headers.get("authorization", "")
        if bearer.startswith("Bearer "):
            return bearer.removeprefix("Bearer ")
        if scope["path"] == "/" and "token" in request.query_params:
            return request.query_params["token"]
        return request.cookies.get(self._access.cookie, "")

    def _with_headers(self, scope: Scope, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    headers[name] = value
                if REPORT.fullmatch(scope["path"]):
                    headers["Content-Security-Policy"] = REPORT_POLICY
                if self._access.token is not None and scope["path"] == "/" and message["status"] == 200:
                    headers.append(
                        "Set-Cookie",
                        f"{self._access.cookie}={self._access.token}; Path=/; HttpOnly; SameSite=Strict",
                    )
            await send(message)

        return sending


def _most_body(scope: Scope) -> int:
    return MOST_REVIEW_BODY if REVIEW.fullmatch(scope["path"]) else MOST_BODY


def _same_origin(headers: Headers, scope: Scope, host: str) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if scope["method"] in SAFE_METHODS and scope["path"] == "/":
        return True  # a link to the page may be anywhere
    if site not in (None, "same-origin", "none"):
        return False
    if origin is None:
        return True
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _host_name(host: str) -> str | None:
    """Return the name or address of a Host header without its port, None where it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port  # raises where it is none
    except ValueError:
        return None
    if parts.netloc != host or "@" in host or port == 0 or not parts.hostname:
        return None
    return parts.hostname.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class _BodyTooLarge(Exception):
    """More came than a request may hold."""


class _BoundedBody:
    """Passes a request's body on, up to its most bytes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._seen = receive, most, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise _BodyTooLarge
        return message
