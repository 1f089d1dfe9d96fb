"""Whole slides with drawn regions."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import shapely
from pydantic import Field

from wsi_seg.annotations.annotation import Annotations
from wsi_seg.annotations.drawing import Drawing, check_inside
from wsi_seg.annotations.reading import OWN_ENDINGS, read_annotations
from wsi_seg.core.errors import DataError, SlideError
from wsi_seg.core.folders import dicom_files, list_folder, why_missing
from wsi_seg.core.formats import SLIDE_ENDINGS
from wsi_seg.core.geometry import Origin, Scale
from wsi_seg.datasets.areas import annotated_boxes
from wsi_seg.datasets.base import Dataset, annotation_files, expected_annotations, list_files, list_folders
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion
from wsi_seg.datasets.slide_region import SlideRegion, companions
from wsi_seg.execution.tasks import SlideRecipe
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import SlideInfo, map_frame


class AnnotatedSlides(Dataset, NamedClasses):
    """Whole slides, each with `SLIDE.geojson` as exported by QuPath, or another file of drawn regions.

    The class of each annotation is read by name. Ground without annotation is ignored; where annotations
    overlap the smaller one wins, as it was drawn inside the larger. `known_class` makes annotations of any
    other class mean "not this class". A region is a connected annotated area, or a part of it; those of a
    slide stay together.
    """

    kind: Literal["slides"] = "slides"
    slides: str = "*"
    """Pattern of the file names of slides in the folder. A folder of DICOM files is a slide."""
    annotations: Path | None = None
    """Folder of the files of drawn regions, relative to `folder`; None: next to the slides."""
    origin: Origin = "bounds"
    """Origin of positions in QuPath's GeoJSON: `bounds` (the scanned region, where the slide has one) or
    `level0`. A file that says what was subtracted is believed."""
    mpp: float | None = Field(default=None, gt=0)
    """Microns per l0 pixel, in place of what the slides say."""
    margin: int = Field(default=128, ge=0)
    """Map pixels around an annotated area that belong to the region, so that crops show what lies around."""

    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        slides = _find_slides(folder)
        drawn = folder if self.annotations is None else folder / self.annotations
        files = annotation_files(drawn)
        for name, file in files.items():
            if name not in slides.values() and file.name.lower().endswith(OWN_ENDINGS):
                raise DataError(f"{file}: annotations without a slide; there is no {folder / name}.*")
        chosen = {path: name for path, name in slides.items() if fnmatchcase(path.name, self.slides)}
        if not chosen:
            raise DataError(
                f"{folder}: no slides at {self.slides}; set data_dir and folder to where the data lie"
            )
        regions: list[SlideRegion] = []
        for path, name in chosen.items():
            if name not in files:
                raise DataError(f"{path}: has no annotations; expected {expected_annotations(drawn / name)}")
            regions.extend(self._of_slide(path, name, files[name], scheme))
        return sorted(regions, key=lambda region: region.name)

    def _of_slide(self, path: Path, name: str, file: Path, scheme: LabelScheme) -> list[SlideRegion]:
        info = self._describe(path)
        frame = map_frame(info, scheme.mpp)
        annotations = read_annotations(file, strict=True).in_l0(info.bounds, self.origin)
        targets = self._targets(annotations, info, scheme)
        per_l0 = np.array([1 / frame.l0_per_map.x, 1 / frame.l0_per_map.y])
        polygons_map = shapely.transform(annotations.geometries, lambda xy: xy * per_l0)
        known = [p for p, target in zip(polygons_map, targets, strict=True) if target != IGNORED]
        if not known:
            raise DataError(f"{file}: all of its annotations are of ignored classes")
        boxes = annotated_boxes(known, frame.box, self.margin)
        if not boxes:
            raise DataError(f"{file}: its annotations hold no pixel of {scheme.mpp:g} µm")
        mpp = None if self.mpp is None else Scale(self.mpp, self.mpp)
        recipe = SlideRecipe(str(path), info.reader, mpp, series=info.series)
        drawing = Drawing.of(polygons_map, targets)
        files = (path, *companions(path), file)
        return [
            SlideRegion(f"{name}_x{box.x0}_y{box.y0}", name, recipe, frame, box, drawing, files=files)
            for box in boxes
        ]

    def _describe(self, path: Path) -> SlideInfo:
        try:
            with open_slide(path, mpp=self.mpp) as slide:
                info = slide.info
        except SlideError as error:
            raise DataError(str(error)) from error
        if info.mpp is None:
            raise DataError(
                f"{path}: the slide does not say its microns per pixel; set mpp in the data set {self.name}"
            )
        return info

    def _targets(self, annotations: Annotations, info: SlideInfo, scheme: LabelScheme) -> list[int]:
        targets = []
        for item in annotations.items:
            target = self.target_of(item.name, scheme, item.where, self.known_class)
            if target != IGNORED:
                check_inside(item.geometry, info.size, item.where, info.path)
            targets.append(target)
        return targets


def _find_slides(folder: Path) -> dict[Path, str]:
    """Return the slides in a folder, sorted, and the name of each: that of its annotation file."""
    slides = {path: path.stem for path in list_files(folder, SLIDE_ENDINGS)}
    for path in list_folders(folder):
        try:
            series, _ = dicom_files(list_folder(path))
        except OSError as error:
            raise DataError(f"{path}: {why_missing(path, error)}") from error
        if series:
            slides[path] = path.name
    return dict(sorted(slides.items()))
