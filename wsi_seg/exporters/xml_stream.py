"""XML written as it comes: what the writers of ASAP's and ImageScope's files share."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.files import atomic_path
from wsi_seg.exporters.placed import PlacedRegion

# Characters that XML 1.0 has no way to hold, not even escaped.
UNKNOWN_TO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
REPLACEMENT = "\ufffd"


class XMLStream:
    """Writer of one document, indented by tabs as ASAP and ImageScope do."""

    def __init__(self, generator: XMLGenerator) -> None:
        """Write through `generator`, whose document has begun."""
        self._generator = generator
        self._depth = 0

    @contextmanager
    def element(self, tag: str, **attributes: object) -> Iterator[None]:
        """Write an element; what is written inside becomes its content."""
        self._indent()
        self._generator.startElement(tag, _texts(attributes))
        self._depth += 1
        yield
        self._depth -= 1
        self._indent()
        self._generator.endElement(tag)

    def empty(self, tag: str, **attributes: object) -> None:
        """Write an element without content."""
        self._indent()
        self._generator.startElement(tag, _texts(attributes))
        self._generator.endElement(tag)

    def _indent(self) -> None:
        self._generator.ignorableWhitespace("\n" + "\t" * self._depth)


@contextmanager
def xml_file(path: Path) -> Iterator[XMLStream]:
    """Yield a writer of the file, which appears whole or not at all; OutputError where that is refused."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        generator = XMLGenerator(file, "utf-8", short_empty_elements=True)
        generator.startDocument()
        yield XMLStream(generator)
        generator.endDocument()


def outlines(item: PlacedRegion) -> Iterator[tuple[str, NDArray[np.float64], list[NDArray[np.float64]]]]:
    """Yield each connected part of a region: its name, its outline and its holes.

    Rings are float64 (n, 2) x, y in l0 pixels from the origin of the region, without the first point again.
    Almost all regions have one part; see `placed.to_l0`.
    """
    parts = shapely.get_parts(item.geometry)
    for number, part in enumerate(parts, start=1):
        outer, *holes = (shapely.get_coordinates(ring)[:-1] for ring in shapely.get_rings(part))
        yield item.name if len(parts) == 1 else f"{item.name} part {number}", outer, holes


def number_texts(ring: NDArray[np.float64]) -> list[list[str]]:
    """Return positions as text, with the fewest digits that give the same number."""
    return [[f"{x:.15g}", f"{y:.15g}"] for x, y in ring.tolist()]


def xml_text(text: str) -> str:
    """Return text with `REPLACEMENT` for each character that XML 1.0 cannot hold."""
    return UNKNOWN_TO_XML.sub(REPLACEMENT, text)


def _texts(attributes: dict[str, object]) -> AttributesImpl[str]:
    return AttributesImpl({name: xml_text(str(value)) for name, value in attributes.items()})
