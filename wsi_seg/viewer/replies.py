"""What the server answers: refusals with their status, JSON, and pictures that a browser may keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from wsi_seg.errors import WsiSegError

# Where a URL carries the version of a result, its answer never changes.
FOR_GOOD = "private, max-age=31536000, immutable"
ASK_AGAIN = "private, no-cache"
NEVER = "no-store"


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
    return text_reply(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")), status)


def text_reply(text: str, status: int = 200) -> Response:
    """Return JSON that is text already."""
    headers = {"Cache-Control": NEVER}
    return Response(text.encode("utf-8", "replace"), status, headers, media_type="application/json")


def kept_reply(request: Request, version: str | None) -> tuple[dict[str, str], Response | None]:
    """Return the headers of a picture of a result, and the whole answer where the browser has it already.

    Args:
        request: its query may hold `v`, the version that the page knows.
        version: of the result; None where it still changes.
    """
    if version is None:
        return {"Cache-Control": NEVER}, None
    known = request.query_params.get("v") == version
    headers = {"Cache-Control": FOR_GOOD if known else ASK_AGAIN, "ETag": f'"{version}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return headers, Response(status_code=304, headers=headers)
    return headers, None
