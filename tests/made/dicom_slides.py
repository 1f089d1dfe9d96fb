"""Made DICOM slides: a pyramid of levels in tiles, and a label, in any transfer syntax; one folder each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    VLWholeSlideMicroscopyImageStorage,
)

from tests.made.pyramids import area_mean

TILE = 64
ROOT = "1.2.826.0.1.3680043.8.498.1"
STUDY, SERIES = f"{ROOT}.1", f"{ROOT}.2"

ENCODERS: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEGBaseline8Bit: lambda tile: imagecodecs.jpeg8_encode(
        tile, level=90, colorspace="RGB", outcolorspace="RGB"
    ),
    ExplicitVRLittleEndian: lambda tile: tile.tobytes(),
}


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _describe(head: Dataset, pixels: NDArray[np.uint8], kind: str, number: int, mpp: float) -> None:
    """Set what the standard asks of a whole-slide image, as far as readers look at it."""
    head.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    head.SOPInstanceUID = f"{ROOT}.3.{number}"
    head.StudyInstanceUID, head.SeriesInstanceUID, head.FrameOfReferenceUID = STUDY, SERIES, f"{ROOT}.4"
    head.Modality, head.InstanceNumber = "SM", number
    head.Manufacturer, head.ManufacturerModelName = "Made Scanners", "Model 7"
    head.ImageType = [
        "ORIGINAL" if number == 1 else "DERIVED",
        "PRIMARY",
        kind,
        "NONE" if number == 1 else "RESAMPLED",
    ]
    head.TotalPixelMatrixRows, head.TotalPixelMatrixColumns = pixels.shape[:2]
    head.Rows = head.Columns = TILE
    head.SamplesPerPixel, head.PhotometricInterpretation, head.PlanarConfiguration = 3, "RGB", 0
    head.BitsAllocated = head.BitsStored = 8
    head.HighBit, head.PixelRepresentation = 7, 0
    head.LossyImageCompression, head.BurnedInAnnotation, head.SpecimenLabelInImage = "00", "NO", "NO"
    head.DimensionOrganizationType, head.TotalPixelMatrixFocalPlanes = "TILED_FULL", 1
    head.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    head.ImagedVolumeWidth, head.ImagedVolumeHeight = (side * mpp / 1000 for side in pixels.shape[1::-1])
    head.ImagedVolumeDepth, head.ExtendedDepthOfField, head.FocusMethod = 0.001, "NO", "AUTO"
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20, 40
    head.TotalPixelMatrixOriginSequence = [origin]
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1000, mpp / 1000], 0.001
    shared.PixelMeasuresSequence = [measures]
    head.SharedFunctionalGroupsSequence = [shared]
    head.NumberOfOpticalPaths = 1
    light = Dataset()
    light.OpticalPathIdentifier, light.ObjectiveLensPower = "0", 20
    light.IlluminationTypeCodeSequence = [code("111744", "DCM", "Brightfield illumination")]
    light.IlluminationColorCodeSequence = [code("414298005", "SCT", "Full Spectrum")]
    head.OpticalPathSequence = [light]
    head.ContainerIdentifier = "made"
    specimen, step, stain = Dataset(), Dataset(), Dataset()
    stain.ValueType, stain.ConceptNameCodeSequence = "CODE", [code("424361007", "SCT", "Using substance")]
    stain.ConceptCodeSequence = [code("12710003", "SCT", "hematoxylin stain")]
    step.SpecimenPreparationStepContentItemSequence = [stain]
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "made", f"{ROOT}.5"
    specimen.SpecimenPreparationSequence = [step]
    head.SpecimenDescriptionSequence = [specimen]


def tiles(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Cut pixels into tiles, row by row; those at the far edges are filled with white."""
    height, width = (-(-side // TILE) * TILE for side in pixels.shape[:2])
    padded = np.full((height, width, 3), 255, np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    return [
        np.ascontiguousarray(padded[y : y + TILE, x : x + TILE])
        for y in range(0, height, TILE)
        for x in range(0, width, TILE)
    ]


def write_instance(
    path: Path,
    pixels: NDArray[np.uint8],
    syntax: str,
    *,
    kind: str = "VOLUME",
    number: int = 1,
    mpp: float = 0.5,
) -> FileDataset:
    """Write one image of a slide and return what was written."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = VLWholeSlideMicroscopyImageStorage, UID(syntax)
    head = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    _describe(head, pixels, kind, number, mpp)
    meta.MediaStorageSOPInstanceUID = head.SOPInstanceUID
    frames = [ENCODERS[syntax](tile) for tile in tiles(pixels)]
    head.NumberOfFrames = len(frames)
    if UID(syntax).is_encapsulated:
        head.PixelData = encapsulate(frames)
        head["PixelData"].VR, head["PixelData"].is_undefined_length = "OB", True
    else:
        head.PixelData = b"".join(frames)
        head["PixelData"].VR = "OB"
    head.save_as(path, enforce_file_format=True)
    return head


def write_slide(
    folder: Path, pixels: NDArray[np.uint8], syntax: str = JPEGLSLossless, factors: Sequence[int] = (1, 2)
) -> Path:
    """Write a slide of 0.5 µm/px with a label, and return the file of level 0."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, factor in enumerate(factors, 1):
        write_instance(
            folder / f"level{number}.dcm", area_mean(pixels, factor), syntax, number=number, mpp=0.5 * factor
        )
    write_instance(folder / "label.dcm", pixels[:50, :90], syntax, kind="LABEL", number=9)
    return folder / "level1.dcm"
