"""Images whose annotations are outlines: files of drawn regions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_seg.annotations.annotation import Annotation
from wsi_seg.annotations.drawing import Drawing, check_inside
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.base import annotation_files, expected_annotations
from wsi_seg.datasets.folders import Annotate, ImageFolder
from wsi_seg.datasets.labels import LabelScheme, resample_codes
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.datasets.region import Targets
from wsi_seg.slides.slide import MapFrame


class OutlinedImages(ImageFolder, NamedClasses):
    """Images `NAME.png` or `CLASS/NAME.png` with outlines of what is on them.

    The outlines are turned into masks of the image's own pixels by the pixel-center rule
    (`wsi_seg.annotations.rasterize`) and go on as masks do. Where they overlap the smaller one wins.
    """

    kind: Literal["outlines"] = "outlines"
    outlines: Path | None = None
    """File with the outlines of all images, relative to `folder`: COCO, CSV or our own JSON. None: a file
    next to each image: `NAME.geojson` of QuPath, `NAME.json` of Labelme and so on, in pixels of the image."""
    mask_class: str | None = None
    """Class of all outlines, or `folder`: the class named like the folder of the image. None: the class that
    each outline names itself."""

    def _annotator(self, folder: Path, names: Mapping[Path, str], scheme: LabelScheme) -> Annotate:
        find = _beside(names) if self.outlines is None else _listed(folder / self.outlines, names)

        def annotate(path: Path, size: Size, frame: MapFrame) -> tuple[Targets, tuple[Path, ...]]:
            outlines, of_file, said = find(path)
            if said not in (None, size):
                raise DataError(
                    f"{of_file}: was drawn on {said} pixels, but {path} has {size}; draw on this image"
                )
            for outline in outlines:
                check_inside(outline.geometry, size, outline.where, path)
            ground, inside = self._targets(outlines, path, names[path], scheme)
            targets = [ground, *sorted(set(inside))]
            drawing = Drawing.of([o.geometry for o in outlines], [targets.index(t, 1) for t in inside])
            codes = drawing.paint(Box(0, 0, size.width, size.height), ground=0)
            return np.array(targets, np.int16)[resample_codes(codes.astype(np.uint8), frame)], (of_file,)

        return annotate

    def _targets(
        self, outlines: Sequence[Annotation], path: Path, name: str, scheme: LabelScheme
    ) -> tuple[int, list[int]]:
        """Return the targets outside all outlines of an image and inside each."""
        if self.mask_class is None:
            return self._ground(scheme), [self.target_of(o.name, scheme, o.where) for o in outlines]
        ground, inside = self._sides(self.mask_class, bool(outlines), path, name, scheme)
        return ground, [inside] * len(outlines)


Found = tuple[Sequence[Annotation], Path, Size | None]
"""Outlines of an image, their file, and the size of the image that they were drawn on, where it says it."""


def _listed(file: Path, names: Mapping[Path, str]) -> Callable[[Path], Found]:
    """Return what finds the outlines of an image in a file, which names images with or without ending."""
    by_name = {name: path for path, name in names.items()}
    by_name |= {f"{name}{path.suffix}": path for path, name in names.items()}
    annotations = read_annotations(file, strict=True, may_be_empty=True, many_images=True)
    outlines: dict[Path, list[Annotation]] = {}
    sizes: dict[Path, Size | None] = {}
    for name, size in annotations.images.items():
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
            raise DataError(f"{file}: there is no image {name!r}; did you mean {near[0]!r}?")
        outlines.setdefault(by_name[name], [])
        sizes[by_name[name]] = size
    for item in annotations.items:
        outlines[by_name[str(item.image)]].append(item)

    def find(path: Path) -> Found:
        if path not in outlines:
            raise DataError(
                f"{path}: has no outlines in {file}; list it without points if it has nothing to outline"
            )
        return outlines[path], file, sizes[path]

    return find


def _beside(images: Iterable[Path]) -> Callable[[Path], Found]:
    """Return what finds the outlines of an image in the file next to it."""
    files = {folder: annotation_files(folder) for folder in {path.parent for path in images}}

    def find(path: Path) -> Found:
        file = files[path.parent].get(path.stem)
        if file is None:
            raise DataError(f"{path}: has no outlines; expected {expected_annotations(path.with_suffix(''))}")
        annotations = read_annotations(file, strict=True, may_be_empty=True).in_l0(None, "level0")
        return annotations.items, file, next(iter(annotations.images.values()), None)

    return find
