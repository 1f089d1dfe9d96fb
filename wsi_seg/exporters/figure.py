"""The sheet around the picture of a slide: title, scale bar, legend and notice. Lengths are in pixels."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from wsi_seg.core.classes import RGB
from wsi_seg.core.files import atomic_path

# Common fonts that know µ and ². Pillow's own does not; where none of these is found it writes plain letters.
REGULAR = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf", "NotoSans-Regular.ttf")
BOLD = (
    "DejaVuSans-Bold.ttf",
    "Arial Bold.ttf",
    "arialbd.ttf",
    "LiberationSans-Bold.ttf",
    "NotoSans-Bold.ttf",
)
PLAIN_LETTERS = str.maketrans({"µ": "u", "²": "^2", "×": "x", "·": "-", "…": "...", "�": "?"})
# Names of files may hold them, and Pillow refuses what would be several paragraphs: control characters,
# surrogates, which stand for bytes that are not UTF-8, and the separators of lines and paragraphs.
UNDRAWABLE = ("Cc", "Cs", "Zl", "Zp")
REPLACEMENT = "�"

PAPER: RGB = (255, 255, 255)
INK: RGB = (28, 28, 32)
GRAY: RGB = (105, 105, 112)
RULE: RGB = (212, 212, 218)

MARGIN = 36
HEAD = 108
LEGEND_WIDTH = 540
ROW = 48
SWATCH = 32
SMALL_LINE = 31
CLASSES_LISTED = 10
LEAST_SHARE = 0.005

# Outlines are drawn this many times larger and then reduced, which smooths them.
SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class GroupTotal:
    """The regions of one group."""

    name: str
    color: RGB
    count: int
    area_um2: float


@dataclass(frozen=True, slots=True)
class ClassShare:
    """One class of the map."""

    name: str
    color: RGB
    share: float
    """Of what was analyzed, 0 … 1."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Text and legend around the picture."""

    title: str
    facts: str
    """One line under the title."""
    groups: Sequence[GroupTotal]
    classes: Sequence[ClassShare]
    """Largest first."""
    tint: float
    """Share of the class color in the picture, 0 … 1."""
    notice: str
    um_per_pic: float
    artifacts: Sequence[ClassShare] | None = None
    """Shares of the tissue, largest first; None: they were not looked for."""


@dataclass(frozen=True, slots=True)
class Type:
    """Font and color of text."""

    size: int
    color: RGB = INK
    bold: bool = False


TITLE, FACTS = Type(40, bold=True), Type(26, GRAY)
HEADING, ENTRY, VALUE, SMALL = Type(28, bold=True), Type(27), Type(27, GRAY), Type(22, GRAY)


