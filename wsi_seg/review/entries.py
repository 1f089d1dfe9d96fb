"""An entry of a review: a verdict on a region, a drawn region or a reviewed area; who gave it, and when.

Positions are l0 pixels from the corner of level 0, snapped to the grid of our GeoJSON (0.01 px). Each entry
holds the outline that it speaks of, so a review can be read without the results that it was made on.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.annotation import polygonal_part
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import MOST_L0, Size
from wsi_seg.exporters.placed import GRID

Verdict = Literal["accepted", "rejected", "relabeled", "redrawn", "added", "reviewed-area", "revoked"]
"""`accepted`: right as it is; `rejected`: no such region; `relabeled`: right outline, another class;
`redrawn`: another outline, perhaps another class; `added`: missing in the results; `reviewed-area`: all was
looked at, and what no entry marks in it is background; `revoked`: the entries that it supersedes do not hold.
"""

CORRECTED: tuple[Verdict, ...] = ("relabeled", "redrawn", "added")
MARKED: tuple[Verdict, ...] = ("accepted", *CORRECTED)
"""Verdicts that say where tissue of a class is."""

MOST_NAME = 100
MOST_COMMENT = 2000
# Corners of an outline that somebody changes: a connected region of 25 mm² has as many in the results of the
# bundled model. An edit of it takes seconds. Outlines of results may have more.
MOST_CORNERS = 200_000
# Corners beyond which an outline is looked at for edges near each other before anything else is done with it.
MANY_CORNERS = 20_000
# Of an outline that crosses itself, corners, and pairs of edges near each other besides those of neighbors:
# making it valid takes time and memory for each crossing.
MOST_TANGLED_CORNERS = 5000
MOST_PAIRS = 10_000
# Pairs for each corner: three of traced outlines, where an edge is near itself and its neighbors.
PAIRS_PER_CORNER = 4
# Of coordinates on the grid.
DECIMALS = round(-math.log10(GRID))
# Edges that are looked at together.
EDGES = 256


def _parse_geometry(value: Any) -> Any:
    if value is None or isinstance(value, Polygon | MultiPolygon):
        return value
    try:
        shape = shapely.from_geojson(json.dumps(value))
    except (shapely.GEOSException, TypeError, ValueError) as error:
        raise ValueError(f"no GeoJSON polygon ({str(error).splitlines()[0]})") from error
    if not isinstance(shape, Polygon | MultiPolygon) or not shapely.is_valid(shape) or shape.area <= 0:
        raise ValueError("no valid polygon with an area")
    return shape


def _plain_geometry(shape: Polygon | MultiPolygon | None) -> Any:
    return None if shape is None else json.loads(shapely.to_geojson(shape))


def _parse_reviewer(value: Any) -> Any:
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("no control characters and line breaks")
    return value.strip() if isinstance(value, str) else value


Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Geometry = Annotated[
    Polygon | MultiPolygon | None, BeforeValidator(_parse_geometry), PlainSerializer(_plain_geometry)
]
Reviewer = Annotated[str, Field(min_length=1, max_length=MOST_NAME), BeforeValidator(_parse_reviewer)]
"""Name as it was typed; it never becomes part of a path."""
ClassName = Annotated[str, Field(min_length=1, max_length=MOST_NAME)]


class ReviewEntry(BaseModel):
    """One line of a journal; a value that never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    entry: Identity = Field(default_factory=lambda: uuid.uuid4().hex)
    """Identifies this entry."""
    verdict: Verdict
    slide: str = Field(min_length=1, max_length=200)
    """Fingerprint of the slide."""
    model: str = Field("", max_length=200)
    """Digest of the model whose results were looked at."""
    region: str = Field("", max_length=200)
    """Id of the region in the results; of an added region or a reviewed area its own, see `own_region`."""
    region_hash: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    """`geometry_hash` of the region in the results; "" where it is not theirs."""
    region_class: ClassName | None = None
    """Class or group that the results give it; None where it is not theirs."""
    class_name: ClassName | None = None
    """Class or group that the reviewer gives it; None of rejected regions and reviewed areas."""
    geometry: Geometry = None
    """Outline that the verdict is about, l0 pixels, valid; of a redrawn region the new one."""
    comment: str = Field("", max_length=MOST_COMMENT)
    reviewer: Reviewer
    time: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """Of the entry, UTC."""
    supersedes: tuple[Identity, ...] = ()
    """Earlier entries that do not hold any more while this one does."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.time.tzinfo is None:
            raise ValueError("the time has no time zone")
        if self.verdict == "revoked":
            if not self.supersedes or self.geometry is not None:
                raise ValueError("a revoked entry supersedes others and has no geometry")
            return self
        if self.geometry is None or not self.region:
            raise ValueError(f"{self.verdict} needs a region and its geometry")
        if (self.class_name is not None) != (self.verdict in MARKED):
            raise ValueError(f"{self.verdict} {'needs a' if self.class_name is None else 'has no'} class")
        return self

    @property
    def order(self) -> tuple[datetime, str]:
        """Place of the entry among all others: by time, then by id."""
        return self.time, self.entry

    def to_line(self) -> bytes:
        """Return the entry as one line of JSON, with its end; see `parse_line`."""
        return self.model_dump_json(exclude_defaults=False).encode() + b"\n"


def parse_line(line: bytes) -> ReviewEntry:
    """Return the entry of a line of a journal; ValueError (of pydantic) where it is damaged."""
    return ReviewEntry.model_validate_json(line)


def own_region(entry: str) -> str:
    """Return the region id of what an entry adds: the UUID of the entry."""
    return str(uuid.UUID(entry))


def later_than(times: Iterable[datetime]) -> datetime:
    """Return the time of a new entry, UTC: now, or just after these where a clock was ahead.

    An entry is then always later than those that its author has seen, whatever the clocks say.
    """
    now = datetime.now(UTC)
    return max((now, *(time + timedelta(microseconds=1) for time in times)))


def geometry_hash(shape: Polygon | MultiPolygon) -> str:
    """Return a SHA-256 of an outline, l0 pixels on the grid of our GeoJSON, wherever its rings begin."""
    rounded = shapely.transform(shape, lambda xy: np.round(xy, DECIMALS) + 0.0)
    return hashlib.sha256(shapely.to_wkb(shapely.normalize(rounded), byte_order=1)).hexdigest()


def drawn_shape(geometry: Any, size: Size) -> Polygon | MultiPolygon:
    """Return what somebody has drawn as a valid outline on the slide.

    A line that crosses itself is made valid: all that it encircles counts, as in drawn files.

    Args:
        geometry: GeoJSON Polygon or MultiPolygon in l0 pixels.
        size: of level 0; what lies beyond is cut off.

    Raises:
        UsageError: no polygon, one of too many corners or crossings, or none of it lies on the slide.
    """
    try:
        shape = shapely.force_2d(shapely.from_geojson(json.dumps(geometry, allow_nan=False)))
    except (shapely.GEOSException, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"geometry: no GeoJSON polygon ({str(error).splitlines()[0][:100]})") from error
    if not isinstance(shape, Polygon | MultiPolygon):
        raise UsageError(f"geometry: is a {shape.geom_type}, expected a Polygon or MultiPolygon")
    corners = int(shapely.get_num_coordinates(shape))
    if corners > MOST_CORNERS:
        raise UsageError(f"geometry: has {corners:,} corners, at most {MOST_CORNERS:,}; draw it coarser")
    if corners and not np.all(np.abs(shapely.get_coordinates(shape)) <= MOST_L0):
        raise UsageError(f"geometry: reaches beyond {MOST_L0:g} pixels; draw it on the slide")
    most = MOST_PAIRS + PAIRS_PER_CORNER * corners
    if (corners > MANY_CORNERS and near_pairs_exceed(shape, shape, 2 * most)) or (
        not shapely.is_valid(shape)
        and (corners > MOST_TANGLED_CORNERS or near_pairs_exceed(shape, shape, most))
    ):
        raise UsageError(f"geometry: its {corners:,} edges cross each other too often; draw it again")
    whole = shapely.box(0, 0, size.width, size.height)
    return snapped(shape if shapely.covers(whole, shape) else shapely.intersection(_area(shape), whole))


def snapped(shape: shapely.Geometry) -> Polygon | MultiPolygon:
    """Return the area of a shape on the grid of our GeoJSON, valid; UsageError where nothing is left."""
    xy = shapely.get_coordinates(shape)
    if len(xy) and shapely.is_valid(shape) and np.array_equal(xy, np.round(xy, DECIMALS)):
        return _area(shape)  # as it was; to snap 100,000 corners again would take seconds
    return _area(shapely.set_precision(_area(shape), GRID, mode="valid_output"))


def _area(shape: shapely.Geometry) -> Polygon | MultiPolygon:
    area = polygonal_part(shape)
    if area is None:
        raise UsageError("geometry: has no area on the slide; draw it on the slide, around some area")
    return area


def near_pairs_exceed(one: shapely.Geometry, other: shapely.Geometry, most: int) -> bool:
    """Return whether more than `most` pairs of edges of two shapes or lines might meet; it stops there."""
    edges, tree, pairs = _edges_of(one), shapely.STRtree(_edges_of(other)), 0
    for at in range(0, len(edges), EDGES):
        pairs += tree.query(edges[at : at + EDGES]).shape[1]
        if pairs > most:
            return True
    return False


def _edges_of(shape: shapely.Geometry) -> NDArray[np.object_]:
    """Return each edge of polygons or lines as a line, (n,)."""
    parts = shapely.get_parts(shape)
    lines = parts if shapely.get_dimensions(shape) == 1 else shapely.get_rings(parts)
    xy, line = shapely.get_coordinates(lines, return_index=True)
    same = np.flatnonzero(line[:-1] == line[1:])
    return np.asarray(shapely.linestrings(np.stack([xy[same], xy[same + 1]], axis=1)), object)
