"""How the masks of a data set are read, for all kinds of data sets with masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from wsi_seg.core.geometry import Scale, Size
from wsi_seg.datasets.labels import MaskValues, resample_codes
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.datasets.region import Targets
from wsi_seg.slides.slide import MapFrame


class MaskSettings(NamedClasses):
    """Settings of masks, of which `class_names` and `ignored_classes` are about those of several classes."""

    foreground: tuple[int, ...] = ()
    """Values that are marked, where masks of one class are not black and white, such as (2,) for 1 and 2."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Share of white above which a pixel is marked, for soft masks of one class and those in JPEG. None: such
    masks must be almost black and white, and half of white is the limit."""
    mask_mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel of the masks, where it is not that of the images, which they cover."""

    def mask_reader(self, name: str, mpp: float | None) -> MaskReader:
        """Return the reader of the masks of a data set whose images have this resolution."""
        per_image = 1.0 if self.mask_mpp is None or mpp is None else mpp / self.mask_mpp
        return MaskReader(name, self.foreground, self.threshold, per_image)


def mask_frame(frame: MapFrame, reader: MaskReader) -> MapFrame:
    """Return the frame of an image as one of its masks, whose pixels may be others than the image's."""
    return replace(frame, l0_per_map=frame.l0_per_map * Scale(reader.per_image, reader.per_image))


def read_classes(
    reader: MaskReader, values: MaskValues, path: Path, image: Path, size: Size, frame: MapFrame
) -> Targets:
    """Read a mask of several classes.

    Args:
        reader: of the data set's masks.
        values: what its codes or colors mean.
        path: the mask.
        image: what it belongs to.
        size: of the image.
        frame: of the image at the model's resolution.

    Returns:
        int16 targets (h, w) of the frame.

    Raises:
        DataError: it cannot be read, does not fit the image, or has a value without meaning.
    """
    within = mask_frame(frame, reader)
    if values.colored:  # looked up first: a picture that is no mask has thousands of colors
        return resample_codes(values.read(reader.colors(path, image, size), path), within)
    return values.read(resample_codes(reader.codes(path, image, size), within), path)
