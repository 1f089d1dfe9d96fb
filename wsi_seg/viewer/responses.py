"""Responses of the server: refusals with their status, JSON, and pictures that a browser may cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wsi_seg.core.errors import WsiSegError

# Where a URL carries the version of a result, its answer never changes.
FOR_GOOD = "private, max-age=31536000, immutable"
FOR_A_MINUTE = "private, max-age=60"
ASK_AGAIN = "private, no-cache"
NEVER = "no-store"
JSON = "application/json"


class Refused(WsiSegError):
    """A request that cannot be served; `status` is that of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error_reply(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return one line of JSON that says what is wrong."""
    line = " ".join(message.split())
    return JSONResponse({"error": line}, status, headers={"Cache-Control": NEVER, **(headers or {})})


def json_reply(value: Any, status: int = 200) -> Response:
    """Return a value as JSON that is asked for again each time; text is what it is, whatever it holds."""
    return text_reply(json_text(value), status)


def json_text(value: Any) -> str:
    """Return a value as compact JSON."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def text_reply(text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON that is text already; it is not kept by the browser unless `headers` say so."""
    content = text.encode("utf-8", "replace")
    return Response(content, status, headers or {"Cache-Control": NEVER}, media_type=JSON)


def kept_headers(request: Request, version: str) -> dict[str, str]:
    """Return the headers of what changes only with the version of a result.

    A request says in `v` which version the page knows.
    """
    known = request.query_params.get("v") == version
    return {"Cache-Control": FOR_GOOD if known else ASK_AGAIN, "ETag": f'"{version}"'}


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """Return the answer to a browser that has what `headers` name by their ETag; None where it has not."""
    given = request.headers.get("if-none-match", "")
    if headers["ETag"] in (tag.strip().removeprefix("W/") for tag in given.split(",")):
        return Response(status_code=304, headers=headers)
    return None


def tagged_reply(request: Request, text: str, more: Mapping[str, str] | None = None) -> Response:
    """Return JSON that is text already under a hash of it, or 304 where the browser has it."""
    content = text.encode("utf-8", "replace")
    tag = hashlib.sha256(content).hexdigest()[:32]
    headers = {"Cache-Control": ASK_AGAIN, "ETag": f'"{tag}"', **(more or {})}
    return not_modified(request, headers) or Response(content, headers=headers, media_type=JSON)
