"""Regions as DICOM Microscopy Bulk Simple Annotations (PS3.3, A.87 and C.37.1; Supplement 222).

A group of annotations for each class or group that is traced. Positions are pixels of level 0 of a DICOM
slide, from the corner of its total pixel matrix; of any other slide they are millimeters in its made frame of
reference. Only outlines are known to it: holes are joined to them, see `keyholes`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import shapely
from highdicom import UID
from highdicom.ann import AnnotationGroup, Measurements, MicroscopyBulkSimpleAnnotations
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, canonical_name
from wsi_seg.core.concepts import PRIVATE_SCHEME, Concept, concept_of, dicom_text
from wsi_seg.core.errors import FormatLimitError
from wsi_seg.core.files import atomic_path
from wsi_seg.core.geometry import Scale
from wsi_seg.exporters.dicom_slide import (
    CATEGORIES,
    ReferencedSlide,
    algorithm,
    code_of,
    equipment,
    lab_color,
    referenced_slide,
)
from wsi_seg.exporters.keyholes import keyhole
from wsi_seg.exporters.placed import PlacedRegion
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.slides.slide import require_mpp

SQUARE_MICROMETER = Code("um2", "UCUM", "square micrometer")
MEAN_PROBABILITY = Code("mean_probability", PRIVATE_SCHEME, "Mean probability")


@dataclass
class _Annotations:
    """The regions of a group, as they are collected."""

    group: ClassGroup
    rings: list[NDArray[np.float64]] = field(default_factory=list)
    """(n, 2) l0 pixels, or (n, 3) mm."""
    areas_um2: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)

    def add(self, placed: PlacedRegion, slide: ReferencedSlide, mpp: Scale) -> None:
        for part in shapely.get_parts(placed.geometry).tolist():
            ring_l0 = keyhole(part)
            self.rings.append(ring_l0 if slide.is_dicom else slide.to_mm(ring_l0))
            self.areas_um2.append(part.area * mpp.x * mpp.y)
            self.probabilities.append(placed.region.mean_probability)


def export(source: ExportSource, path: Path) -> Exported:
    """Write the regions of a result as one file; a region in parts becomes as many annotations.

    Raises:
        FormatLimitError: there are no regions.
        UsageError: the model has no such class.
        OutputError: the file cannot be written, or the maps are damaged.
        SlideError: the slide is DICOM, and its files are gone or cannot be referred to.
        MppMissingError: the slide has no mpp.
    """
    slide, mpp = referenced_slide(source.slide), require_mpp(source.slide)
    found: dict[str, _Annotations] = {}
    count = 0
    # DICOM counts from the total pixel matrix, whatever the slide's bounds are.
    from_level_0 = replace(source, settings=replace(source.settings, origin="level0"))
    for placed in from_level_0.regions():
        group = placed.region.group
        found.setdefault(group.name, _Annotations(group)).add(placed, slide, mpp)
        count += 1
    if not found:
        names = ", ".join(group.name for group in source.groups)
        raise FormatLimitError(
            f"{path}: there are no regions of {names}, and DICOM has no file without any; "
            "lower --threshold, or name other groups"
        )
    annotations = MicroscopyBulkSimpleAnnotations(
        source_images=[slide.header],
        annotation_coordinate_type="2D" if slide.is_dicom else "3D",
        annotation_groups=[
            _group(number, each, source.card) for number, each in enumerate(found.values(), 1)
        ],
        series_instance_uid=UID(),
        series_number=1201,
        series_description="Regions",
        sop_instance_uid=UID(),
        instance_number=1,
        content_label="REGIONS",
        **equipment(source),
    )
    slide.without_made_references(annotations)
    with atomic_path(path) as temporary:
        annotations.save_as(temporary, enforce_file_format=True)
    return Exported(path, f"{count} regions")


def _group(number: int, found: _Annotations, card: ModelCard) -> AnnotationGroup:
    concept = _concept(found.group, card)
    return AnnotationGroup(
        number=number,
        uid=UID(),
        label=dicom_text(found.group.name, 64),
        annotated_property_category=CATEGORIES[concept.category],
        annotated_property_type=code_of(concept),
        graphic_type="POLYGON",
        graphic_data=found.rings,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm(card),
        measurements=_measurements(found),
        display_color=lab_color(found.group.color),
    )


def _measurements(found: _Annotations) -> list[Measurements]:
    measured = [Measurements(codes.SCT.Area, np.array(found.areas_um2), SQUARE_MICROMETER)]
    if np.isfinite(found.probabilities).all():  # not known where it is not stored
        values = np.array(found.probabilities)
        measured.append(Measurements(MEAN_PROBABILITY, values, codes.UCUM.NoUnits))
    return measured


def _concept(group: ClassGroup, card: ModelCard) -> Concept:
    """Return the concept of what was traced: of the group of that name, or of the class that it was."""
    stated = {canonical_name(c.name): c.concept for c in card.classes if c.concept is not None}
    stated |= {canonical_name(g.name): g.concept for g in card.groups if g.concept is not None}
    return concept_of(group.name, stated.get(canonical_name(group.name)))
