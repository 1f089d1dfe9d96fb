"""Images whose annotations are outlines: polygons in CSV, JSON or GeoJSON files."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_seg.annotations.drawing import Drawing, check_inside
from wsi_seg.annotations.outline_files import Outline, read_outlines
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.folders import Annotate, Annotated, ImageFolder, image_name
from wsi_seg.datasets.geojson import ANNOTATION_ENDINGS, read_geojson
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.tissue.mask import drawn_l0


class OutlinedImages(ImageFolder, NamedClasses):
    """Images `NAME.png` or `CLASS/NAME.png` with outlines of what is on them.

    The outlines are turned into masks of the image's own pixels by the pixel-center rule
    (`wsi_seg.annotations.rasterize`) and go on as masks do. Where they overlap the smaller one wins.
    """

    kind: Literal["outlines"] = "outlines"
    outlines: Path | None = None
    """CSV or JSON file with the outlines of all images, relative to `folder`; the formats stand in
    `wsi_seg.annotations.outline_files`. None: `NAME.geojson` or `NAME.geojson.gz` next to each image, as
    QuPath exports it, in pixels of the image."""
    mask_class: str | None = None
    """Class of all outlines, or `folder`: the class named like the folder of the image. None: the class that
    each outline names itself."""

    def _annotator(self, folder: Path, images: Sequence[Path], scheme: LabelScheme) -> Annotate:
        file = None if self.outlines is None else folder / self.outlines
        listed = {} if file is None else _listed(file, {path: image_name(path, folder) for path in images})

        def annotate(path: Path, size: Size) -> Annotated:
            if file is None:
                outlines, of_file = _beside(path)
            elif path in listed:
                outlines, of_file = listed[path], file
            else:
                raise DataError(
                    f"{path}: has no outlines in {file}; list it without points if it has nothing to outline"
                )
            for outline in outlines:
                check_inside(outline.polygon, size, outline.where, path)
            ground, inside = self._targets(outlines, path, folder, scheme)
            targets = [ground, *sorted(set(inside))]
            drawing = Drawing.of([o.polygon for o in outlines], [targets.index(t, 1) for t in inside])
            codes = drawing.paint(Box(0, 0, size.width, size.height), ground=0)
            return Annotated(codes.astype(np.uint8), targets, (of_file,))

        return annotate

    def _targets(
        self, outlines: Sequence[Outline], path: Path, folder: Path, scheme: LabelScheme
    ) -> tuple[int, list[int]]:
        """Return the targets outside all outlines of an image and inside each."""
        if self.mask_class is None:
            return self._ground(scheme), [self.target_of(o.name, scheme, o.where) for o in outlines]
        ground, inside = self._sides(self.mask_class, bool(outlines), path, folder, scheme)
        return ground, [inside] * len(outlines)


def _listed(file: Path, names: dict[Path, str]) -> dict[Path, list[Outline]]:
    """Return the outlines of images, by path; the file names images with or without their ending."""
    by_name = {name: path for path, name in names.items()}
    by_name |= {f"{name}{path.suffix}": path for path, name in names.items()}
    listed: dict[Path, list[Outline]] = {}
    for name, outlines in read_outlines(file).items():
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.0)
            raise DataError(f"{file}: there is no image {name!r}; did you mean {near[0]!r}?")
        listed.setdefault(by_name[name], []).extend(outlines)
    return listed


def _beside(image: Path) -> tuple[list[Outline], Path]:
    files = [image.with_name(image.stem + ending) for ending in ANNOTATION_ENDINGS]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise DataError(f"{image}: has no outlines; expected {files[0]}")
    annotations = read_geojson(file, may_be_empty=True)
    polygons = drawn_l0(annotations, None, "level0")
    outlines = [
        Outline(polygon, item.name, f"{file}: polygon {number}")
        for number, (polygon, item) in enumerate(zip(polygons, annotations.items, strict=True), start=1)
    ]
    return outlines, file
