"""Colors of the layers: of classes, those of the model's card or a set that the color-blind can tell apart.

The safe colors are those of Okabe and Ito (2008, "Color Universal Design"), then of Paul Tol's "muted"
scheme (2021, SRON/EPS/TN/09-002), in an order in which neighbors differ in lightness too. More than some
fifteen colors cannot be told apart by anyone; beyond that they repeat. Stroma has a green of Tol's "discrete
rainbow": to a deuteranope that of Okabe and Ito looks like eosin.

Values are shown on the scale viridis (Smith and van der Walt 2015, CC0): equal steps look equal, also to
color-blind readers and in gray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import RGB, ClassGroup, TissueClass, canonical_name

# What most results show, by name, so that a class has its color in every model.
SAFE_BY_NAME: dict[str, RGB] = {
    "tumor": (213, 94, 0),
    "stroma": (78, 178, 101),
    "inflammatory": (86, 180, 233),
    "lymphocytic_infiltrate": (86, 180, 233),
    "necrosis": (60, 60, 60),
    "necrosis_or_debris": (60, 60, 60),
    "other": (240, 228, 66),
}
SAFE: tuple[RGB, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (204, 121, 167),
    (51, 34, 136),
    (221, 204, 119),
    (136, 34, 85),
    (136, 204, 238),
    (153, 153, 51),
    (170, 68, 153),
    (17, 119, 51),
    (204, 102, 119),
    (68, 170, 153),
    (221, 221, 221),
    (120, 120, 120),
)

TISSUE_COLOR: RGB = (0, 160, 160)

# Viridis at 0, 17, 34, … 255, linear between; some are moved by up to 2 of 255, so that each of 256 colors is
# lighter than the one before it.
SCALE: tuple[RGB, ...] = (
    (68, 1, 84),
    (70, 27, 109),
    (70, 46, 123),
    (65, 68, 133),
    (55, 87, 143),
    (50, 104, 142),
    (43, 120, 143),
    (35, 136, 144),
    (31, 153, 138),
    (33, 168, 133),
    (54, 183, 122),
    (84, 198, 105),
    (121, 210, 80),
    (167, 219, 52),
    (208, 227, 28),
    (253, 231, 37),
)


def scale_table() -> NDArray[np.uint8]:
    """Return the color of each value 0 … 255 on the scale, uint8 (256, 3)."""
    values, points = np.arange(256), np.linspace(0, 255, len(SCALE))
    channels = [np.interp(values, points, channel) for channel in zip(*SCALE, strict=True)]
    table: NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table


def safe_colors(classes: Iterable[TissueClass | ClassGroup]) -> dict[str, RGB]:
    """Return a safe color for each name: its own where it has one, else the next that is free."""
    colors: dict[str, RGB] = {}
    spare = 0
    for one in classes:
        known = SAFE_BY_NAME.get(canonical_name(one.name))
        if known is None:
            known, spare = SAFE[spare % len(SAFE)], spare + 1
        colors[one.name] = known
    return colors


def color_of(one: TissueClass | ClassGroup, among: Sequence[TissueClass | ClassGroup], palette: str) -> RGB:
    """Return the color of a class or group in the palette `card` or `safe`."""
    return one.color if palette == "card" else safe_colors(among)[one.name]
