"""The maps of one slide as one OME-Zarr 0.5 store (Zarr v3): probabilities, class labels and tissue.

    maps.zarr/              image: probabilities (c, y, x), at 1 / probability_downsample of the map, of each
                            class, or of what the layout says is stored; one more channel, "uncertainty",
                            where the layout says so; without any channel the image is the tissue, below
      0, 1, …               its levels, each half the one before
      labels/classes/0, …   uint8 (y, x): class codes, 0 = not analyzed; level 0 at full map resolution
      labels/tissue/0, …    uint8 (y, x): 1 = analyzed tissue, 0 = background
      labels/coverage/0, …  uint8 (y, x): tissue that was read from another level (1) or not at all (2) as the
                            slide is damaged there; 0 = no such fault
      labels/artifacts/0, … uint8 (y, x): codes of artifacts in the tissue, 0 = none; only where the layout
                            has classes of them

Ownership: a block is exactly one shard of each array at level 0, and half as many pixels a side are one at
level 1, which is written with it; coarser levels have shards as large as those of level 0 and are built from
the level below. Whoever writes a shard writes all of it and nobody else does, so no lock is needed, and
writing again gives the same bytes. A shard is written under another name and renamed, so it is there whole
or not at all. Shards without any value but 0 are not written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import RUN_AGAIN, ClassGroup, TissueClass
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.maps.fields import ChannelSum
from wsi_seg.maps.ome import image_metadata, label_metadata, labels_metadata, mask_metadata
from wsi_seg.maps.pyramid import halve
from wsi_seg.maps.shards import NODE, PARTIAL, ShardedArray, array_document, write_node
from wsi_seg.planning.grid import Block
from wsi_seg.planning.map_layout import Kind, MapLayout, ShardRef, output_bytes
from wsi_seg.slides.tolerant import OTHER_LEVEL, UNREADABLE

__all__ = ["MapLayout", "Maps", "ShardRef", "create_maps", "output_bytes", "remove_partial_files"]

LABELS: tuple[Kind, ...] = ("classes", "tissue", "coverage", "artifacts")
PATHS: dict[Kind, str] = {"probabilities": "", **{kind: f"labels/{kind}/" for kind in LABELS}}

NOT_ANALYZED = TissueClass(0, "not_analyzed", (0, 0, 0))
BACKGROUND = TissueClass(0, "background", (0, 0, 0))
TISSUE = TissueClass(1, "tissue", (0, 160, 160))
NO_ARTIFACT = TissueClass(0, "no_artifact", (0, 0, 0))
NO_FAULT = TissueClass(0, "no_fault", (0, 0, 0))
FAULTS = (
    TissueClass(OTHER_LEVEL, "read_at_other_level", (255, 160, 0)),
    TissueClass(UNREADABLE, "unreadable", (255, 0, 255)),
)

# Attribute of the root group that holds the MapLayout.
LAYOUT_KEY = "wsi_seg"


def create_maps(path: Path, layout: MapLayout) -> None:
    """Create an empty store at `path`, whole or not at all.

    Raises:
        OutputError: `path` exists or cannot be written.
    """
    if path.exists():
        raise OutputError(f"{path}: already exists; choose another output folder or remove it")
    aside = path.with_name(path.name + ".partial")
    with _writing(path):
        if aside.exists():
            shutil.rmtree(aside)
        _write_group(aside, _root_attributes(layout))
        labels = [kind for kind in LABELS if kind in layout.kinds]
        _write_group(aside / "labels", {"ome": labels_metadata(labels)})
        for kind in labels:
            _write_group(aside / PATHS[kind], _label_attributes(layout, kind))
        for kind in layout.kinds:
            for level in range(layout.level_count):
                write_node(aside / f"{PATHS[kind]}{level}", _array_document(layout, kind, level))
        aside.rename(path)


def _root_attributes(layout: MapLayout) -> dict[str, Any]:
    return {"ome": _image_metadata(layout), LAYOUT_KEY: layout.to_json()}


def _image_metadata(layout: MapLayout) -> dict[str, Any]:
    if not layout.channels:
        return mask_metadata(layout.name, layout.mpp, _downsamples(layout, "tissue"), PATHS["tissue"])
    downsamples = _downsamples(layout, "probabilities")
    return image_metadata(layout.name, layout.mpp, downsamples, layout.channels, layout.probability_dtype)


def _label_attributes(layout: MapLayout, kind: Kind) -> dict[str, Any]:
    values = {
        "classes": (NOT_ANALYZED, *layout.classes),
        "tissue": (BACKGROUND, TISSUE),
        "coverage": (NO_FAULT, *FAULTS),
        "artifacts": (NO_ARTIFACT, *layout.artifacts),
    }[kind]
    return {"ome": label_metadata(kind, layout.mpp, _downsamples(layout, kind), values)}


def _downsamples(layout: MapLayout, kind: Kind) -> list[int]:
    return [layout.downsample(kind, level) for level in range(layout.level_count)]


def _write_group(path: Path, attributes: dict[str, Any]) -> None:
    write_node(path, {"attributes": attributes, "zarr_format": 3, "node_type": "group"})


def _array_document(layout: MapLayout, kind: Kind, level: int) -> dict[str, Any]:
    size, side = layout.size(kind, level), layout.shard_side(kind, level)
    chunk = layout.chunk_side(kind, level)
    image = kind == "probabilities"
    channels = (len(layout.channels),) if image else ()
    return array_document(
        (*channels, size.height, size.width),
        layout.probability_dtype if image else "uint8",
        shard=(*channels, side, side),
        chunk=(*(1 for _ in channels), chunk, chunk),
        names=("c", "y", "x") if image else ("y", "x"),
    )


@dataclass(frozen=True)
class Maps:
    """An opened store. Arrays open on first use; threads may share one as long as no two write one shard."""

    path: Path
    layout: MapLayout

    @classmethod
    def open(cls, path: Path) -> Maps:
        """Open the store at `path`.

        Raises:
            OutputError: there is no store, it is damaged, or it was not made by this package.
        """
        try:
            attributes = json.loads((path / NODE).read_bytes())["attributes"]
            return cls(path, MapLayout.from_json(attributes[LAYOUT_KEY]))
        except OSError as error:
            raise OutputError(f"{path}: cannot open the maps ({error.strerror or error})") from error
        except (KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
            raise OutputError(
                f"{path}: these are no maps of wsi_seg, or they are damaged ({error})"
            ) from error

    @property
    def mpp(self) -> float:
        return self.layout.mpp

    @property
    def classes(self) -> tuple[TissueClass, ...]:
        return self.layout.classes

    @property
    def probability_downsample(self) -> int:
        return self.layout.probability_downsample

    @property
    def level_count(self) -> int:
        return self.layout.level_count

    @property
    def labels(self) -> ShardedArray:
        """Class codes: uint8 (y, x) at full map resolution; 0 = not analyzed."""
        return self.array("classes")

    @property
    def tissue(self) -> ShardedArray:
        """Analyzed tissue: uint8 (y, x) at full map resolution; 0 or 1."""
        return self.array("tissue")

    @property
    def probabilities(self) -> ShardedArray:
        """Probabilities: (c, y, x) at 1 / `probability_downsample` of the map; `channels` says of what.

        Raises:
            OutputError: none are stored.
        """
        return self.array("probabilities")

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        """Content of each channel of `probabilities`, see `MapLayout`."""
        return self.layout.channels

    @property
    def uncertainty(self) -> ChannelSum | None:
        """Uncertainty (y, x), stored as the probabilities are and read on demand; None where it is not."""
        if not self.layout.uncertainty:
            return None
        return ChannelSum(self.probabilities, (len(self.channels) - 1,), self.probability_downsample)

    def array(self, kind: Kind, level: int = 0) -> ShardedArray:
        """Return one level of one pyramid.

        Raises:
            OutputError: it is damaged, or there are no probabilities.
        """
        if kind == "probabilities" and not self.channels:
            raise OutputError(f"{self.path}: no probabilities are stored; {RUN_AGAIN}")
        if (kind, level) not in self._arrays:
            document = _array_document(self.layout, kind, level)
            self._arrays[kind, level] = ShardedArray.open(self.path / f"{PATHS[kind]}{level}", document)
        return self._arrays[kind, level]

    @cached_property
    def _arrays(self) -> dict[tuple[Kind, int], ShardedArray]:
        return {}

    def write_block(
        self,
        block: Block,
        *,
        labels: NDArray[np.uint8],
        tissue: NDArray[np.bool_] | NDArray[np.uint8],
        probabilities: NDArray[np.uint8] | NDArray[np.float32],
        coverage: NDArray[np.uint8] | None = None,
        artifacts: NDArray[np.uint8] | None = None,
    ) -> None:
        """Write the shards of each array that this block owns: at level 0, and where it can at level 1.

        Args:
            block: one of `cut_blocks(layout.map_size, layout.block)`.
            labels: uint8 (h, w), class codes.
            tissue: (h, w), true or 1 where tissue was analyzed.
            probabilities: (channels, ceil(h / ds), ceil(w / ds)) of the layout's type; of no use without any.
            coverage: uint8 (h, w); None where it is 0 all over.
            artifacts: uint8 (h, w); None where the layout has no classes of them.

        Raises:
            ValueError: a shape or type does not fit.
            OutputError: the shard cannot be written.
        """
        values: dict[Kind, NDArray[Any]] = {"probabilities": probabilities} if self.channels else {}
        values |= {"classes": labels, "tissue": tissue.astype(np.uint8, copy=False)}
        if coverage is not None:
            values["coverage"] = coverage
        if artifacts is not None:
            values["artifacts"] = artifacts
        for kind, value in values.items():
            array, region = self.array(kind), self._region(ShardRef(kind, 0, block.ix, block.iy))
            expected = (*array.shape[:-2], region.height, region.width)
            if value.shape != expected or value.dtype != array.dtype:
                raise ValueError(f"{kind}: {value.dtype} {value.shape}, but {expected} was expected")
        for kind, value in values.items():
            self._write_levels(kind, block, value)

    def write_coverage(self, block: Block, coverage: NDArray[np.uint8]) -> None:
        """Write the block's shard of the coverage layer alone, uint8 (h, w); OutputError as `write_block`."""
        self._write_levels("coverage", block, coverage)

    def _write_levels(self, kind: Kind, block: Block, value: NDArray[Any]) -> None:
        self._write(ShardRef(kind, 0, block.ix, block.iy), value)
        if kind != "tissue":
            for level in range(1, self.layout.block_levels):
                value = halve(kind, value)
                self._write_with_tissue(ShardRef(kind, level, block.ix, block.iy), value)

    def pyramid_shards(self, level: int) -> Iterator[ShardRef]:
        """Yield the shards of a level that no block writes; those of tissue come with those of classes.

        They are built in any order, once all shards of the level below are there.
        """
        for kind in (kind for kind in self.layout.kinds if kind != "tissue"):
            size, side = self.layout.size(kind, level), self.layout.shard_side(kind, level)
            for iy in range(-(-size.height // side)):
                for ix in range(-(-size.width // side)):
                    yield ShardRef(kind, level, ix, iy)

    def build_shard(self, shard: ShardRef) -> None:
        """Write one of `pyramid_shards`, of a level ≥ 1, from the shards below it.

        With one of classes goes that of tissue, which is where a class is: see `halve_labels`.

        Raises:
            OutputError: a shard cannot be written.
        """
        below, region = self.array(shard.kind, shard.level - 1), self._region(shard)
        height, width = below.shape[-2:]
        source = Box(2 * region.x0, 2 * region.y0, min(2 * region.x1, width), min(2 * region.y1, height))
        self._write_with_tissue(shard, halve(shard.kind, below[(..., *source.slices)]))

    def _write_with_tissue(self, shard: ShardRef, value: NDArray[Any]) -> None:
        self._write(shard, value)
        if shard.kind == "classes":
            self._write(replace(shard, kind="tissue"), (value > 0).view(np.uint8))

    def _write(self, shard: ShardRef, value: NDArray[Any]) -> None:
        """Write one shard, or remove it where there is nothing but 0."""
        array = self.array(shard.kind, shard.level)
        channels = (0,) * (array.ndim - 2)
        with _writing(self.path):
            array.write_shard((*channels, shard.iy, shard.ix), value)

    def _region(self, shard: ShardRef) -> Box:
        side = self.layout.shard_side(shard.kind, shard.level)
        size = self.layout.size(shard.kind, shard.level)
        whole = Box(0, 0, size.width, size.height)
        return Box.at(shard.ix * side, shard.iy * side, side, side).intersect(whole)


def remove_partial_files(path: Path) -> None:
    """Remove what a killed writer left behind: shards under a temporary name. Only while nobody writes."""
    with _writing(path):
        for leftover in path.rglob(f"*{PARTIAL}"):
            leftover.unlink()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a refused or failed write into one clear line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"{path}: cannot write the maps ({reason})", error.errno) from error
