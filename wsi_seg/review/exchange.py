"""A review as GeoJSON for QuPath, and back: what was changed there becomes entries of a journal.

Regions keep their ids on the way. Rejected regions have the class `Ignore*`, which all commands leave out,
and reviewed areas `Region*`, both as QuPath colors them by default. Positions count from the slide's bounds,
as QuPath's do, unless a file says otherwise.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.annotation import IGNORE, is_named, polygonal_part
from wsi_seg.annotations.geojson import (
    OWN_MEMBER,
    area_of,
    classification_name,
    features_of,
    subtracted_of,
)
from wsi_seg.core.classes import RGB
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.core.files import atomic_path, read_plain
from wsi_seg.core.geometry import Origin
from wsi_seg.exporters.placed import GRID, origin_l0
from wsi_seg.results.files import refuse_results
from wsi_seg.review.drawn import Drawn, is_annotation, is_same_outline, is_uuid, uuid_of
from wsi_seg.review.entries import MARKED, ReviewEntry, Verdict, geometry_hash, snapped
from wsi_seg.review.results import ReviewedResults, group_named, region_id, region_values
from wsi_seg.review.state import ReviewState

AREA = "Region*"
# Verdicts on what results never had.
OF_REVIEWERS = ("added", "reviewed-area")
COLORS: dict[str, RGB] = {AREA: (0, 0, 180), IGNORE: (180, 180, 180)}
# Of classes that the model of the results does not have, as in the review of another model's results.
FOREIGN: RGB = (128, 128, 128)


def write_review(
    state: ReviewState,
    reviewed: ReviewedResults,
    path: Path,
    *,
    origin: Origin = "bounds",
    verdicts: Collection[Verdict] = (),
) -> Counter[str]:
    """Write the final entries of a review as one FeatureCollection; the file appears whole or not at all.

    Args:
        state: of the slide of `reviewed`.
        reviewed: the results, whose model has the colors of the classes.
        path: ends with `.geojson`, or `.geojson.gz` for a compressed file.
        origin: what positions count from, see `exporters.geojson.write_geojson`.
        verdicts: write only entries with these; none: all.

    Returns:
        How many of each verdict were written.

    Raises:
        UsageError: another ending or origin, or the file of a run.
        OutputError: the file cannot be written.
    """
    if not path.name.endswith((".geojson", ".geojson.gz")):
        raise UsageError(f"{path}: the name must end with .geojson or .geojson.gz")
    refuse_results(path)
    slide = reviewed.slide
    shift = origin_l0(slide, origin)
    finals = [*(decision.final for decision in state.decisions.values()), *state.areas]
    chosen = [entry for entry in finals if not verdicts or entry.verdict in verdicts]
    counts: Counter[str] = Counter(entry.verdict for entry in chosen)
    facts = {"origin": origin, "subtracted_l0": shift, "slide": slide.name, "fingerprint": slide.fingerprint}
    document = {
        "type": "FeatureCollection",
        OWN_MEMBER: facts,
        "features": [
            _feature(entry, reviewed, shift, number) for number, entry in enumerate(chosen, start=1)
        ],
    }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return counts


def _feature(
    entry: ReviewEntry, reviewed: ReviewedResults, shift: tuple[float, float], number: int
) -> dict[str, Any]:
    moved = shapely.transform(_shape(entry), lambda xy: np.subtract(xy, shift))
    geometry = shapely.orient_polygons(shapely.set_precision(moved, GRID, mode="valid_output"))
    special = AREA if entry.verdict == "reviewed-area" else IGNORE
    if entry.class_name is None:
        label, color = special, COLORS[special]
    else:
        group = next((one for one in reviewed.groups if is_named(entry.class_name, (one.name,))), None)
        label, color = (entry.class_name, FOREIGN) if group is None else (group.qupath_name, group.color)
    metadata = {
        "verdict": entry.verdict,
        "reviewer": entry.reviewer,
        "time": entry.time.isoformat(),
        "group": entry.class_name,
        "comment": entry.comment,
        "was": entry.region_class,
    }
    return {
        "type": "Feature",
        "id": uuid_of(entry.region),
        "geometry": shapely.geometry.mapping(geometry),
        "properties": {
            "objectType": "annotation",
            "name": f"{label} {number}",
            "classification": {"name": label, "color": list(color)},
            "metadata": {key: value for key, value in metadata.items() if value},
        },
    }


@dataclass
class Edits:
    """Entries that a file edited elsewhere amounts to, and what was left out."""

    entries: list[ReviewEntry] = field(default_factory=list)
    unchanged: int = 0
    """Annotations that say what results and review say already."""
    unclassified: int = 0
    """New annotations without a class, or to be ignored: left out."""
    missing: int = 0
    """Regions that the file does not hold: of the results, or of the review where the file is one."""
    objects: int = 0
    """Cells, detections, tiles and TMA cores: left out."""


def read_edits(
    path: Path,
    reviewed: ReviewedResults,
    state: ReviewState,
    reviewer: str,
    *,
    accept_unchanged: bool = False,
    reject_missing: bool = False,
) -> Edits:
    """Return what was changed in a GeoJSON file of regions or of a review, compared with both.

    Reading a file twice gives nothing new the second time.

    Args:
        path: as QuPath saves it, plain, gzipped or zipped.
        reviewed: the results.
        state: of the review so far.
        reviewer: of the new entries.
        accept_unchanged: regions that nobody changed were looked at and are right, as the results or, in a
            file that is an exported review, other reviewers have them.
        reject_missing: regions that the file lacks were deleted, so they are rejected: those of the results,
            or in an exported review, which holds no others, those with a verdict.

    Raises:
        MaskError: the file cannot be read, is damaged, or says two things of one region.
        UsageError: it is of another slide, or names a class that the model does not have.
    """
    document = _document(path)
    _check_slide(document, path, reviewed)
    comparison = _Comparison(path, reviewed, state, reviewer, accept_unchanged)
    base = {"slide": reviewed.slide.fingerprint, "model": reviewed.model, "reviewer": reviewer}
    edits = Edits()
    annotations, edits.objects = comparison.annotations(document)
    comparison.refuse_other_results(annotations)
    for drawn in annotations:
        values = comparison.values_of(drawn)
        if values is not None:
            edits.entries.append(state.new_entry(**base, **values))
        elif drawn.label is None or (is_named(drawn.label, (IGNORE,)) and not comparison.is_known(drawn)):
            edits.unclassified += 1
        else:
            edits.unchanged += 1
    missing = comparison.missing(annotations)
    edits.missing = len(missing)
    if reject_missing:
        rejected = (values for values in missing if not comparison.is_said(values, by_anybody=False))
        edits.entries += [state.new_entry(**base, **values) for values in rejected]
    return edits


def _document(path: Path) -> Any:
    try:
        return json.loads(read_plain(path, MaskError))
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{path}: no JSON, or damaged ({error}); export it again") from error


def _check_slide(document: Any, path: Path, reviewed: ReviewedResults) -> None:
    own = document.get(OWN_MEMBER) if isinstance(document, dict) else None
    facts = own if isinstance(own, dict) else {}
    if facts.get("fingerprint") not in (None, reviewed.slide.fingerprint):
        raise UsageError(
            f"{path}: is of another slide ({facts.get('slide')}) than {reviewed.folder}; name its own results"
        )


class _Comparison:
    """Comparison of the annotations of a file with results and review."""

    def __init__(
        self, path: Path, reviewed: ReviewedResults, state: ReviewState, reviewer: str, accept_unchanged: bool
    ) -> None:
        self._path, self._reviewed, self._state = path, reviewed, state
        self._reviewer, self._accept = reviewer, accept_unchanged
        regions = reviewed.regions
        self.index = {uuid_of(region_id(regions, i)): i for i in range(len(regions.ids))}
        """Number of each region of the results by its id in files."""
        self._decided = {uuid_of(region): decision.final for region, decision in state.decisions.items()}
        size = reviewed.slide.size
        self._whole = shapely.box(0, 0, size.width, size.height)
        self._origin = origin_l0(reviewed.slide, "bounds")

    def annotations(self, document: Any) -> tuple[list[Drawn], int]:
        """Return the annotations of a document that have an area, and how many other objects it has.

        Raises:
            MaskError: a feature is damaged, or two of one id differ.
        """
        found: dict[str, Drawn] = {}
        others = 0
        shift = subtracted_of(document, self._path) or self._origin
        for number, feature in enumerate(features_of(document, self._path), start=1):
            if not is_annotation(feature):
                others += 1
                continue
            drawn = self._drawn(feature, f"feature {number}", shift)
            if drawn is None:
                continue
            first = found.setdefault(drawn.id, drawn)
            if first.label != drawn.label or not self._same(drawn.shape, first.shape):
                raise MaskError(
                    f"{self._path}: {first.where} and {drawn.where} have the id {drawn.id} and differ; "
                    "remove one, or its id"
                )
        return list(found.values()), others

    def _drawn(self, feature: dict[str, Any], place: str, shift: tuple[float, float]) -> Drawn | None:
        """Return an annotation; None where it has no area.

        Only a UUID or the id of a known region is one: others are those of a row, or of all annotations of
        QuPath 0.2. One without is the region of the results that has its outline, if there is one.
        """
        where = f"{self._path}: {place}"
        area = area_of(feature, where)
        shape = None if area is None else polygonal_part(area)
        if shape is None:
            return None
        moved = shapely.transform(shape, lambda xy: np.add(xy, shift))
        try:
            placed = snapped(shapely.intersection(moved, self._whole))
        except UsageError as error:
            raise MaskError(f"{where}: {error}") from error
        properties = feature.get("properties")
        said = properties.get("metadata") if isinstance(properties, dict) else None
        metadata = said if isinstance(said, dict) else {}
        own = uuid_of(str(feature.get("id") or ""))
        if not (own in self.index or own in self._decided or is_uuid(feature.get("id"))):
            outline = geometry_hash(placed)
            own = uuid_of(self._by_outline.get(outline, f"{self._reviewed.slide.fingerprint}/{outline}"))
        label = classification_name(properties)
        return Drawn(own, place, placed, label, metadata.get("group"), metadata.get("verdict"))

    @cached_property
    def _by_outline(self) -> dict[str, str]:
        """Ids of the regions of the results by the hashes of their outlines."""
        regions = self._reviewed.regions
        return {
            geometry_hash(snapped(shape)): region_id(regions, i) for i, shape in enumerate(regions.shapes)
        }

    def values_of(self, drawn: Drawn) -> dict[str, Any] | None:
        """Return the values of the entry that an annotation amounts to; None where it says nothing new."""
        if is_named(drawn.label, (AREA,)):
            return self._area(drawn)
        facts = self._facts(drawn.id)
        if facts is None:
            if drawn.label is None or is_named(drawn.label, (IGNORE,)):
                return None
            name = self._class_of(drawn, None)
            return {"verdict": "added", "region": drawn.id, "class_name": name, "geometry": drawn.shape}
        values = self._judged(drawn, facts)
        # An exported review that is as it was says what others said; what differs from results is one's own.
        by_anybody = drawn.verdict is not None and not self._accept
        return None if values is None or self.is_said(values, by_anybody) else values

    def refuse_other_results(self, annotations: Sequence[Drawn]) -> None:
        """Refuse a file all of whose regions are of results, and none of these: they would all be added."""
        ours = [one for one in annotations if (one.group or one.verdict) and one.verdict not in OF_REVIEWERS]
        if ours and not any(map(self.is_known, ours)):
            raise UsageError(
                f"{self._path}: none of its regions is of {self._reviewed.folder}; "
                "name the results that they come from"
            )

    def is_known(self, drawn: Drawn) -> bool:
        """Return whether results or review have a region of this id."""
        return drawn.id in self.index or drawn.id in self._decided

    def missing(self, annotations: Sequence[Drawn]) -> list[dict[str, Any]]:
        """Return the values of entries that reject what a file lacks, see `read_edits`."""
        seen = {drawn.id for drawn in annotations}
        if any(drawn.verdict for drawn in annotations):  # an exported review
            ids = [region for region, final in self._decided.items() if final.verdict in MARKED]
        else:
            ids = list(self.index)
        known = (self._facts(identity) for identity in ids if identity not in seen)
        return [{**facts, "verdict": "rejected"} for facts in known if facts is not None]

    def is_said(self, values: dict[str, Any], by_anybody: bool) -> bool:
        """Return whether a region has the same class and outline by what decides, or by the reviewer."""
        decision = self._state.decisions.get(values["region"])
        if decision is None:
            return False
        own = [entry for entry in decision.entries if entry.reviewer == self._reviewer]
        said = decision.final if by_anybody else own[-1] if own else None
        if said is None or said.class_name != values.get("class_name"):
            return False
        rejected = values["verdict"] == "rejected"
        return rejected or self._same(values["geometry"], _shape(said))

    def _facts(self, identity: str) -> dict[str, Any] | None:
        """Return what is known of the region of an id; None where there is none."""
        index, final = self.index.get(identity), self._decided.get(identity)
        if index is not None:
            return region_values(self._reviewed.regions, index)
        if final is None:
            return None
        names = ("region", "region_hash", "region_class", "geometry")  # added, or of other results
        return {name: getattr(final, name) for name in names}

    def _same(self, shape: Polygon | MultiPolygon, known: Polygon | MultiPolygon) -> bool:
        return is_same_outline(shape, known, self._origin)

    def _judged(self, drawn: Drawn, facts: dict[str, Any]) -> dict[str, Any] | None:
        if is_named(drawn.label, (IGNORE,)):
            return {**facts, "verdict": "rejected"}
        if drawn.label is None:
            return None
        name = self._class_of(drawn, facts["region_class"])
        values = {**facts, "class_name": name}
        if not self._same(drawn.shape, facts["geometry"]):
            return {**values, "verdict": "redrawn", "geometry": drawn.shape}
        if facts["region_class"] is None:
            return {**values, "verdict": "added"}
        if facts["region_class"] != name:
            return {**values, "verdict": "relabeled"}
        # As in the results, which says nothing unless the file is a review or was looked through.
        return {**values, "verdict": "accepted"} if self._accept or drawn.verdict else None

    def _class_of(self, drawn: Drawn, was: str | None) -> str:
        """Return the model's name of a class; of several that QuPath calls alike, that of before."""
        groups = self._reviewed.groups
        for group in (group for name in (drawn.group, was) for group in groups if group.name == name):
            if is_named(drawn.label, (group.name, group.qupath_name)):
                return group.name
        given = self._decided.get(drawn.id)
        if given is not None and given.class_name and is_named(drawn.label, (given.class_name,)):
            return given.class_name  # of another model's results
        try:
            return group_named(str(drawn.label), groups).name
        except UsageError as error:
            raise UsageError(
                f"{self._path}: {error}; change the class in QuPath, or remove the annotation"
            ) from error

    def _area(self, drawn: Drawn) -> dict[str, Any] | None:
        before = [area for area in self._state.areas if uuid_of(area.region) == drawn.id]
        if any(self._same(drawn.shape, _shape(area)) for area in before):
            return None
        return {
            "verdict": "reviewed-area",
            "region": drawn.id,
            "geometry": drawn.shape,
            "supersedes": tuple(area.entry for area in before),
        }


def _shape(entry: ReviewEntry) -> Polygon | MultiPolygon:
    assert entry.geometry is not None  # only revoked entries have none, and they are no state
    return entry.geometry
