"""Damaged slides: what is damaged is left out, all else is read, and nothing piles up meanwhile."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

import wsi_seg.execution.tasks
import wsi_seg.slides.readers.base
from wsi_seg.cli import app
from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.readers.base import LevelReader
from wsi_seg.slides.slide import Level, MapFrame, SlideInfo, UnreadableError
from wsi_seg.slides.tolerant import CELL, TolerantPixels, read_tolerantly
from wsi_seg.tissue.mask import find_tissue

SIZE = Size(300, 220)
TILE = Size(48, 32)


class Tiles(LevelReader):
    """A slide of stored tiles, some of which cannot be read; `names` says whether it knows which."""

    def __init__(self, bad: set[tuple[int, int]], names: str) -> None:
        level = Level(SIZE, Scale(1, 1))
        super().__init__(
            SlideInfo("b", "b", "none", "none", SIZE, (level,), Scale(0.5, 0.5), "user", None, "0")
        )
        self.truth = np.random.default_rng(1).integers(0, 255, (SIZE.height, SIZE.width, 3), np.uint8)
        self.bad = [Box.at(x * TILE.width, y * TILE.height, TILE.width, TILE.height) for x, y in bad]
        self.names, self.reads = names, 0

    def _release(self) -> None:
        pass

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        self.reads += 1
        for tile in self.bad:
            if not tile.intersect(box).empty:
                if self.names == "tile":
                    raise UnreadableError("bad", tile, TILE)
                raise UnreadableError("bad", box, TILE if self.names == "grid" else None)
        return self.truth[box.slices]


BAD = st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=6)
BOXES = st.tuples(st.integers(0, 250), st.integers(0, 180), st.integers(1, 300), st.integers(1, 220)).map(
    lambda b: Box.at(*b).intersect(Box(0, 0, SIZE.width, SIZE.height))
)


@settings(max_examples=60, deadline=None)
@given(BAD, BOXES, st.sampled_from(["tile", "grid", "nothing"]))
def test_what_can_be_read_is_read(bad: set[tuple[int, int]], box: Box, names: str) -> None:
    slide = Tiles(bad, names)
    tolerant = TolerantPixels(slide, fill=7)
    pixels = tolerant.read_level(0, box)
    lost = np.zeros(pixels.shape[:2], bool)
    for part in tolerant.lost:
        assert part.other is None and not lost[part.box_level.within(box)].any()  # nothing is lost twice
        lost[part.box_level.within(box)] = True
    assert np.array_equal(pixels[~lost], slide.truth[box.slices][~lost])
    assert (pixels[lost] == 7).all()
    damaged = np.zeros_like(lost)
    for tile in slide.bad:
        part = tile.intersect(box)
        if not part.empty:
            damaged[part.within(box)] = True
    assert lost[damaged].all()
    if names != "nothing":  # a tile is lost exactly, whatever box it is read with
        assert np.array_equal(lost, damaged)
    count = sum(not tile.intersect(box).empty for tile in slide.bad)
    assert slide.reads <= 1 + count * (8 if names == "tile" else 4 * 5)


@settings(max_examples=20, deadline=None)
@given(BAD, st.sampled_from([1.0, 2.0, 1.7]))
def test_map_pixels_that_see_damage_are_named_and_no_others_change(
    bad: set[tuple[int, int]], factor: float
) -> None:
    size = Size(int(SIZE.width / factor), int(SIZE.height / factor))
    frame = MapFrame(0.5 * factor, size, Scale(factor, factor))
    good = read_tolerantly(Tiles(set(), "tile"), frame, frame.box, 0)
    found = read_tolerantly(Tiles(bad, "tile"), frame, frame.box, 0)
    assert not good.faults
    named = np.zeros(found.region.shape[:2], bool)
    for fault in found.faults:
        named[fault.box_map.slices] = True
    assert np.array_equal(found.region[~named], good.region[~named])
    inside = sum(
        t.intersect(Box(0, 0, SIZE.width, SIZE.height)).empty is False for t in Tiles(bad, "tile").bad
    )
    assert named.sum() <= inside * (TILE.width / factor + 3) * (TILE.height / factor + 3)


@pytest.fixture(scope="module")
def damaged(sample_svs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample slide with 120 kB of zeros where its tiles lie."""
    content = bytearray(sample_svs.read_bytes())
    with tifffile.TiffFile(sample_svs) as tiff:
        start = tiff.pages[0].dataoffsets[40]
    content[start : start + 120_000] = bytes(120_000)
    path = tmp_path_factory.mktemp("damaged") / "damaged.svs"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_a_reader_loses_the_damaged_tiles_and_stays_usable(
    reader: str, sample_svs: Path, damaged: Path
) -> None:
    with open_slide(sample_svs, reader=reader) as good, open_slide(damaged, reader=reader) as bad:
        box = Box(0, 720, good.info.size.width, 2400)
        expected = good.read_level(0, box)
        tolerant = TolerantPixels(bad)
        found = tolerant.read_level(0, box)
        lost = np.zeros(found.shape[:2], bool)
        for part in tolerant.lost:
            lost[part.box_level.within(box)] = True
        assert np.array_equal(found[~lost], expected[~lost])
        assert 5 * 240**2 <= lost.sum() <= 40 * 240**2  # tiles of 240 pixels a side
        with pytest.raises(UnreadableError, match=r"damaged\.svs: cannot read level 0, columns"):
            bad.read_level(0, tolerant.lost[0].box_level)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Counts slides: opened in all, and at most open at a time."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    count = {"all": 0, "most": 0}
    real = wsi_seg.slides.readers.base.LevelReader.__init__

    def counting(self: Any, *arguments: Any) -> None:
        real(self, *arguments)
        alive.add(self)
        count["all"] += 1
        count["most"] = max(count["most"], sum(not slide._closed for slide in alive))

    monkeypatch.setattr(wsi_seg.slides.readers.base.LevelReader, "__init__", counting)
    yield count


def test_finding_tissue_opens_nothing(damaged: Path, opened: dict[str, int]) -> None:
    with open_slide(damaged) as slide:
        before = opened["all"]
        assert 0.3 < find_tissue(slide).mask.mean() < 0.6
        assert opened["all"] == before


def test_a_damaged_slide_is_run_with_few_open_slides(
    damaged: Path, tiny_model: Path, tmp_path: Path, opened: dict[str, int]
) -> None:
    arguments = ["run", str(damaged), "-o", str(tmp_path), "-m", str(tiny_model), "--precision", "float32"]
    result = CliRunner().invoke(
        app, [*arguments, "--threads", "1", "--set", "block=512", "--set", "overlap=0"]
    )
    assert result.exit_code == 3, result.output
    assert "cannot be read" in result.stdout
    summary = json.loads((tmp_path / "damaged" / "summary.json").read_text(encoding="utf-8"))
    assert 0.01 < summary["coverage"]["unread_mm2"] < 0.5
    # The run's own, that of the thread of blocks, and one for a block that is read again.
    assert opened["most"] <= 3
    blocks = len(json.loads((tmp_path / "damaged" / "manifest.json").read_text())["faults"])
    assert opened["all"] <= 6 + 2 * blocks


def test_a_closed_slide_is_no_damage(sample_svs: Path) -> None:
    with open_slide(sample_svs) as slide:
        pass
    with pytest.raises(SlideError, match="closed"):
        TolerantPixels(slide).read_level(0, Box(0, 0, CELL.width, CELL.height))
