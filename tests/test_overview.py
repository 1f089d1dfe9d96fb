from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import Polygon, box, to_wkb

from tests.made.memory_slides import ArraySlide
from wsi_seg.core.classes import BCSS, BCSS_GROUPS, ClassGroup
from wsi_seg.core.errors import OutputError
from wsi_seg.exporters import figure
from wsi_seg.exporters.overview import MAX_SIDE, tinted_slide, write_overview
from wsi_seg.maps.maps import MapLayout, Maps, create_maps
from wsi_seg.planning.grid import cut_blocks
from wsi_seg.regions.group_outlines import GroupOutlines
from wsi_seg.slides.slide import MapFrame, map_frame

TUMOR, STROMA = BCSS_GROUPS[:2]
GRAY = 200


def region(polygon: Polygon, group: ClassGroup = TUMOR, mpp: float = 0.5) -> GroupOutlines:
    return GroupOutlines(group, 1, polygon.area * mpp**2, [to_wkb(polygon)])


def make(tmp_path: Path, width: int = 1600, height: int = 1000) -> tuple[ArraySlide, MapFrame, Maps]:
    """A gray slide whose map is stroma on the left half, and not analyzed on the right."""
    slide = ArraySlide(np.full((height, width, 3), GRAY, np.uint8), 0.25, downsamples=(1, 4))
    frame = map_frame(slide.info, 0.5)
    layout = MapLayout("array", frame.size, 0.5, 256, 4, "uint8", BCSS)
    create_maps(tmp_path / "m.zarr", layout)
    maps = Maps.open(tmp_path / "m.zarr")
    for block in cut_blocks(frame.size, 256):
        labels = np.zeros((block.box.height, block.box.width), np.uint8)
        labels[:, : max(0, frame.size.width // 2 - block.box.x0)] = 2
        coarse = (21, -(-block.box.height // 4), -(-block.box.width // 4))
        maps.write_block(block, labels=labels, tissue=labels > 0, probabilities=np.zeros(coarse, np.uint8))
    for level in range(1, maps.level_count):
        for shard in maps.pyramid_shards(level):
            maps.build_shard(shard)
    return slide, frame, maps


def draw(
    path: Path,
    slide: ArraySlide,
    groups: list[GroupOutlines],
    *,
    frame: MapFrame,
    maps: Maps,
    max_side: int = MAX_SIDE,
    notice: str = "",
) -> None:
    tinted = tinted_slide(slide, frame=frame, maps=maps, max_side=max_side)
    write_overview(path, tinted, groups, notice=notice)


def picture_of(path: Path, width: int, height: int) -> np.ndarray:
    """The slide's part of the sheet."""
    page = np.asarray(Image.open(path).convert("RGB"))
    top, left = figure.MARGIN + figure.HEAD, figure.MARGIN
    return page[top : top + height, left : left + width]


def test_outlines_and_tint_lie_where_the_map_says(tmp_path: Path) -> None:
    slide, frame, maps = make(tmp_path)
    regions = [region(Polygon(box(500, 100, 700, 300).exterior, [box(550, 150, 650, 250).exterior]))]
    draw(tmp_path / "o.png", slide, regions, frame=frame, maps=maps, max_side=1600)
    picture = picture_of(tmp_path / "o.png", 1600, 1000)  # 2 picture pixels per map pixel
    np.testing.assert_allclose(picture[100, 400], 200 * 0.72 + np.array([150, 200, 150]) * 0.28, atol=2)
    np.testing.assert_array_equal(picture[100, 900], [GRAY] * 3)
    for x, y in ((1000, 400), (1400, 400), (1200, 200), (1200, 600), (1100, 400), (1200, 500)):
        on_edge = picture[y - 1 : y + 1, x - 1 : x + 1].astype(int)
        assert (on_edge[..., 0] - on_edge[..., 1] > 90).all()  # red on both sides of the edge
    for x, y in ((1050, 400), (1200, 400)):  # inside, and inside the hole: nothing but the slide
        np.testing.assert_array_equal(picture[y, x], [GRAY] * 3)


def test_memory_bound_size_and_enlargement(tmp_path: Path) -> None:
    slide, frame, maps = make(tmp_path)
    draw(tmp_path / "o.png", slide, [], frame=frame, maps=maps, max_side=800)
    page = Image.open(tmp_path / "o.png")
    assert page.width == 800 + figure.LEGEND_WIDTH + 3 * figure.MARGIN
    (tmp_path / "small").mkdir()
    slide, frame, maps = make(tmp_path / "small", 200, 100)
    draw(tmp_path / "s.png", slide, [region(box(70, 10, 90, 40))], frame=frame, maps=maps)
    picture = picture_of(tmp_path / "s.png", 800, 400)  # enlarged 4 times: 8 picture pixels per map pixel
    on_edge = picture[200, 559:561].astype(int)
    assert (on_edge[:, 0] - on_edge[:, 1] > 90).all()
    np.testing.assert_array_equal(picture[200, 640], [GRAY] * 3)


@pytest.mark.parametrize("size", [(1600, 3), (3, 1600), (1, 1), (90, 2000)])
def test_slides_of_any_shape(tmp_path: Path, size: tuple[int, int]) -> None:
    slide, frame, maps = make(tmp_path, *size)
    draw(tmp_path / "o.png", slide, [], frame=frame, maps=maps, notice="for tests only")
    assert Image.open(tmp_path / "o.png").height > 300


def test_the_same_input_gives_the_same_file(tmp_path: Path) -> None:
    slide, frame, maps = make(tmp_path)
    regions = [region(box(10, 10, 90, 90)), region(box(200, 10, 300, 90), STROMA)]
    for name in "ab":
        draw(tmp_path / name, slide, regions, frame=frame, maps=maps, notice="n")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_place_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    slide, frame, maps = make(tmp_path)
    with pytest.raises(OutputError, match=r"o\.png: cannot be written"):
        draw(tmp_path / "absent" / "o.png", slide, [], frame=frame, maps=maps)


def test_legend_lists_groups_and_the_largest_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    original = figure.write

    def record(draw: object, xy: object, text: str, *style: object) -> None:
        written.append(text)
        original(draw, xy, text, *style)  # type: ignore[arg-type]

    monkeypatch.setattr(figure, "write", record)
    sheet = figure.Sheet(
        title="slide " * 40,
        facts="facts",
        groups=[figure.GroupTotal("Tumor", (200, 0, 0), 1234, 2_345_678.0)],
        classes=[figure.ClassShare(f"class_{i}", (9, 9, 9), 0.0832) for i in range(12)]
        + [figure.ClassShare("rare", (9, 9, 9), 0.0016)],
        tint=0.3,
        notice="not for clinical use " * 20,
        um_per_pic=1.0,
    )
    page = figure.compose(Image.new("RGB", (900, 500)), sheet)
    assert page.width == 900 + figure.LEGEND_WIDTH + 3 * figure.MARGIN
    assert {"Tumor (1,234)", "2.35 mm²", "class 0", "8%", "others", "17%"} <= set(written)
    assert "rare" not in written
    assert "100 µm" in written  # a fifth of 900 µm, rounded down
    assert any("…" in text and text.startswith("slide") for text in written)
    assert sum("clinical" in text for text in written) > 1  # wrapped


def test_round_lengths_and_areas() -> None:
    assert [figure.round_length(v) for v in (1, 1.99, 2, 49, 50, 999, 1000)] == [1, 1, 2, 20, 50, 500, 1000]
    assert [figure.length_text(v) for v in (0.5, 500, 2000)] == ["0.5 µm", "500 µm", "2 mm"]
    areas = {0.0: "0 µm²", 9_999: "9,999 µm²", 15_240: "0.0152 mm²", 1.5e6: "1.50 mm²", 2.5e8: "250 mm²"}
    assert {v: figure.area_text(v) for v in areas} == areas


def test_without_any_known_font_plain_letters_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "_found", lambda bold: None)
    assert figure._spell("250 µm · mm² …\n") == "250 um - mm^2 ...?"
    slide, frame, maps = make(tmp_path, 300, 200)
    draw(tmp_path / "o.png", slide, [region(box(9, 9, 50, 50))], frame=frame, maps=maps)
    assert Image.open(tmp_path / "o.png").width > 300


def overview_of_names(folder: Path, letters: str) -> bytes:
    """Return the picture of a slide and a group with letters in their names."""
    _, frame, maps = make(folder, 300, 200)
    slide = ArraySlide(np.full((200, 300, 3), GRAY, np.uint8), 0.25, name=f"bad{letters}name")
    group = ClassGroup(f"a{letters}b", (1,), (200, 0, 0))
    path = folder / "o.png"
    draw(path, slide, [region(box(9, 9, 50, 50), group)], frame=frame, maps=maps)
    return path.read_bytes()


# Control characters, those at which a text breaks into lines or paragraphs, and a byte that is not UTF-8.
UNDRAWN = "".join((*map(chr, range(32)), "\x7f\x85\u2028\u2029\udcff"))
TOGETHER = 8


@pytest.fixture(scope="module")
def with_marks(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Pictures of names with none to `TOGETHER` marks, all of which are to be seen."""
    pictures = [
        overview_of_names(tmp_path_factory.mktemp("mark"), "�" * count) for count in range(TOGETHER + 1)
    ]
    assert len(set(pictures)) == len(pictures)
    return pictures


@pytest.mark.parametrize("start", range(0, len(UNDRAWN), TOGETHER))
def test_what_cannot_be_drawn_of_a_name_is_seen_to_be_there(
    tmp_path: Path, start: int, with_marks: list[bytes]
) -> None:
    letters = UNDRAWN[start : start + TOGETHER]
    assert overview_of_names(tmp_path, letters) == with_marks[len(letters)]
