"""The truth of finished maps: QuPath annotations painted at the map's resolution, or a mask of codes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
import zarr
import zarr.errors
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations import read_annotations
from wsi_seg.classes import IGNORED_CODES
from wsi_seg.datasets.areas import annotated_boxes
from wsi_seg.datasets.base import read_mask
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.datasets.region import IGNORED, Targets
from wsi_seg.drawing import Drawing, check_inside
from wsi_seg.errors import DataError
from wsi_seg.geometry import Box, Size
from wsi_seg.slide import MapFrame, SlideInfo
from wsi_seg.tissue import Origin, drawn_l0

# Options of `wsi-seg evaluate`, for messages.
OPTIONS = ("--class-names", "--ignored-classes")


@dataclass(frozen=True, slots=True)
class TruthFile:
    """What finished maps are compared with."""

    path: Path
    """GeoJSON of QuPath, or an image or Zarr array of class codes with the size of the map."""
    class_names: tuple[tuple[str, str], ...] = ()
    """From names of annotations to classes of the model, where they differ."""
    origin: Origin = "bounds"
    """What positions in the GeoJSON count from, unless the file says; see `tissue.find_tissue`."""
    ignored_classes: tuple[str, ...] = ()
    """Names of annotations of zero weight, besides Ignore* and Region*."""
    ignored_codes: tuple[int, ...] = IGNORED_CODES
    """Codes of zero weight."""

    @property
    def drawn(self) -> bool:
        """Whether it holds polygons."""
        return self.path.name.lower().endswith((".geojson", ".json", ".geojson.gz"))


class Truth(Protocol):
    """The truth of a whole map."""

    boxes: list[Box]
    """Where there is any, in map pixels; they do not overlap."""

    def read(self, box_map: Box) -> Targets:
        """Return int16 (h, w) targets."""
        ...


def open_truth(truth: TruthFile, slide: SlideInfo, frame: MapFrame, scheme: LabelScheme) -> Truth:
    """Return the truth at the resolution of a slide's map.

    Raises:
        DataError: it does not fit the map or the model's classes.
        MaskError: the GeoJSON cannot be read.
    """
    if not truth.path.exists():
        raise DataError(f"{truth.path}: no such file; give the annotations or the mask of {slide.name}")
    if truth.drawn:
        return _drawn(truth, slide, frame, scheme)
    if truth.class_names:
        raise DataError(f"{truth.path}: a mask holds codes, not names; class names go with a GeoJSON file")
    return _Mask(_read_codes(truth.path, slide, frame.size), frame.box, scheme, truth.path)


class _Annotations:
    """Polygons painted by the pixel-centre rule."""

    def __init__(self, drawing: Drawing, boxes: list[Box]) -> None:
        self._drawing = drawing
        self.boxes = boxes

    def read(self, box_map: Box) -> Targets:
        return self._drawing.paint(box_map, ground=IGNORED)


class _Mask:
    """Codes, one for each map pixel."""

    def __init__(self, codes: Any, whole: Box, scheme: LabelScheme, path: Path) -> None:
        self._codes, self._scheme, self._path = codes, scheme, path
        self.boxes = [whole]

    def read(self, box_map: Box) -> Targets:
        codes = np.asarray(self._codes[box_map.y0 : box_map.y1, box_map.x0 : box_map.x1])
        return self._scheme.from_codes(codes, self._path)


def _drawn(truth: TruthFile, slide: SlideInfo, frame: MapFrame, scheme: LabelScheme) -> Truth:
    annotations = read_annotations(truth.path)
    polygons_l0 = drawn_l0(annotations, slide.bounds, truth.origin)
    names = NamedClasses(class_names=dict(truth.class_names), ignored_classes=truth.ignored_classes)
    targets = []
    for number, (item, polygon) in enumerate(zip(annotations.items, polygons_l0, strict=True), start=1):
        what = f"{truth.path}: polygon {number}"
        targets.append(names.target_of(item.name, scheme, what, options=OPTIONS))
        if targets[-1] != IGNORED:
            check_inside(polygon, slide.size, what, slide.path)
    per_l0 = np.array([1 / frame.l0_per_map.x, 1 / frame.l0_per_map.y])
    polygons: list[Polygon | MultiPolygon] = list(shapely.transform(polygons_l0, lambda xy: xy * per_l0))
    known = [p for p, target in zip(polygons, targets, strict=True) if target != IGNORED]
    if not known:
        raise DataError(f"{truth.path}: all of its annotations are of ignored classes")
    return _Annotations(Drawing.of(polygons, targets), annotated_boxes(known, frame.box, margin=0))


def _read_codes(path: Path, slide: SlideInfo, size: Size) -> Any:
    """Return uint8 codes (H, W) of an image, or a Zarr array of them."""
    if not path.is_dir():
        return read_mask(path, Path(f"map of {slide.name}"), size)
    try:
        node = zarr.open(path, mode="r")
        array = node if isinstance(node, zarr.Array) else node["0"]
    except (OSError, KeyError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{path}: no Zarr array, nor a group with one called 0 ({error})") from error
    if not isinstance(array, zarr.Array) or array.dtype != np.uint8:
        raise DataError(f"{path}: a mask is an array of uint8 codes")
    if array.shape != (size.height, size.width):
        raise DataError(
            f"{path}: the mask has the shape {array.shape} but the map of {slide.name} has "
            f"{size.height} rows and {size.width} columns"
        )
    return array


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
