"""State of the server: the table of results, open results and slides, and bounded caches."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from wsi_seg.core.classes import RUN_AGAIN, ClassGroup, TissueClass, canonical_name
from wsi_seg.core.errors import OutputError
from wsi_seg.core.lru import LRUCache
from wsi_seg.maps.maps import Maps
from wsi_seg.results.files import JOURNAL, REPORT
from wsi_seg.results.progress import RunProgress
from wsi_seg.results.saved_regions import open_regions
from wsi_seg.viewer.folders import ResultEntry, ResultFolders
from wsi_seg.viewer.grid import DeepZoom
from wsi_seg.viewer.limits import ThreadLimiter
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.result_info import ResultInfo, read_progress, read_result_info
from wsi_seg.viewer.screen_outlines import CACHE_BYTES, Outlines, piece_bytes
from wsi_seg.viewer.slides import SlideFinder, SlidePlace, SlidePool
from wsi_seg.viewer.sources import Channels, LiveMaps, MapSource, StoredMaps

TILE_CACHE_BYTES = 128 * 2**20
BLOCK_CACHE_BYTES = 64 * 2**20
# Results whose facts and open arrays are held; the rest is read again when asked for.
MOST_OPEN = 64
# Results whose regions are held: 100,000 take some 100 MB.
MOST_INDEXED = 4
# Views whose outlines at some threshold are held.
MOST_TRACED = 64
# Lines of the list of results that are held: some kilobytes each.
MOST_ROWS = 20_000
# Times that a result is opened again as it was replaced meanwhile.
TRIES = 3
REPLACED = "these results were replaced meanwhile; load the page again"
POLYGON_FILES = ("polygons.geojson", "polygons.geojson.gz")


@dataclass(frozen=True, slots=True)
class Places:
    """Folders that the server may read."""

    out: Path
    """Results."""
    slides: Path | None = None
    """Slides that are no longer where they were."""
    static: Path | None = None
    """The page; None: without it, only the API."""
    runs: Path | None = None
    """Slides that may be run; None: no runs."""
    reviews: Path | None = None
    """Folder of reviews, see `review.places`; None: none. Without it and `runs` the server only reads."""
    labels: bool = True
    """Pictures that show a slide's label may be asked for."""


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One line of the list of results, as far as it changes with the result's version alone."""

    facts: dict[str, Any]
    slide_path: str
    slide: tuple[str, int, int]
    """Fingerprint and size: equal for results of one slide."""


class OpenResult:
    """One result with all that is read of it, each when it is first asked for."""

    def __init__(self, entry: ResultEntry, server: ViewerState) -> None:
        self.entry, self._server = entry, server
        self.version = entry.version
        """Names this content of the folder, in addresses and in caches."""
        self.facts: ResultInfo = read_result_info(entry)
        self._lock = threading.Lock()
        self._progress: tuple[int, RunProgress | None] | None = None

    @property
    def changing(self) -> bool:
        """True while a run still fills it, so that nothing of it may be kept."""
        return self.entry.running

    def check(self) -> None:
        """Raise Refused, 409, where the folder holds other results by now: call it after reading files."""
        if not self.entry.is_current():
            raise Refused(409, REPLACED)

    @property
    def key(self) -> tuple[str, str]:
        """Name of this state of the result in caches."""
        return self.entry.id, self.entry.version

    @cached_property
    def grid(self) -> DeepZoom:
        return DeepZoom(self.facts.slide.size)

    @cached_property
    def source(self) -> MapSource:
        maps = Maps.open(self.entry.maps())
        if not self.entry.running:
            return StoredMaps(maps)
        return LiveMaps(maps, self._finished, self._failed, self._server.blocks, ":".join(self.key))

    def _finished(self) -> frozenset[tuple[int, int]]:
        progress = self.progress()
        return progress.done if progress is not None else frozenset()

    def _failed(self) -> frozenset[tuple[int, int]]:
        progress = self.progress()
        return progress.failed if progress is not None else frozenset()

    def progress(self) -> RunProgress | None:
        """Return how far a run is, None for a finished one; its journal is read when it has grown."""
        path = self.entry.file(JOURNAL)
        size = path.stat().st_size if path is not None else 0
        if self._progress is None or self._progress[0] != size:
            self._progress = size, read_progress(self.entry, self.facts)
        return self._progress[1]

    @property
    def status(self) -> str:
        if self.entry.running:
            return "interrupted" if self.entry.interrupted() else "running"
        return "incomplete" if self.facts.summary.get("status") == "incomplete" else "done"

    @property
    def polygons(self) -> Path | None:
        """The file of its regions, None where there is none (yet)."""
        return next((path for name in POLYGON_FILES if (path := self.entry.file(name))), None)

    @property
    def report(self) -> Path | None:
        """The page about it, None where there is none (yet)."""
        return self.entry.file(REPORT)

    def slide(self) -> SlidePlace:
        return self._server.finder.find(self.facts.slide)

    def outlines(self) -> Outlines:
        """Return its regions, read once however many ask.

        Raises:
            Refused: 404, it has none.
            OutputError: the file is damaged.
        """
        path = self.polygons
        if path is None:
            raise Refused(404, "this result has no regions yet")
        with self._lock:
            return self._server.indexes.get_or_make(self.key, lambda: self._read_outlines(path))

    def _read_outlines(self, path: Path) -> Outlines:
        regions = open_regions(path, self.facts.slide.bounds, self.facts.groups)
        self.check()
        return Outlines(regions, self._server.pieces, ":".join(self.key))

    def choose(self, name: str, first: str) -> tuple[ClassGroup, Channels]:
        """Return the class or group of a name, and its channels of the probabilities.

        `first` is `class` or `group`, which a name means that is both, unless that is not stored.

        Raises:
            Refused: 404, there is neither, or its probability is not stored.
        """
        tables = [_by_name([c.alone for c in self.facts.classes]), _by_name(self.facts.groups)]
        ordered = tables if first == "class" else reversed(tables)
        named = [table[canonical_name(name)] for table in ordered if canonical_name(name) in table]
        for group in named:
            numbers = self.facts.channels(group)
            if numbers is not None:
                return group, Channels("probabilities", numbers)
        if named:
            raise Refused(404, f"the probability of {name[:80]!r} is not stored in this result; {RUN_AGAIN}")
        raise Refused(404, f"no class or group {name[:80]!r} in this result")

    def colored(self) -> tuple[TissueClass | ClassGroup, ...]:
        """Return all that has a color, in the order in which safe colors are given out."""
        return (*self.facts.classes, *self.facts.groups)


