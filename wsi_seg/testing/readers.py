"""Contract of every reader: run each of `CHECKS` on slides of every kind it opens.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_reader(check):
        check(lambda: MyReader("slide.xyz"))

Each check takes a function that opens the slide again and raises AssertionError where the contract is broken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.readers.base import LevelReader
from wsi_seg.slides.slide import WHITE, Slide

Opener = Callable[[], Slide]


def check_info(open_slide: Opener) -> None:
    """`info` is complete, plain data, and the same each time."""
    with open_slide() as slide, open_slide() as again:
        info = slide.info
        assert isinstance(slide, Slide)
        assert again.info == info
        assert hash(again.info) == hash(info)
        json.dumps(asdict(info))
        assert info.path and info.name and info.reader and info.vendor and info.fingerprint
        assert info.size.width > 0 and info.size.height > 0
        assert (info.mpp is None) == (info.mpp_source == "missing")
        if info.mpp is not None:
            assert all(value > 0 and math.isfinite(value) for value in (info.mpp.x, info.mpp.y))
        if info.bounds is not None:
            assert not info.bounds.empty
            assert info.bounds.intersect(_whole(info.size)) == info.bounds


def check_levels(open_slide: Opener) -> None:
    """Level 0 is the slide; each level is coarser than the one before, and its factor explains its size."""
    with open_slide() as slide:
        info = slide.info
        assert info.levels[0].size == info.size
        assert (info.levels[0].downsample.x, info.levels[0].downsample.y) == (1, 1)
        for finer, coarser in zip(info.levels, info.levels[1:], strict=False):
            assert coarser.downsample.x > finer.downsample.x
            assert coarser.downsample.y > finer.downsample.y
        for level in info.levels:
            assert abs(info.size.width / level.downsample.x - level.size.width) <= 1
            assert abs(info.size.height / level.downsample.y - level.size.height) <= 1


def check_shape_and_dtype(open_slide: Opener) -> None:
    """Reads have the shape that was asked for, uint8 RGB, and belong to the caller."""
    with open_slide() as slide:
        for level in range(len(slide.info.levels)):
            for box in (Box(0, 0, 1, 1), Box(3, 5, 40, 31), Box(-7, -9, 20, 11), Box(2, 2, 2, 9)):
                pixels = slide.read_level(level, box)
                assert pixels.shape == (box.height, box.width, 3)
                assert pixels.dtype == np.uint8
        box = Box(0, 0, 8, 8)
        before = slide.read_level(0, box).copy()
        slide.read_level(0, box)[...] = 7
        assert np.array_equal(slide.read_level(0, box), before)


def check_white_outside(open_slide: Opener) -> None:
    """Beyond each side of each level there is white and nothing else."""
    with open_slide() as slide:
        for index, level in enumerate(slide.info.levels):
            width, height = level.size.width, level.size.height
            outside = (
                Box(-30, 0, 0, 20),
                Box(0, -30, 20, 0),
                Box(width, height - 5, width + 30, height),
                Box(width - 5, height, width, height + 30),
                Box(width + 10_000, height + 10_000, width + 10_016, height + 10_016),
            )
            assert all((slide.read_level(index, box) == WHITE).all() for box in outside)


def check_overlap_equals_inner_read(open_slide: Opener) -> None:
    """A box that reaches beyond the slide holds the same pixels as one that does not, at all corners."""
    with open_slide() as slide:
        for index, level in enumerate(slide.info.levels):
            whole = _whole(level.size)
            for x in (-13, whole.x1 - 29):
                for y in (-11, whole.y1 - 31):
                    box = Box.at(x, y, 50, 47)
                    inner = box.intersect(whole)
                    outer_pixels = slide.read_level(index, box)
                    assert np.array_equal(outer_pixels[inner.within(box)], slide.read_level(index, inner))
                    mask = np.ones(outer_pixels.shape[:2], bool)
                    mask[inner.within(box)] = False
                    assert (outer_pixels[mask] == WHITE).all()


def check_pieces(open_slide: Opener) -> None:
    """A pixel is the same whatever box it is read with, also at the far corner and across tiles."""
    with open_slide() as slide:
        for index, level in enumerate(slide.info.levels):
            whole = _whole(level.size)
            starts = {
                (0, 0),
                (max(0, whole.x1 - 333), max(0, whole.y1 - 311)),
                (whole.x1 // 3, whole.y1 // 3),
            }
            for x, y in starts:
                box = Box.at(x, y, 333, 311).intersect(whole)
                assert np.array_equal(slide.read_level(index, box), _assemble(slide, index, box, 97))


def check_threads(open_slide: Opener) -> None:
    """Threads with a slide each read what one thread reads."""
    with open_slide() as slide:
        last = len(slide.info.levels) - 1
        boxes = [Box.at(17 * i, 23 * i, 120, 90) for i in range(8)]
        expected = [slide.read_level(last, box) for box in boxes]

    def read(box: Box) -> NDArray[np.uint8]:
        with open_slide() as own:
            return own.read_level(last, box)

    with ThreadPoolExecutor(4) as pool:
        assert all(map(np.array_equal, pool.map(read, boxes), expected))


def check_bad_level(open_slide: Opener) -> None:
    """A level that is not there raises SlideError."""
    with open_slide() as slide:
        for level in (-1, len(slide.info.levels)):
            assert _raises_slide_error(slide, partial(slide.read_level, level, Box(0, 0, 4, 4)))


def check_associated(open_slide: Opener) -> None:
    """Pictures that a `LevelReader` lists are read within the side that is asked for, and no others are."""
    with open_slide() as slide:
        if not isinstance(slide, LevelReader):  # others list none
            return
        for one in slide.about.associated:
            for most in (10_000, 40):
                factor = min(1.0, most / max(one.size.width, one.size.height))
                try:
                    pixels = slide.read_associated(one.name, most)
                except SlideError:
                    assert "://" in slide.info.path, "only behind a URL a picture may be out of reach"
                    continue
                height, width = pixels.shape[:2]
                assert pixels.dtype == np.uint8 and pixels.shape == (height, width, 3)
                assert abs(width - factor * one.size.width) <= 1
                assert abs(height - factor * one.size.height) <= 1
        assert _raises_slide_error(slide, lambda: slide.read_associated("../label", 40))
    assert _raises_slide_error(slide, lambda: slide.read_associated("label", 40))


def check_close(open_slide: Opener) -> None:
    """A slide is a context manager; closing twice is fine; reading afterwards raises SlideError."""
    with open_slide() as slide:
        slide.read_level(0, Box(0, 0, 4, 4))
    assert _raises_slide_error(slide, partial(slide.read_level, 0, Box(0, 0, 4, 4)))
    slide.close()
    assert slide.info.size.width > 0


CHECKS: tuple[Callable[[Opener], None], ...] = (
    check_info,
    check_levels,
    check_shape_and_dtype,
    check_white_outside,
    check_overlap_equals_inner_read,
    check_pieces,
    check_threads,
    check_bad_level,
    check_associated,
    check_close,
)


def _whole(size: Size) -> Box:
    return Box(0, 0, size.width, size.height)


def _assemble(slide: Slide, level: int, box: Box, side: int) -> NDArray[np.uint8]:
    out = np.zeros((box.height, box.width, 3), np.uint8)
    for y in range(box.y0, box.y1, side):
        for x in range(box.x0, box.x1, side):
            piece = Box.at(x, y, side, side).intersect(box)
            out[piece.within(box)] = slide.read_level(level, piece)
    return out


def _raises_slide_error(slide: Slide, read: Callable[[], object]) -> bool:
    try:
        read()
    except SlideError as error:
        return slide.info.path in str(error) and "\n" not in str(error)
    return False