def compose(picture: Image.Image, sheet: Sheet) -> Image.Image:
    """Return the picture with everything around it."""
    picture = picture.copy()
    draw_scale_bar(picture, sheet.um_per_pic)
    legend = draw_legend(sheet)
    width = MARGIN + picture.width + MARGIN + legend.width + MARGIN
    inner = width - 2 * MARGIN
    notice = wrap(sheet.notice, SMALL, inner)
    body = max(picture.height, legend.height)
    foot = MARGIN + (len(notice) * SMALL_LINE + MARGIN // 2 if notice else 0)
    page = Image.new("RGB", (width, MARGIN + HEAD + body + foot), PAPER)
    draw = ImageDraw.Draw(page)
    write(draw, (MARGIN, MARGIN + 30), shorten(sheet.title, TITLE, inner), TITLE)
    write(draw, (MARGIN, MARGIN + 74), shorten(sheet.facts, FACTS, inner), FACTS)
    top = MARGIN + HEAD
    page.paste(picture, (MARGIN, top))
    draw.rectangle((MARGIN - 1, top - 1, MARGIN + picture.width, top + picture.height), outline=RULE)
    page.paste(legend, (MARGIN + picture.width + MARGIN, top))
    for index, line in enumerate(notice):
        write(draw, (MARGIN, top + body + MARGIN + 8 + SMALL_LINE * index), line, SMALL)
    return page


def draw_legend(sheet: Sheet) -> Image.Image:
    """Return the legend: regions with their areas, classes with their shares."""
    listed = [c for c in sheet.classes if c.share >= LEAST_SHARE][:CLASSES_LISTED]
    rest = sum(c.share for c in sheet.classes) - sum(c.share for c in listed)
    artifacts = list(sheet.artifacts or ())[:CLASSES_LISTED]
    rows = 5 + max(1, len(sheet.groups)) + max(1, len(listed))
    rows += 0 if sheet.artifacts is None else 2 + max(1, len(artifacts))
    legend = Image.new("RGB", (LEGEND_WIDTH, rows * ROW), PAPER)
    draw = ImageDraw.Draw(legend)
    y = _heading(draw, 0, "Regions", "area")
    for group in sheet.groups:
        box = (2, y + 2, SWATCH - 2, y + SWATCH - 2)
        draw.rectangle(box, fill=_mixed(group.color, sheet.tint), outline=group.color, width=5)
        count = f"{group.name} ({group.count:,})"
        y = _entry(draw, y, count, area_text(group.area_um2))
    if not sheet.groups:
        y = _entry(draw, y, "none found", "")
    y = _heading(draw, y + ROW // 2, "Classes", "of analyzed area")
    for item in listed:
        y = _class_entry(draw, y, item)
    if not listed:
        y = _entry(draw, y, "nothing analyzed", "")
    if rest > 0 and listed:
        y = _entry(draw, y, "others", share_text(rest))
    if sheet.artifacts is not None:
        y = _heading(draw, y + ROW // 2, "Artifacts", "of tissue")
        for item in artifacts:
            y = _class_entry(draw, y, item)
        if not artifacts:
            y = _entry(draw, y, "none found", "")
    return legend.crop((0, 0, LEGEND_WIDTH, y))


def _heading(draw: ImageDraw.ImageDraw, y: int, text: str, right: str) -> int:
    write(draw, (0, y + 24), text, HEADING)
    write(draw, (LEGEND_WIDTH, y + 24), right, SMALL, "rs")
    draw.line((0, y + 38, LEGEND_WIDTH, y + 38), fill=RULE, width=2)
    return y + 38 + (ROW - SWATCH)


def _class_entry(draw: ImageDraw.ImageDraw, y: int, item: ClassShare) -> int:
    draw.rectangle((0, y, SWATCH, y + SWATCH), fill=_mixed(item.color, 0.75), outline=item.color)
    return _entry(draw, y, item.name.replace("_", " "), share_text(item.share))


def _entry(draw: ImageDraw.ImageDraw, y: int, name: str, value: str) -> int:
    room = LEGEND_WIDTH - SWATCH - 14 - _font(VALUE).getlength(value) - 16
    write(draw, (SWATCH + 14, y + 26), shorten(name, ENTRY, room), ENTRY)
    write(draw, (LEGEND_WIDTH, y + 26), value, VALUE, "rs")
    return y + ROW


def _mixed(color: RGB, share: float) -> RGB:
    red, green, blue = (round(PAPER[0] * (1 - share) + value * share) for value in color)
    return red, green, blue


def draw_scale_bar(picture: Image.Image, um_per_pic: float) -> None:
    """Draw a bar of a round length on a light plate in the lower left corner, where there is room."""
    bar_um = round_length(picture.width * um_per_pic / 5)
    length = round(bar_um / um_per_pic)
    size = max(14, min(30, picture.width // 40))
    text, style = length_text(bar_um), Type(size, bold=True)
    room = max(length, round(_font(style).getlength(text))) + 2 * size
    if room + size > picture.width or 4 * size > picture.height:
        return
    left, bottom = size, picture.height - size
    plate = Image.new("RGB", (room, round(2.6 * size)), PAPER)
    corner = (left, bottom - plate.height)
    picture.paste(plate, corner, Image.new("L", plate.size, 215))
    draw = ImageDraw.Draw(picture)
    center = left + room / 2
    write(draw, (center, corner[1] + 1.35 * size), text, style, "ms")
    start = round(center - length / 2)
    draw.rectangle((start, bottom - round(0.85 * size), start + length - 1, bottom - size // 2), fill=INK)


def draw_outlines(
    pixels: NDArray[np.uint8], rings: Iterable[NDArray[np.float64]], color: RGB, line_width: float
) -> NDArray[np.uint8]:
    """Draw rings, (n, 2) positions, in `color` with a white rim that sets them off from any tissue.

    `rings` are gone through twice, so they are no iterator.
    """
    out = Image.fromarray(pixels)
    for width, ink, opacity in ((2.2 * line_width, (255, 255, 255), 0.75), (line_width, color, 1.0)):
        alpha = _line_coverage(out.size, rings, width).point(lambda v, o=opacity: round(v * o))
        out.paste(Image.new("RGB", out.size, ink), mask=alpha)
    return np.asarray(out)


def _line_coverage(size: tuple[int, int], rings: Iterable[NDArray[np.float64]], width: float) -> Image.Image:
    large = Image.new("L", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING))
    draw = ImageDraw.Draw(large)
    # Pillow draws between whole pixels; an odd width has a pixel in its middle.
    reach = round(width * SUPERSAMPLING / 2)
    for ring in rings:
        points = np.floor(ring * SUPERSAMPLING)
        draw.line(points.ravel().tolist(), fill=255, width=2 * reach + 1)
        for x, y in points.tolist():  # round joints; Pillow's own take four times as long
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)
    return large.reduce(SUPERSAMPLING)


def round_length(um: float) -> float:
    """Return the largest of 1, 2, 5 × 10ⁿ that is at most `um`."""
    power = 10.0 ** math.floor(math.log10(um))
    return next(step for step in (5 * power, 2 * power, power) if step <= um * (1 + 1e-9))


def length_text(um: float) -> str:
    """Return a length in µm, from 1 mm on in mm."""
    return f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} µm"


def area_text(um2: float) -> str:
    """Return an area with three digits in µm², from 0.01 mm² on in mm²."""
    if um2 < 10_000:
        return f"{um2:,.0f} µm²"
    digits = max(0, 2 - math.floor(math.log10(um2 / 1e6)))
    return f"{um2 / 1e6:,.{digits}f} mm²"


def share_text(share: float) -> str:
    """Return a share in whole percent."""
    return f"{share:.0%}" if share >= LEAST_SHARE else "below 1%"


def write(
    draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, style: Type, anchor: str = "ls"
) -> None:
    """Write one line; the anchor is Pillow's, by default the left end of the baseline."""
    draw.text(xy, _spell(text), fill=style.color, font=_font(style), anchor=anchor)


def wrap(text: str, style: Type, width: float) -> list[str]:
    """Return the text in lines of at most this width, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(style).getlength(_spell(longer)) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, style, width))
    return lines


def shorten(text: str, style: Type, width: float) -> str:
    """Return the text, with its middle left out where it is too wide."""
    cut = text
    for keep in range(len(text) - 1, 1, -1):
        if _font(style).getlength(_spell(cut)) <= width:
            break
        cut = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
    return cut


def _spell(text: str) -> str:
    """Return one line that the font can draw; what cannot be drawn becomes a visible mark."""
    line = "".join(REPLACEMENT if unicodedata.category(letter) in UNDRAWABLE else letter for letter in text)
    return line.translate(PLAIN_LETTERS) if _found(False) is None else line


def _font(style: Type) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    path = _found(style.bold)
    return ImageFont.load_default(style.size) if path is None else _load(path, style.size)


@lru_cache(maxsize=64)
def _load(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@lru_cache
def _found(bold: bool) -> str | None:
    """Return the first font that is installed; Pillow searches the system's folders."""
    for name in BOLD if bold else REGULAR:
        try:
            ImageFont.truetype(name, 12)
        except OSError:
            continue
        return name
    return None


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        # The fastest: higher levels take half as long again, to make this kind of picture 3 % smaller.
        image.save(temporary, format="PNG", compress_level=1)
