"""Annotations of QuPath's files as a review reads them: which objects are some, their ids and outlines."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.exporters.placed import ID_NAMESPACE
from wsi_seg.review.entries import DECIMALS, geometry_hash, snapped

# Members that say what an object is, from QuPath 0.4 on and in 0.3; up to 0.2 the id of all objects says it.
OBJECT_TYPES = ("objectType", "object_type")
ANNOTATION = "annotation"
OTHER_IDS = ("PathCellObject", "PathDetectionObject", "PathTileObject", "PathRootObject", "TMACoreObject")
# Pixels up to which single precision is finer than half of the grid.
SINGLE_EXACT = 2**16


@dataclass(frozen=True)
class Drawn:
    """An annotation of a file."""

    id: str
    where: str
    """Place in the file, for messages."""
    shape: Polygon | MultiPolygon
    """l0 pixels, snapped."""
    label: str | None
    group: str | None
    """Class that our metadata say."""
    verdict: str | None
    """Verdict that our metadata say: the file is an exported review."""


def is_annotation(feature: dict[str, Any]) -> bool:
    """Return whether QuPath calls an object an annotation, or nothing: cells and others are no regions."""
    properties = feature.get("properties")
    members = properties if isinstance(properties, dict) else {}
    said = next((members[name] for name in OBJECT_TYPES if name in members), None)
    return feature.get("id") not in OTHER_IDS if said is None else bool(said == ANNOTATION)


def uuid_of(region: str) -> str:
    """Return a region's id as QuPath takes it: as it is, or a UUID of it where it is none."""
    return str(uuid.UUID(region)) if is_uuid(region) else str(uuid.uuid5(ID_NAMESPACE, region))


def is_uuid(text: Any) -> bool:
    """Return whether a member of a file is a UUID."""
    try:
        return uuid.UUID(text) is not None
    except (ValueError, AttributeError, TypeError):
        return False


def is_same_outline(
    shape: Polygon | MultiPolygon, known: Polygon | MultiPolygon, origin_l0: tuple[float, float]
) -> bool:
    """Return whether an outline of a file is a known one, as it is or as QuPath keeps it; both in l0 pixels.

    QuPath's polygons have corners in single precision, which is coarser than the grid beyond 65,536 px.

    Args:
        shape: snapped.
        known: snapped.
        origin_l0: position from which the file counts.
    """

    def as_single(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        single = np.subtract(xy, origin_l0).astype(np.float32).astype(np.float64)
        return np.add(np.round(single, DECIMALS), origin_l0)

    if shapely.equals_exact(shape, known):  # as most are; hashes of many would take minutes
        return True
    own = geometry_hash(shape)
    if own == geometry_hash(known):
        return True
    far = np.abs(shapely.bounds(known)).max() > SINGLE_EXACT
    return bool(far) and own == geometry_hash(snapped(shapely.transform(known, as_single)))
