"""A region of a whole slide, read when it is needed."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from wsi_seg.annotations.drawing import Drawing
from wsi_seg.core.errors import SlideError
from wsi_seg.core.formats import WITH_FOLDER
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, Pixels, Place, Targets
from wsi_seg.execution.tasks import SlideRecipe
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import MapFrame, Slide, read_region

# Slides that one thread keeps open; each may cache tens of megabytes.
MOST_OPEN = 8


@dataclass(frozen=True, slots=True, eq=False)
class SlideRegion(AnnotatedRegion):
    """A box of a slide's map with the polygons drawn on the slide."""

    recipe: SlideRecipe
    frame: MapFrame
    box_map: Box
    """The region's pixels in the slide's map."""
    drawing: Drawing
    """In map pixels, of the whole slide; the regions of a slide share it."""

    @property
    def size(self) -> Size:
        return Size(self.box_map.width, self.box_map.height)

    def _read_inside(self, box: Box) -> tuple[Pixels, Targets]:
        box_map = box.shifted(self.box_map.x0, self.box_map.y0)
        try:
            pixels = read_region(_open_slides.get(self.recipe), self.frame, box_map)
        except SlideError:
            _open_slides.forget(self.recipe)  # a slide that failed once may go on failing
            raise
        return pixels, self.drawing.paint(box_map, ground=IGNORED)

    def coarse_targets(self, step: int) -> Targets:
        return self.drawing.paint(self.box_map, step, ground=IGNORED)

    def part(self, box: Box, name: str | None = None) -> Self:
        box_map = box.shifted(self.box_map.x0, self.box_map.y0)
        return replace(self, name=name or self.name, box_map=box_map)

    def place(self) -> Place:
        return Place(open_slide_of(self.recipe), self.frame, self.box_map)


def open_slide_of(recipe: SlideRecipe) -> Slide:
    """Open the slide of a recipe; raises SlideError."""
    return open_slide(recipe.path, reader=recipe.reader, mpp=recipe.mpp, series=recipe.series)


def companions(path: Path) -> tuple[Path, ...]:
    """Return what belongs to a slide next to its file: some formats keep the pixels in a folder."""
    return (path.with_suffix(""),) if path.suffix.lower() in WITH_FOLDER else ()


class _OpenSlides(threading.local):
    """The slides that this thread has open, those used last at the end.

    They are kept by process: a forked process must neither read nor close what its parent has open.
    """

    def __init__(self) -> None:
        self._of_process: dict[int, dict[SlideRecipe, Slide]] = {}

    def get(self, recipe: SlideRecipe) -> Slide:
        slides = self._of_process.setdefault(os.getpid(), {})
        slide = slides.pop(recipe, None) or open_slide_of(recipe)
        slides[recipe] = slide
        if len(slides) > MOST_OPEN:
            slides.pop(next(iter(slides))).close()
        return slide

    def forget(self, recipe: SlideRecipe) -> None:
        slide = self._of_process.get(os.getpid(), {}).pop(recipe, None)
        if slide is not None:
            slide.close()


_open_slides = _OpenSlides()
