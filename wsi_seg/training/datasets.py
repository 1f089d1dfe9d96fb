"""Images with labels at the model's resolution, and random crops of them.

Labels are int16 targets, one per pixel:

- 0 … C - 1   the output channel of the pixel's class,
- IGNORED     nothing is known (zero weight),
- not_class(c) the pixel is any class but channel c (partial labels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.errors import DataError
from wsi_seg.training.config import DatasetConfig, TrainConfig

IGNORED = -1
POSITION_STEP = 8  # crop centres are drawn from every 8th pixel, to keep their table small


def not_class(channel: int) -> int:
    """Return the target of a pixel of which only is known that it is not `channel`."""
    return -2 - channel


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """An image with its labels."""

    name: str
    image: NDArray[np.uint8]
    """RGB (H, W, 3) at the model's resolution."""
    target: NDArray[np.int16]
    """(H, W), see above."""

    def columns(self, start: int, stop: int) -> Region:
        """Return the part between two columns."""
        return Region(self.name, self.image[:, start:stop], self.target[:, start:stop])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Regions of one source, each cut into a part for training and a held-out part."""

    name: str
    known_class: str | None
    weight: float
    training: tuple[Region, ...]
    heldout: tuple[Region, ...]


def load_dataset(config: DatasetConfig, train: TrainConfig) -> Dataset:
    """Load a data set into memory at the model's resolution.

    Raises:
        DataError: no images, or a mask that is missing, of another size, or of unknown codes.
    """
    folder = train.data_dir / config.folder
    regions = [_load_region(path, folder, config, train) for path in image_paths(folder)]
    cuts = [round(r.image.shape[1] * (1 - config.holdout)) for r in regions]
    training = [r.columns(0, cut) for r, cut in zip(regions, cuts, strict=True) if cut > 0]
    heldout = [r.columns(cut, r.image.shape[1]) for r, cut in zip(regions, cuts, strict=True)]
    return Dataset(
        config.name,
        config.known_class,
        config.weight,
        tuple(training),
        tuple(r for r in heldout if r.image.shape[1] > 0),
    )


def image_paths(folder: Path) -> list[Path]:
    """Return the images of a data set folder, sorted by name.

    Raises:
        DataError: there are none.
    """
    paths = sorted(path for path in folder.glob("rgbs*/*") if path.suffix.lower() in {".png", ".jpg", ".tif"})
    if not paths:
        raise DataError(f"{folder}: no images under rgbs*/; set data_dir to where the data lie")
    return paths


def _load_region(path: Path, folder: Path, config: DatasetConfig, train: TrainConfig) -> Region:
    mask_path = folder / "masks" / f"{path.stem}.png"
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        with Image.open(mask_path) as image:
            codes = np.asarray(image)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image or its mask {mask_path} ({error})") from error
    if codes.shape != (rgb.height, rgb.width) or codes.dtype != np.uint8:
        raise DataError(f"{mask_path}: not an 8-bit mask of {rgb.width}×{rgb.height} pixels like {path}")
    factor = train.model.mpp / config.mpp
    if min(codes.shape) < factor:
        raise DataError(
            f"{path}: smaller than one pixel of {train.model.mpp:g} µm; is mpp {config.mpp:g} right?"
        )
    codes = reduce_labels(codes, factor)
    return Region(path.stem, reduce_image(rgb, factor), _targets(codes, config, train, mask_path))


def reduce_image(image: Image.Image, factor: float) -> NDArray[np.uint8]:
    """Resample an RGB image of at least `factor` pixels a side; by the area mean for a whole factor."""
    size = _reduced_size((image.width, image.height), factor)
    whole = abs(factor - round(factor)) < 1e-6
    filter_ = Image.Resampling.BOX if whole else Image.Resampling.HAMMING
    box = (0, 0, min(image.width, size[0] * factor), min(image.height, size[1] * factor))
    return np.asarray(image.resize(size, filter_, box=box))


def reduce_labels(codes: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Downsample class codes; by majority for a whole factor, else by the nearest pixel.

    An image pixel is the mean of factor × factor pixels, so its label is what most of them are. A pick
    of one of them would shift the labels by half a source pixel when the factor is even; it only
    breaks ties, without favour for any code.
    """
    width, height = _reduced_size((codes.shape[1], codes.shape[0]), factor)
    if abs(factor - round(factor)) > 1e-6:
        rows = ((np.arange(height) + 0.5) * factor).astype(np.int64)
        columns = ((np.arange(width) + 0.5) * factor).astype(np.int64)
        return codes[rows[:, None], columns]
    f = round(factor)
    blocks = codes[: height * f, : width * f].reshape(height, f, width, f)
    best = np.zeros((height, width), np.int32)
    out = np.zeros((height, width), np.uint8)
    for code in np.unique(codes):
        is_code = blocks == code
        votes = 2 * is_code.sum(axis=(1, 3), dtype=np.int32) + is_code[:, f // 2, :, f // 2]
        out[votes > best] = code
        best = np.maximum(best, votes)
    return out


def _reduced_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return int(size[0] / factor + 1e-6), int(size[1] / factor + 1e-6)


def _targets(
    codes: NDArray[np.uint8], config: DatasetConfig, train: TrainConfig, path: Path
) -> NDArray[np.int16]:
    table = np.full(256, np.iinfo(np.int16).min, np.int16)
    if config.known_class is not None:
        channel = train.model.codes.index(train.code_of(config.known_class))
        table[0], table[1] = not_class(channel), channel
    else:
        table[list(train.model.codes)] = np.arange(len(train.model.codes))
        table[list(train.ignored_codes)] = IGNORED
    target = table[codes]
    if (target == np.iinfo(np.int16).min).any():
        wrong = int(codes[target == np.iinfo(np.int16).min].max())
        raise DataError(f"{path}: mask code {wrong} is neither a class of the model nor an ignored code")
    return target


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    region: Region
    positions: dict[int, NDArray[np.int32]]
    """(row, column) of coarse pixels by target."""


class Crops:
    """An endless stream of random crops, balanced over data sets and the classes in them.

    Every crop draws a data set by its weight, then one of the targets found in that data set, then a
    pixel of that target for its centre: rare classes are seen as often as common ones.

    Raises:
        DataError: a data set has no labelled pixel to train on.
    """

    def __init__(self, datasets: Sequence[Dataset], side: int, scale: float, seed: int) -> None:
        used = [d for d in datasets if d.weight > 0 and d.training]
        self._sources = [[_Source(r, _positions(r)) for r in d.training] for d in used]
        for dataset, sources in zip(used, self._sources, strict=True):
            if not any(s.positions for s in sources):
                raise DataError(f"data set {dataset.name!r}: its masks hold nothing but ignored codes")
        weights = np.array([d.weight for d in used])
        self._weights = weights / weights.sum()
        self._side = side
        self._scale = scale
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int16]]]:
        """Yield uint8 (side, side, 3) images and int16 (side, side) targets."""
        while True:
            yield self._draw()

    def _draw(self) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        sources = self._sources[self._random.choice(len(self._sources), p=self._weights)]
        targets = sorted({t for s in sources for t in s.positions})
        target = targets[self._random.integers(len(targets))]
        holders = [s for s in sources if target in s.positions]
        share = np.array([len(s.positions[target]) for s in holders], np.float64)
        source = holders[self._random.choice(len(holders), p=share / share.sum())]
        centre = source.positions[target][self._random.integers(len(source.positions[target]))]
        magnification = (1 - self._scale) ** self._random.uniform(-1, 1)
        side = round(self._side / magnification)
        jitter = self._random.integers(-side // 4, side // 4 + 1, 2)
        image, labels = _cut(source.region, centre + jitter - side // 2, side)
        return self._turned(_resized(image, labels, self._side))

    def _turned(
        self, crop: tuple[NDArray[np.uint8], NDArray[np.int16]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
        turns, flip = int(self._random.integers(4)), int(self._random.integers(2))
        image, labels = np.rot90(crop[0], turns), np.rot90(crop[1], turns)
        if flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _positions(region: Region) -> dict[int, NDArray[np.int32]]:
    half = POSITION_STEP // 2
    coarse = region.target[half::POSITION_STEP, half::POSITION_STEP]
    return {
        int(t): (np.argwhere(coarse == t) * POSITION_STEP + half).astype(np.int32)
        for t in np.unique(coarse)
        if t != IGNORED
    }


def _cut(region: Region, corner: NDArray[np.int64], side: int) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    """Cut a crop, moved inside the region where it fits; white and ignored where it does not."""
    height, width = region.target.shape
    y = int(np.clip(corner[0], min(0, (height - side) // 2), max(0, height - side)))
    x = int(np.clip(corner[1], min(0, (width - side) // 2), max(0, width - side)))
    image = np.full((side, side, 3), 255, np.uint8)
    labels = np.full((side, side), IGNORED, np.int16)
    rows, columns = slice(max(0, y), min(height, y + side)), slice(max(0, x), min(width, x + side))
    inside = (slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x))
    image[inside] = region.image[rows, columns]
    labels[inside] = region.target[rows, columns]
    return image, labels


def _resized(
    image: NDArray[np.uint8], labels: NDArray[np.int16], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    if image.shape[0] == side:
        return image, labels
    picture = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    nearest = ((np.arange(side) + 0.5) * image.shape[0] / side).astype(np.int64)
    return np.asarray(picture), labels[nearest[:, None], nearest]
