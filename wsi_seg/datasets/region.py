"""Annotated regions: what training draws crops from and evaluation predicts. Free of torch.

Labels of pixels are int16 *targets*:

- 0 … C - 1    the output channel of the pixel's class,
- IGNORED      nothing is known of it (zero weight in loss and metrics),
- not_class(c) the pixel is of any class but channel c (partial labels).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.readers.array import ArraySlide
from wsi_seg.slides.slide import WHITE, MapFrame, Slide, map_frame

IGNORED = -1

Pixels = NDArray[np.uint8]
Targets = NDArray[np.int16]


def not_class(channel: int) -> int:
    """Return the target of a pixel of which only is known that it is not `channel`."""
    return -2 - channel


@dataclass(frozen=True, slots=True)
class Place:
    """Where a region lies in a slide, so that it can be predicted as `wsi-seg run` predicts."""

    slide: Slide
    """Open, for the use of one thread; whoever asked for it closes it."""
    frame: MapFrame
    box_map: Box
    """The region's pixels in the slide's map."""


class AnnotatedRegion(Protocol):
    """An image with targets at the model's resolution. It can be sent to another process."""

    @property
    def name(self) -> str:
        """Unique in its data set."""
        ...

    @property
    def group(self) -> str:
        """Key of images that stay together in one part of a split, unless the split is by columns.

        They are all of one patient; where the patient is unknown, all tiles of one image, or all of a slide.
        """
        ...

    @property
    def patient(self) -> str | None:
        """None where it is unknown. Patients are the units of confidence intervals."""
        ...

    @property
    def label(self) -> int | None:
        """Class of the whole image, an index into the model's `image_labels`; None where there is none."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """File it was read from."""
        ...

    @property
    def size(self) -> Size: ...

    def read(self, box: Box) -> tuple[Pixels, Targets]:
        """Read a box of the region's pixels, which may reach beyond it.

        Returns:
            uint8 RGB (h, w, 3) and int16 targets (h, w), white and IGNORED beyond the region.

        Raises:
            SlideError: the pixels cannot be read.
        """
        ...

    def coarse_targets(self, step: int) -> Targets:
        """Return the targets of the pixels step // 2, step // 2 + step, … of both axes."""
        ...

    def part(self, box: Box, name: str | None = None) -> Self:
        """Return the part of the region inside a box that lies inside it; None keeps the name."""
        ...

    def grouped(self, group: str, patient: str | None) -> Self:
        """Return the region with this group and patient."""
        ...

    def place(self) -> Place:
        """Return the slide that the region lies in, opened, and where it lies."""
        ...


def read_padded(
    box: Box, size: Size, read_inside: Callable[[Box], tuple[Pixels, Targets]]
) -> tuple[Pixels, Targets]:
    """Read a box that may reach beyond a region of this size: white and IGNORED there."""
    image = np.full((box.height, box.width, 3), WHITE, np.uint8)
    target = np.full((box.height, box.width), IGNORED, np.int16)
    inside = box.intersect(Box(0, 0, size.width, size.height))
    if not inside.empty:
        image[inside.within(box)], target[inside.within(box)] = read_inside(inside)
    return image, target


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRegion:
    """A region in memory."""

    name: str
    group: str
    image: Pixels
    """RGB (H, W, 3) at the model's resolution."""
    target: Targets
    """(H, W), see above."""
    mpp: float
    """Microns per pixel of both: the model's."""
    label: int | None = None
    files: tuple[Path, ...] = field(default=())
    patient: str | None = None

    @property
    def size(self) -> Size:
        return Size(self.target.shape[1], self.target.shape[0])

    def read(self, box: Box) -> tuple[Pixels, Targets]:
        return read_padded(box, self.size, self._read_inside)

    def _read_inside(self, box: Box) -> tuple[Pixels, Targets]:
        rows, columns = box.within(Box(0, 0, 0, 0))
        return self.image[rows, columns], self.target[rows, columns]

    def coarse_targets(self, step: int) -> Targets:
        return self.target[step // 2 :: step, step // 2 :: step]

    def part(self, box: Box, name: str | None = None) -> ArrayRegion:
        rows, columns = box.within(Box(0, 0, 0, 0))
        image, target = self.image[rows, columns], self.target[rows, columns]
        return replace(self, name=name or self.name, image=image, target=target)

    def grouped(self, group: str, patient: str | None) -> ArrayRegion:
        return replace(self, group=group, patient=patient)

    def place(self) -> Place:
        slide = ArraySlide(self.image, self.mpp, self.name)
        frame = map_frame(slide.info, self.mpp)
        return Place(slide, frame, frame.box)
