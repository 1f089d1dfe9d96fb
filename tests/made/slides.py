"""A made whole-slide image of any size: a real texture repeated, as a tiled pyramid that readers recognize.

The slide has levels 1, 4, 16, 64 and is taken by OpenSlide and TiffSlide for an Aperio SVS or, where bounds
are given, for a Leica SCN, the simplest format that carries `openslide.bounds-*`. The texture is mirrored and
so made periodic (16 × 16 tiles), each of its tiles is compressed once, and the compressed bytes are repeated
wherever a low-frequency pattern says tissue; all else is blank. Lower levels show the same tissue reduced, so
positions agree on every level. Memory does not grow with the slide.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.made.tissue import tissue_texture
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.sample import sample_slide

TILE = 256
PERIOD = 16  # tiles on level 0 after which the texture repeats
HALF = PERIOD * TILE // 2  # pixels after which it is mirrored
FACTOR = 4  # between one level and the next
MAX_LEVEL = 4  # at level 4 one tile of level 0 is a single pixel
BLANK = 245  # gray of empty glass
SAMPLE_MPP = 0.499

RGB = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class SlideSpec:
    """Slide to write; sizes and `bounds` in l0 pixels, `mpp` in micrometers per l0 pixel."""

    size: Size
    mpp: float = 0.25
    tissue: float = 0.4
    """Share of level-0 tiles that hold tissue."""
    codec: str = "jpeg"
    """`jpeg` or `jpeg2000`."""
    texture: Path | str = "sample"
    """`sample`: the packaged slide at its true scale, blurred where `mpp` is finer than its 0.5; `tissue`: a
    made texture that compresses and decodes as scanned tissue does; or an image, one pixel per l0 pixel."""
    bounds: Box | None = None
    """Scanned region; when given, a Leica SCN is written and all else is outside the scan."""
    seed: int = 0

    @property
    def scanned(self) -> Size:
        return Size(self.bounds.width, self.bounds.height) if self.bounds else self.size


def make_slide(path: str | Path, spec: SlideSpec) -> Path:
    """Write the slide that `spec` describes to `path` and return the path."""
    path = Path(path)
    _check(spec)
    grid = Size(-(-spec.scanned.width // TILE), -(-spec.scanned.height // TILE))
    source = TileSource(texture_quarter(spec), tissue_mask(grid, spec.tissue, spec.seed), spec.codec)
    levels = level_sizes(spec.scanned)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        if spec.bounds is None:
            _write_svs(writer, spec, source, levels)
        else:
            _write_scn(writer, spec, source, levels)
    return path


def _check(spec: SlideSpec) -> None:
    if spec.codec not in ("jpeg", "jpeg2000"):
        raise ValueError(f"codec must be jpeg or jpeg2000, got {spec.codec!r}")
    if not 0 <= spec.tissue <= 1 or not spec.mpp > 0:
        raise ValueError(f"need 0 <= tissue <= 1 and mpp > 0, got {spec.tissue:g} and {spec.mpp:g}")
    whole = Box(0, 0, spec.size.width, spec.size.height)
    if whole.empty or (spec.bounds is not None and spec.bounds.intersect(whole) != spec.bounds):
        raise ValueError(f"size must be positive and hold the bounds, got {spec.size} and {spec.bounds}")


def level_sizes(size: Size) -> list[Size]:
    """Return the sizes of all levels; the last one is at most 2048 pixels wide and high where possible."""
    sizes = [size]
    while max(sizes[-1].width, sizes[-1].height) > 2048 and len(sizes) <= MAX_LEVEL:
        factor = FACTOR ** len(sizes)
        sizes.append(Size(size.width // factor, size.height // factor))
    return sizes


# --- what is on the slide -------------------------------------------------------------------------


def tissue_mask(grid: Size, share: float, seed: int) -> Mask:
    """Return which level-0 tiles hold tissue, bool (rows, columns): a few blobs with the asked share."""
    shape = (grid.height, grid.width)
    wanted = round(share * grid.width * grid.height)
    noise = np.random.default_rng(seed).standard_normal(shape)
    smooth = gaussian_filter(noise, sigma=max(1.0, 0.07 * max(shape)), mode="nearest")
    smooth /= smooth.std() or 1.0
    y, x = np.ogrid[: shape[0], : shape[1]]
    edge = ((y + 0.5) / shape[0] * 2 - 1) ** 4 + ((x + 0.5) / shape[1] * 2 - 1) ** 4
    order = np.argsort(-(smooth - 2 * edge), axis=None, kind="stable")
    mask = np.zeros(shape, bool)
    mask.ravel()[order[:wanted]] = True
    return mask


def texture_quarter(spec: SlideSpec) -> RGB:
    """Return a quarter of the texture, uint8 (HALF, HALF, 3); mirrored, it continues without seams."""
    if spec.texture == "sample":
        return _sample_quarter(spec.mpp)
    if spec.texture == "tissue":
        return tissue_texture(HALF, spec.mpp, spec.seed)
    with Image.open(spec.texture) as image:
        return _quarter(np.asarray(image.convert("RGB")), 1.0)


@functools.lru_cache(maxsize=1)  # of 13 MB: most slides of a test run are alike
def _sample_quarter(mpp: float) -> RGB:
    quarter = _quarter(tifffile.imread(sample_slide(), key=0), SAMPLE_MPP / mpp)
    quarter.flags.writeable = False
    return quarter


def _quarter(full: RGB, scale: float) -> RGB:
    side = min(math.ceil(HALF / scale), full.shape[0], full.shape[1])
    crop = Image.fromarray(_fullest_square(full, side))
    return np.array(crop.resize((HALF, HALF), Image.Resampling.BICUBIC))


def _fullest_square(image: RGB, side: int) -> RGB:
    """Return the square with the most color, which is where the tissue is."""
    red, green, blue = (image[..., channel] for channel in range(3))
    color = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    total = np.pad(color.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return image[y : y + side, x : x + side]


def _mirrored(start: int, half: int) -> NDArray[np.intp]:
    """Return the places in a quarter, of `half` pixels, of the TILE pixels from `start` on."""
    places = (start + np.arange(TILE)) % (2 * half)
    return np.minimum(places, 2 * half - 1 - places)


@dataclass
class TileSource:
    """Compressed tiles of every level; each distinct tile is encoded once."""

    quarter: RGB
    """Of the texture, see `texture_quarter`."""
    mask: Mask
    codec: str
    _units: list[RGB] = field(default_factory=list)
    _encoded: dict[tuple[int, int, int, bytes], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unit = self.quarter
        for _ in range(MAX_LEVEL + 1):
            self._units.append(unit)
            height, width = unit.shape[0] // FACTOR, unit.shape[1] // FACTOR
            unit = np.asarray(Image.fromarray(unit).resize((width, height), Image.Resampling.BOX))

    def tiles(self, level: int, size: Size) -> Iterator[bytes]:
        """Yield the tiles of one level, row by row, as tifffile wants them."""
        for row in range(-(-size.height // TILE)):
            for column in range(-(-size.width // TILE)):
                yield self._tile(level, row, column)

    def _tile(self, level: int, row: int, column: int) -> bytes:
        cells = FACTOR**level  # tiles of level 0 along this tile's side
        part = self.mask[row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
        period = max(1, PERIOD // cells)
        phase = (row % period, column % period) if part.any() else (0, 0)
        key = (level, *phase, np.packbits(part).tobytes() + bytes(part.shape))
        if key not in self._encoded:
            self._encoded[key] = encode_tile(self.pixels(level, row, column), self.codec)
        return self._encoded[key]

    def pixels(self, level: int, row: int, column: int) -> RGB:
        """Return one tile before compression, uint8 (TILE, TILE, 3)."""
        unit = self._units[level]
        cells = FACTOR**level
        ys, xs = _mirrored(row * TILE, len(unit)), _mirrored(column * TILE, len(unit))
        part = np.zeros((cells, cells), bool)
        known = self.mask[row * cells : (row + 1) * cells, column * cells : (column + 1) * cells]
        part[: known.shape[0], : known.shape[1]] = known
        tissue = np.kron(part, np.ones((TILE // cells, TILE // cells), bool))
        return np.where(tissue[..., None], unit[np.ix_(ys, xs)], np.uint8(BLANK))

    def overview(self, level: int, size: Size) -> RGB:
        """Return a whole level, uint8 (size.height, size.width, 3); for small levels only."""
        rows, columns = -(-size.height // TILE), -(-size.width // TILE)
        lines = [np.hstack([self.pixels(level, r, c) for c in range(columns)]) for r in range(rows)]
        return np.vstack(lines)[: size.height, : size.width]


def encode_tile(pixels: RGB, codec: str) -> bytes:
    """Return one tile as a whole JPEG file or as a JPEG 2000 codestream (lossy, about 1 bit per pixel)."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if codec == "jpeg":
        image.save(buffer, "JPEG", quality=75, subsampling=2)
    else:
        image.save(buffer, "JPEG2000", no_jp2=True, irreversible=True, quality_layers=[20], mct=1)
    return buffer.getvalue()


