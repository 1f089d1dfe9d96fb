"""Edits of an outline by a reviewer: brush, eraser, holes, splitting and merging; nothing is stored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import shapely
from pydantic import BaseModel, ConfigDict, Field

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import MOST_L0
from wsi_seg.review.editing import brush, divided, united, without
from wsi_seg.review.entries import drawn_shape
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.state import OpenResult

# Points of a stroke of the brush, or of a line that splits.
MOST_POINTS = 5000
Coordinate = Annotated[float, Field(ge=-MOST_L0, le=MOST_L0)]


class EditRequest(BaseModel):
    """An edit of an outline; nothing is stored."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    action: Literal["add", "erase", "split"]
    geometry: dict[str, Any] | None = None
    """GeoJSON of the outline in l0 pixels; None: of nothing yet, to be added to."""
    other: dict[str, Any] | None = None
    """GeoJSON of what is added or erased; else what a brush along `line` covers."""
    line: list[tuple[Coordinate, Coordinate]] = Field([], max_length=MOST_POINTS)
    """l0 pixels: the way of the brush, or the line that splits."""
    radius: float = Field(1.0, gt=0, le=1e5)
    """Of the brush, l0 pixels."""


def edit(result: OpenResult, asked: EditRequest) -> dict[str, Any]:
    """Return the parts that an edit of an outline gives, as GeoJSON; several only where it was split.

    Raises:
        Refused: 400, the request does not fit together, or nothing is left.
    """
    size = result.facts.slide.size
    try:
        shape = None if asked.geometry is None else drawn_shape(asked.geometry, size)
        if asked.action == "split":
            if shape is None or len(asked.line) < 2:
                raise Refused(400, "split needs a geometry and a line of two points or more")
            parts = divided(shape, asked.line)
        else:
            if (asked.other is None) != bool(asked.line):
                raise Refused(400, f"{asked.action} needs either other or a line")
            other = brush(asked.line, asked.radius) if asked.line else drawn_shape(asked.other, size)
            if shape is None and asked.action == "erase":
                raise Refused(400, "erase needs a geometry")
            parts = [
                without(shape, other) if shape is not None and asked.action == "erase"
                else united(shape if shape is not None else other, other, size)
            ]  # fmt: skip
    except UsageError as error:
        raise Refused(400, str(error)) from error
    return {"parts": [shapely.geometry.mapping(part) for part in parts]}
