"""A remote slide that is read from its local copy in a `SlideCache`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.slides.readers.base import NOTHING_STATED, LevelReader
from wsi_seg.slides.slide import Slide, UnreadableError, default_name


class CachedSlide(LevelReader):
    """The slide of a URL; its local copy stays in the cache until this is closed."""

    def __init__(self, url: str, cache: SlideCache, open_local: Callable[[str], Slide]) -> None:
        """Fetch the slide, where it is not in the cache, and open it.

        Raises:
            SlideError: it cannot be fetched or opened.
            OutputError: the cache cannot be written.
        """
        with ExitStack() as stack:
            path = stack.enter_context(cache.lease(url))
            try:
                self._slide = stack.enter_context(open_local(str(path)))
            except SlideError as error:
                raise SlideError(f"{url}: {error}") from error
            self._stack = stack.pop_all()
        about = self._slide.about if isinstance(self._slide, LevelReader) else NOTHING_STATED
        super().__init__(replace(self._slide.info, path=url, name=default_name(url)), about)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        try:
            return self._slide.read_level(level, box)
        except UnreadableError as error:
            raise UnreadableError(f"{self._info.path}: {error}", error.box_level, error.tile) from error
        except SlideError as error:
            raise SlideError(f"{self._info.path}: {error}") from error

    def _load_associated(self, name: str, size: Size) -> Image.Image:
        if not isinstance(self._slide, LevelReader):
            return super()._load_associated(name, size)
        try:
            return Image.fromarray(self._slide.read_associated(name, max(size.width, size.height)))
        except SlideError as error:
            raise SlideError(f"{self._info.path}: {error}") from error

    def _release(self) -> None:
        self._stack.close()
