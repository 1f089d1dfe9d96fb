"""The class map as a DICOM Segmentation of type LABELMAP (PS3.3, A.51 and C.8.20), one instance a level.

Segment numbers are class codes, 0 is what was not analyzed. All levels are one series and one pyramid.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from highdicom import UID
from highdicom.seg import Segmentation, SegmentDescription

from wsi_seg.core.concepts import concept_of, dicom_text
from wsi_seg.core.files import new_folder
from wsi_seg.exporters.dicom_slide import (
    CATEGORIES,
    ReferencedSlide,
    algorithm,
    code_of,
    equipment,
    lab_color,
    referenced_slide,
)
from wsi_seg.exporters.dicom_tiles import TILED, write_tiled
from wsi_seg.exporters.source import Exported, ExportSource


def export(source: ExportSource, path: Path) -> Exported:
    """Write the class map into a new folder, `level_0.dcm` and so on.

    Raises:
        OutputError: the folder is there already or cannot be written, or the maps are damaged.
        SlideError: the slide is DICOM, and its files are gone or cannot be referred to.
        MppMissingError: the slide has no mpp.
    """
    slide, series, pyramid = referenced_slide(source.slide), UID(), UID()
    with new_folder(path) as folder:
        folder.mkdir()
        for level in range(source.maps.level_count):
            header = _header(source, slide, level, series, pyramid)
            write_tiled(folder / f"level_{level}.dcm", header, source.maps.array("classes", level))
    return Exported(path, f"{source.maps.level_count} levels of a segmentation")


def _header(
    source: ExportSource, slide: ReferencedSlide, level: int, series: UID, pyramid: UID
) -> Segmentation:
    downsample = source.maps.layout.downsample("classes", level)
    header = Segmentation(
        source_images=[slide.header],
        pixel_array=np.zeros((1, 1, 1), np.uint8),
        segmentation_type="LABELMAP",
        segment_descriptions=_segments(source),
        series_instance_uid=series,
        series_number=1001,
        series_description="Tissue classes",
        sop_instance_uid=UID(),
        instance_number=level + 1,
        content_label="CLASSES",
        omit_empty_frames=False,
        dimension_organization_type="TILED_FULL",
        pyramid_uid=pyramid,
        pyramid_label="classes",
        **slide.level(source.frame, downsample),
        **equipment(source),
        **TILED,
    )
    slide.without_made_references(header)
    return header


def _segments(source: ExportSource) -> list[SegmentDescription]:
    """Return the classes in the order of their codes, as highdicom wants them."""
    segments = []
    for found in sorted(source.card.classes, key=lambda c: c.code):
        concept = concept_of(found.name, found.concept)
        segments.append(
            SegmentDescription(
                segment_number=found.code,
                segment_label=dicom_text(found.name, 64),
                segmented_property_category=CATEGORIES[concept.category],
                segmented_property_type=code_of(concept),
                algorithm_type="AUTOMATIC",
                algorithm_identification=algorithm(source.card),
                display_color=lab_color(found.color),
            )
        )
    return segments
