"""The slide that DICOM objects refer to, and where its pixels lie in millimeters.

A DICOM slide is referred to by the UIDs in its files, and its frame of reference is kept. Any other slide
gets a study and a frame of reference of its own, made from its fingerprint, so that all that is exported of
it belongs together; what is exported then refers to no image, since there is none.

Positions (PS3.3, C.7.6.21.1 and C.8.12.4.1.4): the origin of a total pixel matrix is the center of its first
pixel, and position = origin + column × spacing × row cosines + row × spacing × column cosines, with columns
and rows counted from 0. A level of a map whose pixels stand for n × n pixels of level 0 therefore has another
origin than level 0.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import (
    AlgorithmIdentificationSequence,
    PixelMeasuresSequence,
    PlanePositionSequence,
    SpecimenDescription,
)
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import RGB
from wsi_seg.core.concepts import Concept, dicom_text
from wsi_seg.core.errors import SlideError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import dicom_files, list_folder
from wsi_seg.core.formats import DICOM_ENDINGS
from wsi_seg.core.geometry import Scale
from wsi_seg.core.versions import package_version
from wsi_seg.exporters.source import ExportSource
from wsi_seg.slides.dicomweb import SeriesAddress, connect, parse_series, read_heads
from wsi_seg.slides.slide import MapFrame, SlideInfo, require_mpp

# Sides of the tiles of what is exported, in pixels.
TILE = 512

# Any fixed namespace: the UIDs of a slide are to be the same whenever it is exported.
UID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "wsi_seg/dicom")

# Directions of rows and columns of a slide that is not DICOM, whose place on the glass is unknown: as
# converters have it, seen through the cover slip, with the scan at the corner of the glass.
ORIENTATION = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0)

# Depth of field that a slide which is not DICOM does not state, and DICOM asks for: that of a 20× objective.
NOMINAL_DEPTH_MM = 0.001

PER_FRAME = 0x52009230
# Of an image, what must be there so that other objects can refer to it.
NEEDED = (
    "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "ImageOrientationSlide",
    "TotalPixelMatrixOriginSequence", "Rows", "Columns",
)  # fmt: skip
# Type 2: they may be empty, and some files leave them out.
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_UTF8 = "ISO_IR 192"

CATEGORIES = {
    "tissue": codes.SCT.Tissue,
    "morphologically abnormal structure": codes.SCT.MorphologicallyAbnormalStructure,
    "anatomical structure": codes.SCT.AnatomicalStructure,
    "body substance": codes.SCT.BodySubstance,
}


@dataclass(frozen=True, slots=True)
class ReferencedSlide:
    """A slide as DICOM objects refer to it."""

    header: Dataset
    """Of its level 0, as highdicom takes it, without frames; its total pixel matrix is given as one pixel, so
    that it is never taken for the size of what is derived from it."""
    is_dicom: bool
    """False where the header was made, so that nothing may refer to the image."""
    spacing_mm: Scale
    """Millimeters per l0 pixel."""
    corner_mm: tuple[float, float, float]
    """Corner of level 0, that of its first pixel, in the slide coordinate system."""
    cosines: tuple[float, ...]
    """Six: direction of the rows, then of the columns."""

    def to_mm(self, xy_l0: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return positions (n, 3) in the slide coordinate system of l0 positions (n, 2)."""
        steps = np.array([self.spacing_mm.x, self.spacing_mm.y]) * xy_l0
        xyz_mm: NDArray[np.float64] = np.asarray(self.corner_mm) + steps @ np.reshape(self.cosines, (2, 3))
        return xyz_mm

    def level(self, frame: MapFrame, downsample: int) -> dict[str, Any]:
        """Return the place of one level of a map, as arguments of highdicom's images.

        Args:
            frame: of the map.
            downsample: map pixels per pixel of the level.
        """
        l0_per_pixel = frame.l0_per_map * Scale(downsample, downsample)
        spacing = self.spacing_mm * l0_per_pixel
        (origin,) = self.to_mm(np.array([[l0_per_pixel.x / 2, l0_per_pixel.y / 2]]))
        measures = self.header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        return {
            "pixel_measures": PixelMeasuresSequence((spacing.y, spacing.x), measures.get("SliceThickness")),
            "plane_positions": [PlanePositionSequence("SLIDE", origin, (1, 1))],
        }

    def without_made_references(self, made: Dataset) -> None:
        """Remove from an object what refers to an image that there is not."""
        if not self.is_dicom:
            for keyword in ("SourceImageSequence", "ReferencedImageSequence", "ReferencedSeriesSequence"):
                if keyword in made:
                    delattr(made, keyword)