# --- how it is written ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Page:
    """Tags of one level."""

    description: str
    mpp: float | None = None
    """Microns per pixel of this level for the resolution tags; Aperio leaves them out."""


def _write_level(
    writer: tifffile.TiffWriter, source: TileSource, level: int, size: Size, page: _Page
) -> None:
    jpeg = source.codec == "jpeg"
    dots = 1e4 / page.mpp if page.mpp else 1.0
    writer.write(
        source.tiles(level, size),
        shape=(size.height, size.width, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="ycbcr" if jpeg else "rgb",
        subsampling=(2, 2) if jpeg else None,
        compression="jpeg" if jpeg else "aperio_jp2000_rgb",
        description=page.description,
        resolution=(dots, dots),
        resolutionunit="CENTIMETER" if page.mpp else "NONE",
        metadata=None,
        software=False,
    )


def _write_svs(writer: tifffile.TiffWriter, spec: SlideSpec, source: TileSource, levels: list[Size]) -> None:
    full = f"{spec.size.width}x{spec.size.height}"
    kind = "JPEG/RGB Q=75" if spec.codec == "jpeg" else "J2K/KDU Q=75"
    head = f"Aperio Image Library v11.2.1 \r\n{full} [0,0 {full}] ({TILE}x{TILE}) {kind}"
    power = 10 / spec.mpp
    facts = f"|AppMag = {power:g}|MPP = {spec.mpp:g}|Filename = made"
    _write_level(writer, source, 0, spec.size, _Page(head + facts))
    # Aperio's second page is a thumbnail in strips; readers take it for one whatever it is.
    image = Image.fromarray(source.overview(len(levels) - 1, levels[-1]))
    image.thumbnail((1024, 1024))
    thumbnail = np.asarray(image)
    writer.write(
        thumbnail,
        photometric="rgb",
        compression="jpeg",
        rowsperstrip=thumbnail.shape[0],
        description=f"Aperio Image Library v11.2.1 \r\n{full} -> {image.width}x{image.height} - ",
        metadata=None,
        software=False,
    )
    for level, size in enumerate(levels[1:], 1):
        _write_level(
            writer, source, level, size, _Page(f"{head} -> {size.width}x{size.height} {kind}{facts}")
        )


def _write_scn(writer: tifffile.TiffWriter, spec: SlideSpec, source: TileSource, levels: list[Size]) -> None:
    scale = max(1.0, max(spec.size.width, spec.size.height) / 1024)
    macro = Size(max(1, round(spec.size.width / scale)), max(1, round(spec.size.height / scale)))
    for level, size in enumerate(levels):
        xml = _scn_xml(spec, levels, macro) if level == 0 else ""
        _write_level(writer, source, level, size, _Page(xml, spec.mpp * FACTOR**level))
    writer.write(
        np.full((macro.height, macro.width, 3), BLANK, np.uint8),
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        metadata=None,
        software=False,
    )


def _scn_xml(spec: SlideSpec, levels: list[Size], macro: Size) -> str:
    assert spec.bounds is not None
    whole = Box(0, 0, spec.size.width, spec.size.height)
    ifds = list(range(len(levels)))
    return (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="made" {_nanometers(spec.mpp, sizeX=whole.width, sizeY=whole.height)}>'
        + _scn_image(spec.mpp, whole, [macro], [len(levels)])
        + _scn_image(spec.mpp, spec.bounds, levels, ifds)
        + "</collection></scn>"
    )


def _scn_image(mpp: float, view: Box, levels: list[Size], ifds: list[int]) -> str:
    dimensions = "".join(
        f'<dimension sizeX="{size.width}" sizeY="{size.height}" r="{r}" ifd="{ifd}"/>'
        for r, (size, ifd) in enumerate(zip(levels, ifds, strict=True))
    )
    place = _nanometers(mpp, sizeX=view.width, sizeY=view.height, offsetX=view.x0, offsetY=view.y0)
    return (
        '<image name="image"><creationDate>2020-01-01T00:00:00Z</creationDate>'
        '<device model="made" version="1"/>'
        f'<pixels sizeX="{levels[0].width}" sizeY="{levels[0].height}">{dimensions}</pixels><view {place}/>'
        f"<scanSettings><objectiveSettings><objective>{10 / mpp:g}</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def _nanometers(mpp: float, **lengths: int) -> str:
    return " ".join(f'{name}="{round(1000 * mpp * value)}"' for name, value in lengths.items())


def half_tissue(path: Path) -> Path:
    """Write a picture of 300 × 200 pixels whose left half is colored as tissue; return its path."""
    pixels = np.full((200, 300, 3), 245, np.uint8)
    pixels[:, :150] = np.random.default_rng(1).integers(80, 200, (200, 150, 3))
    pixels[:, :150, 1] //= 2
    Image.fromarray(pixels).save(path)
    return path
