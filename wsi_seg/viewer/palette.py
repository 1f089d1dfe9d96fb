"""Colors of the layers: those of the model's card, or a set that the color-blind can tell apart.

The safe colors are those of Okabe and Ito (2008, "Color Universal Design"), then of Paul Tol's "muted"
scheme (2021, SRON/EPS/TN/09-002), in an order in which neighbors differ in lightness too. More than some
fifteen colors cannot be told apart by anyone; beyond that they repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wsi_seg.core.classes import RGB, ClassGroup, TissueClass, canonical_name

# What most results show, by name, so that a class has its color in every model.
SAFE_BY_NAME: dict[str, RGB] = {
    "tumor": (213, 94, 0),
    "stroma": (0, 158, 115),
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
UNCERTAINTY_COLOR: RGB = (255, 214, 0)


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
