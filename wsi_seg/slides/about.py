"""Facts that a slide file states besides its pixels: scanner, stain, objective, associated images, scenes.

They are read from properties by name, as OpenSlide and TiffSlide list them; attributes of DICOM are named as
OpenSlide names them, such as `dicom.OpticalPathSequence[0].ObjectiveLensPower`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from wsi_seg.core.geometry import Size

# Vendors by OpenSlide's name of the format, where the file names none itself.
VENDORS = {
    "aperio": "Aperio", "hamamatsu": "Hamamatsu", "huron": "Huron", "leica": "Leica", "mirax": "3DHISTECH",
    "philips": "Philips", "sakura": "Sakura", "trestle": "Trestle", "ventana": "Ventana", "zeiss": "Zeiss",
}  # fmt: skip
# Properties that name the scanner, in this order.
VENDOR = ("dicom.Manufacturer", "philips.DICOM_MANUFACTURER", "tiff.Make")
MODEL = (
    "dicom.ManufacturerModelName", "philips.DICOM_MANUFACTURERS_MODEL_NAME", "leica.device-model",
    "ventana.ScannerModel", "hamamatsu.Product", "aperio.ScannerType", "tiff.Model",
)  # fmt: skip
DEVICE = (
    "dicom.DeviceSerialNumber", "philips.DICOM_DEVICE_SERIAL_NUMBER", "ventana.UnitNumber",
    "aperio.ScanScope ID",
)  # fmt: skip
POWER = (
    "openslide.objective-power",
    "tiffslide.objective-power",
    "dicom.OpticalPathSequence[0].ObjectiveLensPower",
)
SAYS_NOTHING = ("", "unknown", "none", "n/a")

# A step of preparing the specimen, and the SNOMED CT code of "Using substance" (PS3.16, TID 8003).
SUBSTANCE = "424361007"
_STEP = re.compile(
    r"(dicom\.SpecimenDescriptionSequence\[\d+\]\.SpecimenPreparationSequence\[\d+\]"
    r"\.SpecimenPreparationStepContentItemSequence\[\d+\])\.ConceptNameCodeSequence\[0\]\.CodeValue"
)
_ASSOCIATED = re.compile(r"openslide\.associated\.(.+)\.width")
_REGION = re.compile(r"openslide\.region\[\d+\]\.x")

# Words in a file's name that name a stain; those in capitals only as they stand, others however written.
STAINS = {
    "HE": "H&E", "H&E": "H&E", "hne": "H&E", "hematoxylin": "H&E", "PAS": "PAS", "trichrome": "trichrome",
    "masson": "trichrome", "IHC": "IHC", "ki67": "Ki-67", "her2": "HER2", "pdl1": "PD-L1", "cd3": "CD3",
    "cd8": "CD8", "cd20": "CD20", "cd68": "CD68",
}  # fmt: skip
# Diagnostic and frozen slides of The Cancer Genome Atlas, all of which are H&E.
_TCGA = re.compile(r"TCGA-\w{2}-\w{4}-.*(DX|TS|BS|MS)\w\b")


@dataclass(frozen=True, slots=True)
class Scanner:
    """The device that made a slide; None where the file does not say."""

    vendor: str | None = None
    model: str | None = None
    device: str | None = None
    """Serial number or other name of the one device."""


@dataclass(frozen=True, slots=True)
class StainHint:
    """A stain that a slide is said to have; nothing looks at pixels."""

    name: str
    source: str
    """`attributes` (of DICOM) or `file name`."""


@dataclass(frozen=True, slots=True)
class AssociatedImage:
    """A picture that is stored with a slide, such as its label; none is ever exported.

    Read one with `LevelReader.read_associated`.
    """

    name: str
    size: Size


@dataclass(frozen=True, slots=True)
class SlideAbout:
    """Facts that a slide file states besides its pixels; plain data."""

    scanner: Scanner = field(default_factory=Scanner)
    stain: StainHint | None = None
    objective_power: float | None = None
    associated: tuple[AssociatedImage, ...] = ()
    """Sorted by name; images of readers that give their size."""
    series_uid: str | None = None
    """DICOM Series Instance UID."""
    scenes: int = 1
    """Separately scanned regions that lie on the slide's one frame."""
    images: int = 1
    """Images in the file of which one is the slide."""


def describe_file(properties: Mapping[str, str], vendor: str, name: str, *, images: int = 1) -> SlideAbout:
    """Return what a slide file states.

    Args:
        properties: of the slide, by name.
        vendor: format, by OpenSlide's name.
        name: of the file, without its ending.
        images: see `SlideAbout.images`.
    """
    regions = sum(1 for key in properties if _REGION.fullmatch(key))
    found = (_ASSOCIATED.fullmatch(key) for key in properties)
    return SlideAbout(
        Scanner(
            _first(properties, VENDOR) or VENDORS.get(vendor),
            _first(properties, MODEL),
            _first(properties, DEVICE),
        ),
        _dicom_stain(properties) or _named_stain(name),
        _power(properties),
        tuple(
            sorted((_associated(properties, match[1]) for match in found if match), key=lambda one: one.name)
        ),
        properties.get("dicom.SeriesInstanceUID"),
        max(1, regions),
        images,
    )


def _first(properties: Mapping[str, str], names: Iterable[str]) -> str | None:
    """Return the first of some properties that says something."""
    values = (" ".join(properties.get(name, "").split()) for name in names)
    return next((value for value in values if value.casefold() not in SAYS_NOTHING), None)


def _power(properties: Mapping[str, str]) -> float | None:
    try:
        power = float(_first(properties, POWER) or 0)
    except ValueError:
        return None
    return power if power > 0 and math.isfinite(power) else None


def _associated(properties: Mapping[str, str], name: str) -> AssociatedImage:
    sides = (properties.get(f"openslide.associated.{name}.{side}", "0") for side in ("width", "height"))
    return AssociatedImage(name, Size(*(int(side) for side in sides)))


def _dicom_stain(properties: Mapping[str, str]) -> StainHint | None:
    """Return the substances that the specimen was prepared with, fixatives and media left out."""
    steps = (
        match[1]
        for key, value in properties.items()
        if value == SUBSTANCE and (match := _STEP.fullmatch(key))
    )
    names = (properties.get(f"{step}.ConceptCodeSequence[0].CodeMeaning", "") for step in steps)
    stains = dict.fromkeys(name.lower().removesuffix(" stain") for name in names if "stain" in name.lower())
    return StainHint(", ".join(stains), "attributes") if stains else None


def _named_stain(name: str) -> StainHint | None:
    if _TCGA.search(name):
        return StainHint("H&E", "file name")
    words = re.split(r"[^A-Za-z0-9&]+", name)
    for word in (*words, *(f"{a}{b}" for a, b in pairwise(words))):
        stain = STAINS.get(word) or STAINS.get(word.lower())
        if stain:
            return StainHint(stain, "file name")
    return None