def referenced_slide(slide: SlideInfo) -> ReferencedSlide:
    """Return the slide that DICOM objects refer to.

    Raises:
        SlideError: it is DICOM, and its files are gone, damaged or not those that were segmented.
        MppMissingError: it is not DICOM and has no mpp.
    """
    if slide.vendor == "dicom" or Path(slide.path).suffix.lower() in DICOM_ENDINGS:
        return _placed(_level_0(slide), is_dicom=True)
    return _placed(_made_header(slide), is_dicom=False)


def _placed(header: Dataset, *, is_dicom: bool) -> ReferencedSlide:
    row_spacing, column_spacing = map(
        float, header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    )
    cosines = tuple(map(float, header.ImageOrientationSlide))
    origin = header.TotalPixelMatrixOriginSequence[0]
    first = [float(origin.get(f"{axis}OffsetInSlideCoordinateSystem") or 0) for axis in "XYZ"]
    half = np.array([column_spacing, row_spacing]) / 2 @ np.reshape(cosines, (2, 3))
    x, y, z = (np.array(first) - half).tolist()
    header.TotalPixelMatrixColumns = header.TotalPixelMatrixRows = 1
    return ReferencedSlide(header, is_dicom, Scale(column_spacing, row_spacing), (x, y, z), cosines)


def _level_0(slide: SlideInfo) -> Dataset:
    """Return the header of the image of a DICOM slide that was segmented at level 0."""
    address = parse_series(slide.path)
    own, headers = _file_headers(Path(slide.path)) if address is None else _headers_of_server(address)
    size = (slide.size.width, slide.size.height)
    for header in headers:
        same = header.get("SeriesInstanceUID") == own.get("SeriesInstanceUID")
        if same and (header.get("TotalPixelMatrixColumns"), header.get("TotalPixelMatrixRows")) == size:
            return _whole(slide.path, header)
    raise SlideError(
        f"{slide.path}: its DICOM series has no image of {slide.size} px any more; run wsi-seg run again"
    )


def _headers_of_server(address: SeriesAddress) -> tuple[Dataset, list[Dataset]]:
    headers = read_heads(address, connect(address))
    return headers[0], headers


def _file_headers(path: Path) -> tuple[Dataset, list[Dataset]]:
    """Return the header of a file, and those of it and of all others in its folder."""
    with reading(path, SlideError):
        try:
            own = _header(path)
        except FileNotFoundError as error:
            raise SlideError(
                f"{path}: the DICOM slide is gone, and what is exported refers to it; put it back there"
            ) from error
        files = dicom_files(list_folder(path.parent))[0]
        return own, [own, *(_header(file) for file in files if file != path)]


def _header(path: Path) -> Dataset:
    """Read a DICOM file up to what it says of its single frames, of which there may be a million."""
    try:
        with path.open("rb") as file:
            return read_partial(file, stop_when=lambda tag, vr, length: tag >= PER_FRAME)
    except (InvalidDicomError, EOFError, ValueError, NotImplementedError, struct.error) as error:
        raise SlideError(f"{path}: damaged DICOM file ({error})") from error


