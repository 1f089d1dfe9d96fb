"""The truth of finished maps: drawn regions painted at the map's resolution, or a mask of codes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
import tifffile
import zarr
import zarr.errors
from numpy.typing import NDArray
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.drawing import Drawing, check_inside
from wsi_seg.annotations.reading import ENDINGS, read_annotations
from wsi_seg.core.classes import IGNORED_CODES
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box, Origin, Scale, Size
from wsi_seg.datasets.areas import annotated_boxes
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.datasets.region import IGNORED, Targets
from wsi_seg.slides.readers.tiff import TIFF_ERRORS
from wsi_seg.slides.slide import MapFrame, SlideInfo, require_mpp

# Pixels from which on a TIFF mask is read in parts.
LARGE = 2**26

# Options of `wsi-seg evaluate`, for messages.
OPTIONS = ("--class-names", "--ignored-classes")


@dataclass(frozen=True, slots=True)
class TruthFile:
    """Truth that finished maps are compared with."""

    path: Path
    """Drawn regions, or an image or Zarr array of class codes that covers the whole slide."""
    class_names: tuple[tuple[str, str], ...] = ()
    """From names of annotations, or codes or colors of a mask, to classes of the model, where they differ."""
    origin: Origin = "bounds"
    """Origin of positions in QuPath's GeoJSON, unless the file states it; see `tissue.find_tissue`."""
    ignored_classes: tuple[str, ...] = ()
    """Names of zero weight, besides Ignore* and Region*; of a mask, codes or colors."""
    ignored_codes: tuple[int, ...] = IGNORED_CODES
    """Codes of zero weight."""
    mask_mpp: float | None = None
    """Microns per pixel of a mask; None: its size is that of the map or of a level of the slide."""

    @property
    def names(self) -> NamedClasses:
        """How its classes are named."""
        return NamedClasses(class_names=dict(self.class_names), ignored_classes=self.ignored_classes)

    @property
    def drawn(self) -> bool:
        """True where it holds polygons."""
        return self.path.name.lower().endswith(ENDINGS)


class Truth(Protocol):
    """The truth of a whole map."""

    boxes: list[Box]
    """Where there is any, in map pixels; they do not overlap."""
    notes: tuple[str, ...]
    """Sentences that a reader of the figures must know."""

    def read(self, box_map: Box) -> Targets:
        """Return int16 (h, w) targets."""


def open_truth(truth: TruthFile, slide: SlideInfo, frame: MapFrame, scheme: LabelScheme) -> Truth:
    """Return the truth at the resolution of a slide's map.

    Raises:
        DataError: it does not fit the map or the model's classes.
        MaskError: the drawn regions cannot be read.
    """
    if not truth.path.exists():
        raise DataError(f"{truth.path}: no such file; give the annotations or the mask of {slide.name}")
    if truth.drawn:
        if truth.mask_mpp is not None:
            raise DataError(f"{truth.path}: polygons have no pixels; --mask-mpp goes with a mask")
        return _drawn(truth, slide, frame, scheme)
    return _Mask(truth, slide, frame, scheme)


class _DrawnTruth:
    """Polygons painted by the pixel-center rule."""

    notes: tuple[str, ...] = ()

    def __init__(self, drawing: Drawing, boxes: list[Box]) -> None:
        self._drawing = drawing
        self.boxes = boxes

    def read(self, box_map: Box) -> Targets:
        return self._drawing.paint(box_map, ground=IGNORED)


