"""Instances of a DICOM series, as their attributes tell, before any pixel is read.

What wsidicom would leave out without a word (files that it cannot read, kinds that it does not know) is
refused here, and so are images that are not brightfield slides and sizes that no slide has.

ImageType, which says of what kind an image is, gets lost where files are stripped of names. The frames say
the same (FrameType: PS3.3, C.8.12.4.1.1 and C.8.12.9). Where they do not either, what is in several tiles and
of the slide's shape is taken for a level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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
    "SharedFunctionalGroupsSequence",
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
# ImageType of a level, for those that do not have it.
LEVEL_TYPE = r"DERIVED\PRIMARY\VOLUME\NONE"
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
    untold: frozenset[str]
    """Names of those of levels without ImageType."""
    assumed: tuple[str, ...]
    """Line on each of `untold`: that it is taken for a level, and why."""
    left_out: tuple[str, ...]
    """Images of which nothing tells the kind, a line each."""

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


def sort_instances(where: str, heads: Mapping[str, Dataset], *, files: bool) -> Instances:
    """Return the instances of a series by kind.

    Args:
        where: path or URL of the slide, for messages.
        heads: attributes of each instance, by the name of its file or another one for messages.
        files: whether they are files, of which an attribute may be missing that servers have to send.

    Raises:
        SlideError: there is no level among them, or one is none of a brightfield slide that can be read.
    """
    volume: dict[str, Dataset] = {}
    associated: set[tuple[str, Size]] = set()
    names: dict[str, str] = {}
    assumed, left_out = dict[str, str](), dict[str, str]()
    largest = max(map(_size, heads.values()), key=lambda size: size.width * size.height)
    for name, head in heads.items():
        uid, kind = str(head.get("SOPInstanceUID")), _kind(head.get("ImageType"))
        if head.get("SOPClassUID") != DICOM_SLIDE:
            raise SlideError(f"{where}: {name} is no whole-slide image (SOP class {head.get('SOPClassUID')})")
        if uid in names:
            raise SlideError(f"{where}: {names[uid]} and {name} are the same instance {uid}; move one away")
        names[uid] = name
        if kind is None and not files:
            raise SlideError(
                f"{where}: {name} does not say of what kind it is (ImageType); fetch the series as files"
            )
        if kind is None:
            kind, assumed[name] = _implied_kind(head, largest)
            if kind is None:
                left_out[name] = f"{_size(head)} px, which does not say of what kind it is (ImageType)"
        if kind in ASSOCIATED:
            associated.add((ASSOCIATED[kind], _size(head)))
        if kind == VOLUME:
            _refuse_unfit(where, name, head)
            volume[name] = head
    if not volume:
        raise SlideError(f"{where}: {_why_no_level(next(iter(left_out), None))}")
    levels = sorted(volume.values(), key=lambda head: _size(head).width, reverse=True)
    told = {
        name: f"{name} is a level of the slide: its ImageType is missing, and {reason}"
        for name, reason in assumed.items()
        if name in volume
    }
    return Instances(
        tuple(levels),
        tuple(sorted(associated, key=str)),
        frozenset(told),
        tuple(told.values()),
        tuple(left_out.values()),
    )


def _why_no_level(untold: str | None) -> str:
    """Return why a series is no slide, where that of this name does not say of what kind it is."""
    if untold is None:
        return "the series holds no level of a slide"
    return (
        f"{untold} does not say of what kind it is (ImageType, FrameType), and as it is one tile it may be a "
        f'label; if it is the slide, dcmodify -i "(0008,0008)={LEVEL_TYPE}" says so'
    )


def flat_attributes(head: Dataset, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield attributes of one value by name, those in sequences too, named as OpenSlide names properties."""
    for element in head:
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from flat_attributes(item, f"{prefix}{element.keyword}[{number}].")
        elif element.VM == 1:
            yield f"{prefix}{element.keyword}", str(element.value)


def _kind(values: Any) -> str | None:
    """Return the kind in the values of ImageType or FrameType; None where they do not say."""
    if values is None or isinstance(values, str) or len(values) < 3:
        return None
    return str(values[2])


def _implied_kind(head: Dataset, largest: Size) -> tuple[str | None, str]:
    """Return the kind of an instance without ImageType, None where nothing tells, and what tells it.

    `largest` is the size of the largest image of the series.
    """
    for group in head.get("SharedFunctionalGroupsSequence") or ():
        for item in group.get("WholeSlideMicroscopyImageFrameTypeSequence") or ():
            if kind := _kind(item.get("FrameType")):
                return kind, "FrameType says so"
    size = _size(head)
    in_tiles = int(head.get("Columns") or 0) < size.width or int(head.get("Rows") or 0) < size.height
    # Levels are of one shape but for a pixel.
    off = abs(size.width * largest.height - size.height * largest.width)
    if in_tiles and off <= max(largest.width, largest.height):
        return VOLUME, f"its {size} px are in tiles"
    return None, ""


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
