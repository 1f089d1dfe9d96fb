"""Probabilities as DICOM Parametric Maps (PS3.3, A.75): a series and a pyramid for each class or group.

A viewer so shows one class without loading the others. Values are stored in 16 bits, the fewest that DICOM
allows here (C.8.32.2): 255 for 1 as the maps have it, of 32-bit maps 65535. The real-world value mapping in
each file turns them into 0 … 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import UID, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodeContentItem
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from wsi_seg.core.classes import RUN_AGAIN, ClassGroup
from wsi_seg.core.concepts import PRIVATE_SCHEME, concept_of, dicom_text
from wsi_seg.core.errors import FormatLimitError
from wsi_seg.core.files import new_folder
from wsi_seg.exporters.dicom_slide import ReferencedSlide, code_of, equipment, referenced_slide
from wsi_seg.exporters.dicom_tiles import TILED, write_tiled
from wsi_seg.exporters.source import Exported, ExportSource

UNCERTAINTY = Code("uncertainty", PRIVATE_SCHEME, "Uncertainty of the class")


@dataclass(frozen=True, slots=True)
class _Channel:
    """One channel of a level of the probabilities, as it is stored in DICOM."""

    array: Any
    """(c, y, x), as `Maps.array` has it."""
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape[1:]

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[np.uint16]:
        values: NDArray[np.uint8] | NDArray[np.float32] = self.array[(self.index, *key)]
        return (values if values.dtype == np.uint8 else np.rint(values * 65535)).astype(np.uint16)


def export(source: ExportSource, path: Path) -> Exported:
    """Write each stored probability, and the uncertainty where it is stored, into a new folder.

    Files are named by code, name and level, such as `001_tumor_0.dcm`; the code of a group of several classes
    and of the uncertainty is 0.

    Raises:
        FormatLimitError: the maps hold neither.
        OutputError: the folder is there already or cannot be written, or the maps are damaged.
        SlideError: the slide is DICOM, and its files are gone or cannot be referred to.
        MppMissingError: the slide has no mpp.
    """
    channels = source.maps.layout.channels
    if not channels:
        raise FormatLimitError(f"{path}: no probabilities are stored; {RUN_AGAIN}")
    slide = referenced_slide(source.slide)
    with new_folder(path) as folder:
        folder.mkdir()
        for index, channel in enumerate(channels):
            series, pyramid = UID(), UID()
            code = channel.codes[0] if len(channel.codes) == 1 else 0
            name = f"{code:03}_{re.sub('[^A-Za-z0-9]+', '_', channel.name)[:64]}"
            for level in range(source.maps.level_count):
                header = _header(source, slide, index, level, series, pyramid)
                pixels = _Channel(source.maps.array("probabilities", level), index)
                write_tiled(folder / f"{name}_{level}.dcm", header, pixels)
    return Exported(path, f"{len(channels)} parametric maps of {source.maps.level_count} levels")


def _header(
    source: ExportSource, slide: ReferencedSlide, index: int, level: int, series: UID, pyramid: UID
) -> ParametricMap:
    layout = source.maps.layout
    channel = layout.channels[index]
    most = 255 if layout.probability_dtype == "uint8" else 65535
    text = dicom_text(f"{'Probability of ' if channel.codes else ''}{channel.name}", 64)
    header = ParametricMap(
        source_images=[slide.header],
        pixel_array=np.zeros((1, 1, 1), np.uint16),
        dimension_organization_type="TILED_SPARSE",
        series_instance_uid=series,
        series_number=1101 + index,
        series_description=text,
        sop_instance_uid=UID(),
        instance_number=level + 1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(source, channel, most, text)],
        voi_lut_transformations=[VOILUTTransformation(window_center=(most + 1) / 2, window_width=most + 1)],
        content_label="PROBABILITY" if channel.codes else "UNCERTAINTY",
        pyramid_uid=pyramid,
        pyramid_label=text,
        **slide.level(source.frame, layout.downsample("probabilities", level)),
        **equipment(source),
        **TILED,
    )
    slide.without_made_references(header)
    return header


def _mapping(source: ExportSource, channel: ClassGroup, most: int, text: str) -> RealWorldValueMapping:
    quantity = codes.DCM.FractionalProbabilisticSegmentation if channel.codes else UNCERTAINTY
    mapping = RealWorldValueMapping(
        lut_label=dicom_text(channel.name, 16),
        lut_explanation=text,
        unit=codes.UCUM.NoUnits,
        value_range=(0, most),
        slope=1 / most,
        intercept=0.0,
        quantity_definition=quantity,
    )
    if channel.codes:
        card = source.card
        known = {(g.name, g.codes): g.concept for g in card.groups}
        known |= {(c.name, (c.code,)): c.concept for c in card.classes}
        stated = known.get((channel.name, channel.codes))
        finding = code_of(concept_of(channel.name, stated))
        mapping.QuantityDefinitionSequence.append(CodeContentItem(name=codes.DCM.Finding, value=finding))
    return mapping
