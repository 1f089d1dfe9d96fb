"""Likeness of a slide to the training data of a model: how much light its stain absorbs, and of which color.

Counted are sums over tissue pixels, as whole numbers: they add up to the same in whatever order and parts a
slide is looked at. Measured against regions of four breast cancers, each left out in turn, and a skin slide,
this separated them better than the encoder's features did (docs/models.md), and it costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.card import Domain, StainRange
from wsi_seg.core.geometry import Box
from wsi_seg.tissue.stain import DEFAULT_GLASS

# One map pixel in so many of both axes is looked at, counted from the map's origin.
STEP = 8
# Optical densities are counted in thousandths; below 8 of 255 the noise of the camera decides.
PER_DENSITY = 1000
DARKEST = 8
# Glass and gray differ less than this between the most and the least absorbed of red, green and blue.
LEAST_COLOR = 50
# A training tile of this side, in µm, counts where at least this share of its pixels is stained.
TILE_UM, LEAST_TILE = 64.0, 64
LEAST_STAINED = 0.3
# Of fewer patients the spread between them is not known.
LEAST_PATIENTS = 3
# Slides of fewer stained pixels are not judged.
LEAST_PIXELS = 1000
# Spreads beyond the training's range at which a slide is marked.
THRESHOLD = 3.0

# With these words a slide is marked.
UNLIKE = "unlike the training data"
NAMES = {"density": "optical density", "red": "red share of it", "blue": "blue share of it"}

_DENSITY = np.rint(
    PER_DENSITY * np.maximum(np.log10(DEFAULT_GLASS / np.maximum(np.arange(256), DARKEST)), 0)
).astype(np.int32)


@dataclass(frozen=True, slots=True)
class StainSums:
    """Stained pixels, and the sums of their optical densities in red, green and blue, in thousandths."""

    pixels: int = 0
    red: int = 0
    green: int = 0
    blue: int = 0

    def __add__(self, other: StainSums) -> StainSums:
        return StainSums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def measures(self) -> dict[str, float]:
        """By name of `NAMES`: density, red + green + blue of a mean pixel; shares of red and blue in it."""
        total = self.red + self.green + self.blue
        return {
            "density": total / self.pixels / PER_DENSITY,
            "red": self.red / total,
            "blue": self.blue / total,
        }


NO_STAIN = StainSums()


def sampled(box_map: Box, pixels: NDArray[np.generic], own_map: Box) -> NDArray[np.generic]:
    """Return every `STEP`-th pixel of a box, counted from the map's origin, as a view.

    Args:
        box_map: of which box.
        pixels: (h, w, …) of `own_map`, which reaches around the box.
        own_map: where these pixels lie.
    """
    top, left = (-(-start // STEP) * STEP for start in (box_map.y0, box_map.x0))
    return pixels[
        top - own_map.y0 : box_map.y1 - own_map.y0 : STEP, left - own_map.x0 : box_map.x1 - own_map.x0 : STEP
    ]


def stain_sums(pixels: NDArray[np.uint8]) -> StainSums:
    """Count the stained among RGB pixels, uint8 (…, 3)."""
    density = _DENSITY[pixels.reshape(-1, 3)]
    stained = density[density.max(axis=1, initial=0) - density.min(axis=1, initial=255**2) >= LEAST_COLOR]
    return StainSums(len(stained), *stained.sum(axis=0, dtype=np.int64).tolist())


def fit_domain(patients: Sequence[Sequence[StainSums]]) -> Domain | None:
    """Return what the training data look like.

    Args:
        patients: the tiles of each patient.

    Returns:
        None where fewer than `LEAST_PATIENTS` patients have a tile.
    """
    patients = [tiles for tiles in patients if tiles]
    if len(patients) < LEAST_PATIENTS:
        return None
    means = [sum(tiles, NO_STAIN).measures for tiles in patients]
    within = [_variances(tiles) for tiles in patients]
    ranges = {name: _range(name, means, within) for name in NAMES}
    left_out = []
    for i, own in enumerate(means):
        others = [means[:i] + means[i + 1 :], within[:i] + within[i + 1 :]]
        left_out.append(max(_beyond(own[name], _range(name, *others)) for name in NAMES))
    return Domain(
        patients=len(patients),
        tiles=sum(map(len, patients)),
        **ranges,
        left_out=tuple(round(score, 3) for score in sorted(left_out)),
        threshold=THRESHOLD,
    )


def _variances(tiles: Sequence[StainSums]) -> dict[str, float]:
    measured = [tile.measures for tile in tiles]
    return {name: float(np.var([one[name] for one in measured])) for name in NAMES}


def _range(
    name: str, means: Sequence[Mapping[str, float]], within: Sequence[Mapping[str, float]]
) -> StainRange:
    of_patients = [one[name] for one in means]
    variance = np.mean([one[name] for one in within]) + np.var(of_patients, ddof=1)
    # No narrower than what eight-bit colors tell apart.
    spread = max(float(np.sqrt(variance)), 1e-3)
    low, high = min(of_patients), max(of_patients)
    return StainRange(low=round(low, 4), high=round(high, 4), spread=round(spread, 4))


def _beyond(value: float, known: StainRange) -> float:
    """Return how many spreads a value lies beyond a range; 0 inside it."""
    return max(known.low - value, value - known.high, 0.0) / known.spread


@dataclass(frozen=True, slots=True)
class Likeness:
    """A slide compared with training data."""

    pixels: int
    """Stained pixels that were looked at."""
    measures: dict[str, float]
    """See `StainSums.measures`; empty where there were too few pixels."""
    scores: dict[str, float]
    """Spreads beyond the training's range, 0 inside it; empty where there were too few pixels."""
    notice: str
    """One line where the slide is marked as unlike; else ""."""


def compare(sums: StainSums, domain: Domain) -> Likeness:
    """Compare a slide with the training data that a card describes."""
    if sums.pixels < LEAST_PIXELS:
        return Likeness(sums.pixels, {}, {}, "")
    measures = sums.measures
    scores = {name: _beyond(value, getattr(domain, name)) for name, value in measures.items()}
    worst = max(scores, key=lambda name: scores[name])
    notice = ""
    if scores[worst] > domain.threshold:
        notice = f"{UNLIKE} ({_described(worst, measures[worst], domain)}); results may be wrong"
    return Likeness(
        sums.pixels,
        {name: round(value, 4) for name, value in measures.items()},
        {name: round(value, 3) for name, value in scores.items()},
        notice,
    )


def _described(name: str, value: float, domain: Domain) -> str:
    """Return a measure next to the training's, such as "stain: optical density 1.01, 1.6 × that of …"."""
    known: StainRange = getattr(domain, name)
    middle = (known.low + known.high) / 2
    return (
        f"stain: {NAMES[name]} {value:.2f}, {value / middle:.1f} × that of training, "
        f"{known.low:.2f} to {known.high:.2f}"
    )