class _Mask:
    """Codes of the whole slide; of each map pixel, that of the mask pixel at its center."""

    def __init__(self, truth: TruthFile, slide: SlideInfo, frame: MapFrame, scheme: LabelScheme) -> None:
        self._values = truth.names.mask_values(scheme, str(truth.path), options=OPTIONS)
        self._codes, self._path = open_codes(truth.path, slide.name, self._values.colored), truth.path
        rows, columns = self._codes.shape
        self._per_map, known_by = _mask_scale(truth, Size(columns, rows), slide, frame)
        self.boxes = [frame.box]
        self.notes: tuple[str, ...] = ()
        if self._per_map != Scale(1, 1):
            self.notes = (
                f"The mask has {frame.mpp / self._per_map.x:.4g} µm/px ({known_by}); it was brought to the "
                f"{frame.mpp:g} µm/px of the map by nearest neighbor.",
            )

    def read(self, box_map: Box) -> Targets:
        rows = _nearest(box_map.y0, box_map.y1, self._per_map.y, self._codes.shape[0])
        columns = _nearest(box_map.x0, box_map.x1, self._per_map.x, self._codes.shape[1])
        part = np.asarray(self._codes[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        codes = part[(rows - rows[0])[:, None], columns - columns[0]]
        return self._values.read(codes, self._path)


def _nearest(start: int, stop: int, per_map: float, length: int) -> NDArray[np.intp]:
    """Return the mask pixels at the centers of map pixels."""
    found = np.floor((np.arange(start, stop) + 0.5) * per_map).astype(np.intp)
    return np.asarray(np.minimum(found, length - 1))


def _mask_scale(truth: TruthFile, size: Size, slide: SlideInfo, frame: MapFrame) -> tuple[Scale, str]:
    """Return the mask pixels to a map pixel, and how they are known.

    Raises:
        DataError: they are not, or what the user says does not fit the size of the mask.
    """
    mpp = require_mpp(slide)
    if truth.mask_mpp is None:
        if size == frame.size:
            return Scale(1, 1), "the map"
        for number, level in enumerate(slide.levels):
            if size == level.size:
                return frame.l0_per_map / level.downsample, f"level {number} of the slide"
    covered = Scale(slide.size.width * mpp.x / size.width, slide.size.height * mpp.y / size.height)
    uneven = abs(covered.x / covered.y - 1) > 1 / min(size.width, size.height)
    fit = "" if uneven else f"; if it covers the whole slide, that is --mask-mpp {covered.x:.6g}"
    if truth.mask_mpp is None:
        raise DataError(
            f"{truth.path}: the mask has {_text(size)} pixels, which is the size neither of the map "
            f"({_text(frame.size)}) nor of a level of the slide {slide.name} "
            f"({', '.join(_text(level.size) for level in slide.levels)}); give its resolution with "
            f"--mask-mpp{fit}"
        )
    asked = Scale(truth.mask_mpp, truth.mask_mpp)
    expected = Size(round(size.width * (covered / asked).x), round(size.height * (covered / asked).y))
    if max(abs(expected.width - size.width), abs(expected.height - size.height)) > 1:
        raise DataError(
            f"{truth.path}: at {truth.mask_mpp:g} µm/px a mask of the whole slide {slide.name} has "
            f"{_text(expected)} pixels, but this one has {_text(size)}{fit}"
        )
    return Scale(frame.mpp, frame.mpp) / asked, "as given by --mask-mpp"


def _text(size: Size) -> str:
    return f"{size.width}×{size.height}"


def _drawn(truth: TruthFile, slide: SlideInfo, frame: MapFrame, scheme: LabelScheme) -> Truth:
    annotations = read_annotations(truth.path).in_l0(slide.bounds, truth.origin)
    targets = []
    for item in annotations.items:
        targets.append(truth.names.target_of(item.name, scheme, item.where, options=OPTIONS))
        if targets[-1] != IGNORED:
            check_inside(item.geometry, slide.size, item.where, slide.path)
    per_l0 = np.array([1 / frame.l0_per_map.x, 1 / frame.l0_per_map.y])
    polygons: list[Polygon | MultiPolygon] = list(
        shapely.transform(annotations.geometries, lambda xy: xy * per_l0)
    )
    known = [p for p, target in zip(polygons, targets, strict=True) if target != IGNORED]
    if not known:
        raise DataError(f"{truth.path}: all of its annotations are of ignored classes")
    return _DrawnTruth(Drawing.of(polygons, targets), annotated_boxes(known, frame.box, margin=0))


def open_codes(path: Path, name: str, colored: bool = False) -> Any:
    """Return uint8 codes (H, W): an array, or a Zarr array of a store or a large TIFF that is read in parts.

    Where the mask is colored, return its colors, uint32 0xrrggbb (H, W).

    Raises:
        DataError: the file is no mask of codes.
    """
    if not path.is_dir():
        if colored:
            return MaskReader(name).colors(path, name)
        large = _large_tiff(path)
        return MaskReader(name).codes(path, name) if large is None else large
    try:
        node = zarr.open(path, mode="r")
        array = node if isinstance(node, zarr.Array) else node["0"]
    except (OSError, KeyError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{path}: no Zarr array, nor a group with one called 0 ({error})") from error
    if not isinstance(array, zarr.Array) or array.dtype != np.uint8 or array.ndim != 2:
        raise DataError(f"{path}: a mask is an array of uint8 codes with rows and columns")
    return array


def _large_tiff(path: Path) -> Any:
    """Return the pixels of a TIFF that is too large to be held in memory, read in parts; None for others."""
    try:
        tiff = tifffile.TiffFile(path)
        page = tiff.pages.first
    except TIFF_ERRORS:
        return None  # another format, or damaged: the reader of small masks says so
    if page.imagewidth * page.imagelength <= LARGE:
        tiff.close()
        return None
    photometric, compression = tifffile.PHOTOMETRIC(page.photometric), tifffile.COMPRESSION(page.compression)
    pixels = (photometric.name, page.samplesperpixel, str(page.dtype))
    if pixels != ("MINISBLACK", 1, "uint8") or compression == tifffile.COMPRESSION.JPEG:
        tiff.close()
        raise DataError(
            f"{path}: a mask of this size must be lossless 8-bit gray; this one has {pixels[1]} channel(s) "
            f"of {pixels[2]}, {photometric.name}, {compression.name}"
        )
    return zarr.open(tiff.series[0].aszarr(level=0), mode="r")


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
