"""Classes of a card, from names and colors as text. Free of torch."""

from __future__ import annotations

from typing import Any

from wsi_seg.core.classes import BCSS, canonical_name
from wsi_seg.core.errors import UsageError

# Colors of classes that have none of their own; Okabe and Ito 2008, readable by the color-blind.
PALETTE = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0),
    (240, 228, 66), (120, 120, 120),
)  # fmt: skip


def classes_of(texts: list[str]) -> list[dict[str, Any]]:
    """Return the classes of texts such as `tumor` or `tumor=#c80000`, with codes 1, 2, … in their order.

    Raises:
        UsageError: a color is none.
    """
    known = {one.name: one.color for one in BCSS}
    classes = []
    for index, text in enumerate(texts):
        name, _, color = (part.strip() for part in text.partition("="))
        usual = known.get(canonical_name(name), PALETTE[index % len(PALETTE)])
        classes.append({"code": index + 1, "name": name, "color": _color(color, text) if color else usual})
    return classes


def _color(text: str, where: str) -> tuple[int, ...]:
    try:
        found = tuple(bytes.fromhex(text.removeprefix("#")))
    except ValueError:
        found = ()
    if len(found) != 3:
        raise UsageError(f"--class {where!r}: color {text!r} is none; write it as #c80000")
    return found