def _by_name(groups: Any) -> dict[str, ClassGroup]:
    return {canonical_name(group.name): group for group in groups}


class ViewerState:
    """Everything behind the routes."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.folders = ResultFolders(places.out)
        self.finder = SlideFinder(places.slides)
        self.pool = SlidePool()
        self.workers = ThreadLimiter()
        self.tiles: LRUCache[bytes] = LRUCache(TILE_CACHE_BYTES, len)
        self.rows: LRUCache[ResultRow] = LRUCache(MOST_ROWS)
        self.tracing = threading.Lock()
        """Held while a file of regions is traced."""
        self.decoding = threading.Lock()
        """Held while a picture that is stored with a slide is decoded, which takes memory."""
        self.pieces: LRUCache[str] = LRUCache(CACHE_BYTES, piece_bytes)
        self.blocks: LRUCache[NDArray[Any]] = LRUCache(BLOCK_CACHE_BYTES, _weight_of_array)
        self.traced: LRUCache[NDArray[np.object_]] = LRUCache(MOST_TRACED)
        self.indexes: LRUCache[Outlines] = LRUCache(MOST_INDEXED)
        self._opening = threading.Lock()
        self._open: LRUCache[OpenResult] = LRUCache(MOST_OPEN)

    def asked(self, request: Request) -> OpenResult:
        """Return the result that an address names by its id and, in `v`, by the version that a page shows.

        Raises:
            Refused: see `result`.
            OutputError: it is damaged.
        """
        return self.result(request.path_params["id"], request.query_params.get("v"))

    def result(self, identity: str, version: str | None = None) -> OpenResult:
        """Return the result of an id as its folder is now.

        Raises:
            Refused: 404, there is none; 409, it is not the `version` that was asked for; 503, it changes.
            OutputError: it is damaged.
        """
        for _ in range(TRIES):
            entry = self.folders.get(identity)
            if version not in (None, entry.version):
                raise Refused(409, REPLACED)
            try:
                result = self.open(entry)
            except OutputError:
                if entry.is_current():
                    raise
                continue  # its files were replaced between one and the next
            if entry.is_current():
                return result
        raise Refused(503, "these results are being replaced; ask again in a moment")

    def open(self, entry: ResultEntry) -> OpenResult:
        """Return the result of a folder that was found; OutputError where it is damaged."""
        with self._opening:
            return self._open.get_or_make((entry.id, entry.version), lambda: OpenResult(entry, self))

    def close(self) -> None:
        """Close what is open."""
        self.pool.close()


def _weight_of_array(array: NDArray[np.generic]) -> int:
    return array.nbytes + 200
