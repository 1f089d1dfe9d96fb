"""Microns per level-0 pixel: where they are found, in which order, and what is not believed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Scale, Size

# Microns per pixel by objective power, used only when nothing better is known and then reported as estimated.
MPP_BY_OBJECTIVE = {40: 0.25, 20: 0.5}

# Stated microns per pixel outside this range are a screen's or a printer's default, not a microscope's
# (72 and 96 dots per inch are 353 and 265 µm).
PLAUSIBLE_MPP = (0.01, 50.0)

# Property that holds the description of a TIFF file's first page.
DESCRIPTION = "tiff.ImageDescription"

# Microns per unit of length, as the schema of OME (UnitsLength) spells it. Its "pixel" and "reference frame"
# have no known length.
MICRONS = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "µm": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25_400.0, "ft": 304_800.0, "thou": 25.4, "li": 25_400 / 12, "pt": 25_400 / 72,
}  # fmt: skip
OTHER_SPELLINGS = {"um": "µm", "μm": "µm", "micron": "µm", "microns": "µm", "\\u00B5m": "µm", "inch": "in"}


def resolve_mpp(
    asked: Scale | None, properties: Mapping[str, str], prefix: str = "openslide", size: Size | None = None
) -> tuple[Scale | None, str]:
    """Return microns per pixel and where they come from.

    Order: the user's, the OME-XML of an OME-TIFF, the reader's own `mpp-x/y`, TIFF resolution tags, what
    ImageJ describes, objective power (estimated). Values in the file that are not plausible for a microscope
    count as absent.

    Args:
        asked: what the user gave.
        properties: of the slide, by name: those that start with `prefix`, the resolution tags `tiff.…`, and
            `DESCRIPTION`.
        prefix: `openslide`, `tiffslide` or `dicom`.
        size: of level 0 in l0 pixels; tells the images of an OME-TIFF apart.

    Raises:
        UsageError: what the user gave is not positive.
    """
    if asked is not None:
        if not (asked.x > 0 and asked.y > 0 and math.isfinite(asked.x) and math.isfinite(asked.y)):
            raise UsageError(f"mpp must be positive, got {asked.x:g}, {asked.y:g}")
        return asked, "user"
    description = properties.get(DESCRIPTION, "")
    own = [_positive(properties.get(f"{prefix}.mpp-{axis}")) for axis in "xy"]
    for found, source in (
        (_mpp_from_ome_xml(description, size), "ome-xml"),
        (_scale(*own), prefix),
        (_mpp_from_tiff_tags(properties), "tiff-resolution"),
        (_mpp_from_imagej(description, properties), "imagej"),
    ):
        if found is not None:
            return found, source
    power = _positive(properties.get(f"{prefix}.objective-power"))
    if power in MPP_BY_OBJECTIVE:
        value = MPP_BY_OBJECTIVE[int(power)]
        return Scale(value, value), "objective-power (estimated)"
    return None, "missing"


def _positive(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else 0.0
    except ValueError:
        return None
    return value if value > 0 and math.isfinite(value) else None


def _scale(x: float | None, y: float | None) -> Scale | None:
    """Return a scale where both values are there and plausible."""
    if x is None or y is None:
        return None
    return Scale(x, y) if all(PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1] for value in (x, y)) else None


def _mpp_from_tiff_tags(properties: Mapping[str, str]) -> Scale | None:
    unit = {"centimeter": MICRONS["cm"], "inch": MICRONS["in"]}.get(
        str(properties.get("tiff.ResolutionUnit", "")).lower()
    )
    return None if unit is None else _dots(properties, unit)


def _dots(properties: Mapping[str, str], unit: float) -> Scale | None:
    """Return microns per pixel from pixels per unit."""
    dots = [_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    return _scale(*(None if value is None else unit / value for value in dots))


def _mpp_from_imagej(description: str, properties: Mapping[str, str]) -> Scale | None:
    """Return what ImageJ means by resolution tags without a unit: the unit is in its description."""
    unit = re.search(r"^unit=(\S+)", description, re.MULTILINE) if description.startswith("ImageJ=") else None
    microns = None if unit is None else _microns(unit[1])
    return None if microns is None else _dots(properties, microns)


def _microns(unit: str) -> float | None:
    return MICRONS.get(OTHER_SPELLINGS.get(unit, unit))


def _mpp_from_ome_xml(description: str, size: Size | None) -> Scale | None:
    """Return the physical pixel size of the image of this size, or of the only one."""
    if "<OME" not in description[:4096] and ":OME" not in description[:4096]:
        return None
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError:
        return None
    images = [element.attrib for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"]
    sides = None if size is None else (str(size.width), str(size.height))
    of_size = [image for image in images if (image.get("SizeX"), image.get("SizeY")) == sides]
    chosen = next(iter(of_size or (images if len(images) == 1 else [])), None)
    return None if chosen is None else _scale(*(_ome_length(chosen, f"PhysicalSize{axis}") for axis in "XY"))


def _ome_length(pixels: Mapping[str, str], name: str) -> float | None:
    value, microns = _positive(pixels.get(name)), _microns(pixels.get(f"{name}Unit", "µm"))
    return None if value is None or microns is None else value * microns
