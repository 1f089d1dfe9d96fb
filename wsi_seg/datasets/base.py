"""Base of all data sets: their settings, and images read as slides are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from wsi_seg.annotations.reading import OWN_ENDINGS, SHARED_ENDINGS
from wsi_seg.core.errors import DataError, SlideError
from wsi_seg.core.folders import list_folder, why_missing
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets.grouping import group_regions
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.patients import PatientOf, Patients, patient_by_name
from wsi_seg.datasets.region import AnnotatedRegion, Pixels
from wsi_seg.datasets.split import PARTS, Parts, Split
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import MapFrame, map_frame, read_region

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


class Dataset(BaseModel, ABC):
    """Annotated images of one kind; a subclass says where they lie and what their annotations mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    folder: Path
    """Relative to the folder that the configuration calls `data_dir`."""
    weight: float = Field(default=1.0, ge=0)
    """Share of the training crops, relative to the other data sets; 0 for evaluation only."""
    patients: Patients | None = None
    """How the patient of each image is found. None: by a TCGA barcode in its name; all others are unknown."""
    split: Split = Split()
    tile: int | None = Field(default=None, ge=32)
    """Cut each region, after it was assigned to a part, edge to edge into tiles of so many pixels a side at
    the model's resolution; each is a region of its own then. None: do not."""
    known_class: str | None = None
    """None: the annotations tell all classes apart. A class name: they say where this class is and where it
    is not, and of the latter no more is known."""

    def parts(self, root: Path, scheme: LabelScheme) -> Parts:
        """Load the regions and divide them.

        Args:
            root: the configuration's `data_dir`.
            scheme: classes and resolution of the model.

        Raises:
            DataError: an image or annotation is missing, damaged or inconsistent, or a part is empty.
        """
        folder = root / self.folder
        patient_of = self.patient_finder(folder)
        regions = self.regions(folder, scheme)
        counts = Counter(region.name for region in regions)
        twice = next((name for name, count in counts.items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{self.name}: two regions are called {twice!r}; rename one")
        grouped, notes = group_regions(regions, patient_of, self.name)
        parts = replace(self.split.divide(grouped, self.name), notes=notes)
        if self.tile is None:
            return parts
        training, validation, test = (tuple(_tiles(parts.of(part), self.tile)) for part in PARTS)
        return Parts(training, validation, test, notes)

    def patient_finder(self, folder: Path) -> PatientOf:
        """Return the function that finds the patient of the first file of a region; raises as `parts`."""
        return patient_by_name if self.patients is None else self.patients.finder(folder)

    @abstractmethod
    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        """Return all regions, sorted by name, with targets at `scheme.mpp`; raises as `parts`.

        The group of each is its image or slide, which is the first of its files; patients come afterwards.
        """


def _tiles(regions: Iterable[AnnotatedRegion], side: int) -> Iterator[AnnotatedRegion]:
    for region in regions:
        whole = Box(0, 0, region.size.width, region.size.height)
        for y in range(0, whole.height, side):
            for x in range(0, whole.width, side):
                box = Box.at(x, y, side, side).intersect(whole)
                yield region.part(box, f"{region.name}_y{y}_x{x}")


def list_files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return the files in a folder whose names end so, in either case, sorted; see `wsi_seg.core.folders`.

    Raises:
        DataError: the folder cannot be read, or one of the files, such as a link that leads nowhere.
    """
    files = [path for path in _entries(folder) if path.name.lower().endswith(endings)]
    for path in files:
        try:
            path.stat()
        except OSError as error:
            raise DataError(f"{path}: {why_missing(path, error)}") from error
    return [path for path in files if path.is_file()]


def list_folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; DataError where it cannot be read."""
    return [path for path in _entries(folder) if path.is_dir()]


def annotation_files(folder: Path) -> dict[str, Path]:
    """Return the files of drawn regions in a folder, by the name of their slide or image.

    `NAME.xml` and `NAME.json`, which may be something else, count where there is no `NAME.geojson` or so.

    Raises:
        DataError: the folder cannot be read, or there are two files of one name.
    """
    files: dict[str, Path] = {}
    for endings in (SHARED_ENDINGS, OWN_ENDINGS):
        found: dict[str, Path] = {}
        for ending in endings:
            for path in list_files(folder, (ending,)):
                other = found.setdefault(path.name[: -len(ending)], path)
                if other != path:
                    raise DataError(f"{path}: {other.name} is there too; remove one of them")
        files |= found
    return files


def expected_annotations(stem: Path) -> str:
    """Return the names that `annotation_files` looks for, for messages."""
    return f"{stem}.geojson, .annotations, .xml or .json"


def _entries(folder: Path) -> list[Path]:
    try:
        return list_folder(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: {why_missing(folder, error)}") from error


def read_image(
    path: Path, mpp: float | None, scheme: LabelScheme, side: int | None = None
) -> tuple[Pixels, MapFrame, Size]:
    """Read an image at the model's resolution, exactly as `wsi-seg run` reads a slide.

    Args:
        path: PNG, JPEG or TIFF.
        mpp: microns per pixel of the image; None where `side` is given.
        scheme: gives the model's.
        side: stretch the image to a square of so many pixels instead, whatever its scale.

    Returns:
        uint8 RGB (h, w, 3), the frame that it fills, and the size of the image itself.

    Raises:
        DataError: the image cannot be read.
    """
    try:
        with open_slide(path, reader="image", mpp=mpp) as slide:
            size = slide.info.size
            if side is not None:
                frame = MapFrame(scheme.mpp, Size(side, side), Scale(size.width / side, size.height / side))
                return _stretched(slide.read_level(0, Box(0, 0, size.width, size.height)), side), frame, size
            frame = map_frame(slide.info, scheme.mpp)
            if min(size.width / frame.l0_per_map.x, size.height / frame.l0_per_map.y) < 1:
                raise DataError(f"{path}: smaller than one pixel of {scheme.mpp:g} µm; is mpp {mpp:g} right?")
            return read_region(slide, frame, frame.box), frame, size
    except SlideError as error:
        raise DataError(str(error)) from error


def _stretched(pixels: Pixels, side: int) -> Pixels:
    # Not read_region: it shows the white beyond a slide, which would shine into the edges of dark images.
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
