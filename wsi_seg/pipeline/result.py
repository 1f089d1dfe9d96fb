"""The results of one slide as one value: what a run made, and its maps and regions as arrays and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import (
    RUN_AGAIN,
    canonical_name,
    find_class_or_group,
    not_stored,
)
from wsi_seg.core.errors import MissingExtraError, OutputError, UsageError
from wsi_seg.core.files import reading
from wsi_seg.core.geometry import Box, Origin, RealBox
from wsi_seg.core.storage import is_remote
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.exporters.table import find_format
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.resampling import frame_at, label_reader, probability_reader, read_strips
from wsi_seg.pipeline.export import export_source, write_export
from wsi_seg.planning.map_layout import Kind
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.files import MANIFEST, SUMMARY, as_summary, read_json
from wsi_seg.slides.slide import MapFrame, SlideInfo

if TYPE_CHECKING:
    from dask.array import Array
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from spatialdata import SpatialData

    from wsi_seg.exporters.frames import Unit

LabelKind = Literal["classes", "tissue", "coverage", "artifacts"]
Bounds = Box | RealBox | Sequence[float]
"""A box in l0 pixels: a `Box`, or four numbers x0, y0, x1, y1, such as the `bounds` of a geometry."""

# Bytes of an array that is returned at once; more is a slip more often than a wish.
MOST_BYTES = 2**30


@dataclass(frozen=True)
class Result:
    """Results of one slide: returned by `segment_slide`, or opened later by `open_result`.

    Arrays lie in the map frame, see `MapFrame`: pixel (0, 0) begins at the corner of level 0, also of a slide
    with bounds, and is `mpp` µm wide and high. Nothing is read before it is asked for.
    """

    slide_path: str
    """The slide as it was given: a file, folder or URL."""
    status: Literal["done", "skipped", "incomplete"]
    """`skipped`: whole results were there before; `incomplete`: parts of the slide could not be read."""
    folder: Path | str
    """Folder of the results; a URL where they were uploaded."""
    summary: dict[str, Any]
    """Content of `summary.json`: areas, counts and times."""
    kept: bool = False
    """True where whole results were there before."""
    note: str = ""
    """More about it: why parts are missing, or what made results that were kept."""

    @property
    def slide(self) -> SlideInfo:
        """Facts about the slide, such as its size and µm per pixel."""
        return self._opened.slide

    @property
    def model(self) -> ModelCard:
        """Card of the model: its classes, groups, resolution and limits."""
        return self._opened.card

    @property
    def maps(self) -> Maps:
        """Stored maps, to be sliced as NumPy arrays are; Zarr libraries open `maps.path`."""
        return self._opened.maps

    @property
    def run_regions(self) -> RegionSettings:
        """Regions that the run traced, and how."""
        return self._opened.settings

    def frame(self, mpp: float | None = None) -> MapFrame:
        """Return the frame of arrays at `mpp` µm per pixel; None: that of the stored labels.

        With it `read_region` gives the image under an array.

        Raises:
            UsageError: finer than the slide, or coarser than all of it.
            OutputError: the results are at a URL, or damaged.
        """
        return self._opened.frame if mpp is None else frame_at(self.slide, self.maps, mpp)

    def labels(
        self, kind: LabelKind = "classes", *, box_l0: Bounds | None = None, mpp: float | None = None
    ) -> NDArray[np.uint8]:
        """Return class codes, or another layer of labels.

        Args:
            kind: `classes` (0: not analyzed), `tissue` (1: analyzed), `coverage` (0: whole, 1: read from
                another level, 2: unreadable), or `artifacts` (0: none).
            box_l0: part of the slide, in l0 pixels from the corner of level 0; None: all of it.
            mpp: µm per pixel; None: as stored, that of the model. Codes are never mixed: a pixel is the code
                at its center.

        Returns:
            uint8 (y, x): the pixels of `frame(mpp).to_map(box_l0)`, 0 beyond the slide.

        Raises:
            UsageError: no such layer, an empty box, finer than the slide, or an array of more than 1 GiB.
            OutputError: the results are at a URL, or damaged.
        """
        known = [name for name in self.maps.layout.kinds if name != "probabilities"]
        if kind not in known:
            raise UsageError(f"{self.folder}: there are no labels {kind!r}; there are {', '.join(known)}")
        frame = frame_at(self.slide, self.maps, self.maps.mpp if mpp is None else mpp)
        reader = label_reader(self.maps, kind, frame.mpp / self.maps.mpp)
        codes: NDArray[np.uint8] = self._read([reader], np.uint8, box_l0, frame)[0]
        return codes

    def probabilities(
        self, name: str | None = None, *, box_l0: Bounds | None = None, mpp: float | None = None
    ) -> NDArray[np.float32]:
        """Return the probability of a group or class, or each that is stored.

        Args:
            name: group of the model's card, or else class; None: each that is stored, by default those of all
                classes, in the order of `maps.channels`.
            box_l0: part of the slide, in l0 pixels from the corner of level 0; None: all of it.
            mpp: µm per pixel; None: as stored, by default four times that of the model. Finer than stored is
                interpolated linearly, coarser averaged.

        Returns:
            float32, 0 … 1: (y, x), or (channel, y, x) without a name. They are the pixels of
            `frame(mpp).to_map(box_l0)`, 0 beyond the slide and where nothing was analyzed.

        Raises:
            UsageError: no such group or class, its probability is not stored, an empty box, finer than the
                slide, or an array of more than 1 GiB.
            OutputError: the results are at a URL, or damaged.
        """
        held = self.maps.channels
        if name is None:
            every = [(i,) for i, channel in enumerate(held) if channel.codes]
            if not every:
                raise UsageError(f"{self.folder}: no probabilities are stored; {RUN_AGAIN}")
            return self._values(every, box_l0, mpp)
        channels = self.maps.layout.find_channels(self._codes(name))
        if channels is None:
            raise UsageError(f"{self.folder}: {not_stored(name, held)}")
        values: NDArray[np.float32] = self._values([channels], box_l0, mpp)[0]
        return values

    def uncertainty(self, *, box_l0: Bounds | None = None, mpp: float | None = None) -> NDArray[np.float32]:
        """Return the uncertainty, float32 (y, x), 0 … 1; arguments and errors as of `probabilities`.

        UsageError where the run did not store it.
        """
        if not self.maps.layout.uncertainty:
            raise UsageError(f"{self.folder}: no uncertainty was stored; run with uncertainty on")
        values: NDArray[np.float32] = self._values([(len(self.maps.channels) - 1,)], box_l0, mpp)[0]
        return values

    def dask_array(self, kind: Kind = "classes", level: int = 0) -> Array:
        """Return a stored map as a Dask array, a chunk for each shard, read when it is computed.

        Args:
            kind: layer of labels, uint8 (y, x); or `probabilities`, (channel, y, x): uint8 for value / 255,
                or float32.
            level: of the pyramid; each halves the one before.

        Raises:
            UsageError: no such layer or level.
            OutputError: the results are at a URL, or damaged.
        """
        from wsi_seg.execution.arrays import as_dask

        layout = self.maps.layout
        if kind not in layout.kinds or not 0 <= level < layout.level_count:
            raise UsageError(
                f"{self.folder}: there is no level {level} of {kind!r}; there are levels 0 to "
                f"{layout.level_count - 1} of {', '.join(layout.kinds)}"
            )
        return as_dask(self.maps.array(kind, level))

    def regions(self, settings: RegionSettings | None = None, *, unit: Unit = "l0") -> GeoDataFrame:
        """Trace the regions and return one row for each, with its measurements.

        Args:
            settings: groups, classes and how they are traced; None: as the run traced them. Their `origin` is
                not used.
            unit: of the geometries: `l0`, pixels of level 0, or `um`, micrometers. Both count from the corner
                of level 0.

        Returns:
            GeoDataFrame with the columns of the export format csv, which docs/api.md lists, and `geometry`.

        Raises:
            UsageError: the model has no such class, or there is no such unit.
            MissingExtraError: geopandas is not installed.
            OutputError: the results are at a URL, or damaged.
        """
        if unit not in ("l0", "um"):
            raise UsageError(f"unit {unit!r}: must be l0 or um")
        with _extra("geo"):
            from wsi_seg.exporters.frames import region_frame
        return region_frame(self._source(settings), unit)

    def areas(self) -> DataFrame:
        """Return one row for each class: `slide`, `class`, `code`, `color`, `pixels`, `area_mm2`, `share`.

        Raises:
            MissingExtraError: pandas is not installed.
            OutputError: the results are at a URL, or damaged.
        """
        with _extra("geo"):
            from wsi_seg.exporters.frames import class_frame
        return class_frame(self._opened)

    def to_spatialdata(self, settings: RegionSettings | None = None) -> SpatialData:
        """Return class map, regions and measurements for scverse, as the export format spatialdata has them.

        The class map is read when it is computed or written. `settings` and errors are those of `regions`.
        """
        with _extra("spatialdata"):
            from wsi_seg.exporters.spatial_data import make_spatialdata
        return make_spatialdata(self._source(settings))

    def export(
        self,
        format_name: str,
        path: str | Path,
        settings: RegionSettings | None = None,
        *,
        mpp: float | None = None,
    ) -> Exported:
        """Write the results in another format, as `wsi-seg export --to` does.

        Args:
            format_name: such as `geojson`, `ome-tiff` or `csv`.
            path: file or folder to write, whole or not at all.
            settings: regions to write, and their origin; None: the regions of the run, counted from where the
                programs count that read the format.
            mpp: µm per pixel, for formats that take it.

        Raises:
            UsageError: no such format or class, its library is missing, or `path` or `mpp` does not fit.
            OutputError: the results are at a URL or damaged, or `path` cannot be written.
        """
        source = self._opened
        if settings is None:
            settings = replace(source.settings, origin=find_format(format_name).origin)
        return write_export(replace(source, settings=settings, mpp=mpp), format_name, Path(path))

    @cached_property
    def _opened(self) -> ExportSource:
        return export_source(_local(self.folder))

    def _source(self, settings: RegionSettings | None, origin: Origin = "level0") -> ExportSource:
        chosen = self._opened.settings if settings is None else settings
        return replace(self._opened, settings=replace(chosen, origin=origin))

    def _codes(self, name: str) -> tuple[int, ...]:
        """Return the codes of a group or, where there is none of the name, of a class."""
        classes, groups = self.model.tissue_classes, self.model.class_groups
        named = [group for group in groups if canonical_name(group.name) == canonical_name(name)]
        return (named[0] if named else find_class_or_group(name, classes, groups)).codes

    def _values(
        self, channels: Sequence[tuple[int, ...]], box_l0: Bounds | None, mpp: float | None
    ) -> NDArray[np.float32]:
        maps = self.maps
        mpp = maps.mpp * maps.probability_downsample if mpp is None else mpp
        frame = frame_at(self.slide, maps, mpp)
        readers = [probability_reader(maps, numbers, frame.mpp / maps.mpp) for numbers in channels]
        return self._read(readers, np.float32, box_l0, frame)

    def _read(
        self,
        readers: Sequence[Callable[[Box], NDArray[Any]]],
        dtype: Any,
        box_l0: Bounds | None,
        frame: MapFrame,
    ) -> NDArray[Any]:
        """Return an array (reader, y, x) of a part of the slide, 0 beyond it."""
        box = frame.box if box_l0 is None else frame.to_map(_box(box_l0))
        shape = (len(readers), box.height, box.width)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > MOST_BYTES:
            sides = " × ".join(str(n) for n in shape if n > 1)
            raise UsageError(
                f"{self.folder}: {sides} values of {frame.mpp:g} µm/px take {size / 2**30:.1f} GiB, "
                f"more than the {MOST_BYTES / 2**30:g} GiB that are read at once; "
                "give box_l0 or a coarser mpp, or read result.maps or result.dask_array piece by piece"
            )
        out = np.zeros(shape, dtype)
        inside = box.intersect(frame.box)
        if not inside.empty:
            for plane, read in zip(out, readers, strict=True):
                read_strips(read, inside, plane[inside.within(box)])
        return out


def open_result(folder: str | Path) -> Result:
    """Open the finished results of one slide.

    Args:
        folder: the folder of one slide, OUT/<slide>, that `segment_slide` or `wsi-seg run` made.

    Raises:
        OutputError: it holds no finished results, they are damaged, or they are at a URL.
    """
    place = _local(folder)
    with reading(place, OutputError):
        finished = (place / MANIFEST).is_file()
    if not finished:
        raise OutputError(
            f"{place}: holds no finished results of a slide; give the folder of one, such as results/slide"
        )
    summary = as_summary(read_json(place / SUMMARY), place / SUMMARY)
    slide = export_source(place).slide
    return Result(slide.path, status_of(summary, "done"), place, summary, True, faults(summary))


def status_of(
    summary: dict[str, Any], whole: Literal["done", "skipped"]
) -> Literal["done", "skipped", "incomplete"]:
    """Return the status of results; that of whole ones is `whole`."""
    return "incomplete" if summary["status"] == "incomplete" or faults(summary) else whole


def faults(summary: dict[str, Any]) -> str:
    """Return how results fall short of the slide, also of a summary that calls itself complete."""
    coverage = summary["coverage"]
    if summary.get("blocks_failed") or coverage["unread_mm2"]:
        return "parts of the slide could not be read"
    return "parts of the slide were read from another level" if coverage["other_level_mm2"] else ""


def _local(folder: str | Path) -> Path:
    if is_remote(folder):
        raise OutputError(f"{folder}: results at a URL are not read; download the folder and open that")
    return Path(folder)


def _box(bounds: Bounds) -> RealBox:
    box = bounds
    numbers: tuple[float, ...]
    try:
        numbers = (
            (box.x0, box.y0, box.x1, box.y1) if isinstance(box, Box | RealBox) else tuple(map(float, box))
        )
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UsageError(f"box_l0 {bounds}: must be a Box or four numbers x0, y0, x1, y1, in l0 pixels")
    found = RealBox(*numbers)
    if not (found.x0 < found.x1 and found.y0 < found.y1):
        raise UsageError(f"box_l0 {bounds}: is empty; give x0 < x1 and y0 < y1, in l0 pixels")
    return found


@contextmanager
def _extra(name: str) -> Iterator[None]:
    """Say how to install what an import needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs {error.name}, which is not installed: pip install 'wsi-seg[{name}]'"
        ) from error
