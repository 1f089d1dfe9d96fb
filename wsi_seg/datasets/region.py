"""Annotated regions: what training draws crops from and evaluation predicts. Free of torch.

Labels of pixels are int16 *targets*:

- 0 … C - 1    the output channel of the pixel's class,
- IGNORED      nothing is known of it (zero weight in loss and metrics),
- not_class(c) the pixel is of any class but channel c (partial labels).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.readers.array import ArraySlide
from wsi_seg.slides.slide import WHITE, MapFrame, Slide, map_frame

IGNORED = -1
# Step of rows and columns that are looked at first.
COARSE = 8

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


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatedRegion(ABC):
    """An image with targets at the model's resolution. It can be sent to another process."""

    name: str
    """Unique in its data set."""
    group: str
    """Key of images that stay together in one part of a split, unless the split is by columns.

    They are all of one patient; where the patient is unknown, all tiles of one image, or all of a slide."""
    label: int | None = field(default=None, kw_only=True)
    """Class of the whole image, an index into the model's `image_labels`; None where there is none."""
    files: tuple[Path, ...] = field(default=(), kw_only=True)
    """Files it was read from."""
    patient: str | None = field(default=None, kw_only=True)
    """None where it is unknown. Patients are the units of confidence intervals."""

    @property
    @abstractmethod
    def size(self) -> Size: ...

    @abstractmethod
    def coarse_targets(self, step: int) -> Targets:
        """Return the targets of the pixels step // 2, step // 2 + step, … of both axes."""

    @abstractmethod
    def part(self, box: Box, name: str | None = None) -> Self:
        """Return the part of the region inside a box that lies inside it; None keeps the name."""

    @abstractmethod
    def place(self) -> Place:
        """Return the slide that the region lies in, opened, and where it lies."""

    @abstractmethod
    def _read_inside(self, box: Box) -> tuple[Pixels, Targets]:
        """Read a box that lies inside the region; see `read`."""

    def read(self, box: Box) -> tuple[Pixels, Targets]:
        """Read a box of the region's pixels, which may reach beyond it.

        Returns:
            uint8 RGB (h, w, 3) and int16 targets (h, w), white and IGNORED beyond the region.

        Raises:
            SlideError: the pixels cannot be read.
        """
        image = np.full((box.height, box.width, 3), WHITE, np.uint8)
        target = np.full((box.height, box.width), IGNORED, np.int16)
        inside = box.intersect(Box(0, 0, self.size.width, self.size.height))
        if not inside.empty:
            image[inside.within(box)], target[inside.within(box)] = self._read_inside(inside)
        return image, target

    @property
    def is_labeled(self) -> bool:
        """True where something is known of a pixel; coarse pixels are looked at first, which are fewer."""
        return any((self.coarse_targets(step) != IGNORED).any() for step in (COARSE, 1))

    def grouped(self, group: str, patient: str | None) -> Self:
        """Return the region with this group and patient."""
        return replace(self, group=group, patient=patient)


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRegion(AnnotatedRegion):
    """A region in memory."""

    image: Pixels
    """RGB (H, W, 3) at the model's resolution."""
    target: Targets
    """(H, W), see above."""
    mpp: float
    """Microns per pixel of both: the model's."""

    @property
    def size(self) -> Size:
        return Size(self.target.shape[1], self.target.shape[0])

    def _read_inside(self, box: Box) -> tuple[Pixels, Targets]:
        return self.image[box.slices], self.target[box.slices]

    def coarse_targets(self, step: int) -> Targets:
        return self.target[step // 2 :: step, step // 2 :: step]

    def part(self, box: Box, name: str | None = None) -> Self:
        image, target = self._read_inside(box)
        return replace(self, name=name or self.name, image=image, target=target)

    def place(self) -> Place:
        slide = ArraySlide(self.image, self.mpp, self.name)
        frame = map_frame(slide.info, self.mpp)
        return Place(slide, frame, frame.box)
