"""Instances of a DICOM series, as their attributes tell, before any pixel is read.

What wsidicom would leave out without a word (files that it cannot read, kinds that it does not know) is
refused here, and so are images that are not brightfield slides and sizes that no slide has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wsi_seg.core.errors import SlideError
from wsi_seg.core.formats import DICOM_SLIDE
from wsi_seg.core.geometry import Size
from wsi_seg.slides.about import AssociatedImage, SlideAbout, describe_file

if TYPE_CHECKING:
    from pydicom import Dataset

# Attributes that are read of a file; others are passed over.
READ = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Manufacturer",
    "ManufacturerModelName", "DeviceSerialNumber", "SpecimenDescriptionSequence", "OpticalPathSequence",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "LossyImageCompression", "LossyImageCompressionMethod", "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows", "TotalPixelMatrixFocalPlanes", "AvailableTransferSyntaxUID",
)  # fmt: skip
NEEDED = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows",
)
# Name of each kind of image, the third value of ImageType (PS3.3, C.8.12.4.1.1), as OpenSlide calls it.
VOLUME = "VOLUME"
ASSOCIATED = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
# wsidicom makes room for an index of all tiles of a level, and for one tile; a file may claim any number.
MOST_TILES = 2**24
MOST_TILE_PIXELS = 2**26


@dataclass(frozen=True, slots=True)
class Instances:
    """Instances of one series, by kind."""

    volume: tuple[Dataset, ...]
    """Those of levels, the largest first."""
    associated: tuple[tuple[str, Size], ...]
    """Name and size of each label, macro and thumbnail, sorted."""

    def describe(self, name: str) -> SlideAbout:
        """Return what the base level states; `name` is that of its file."""
        about = describe_file(dict(flat_attributes(self.base, "dicom.")), "dicom", name)
        return replace(about, associated=tuple(AssociatedImage(*one) for one in self.associated))

    @property
    def base(self) -> Dataset:
        return self.volume[0]

    @property
    def uids(self) -> frozenset[str]:
        """SOP Instance UIDs of the levels."""
        return frozenset(str(head.SOPInstanceUID) for head in self.volume)


def sort_instances(where: str, heads: Mapping[str, Dataset]) -> Instances:
    """Return the instances of a series by kind.

    Args:
        where: path or URL of the slide, for messages.
        heads: attributes of each instance, by the name of its file or another one for messages.

    Raises:
        SlideError: there is no level among them, or one is none of a brightfield slide that can be read.
    """
    volume: list[Dataset] = []
    associated: set[tuple[str, Size]] = set()
    names: dict[str, str] = {}
    for name, head in heads.items():
        uid, kind = str(head.get("SOPInstanceUID")), _kind(head)
        if head.get("SOPClassUID") != DICOM_SLIDE:
            raise SlideError(f"{where}: {name} is no whole-slide image (SOP class {head.get('SOPClassUID')})")
        if uid in names:
            raise SlideError(f"{where}: {names[uid]} and {name} are the same instance {uid}; move one away")
        names[uid] = name
        if kind is None:
            raise SlideError(
                f"{where}: {name} does not say of what kind it is (ImageType), and no reader guesses it"
            )
        if kind in ASSOCIATED:
            associated.add((ASSOCIATED[kind], _size(head)))
        if kind == VOLUME:
            _refuse_unfit(where, name, head)
            volume.append(head)
    if not volume:
        raise SlideError(f"{where}: the series holds no level of a slide")
    volume.sort(key=lambda head: _size(head).width, reverse=True)
    return Instances(tuple(volume), tuple(sorted(associated, key=str)))


def flat_attributes(head: Dataset, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield attributes of one value by name, those in sequences too, named as OpenSlide names properties."""
    for element in head:
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from flat_attributes(item, f"{prefix}{element.keyword}[{number}].")
        elif element.VM == 1:
            yield f"{prefix}{element.keyword}", str(element.value)


def _kind(head: Dataset) -> str | None:
    values = head.get("ImageType")
    if values is None or isinstance(values, str) or len(values) < 3:
        return None
    return str(values[2])


def _size(head: Dataset) -> Size:
    return Size(
        *(int(head.get(f"TotalPixelMatrix{side}") or head.get(side) or 0) for side in ("Columns", "Rows"))
    )


def _refuse_unfit(where: str, name: str, head: Dataset) -> None:
    """Raise SlideError for a level that cannot be read, or that is none of a brightfield slide."""
    missing = [attribute for attribute in NEEDED if not head.get(attribute)]
    if missing:
        raise SlideError(f"{where}: {name} lacks {', '.join(missing)}; the file is damaged or incomplete")
    samples, bits = int(head.get("SamplesPerPixel") or 0), int(head.get("BitsAllocated") or 0)
    colors = str(head.get("PhotometricInterpretation", "unknown"))
    if samples != 3 or bits != 8 or colors not in COLORS:
        raise SlideError(
            f"{where}: {name} has {samples} channel(s) of {bits} bits ({colors}), not 8-bit RGB as a "
            "brightfield slide has; choose one that has"
        )
    tile, size = Size(int(head.Columns), int(head.Rows)), _size(head)
    tiles = -(-size.width // tile.width) * -(-size.height // tile.height)
    if tiles > MOST_TILES or tile.width * tile.height > MOST_TILE_PIXELS:
        raise SlideError(
            f"{where}: {name} claims {size} px in tiles of {tile} px, which no slide has; the file is damaged"
        )


def requested_syntaxes(head: Dataset) -> Sequence[str]:
    """Return the transfer syntaxes in which to ask a server for frames, the best first.

    That in which they are stored comes first, as far as the attributes tell (PS3.5, 8.2, and PS3.3,
    C.7.6.1.1.5): a server may transcode what is asked for otherwise. Lossy ones are asked for only where
    the pixels were compressed with loss before.
    """
    from pydicom import uid

    lossless = [
        uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.JPEGLosslessSV1, uid.JPEGLossless, uid.RLELossless,
        uid.ExplicitVRLittleEndian,
    ]  # fmt: skip
    if str(head.get("LossyImageCompression", "00")) != "01":
        return lossless
    methods = head.get("LossyImageCompressionMethod") or [""]
    last = str(methods if isinstance(methods, str) else methods[-1])
    stored = {
        "YBR_FULL_422": uid.JPEGBaseline8Bit, "YBR_ICT": uid.JPEG2000, "YBR_RCT": uid.JPEG2000Lossless,
    }.get(str(head.get("PhotometricInterpretation"))) or {
        "ISO_15444_1": uid.JPEG2000, "ISO_14495_1": uid.JPEGLSNearLossless,
    }.get(last, uid.JPEGBaseline8Bit)  # fmt: skip
    rest = [*lossless, uid.JPEGBaseline8Bit, uid.JPEG2000, uid.JPEGLSNearLossless]
    return [stored, *(syntax for syntax in rest if syntax != stored)]
