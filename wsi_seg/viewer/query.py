"""Parameters of a request: numbers that are finite and within bounds, boxes, scales, class codes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from wsi_seg.core.geometry import MOST_L0
from wsi_seg.viewer.responses import Refused

# Most screen pixels along a side of what one request asks for: more than any screen has.
MOST_SCREEN = 16_384
MOST_SCALE = 1e6
MOST_CODES = 256

Query = Mapping[str, str]
Asked = TypeVar("Asked", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class View:
    """View of a screen."""

    box_l0: tuple[float, float, float, float]
    """x0, y0, x1, y1 in l0 pixels."""
    scale: float
    """l0 pixels per screen pixel."""


def body(request: Request, content: bytes, kind: type[Asked]) -> Asked:
    """Return the JSON that a request carries, checked.

    Raises:
        Refused: 415, it is no JSON by its type; 400, it does not fit.
    """
    # A form of another site cannot be of this type.
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Refused(415, "send JSON, with Content-Type: application/json")
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "request"
        raise Refused(400, f"{where[:80]}: {first['msg'][:150]}") from error


def text(query: Query, name: str) -> str:
    """Return a text of the query.

    Raises:
        Refused: it is missing.
    """
    if name not in query:
        raise Refused(400, f"{name} is missing from the address")
    return query[name]


def number(query: Query, name: str, low: float, high: float) -> float:
    """Return a number of the query.

    Raises:
        Refused: it is missing, no finite number, or out of bounds.
    """
    return _number(name, text(query, name), low, high)


def view(query: Query) -> View:
    """Return the `box` and `scale` of a query.

    Raises:
        Refused: one is missing or wrong, or the box has more screen pixels than any screen.
    """
    scale = number(query, "scale", 1e-3, MOST_SCALE)
    parts = text(query, "box").split(",")
    if len(parts) != 4:
        raise Refused(400, "box must be four numbers x0,y0,x1,y1 in l0 pixels")
    x0, y0, x1, y1 = (_number("box", part, -MOST_L0, MOST_L0) for part in parts)
    if not (x0 < x1 and y0 < y1):
        raise Refused(400, f"box {x0:g},{y0:g},{x1:g},{y1:g} is empty; give x0 < x1 and y0 < y1")
    if max(x1 - x0, y1 - y0) / scale > MOST_SCREEN:
        raise Refused(400, f"box is more than {MOST_SCREEN} screen pixels wide or high at scale {scale:g}")
    return View((x0, y0, x1, y1), scale)


def codes(query: Query) -> frozenset[int] | None:
    """Return the class codes of a query; None where it names none, empty where it names an empty list.

    Raises:
        Refused: they are no whole numbers 1 … 255.
    """
    if "codes" not in query:
        return None
    parts = [part for part in query["codes"].split(",") if part]
    if len(parts) > MOST_CODES:
        raise Refused(400, f"codes: at most {MOST_CODES}")
    return frozenset(whole("codes", part, 1, 255) for part in parts)


def whole(name: str, text: str, low: int, high: int) -> int:
    """Return a whole number written in plain digits.

    Raises:
        Refused: it is none, or out of bounds.
    """
    # str.isdigit alone takes digits of all scripts.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise Refused(400, f"{name} must be a whole number from {low} to {high}, got {text[:40]!r}")
    return int(text)


def choice(query: Query, name: str, values: tuple[str, ...]) -> str:
    """Return one of `values`, by default the first.

    Raises:
        Refused: another was asked for.
    """
    value = query.get(name, values[0])
    if value not in values:
        raise Refused(400, f"{name} must be {' or '.join(values)}, got {value[:40]!r}")
    return value


def _number(name: str, text: str, low: float, high: float) -> float:
    try:
        value = float(text) if len(text) <= 40 else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and low <= value <= high):
        raise Refused(400, f"{name} must be a number from {low:g} to {high:g}, got {text[:40]!r}")
    return value
