"""Baselines that a trained model must beat: untrained predictors, for one class against everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import find_classes
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion
from wsi_seg.inference.blocks import Predictor, without_margin
from wsi_seg.tissue.stain import STAINS, otsu_threshold

# Nuclei are averaged over about their distance, so that the density of nuclei is what is thresholded.
SMOOTHING_UM = 10.0
# Otsu's threshold is taken from every n-th pixel of both axes, in boxes of this side.
SAMPLED = 4
BOX_SIDE = 1024

LEAST_THRESHOLD = 1e-3

KINDS = ("everything", "hematoxylin")


@dataclass(frozen=True, slots=True)
class Baseline:
    """A baseline as asked for."""

    kind: str
    """`everything` or `hematoxylin`."""
    class_name: str
    channel: int
    """The model's output channel of the class."""
    threshold: float | None = None
    """Optical density of hematoxylin above which a pixel is the class; None: Otsu's of each data set."""

    @property
    def name(self) -> str:
        at = "" if self.threshold is None else f":{self.threshold:g}"
        return f"{self.kind}={self.class_name}{at}"

    def predictor(self, regions: Sequence[AnnotatedRegion], card: ModelCard) -> Predictor:
        """Return the predictor; regions are those on which a missing threshold is found."""
        if self.kind == "everything":
            return Everything(len(card.classes), self.channel)
        sigma = SMOOTHING_UM / card.mpp
        threshold = find_threshold(regions, sigma) if self.threshold is None else self.threshold
        return Hematoxylin(len(card.classes), self.channel, sigma, threshold)


def parse_baseline(text: str, card: ModelCard) -> Baseline:
    """Read `everything=CLASS`, `hematoxylin=CLASS` or `hematoxylin=CLASS:THRESHOLD`.

    Raises:
        UsageError: it is none of these, or the model has no such class.
    """
    kind, equals, rest = text.partition("=")
    name, colon, number = rest.partition(":")
    if kind not in KINDS or not equals or (colon and kind == "everything"):
        raise UsageError(
            f"baseline {text!r}: write everything=CLASS, hematoxylin=CLASS or hematoxylin=CLASS:THRESHOLD"
        )
    if len(card.classes) < 2:
        raise UsageError(f"baseline {text!r}: the model has one class only, there is nothing to tell apart")
    found = find_classes([name], card.tissue_classes)[0]
    channel = card.codes.index(found.codes[0])
    return Baseline(kind, found.name, channel, _threshold(text, number) if colon else None)


def _threshold(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf:
        raise UsageError(f"baseline {text!r}: the threshold must be a positive optical density, such as 0.2")
    return value


@dataclass(frozen=True, slots=True)
class Everything:
    """Calls every pixel one class, with probability 1."""

    channels: int
    channel: int

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, C, H, W) of uint8 (N, H, W, 3)."""
        out = np.zeros((len(tiles), self.channels, *tiles.shape[1:3]), np.float32)
        out[:, self.channel] = 1
        return without_margin(out, margin)


@dataclass(frozen=True, slots=True)
class Hematoxylin:
    """Calls a pixel the class where the smoothed optical density D of hematoxylin exceeds a threshold T.

    The class has the probability D / (D + T); another channel, whichever, has the rest.
    """

    channels: int
    channel: int
    sigma: float
    """Of the Gaussian, in pixels."""
    threshold: float

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return float32 (N, C, H, W) of uint8 (N, H, W, 3)."""
        density = np.stack([hematoxylin_density(tile, self.sigma) for tile in tiles])
        out = np.zeros((len(tiles), self.channels, *tiles.shape[1:3]), np.float32)
        out[:, self.channel] = density / (density + self.threshold)
        out[:, 1 if self.channel == 0 else 0] = 1 - out[:, self.channel]
        return without_margin(out, margin)


def hematoxylin_density(pixels: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """Return the smoothed optical density of hematoxylin, not below 0, after Ruifrok & Johnston 2001.

    Args:
        pixels: uint8 RGB (h, w, 3), glass at 255.
        sigma: of the Gaussian in pixels; beyond the border the image is mirrored.

    Returns:
        float32 (h, w): amounts of the unit stain vector, log10.
    """
    density = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    unit = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    amount = density[pixels] @ np.linalg.inv(unit)[:, 0].astype(np.float32)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(amount, sigma)
    return np.maximum(smooth, 0)


def find_threshold(regions: Sequence[AnnotatedRegion], sigma: float) -> float:
    """Return Otsu's threshold of the smoothed hematoxylin density over the annotated pixels of regions."""
    values = [sample for region in regions for sample in _samples(region, sigma)]
    # Without any stain there is nothing to split; a positive threshold then calls nothing the class.
    return max(otsu_threshold(np.concatenate(values)), LEAST_THRESHOLD)


def _samples(region: AnnotatedRegion, sigma: float) -> Iterator[NDArray[np.float32]]:
    for y in range(0, region.size.height, BOX_SIDE):
        for x in range(0, region.size.width, BOX_SIDE):
            box = Box.at(x, y, BOX_SIDE, BOX_SIDE).intersect(Box(0, 0, region.size.width, region.size.height))
            image, target = region.read(box)
            density = hematoxylin_density(image, sigma)[::SAMPLED, ::SAMPLED]
            yield density[target[::SAMPLED, ::SAMPLED] != IGNORED]