def _whole(path: str, header: Dataset) -> Dataset:
    """Return a header with empty values in place of missing ones; SlideError where one is needed."""
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    measures = shared[0].get("PixelMeasuresSequence") or [Dataset()]
    spacing = measures[0].get("PixelSpacing")
    missing = [keyword for keyword in NEEDED if not header.get(keyword)]
    if not isinstance(spacing, Sequence) or len(spacing) != 2:
        missing.append("PixelSpacing")
    if missing:
        raise SlideError(
            f"{path}: this DICOM slide lacks {', '.join(missing)}, so that nothing can refer to it"
        )
    for keyword in MAY_BE_EMPTY:
        if header.get(keyword) is None:
            setattr(header, keyword, "")
    return header


def _made_header(slide: SlideInfo) -> Dataset:
    """Return the header of an image that there is not, of a slide that is not DICOM."""
    mpp = require_mpp(slide)
    header = Dataset()
    header.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        setattr(header, keyword, slide_uid(slide, keyword))
    for keyword in MAY_BE_EMPTY:
        setattr(header, keyword, "")
    header.PositionReferenceIndicator = "SLIDE_CORNER"
    header.Modality = "SM"
    header.Rows = header.Columns = TILE
    header.NumberOfFrames = 1
    header.ImageOrientationSlide = list(ORIENTATION)
    measures, groups, origin = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [round(mpp.y / 1000, 12), round(mpp.x / 1000, 12)]  # at most 16 characters
    measures.SliceThickness = NOMINAL_DEPTH_MM
    groups.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [groups]
    # So that the far corner of the slide is at 0, 0.
    origin.XOffsetInSlideCoordinateSystem = round(mpp.y / 1000 * (slide.size.height - 0.5), 6)
    origin.YOffsetInSlideCoordinateSystem = round(mpp.x / 1000 * (slide.size.width - 0.5), 6)
    header.TotalPixelMatrixOriginSequence = [origin]
    header.ContainerIdentifier = dicom_text(slide.name, 64)
    header.IssuerOfTheContainerIdentifierSequence = []
    header.ContainerTypeCodeSequence = [concept_item(Code("433466003", "SCT", "Microscope slide"))]
    header.SpecimenDescriptionSequence = [
        SpecimenDescription(dicom_text(slide.name, 64), slide_uid(slide, "SpecimenUID"))
    ]
    return header


def slide_uid(slide: SlideInfo, purpose: str) -> UID:
    """Return a UID of a slide that is the same whenever it is exported (PS3.5, B.2: from a UUID)."""
    return UID(f"2.25.{uuid.uuid5(UID_NAMESPACE, f'{slide.fingerprint}/{purpose}').int}")


def concept_item(code: Code) -> Dataset:
    """Return a code as an item of a sequence."""
    item = Dataset()
    item.CodeValue, item.CodeMeaning = code.value, code.meaning
    item.CodingSchemeDesignator = code.scheme_designator
    return item


def code_of(concept: Concept) -> Code:
    """Return a concept as highdicom takes it."""
    return Code(concept.value, concept.scheme, concept.meaning)


def lab_color(color: RGB) -> CIELabColor:
    """Return a color of sRGB as DICOM has it."""
    return CIELabColor.from_rgb(*color)


def algorithm(card: ModelCard) -> AlgorithmIdentificationSequence:
    """Return the model that found regions or classes."""
    return AlgorithmIdentificationSequence(
        name=dicom_text(card.name, 64),
        family=codes.DCM.ArtificialIntelligence,
        version=dicom_text(card.version, 64),
        source="wsi_seg",
    )


def equipment(source: ExportSource) -> dict[str, Any]:
    """Return the arguments of all objects of highdicom that say what made them."""
    version = package_version("wsi-seg")
    return {
        "manufacturer": "wsi_seg",
        "manufacturer_model_name": "wsi-seg export",
        "software_versions": [
            dicom_text(version, 64),
            dicom_text(f"{source.card.name} {source.card.version}", 64),
        ],
        "device_serial_number": dicom_text(version, 64),
        "content_description": dicom_text(f"by {source.card.name} {source.card.version}", 64),
        "specific_character_set": _UTF8,
    }
