"""Evaluate finished maps against QuPath annotations, or against a mask of the whole slide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import OutputError, SlideError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.patients import patient_by_name
from wsi_seg.datasets.region import IGNORED, Place
from wsi_seg.evaluation.evaluation import Evaluation, Subject, finish
from wsi_seg.evaluation.metrics import NO_ROW
from wsi_seg.evaluation.predict import read_small
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.section import ImageTally, Sampler, Section, Tallies, count, merge
from wsi_seg.evaluation.tally import PredictedBlock
from wsi_seg.evaluation.truth import Truth, TruthFile, file_digest, open_truth
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.export import manifest_part
from wsi_seg.pipeline.result import Result, open_result
from wsi_seg.results.files import MANIFEST, MAPS, read_record
from wsi_seg.slides.readers import reopen_slide

EXAMPLES = 10
MAPS_NOTE = "Finished maps, compared with annotations; ground that nobody annotated has no weight."


def open_maps(path: Path) -> Result:
    """Open OUT/SLIDE, or OUT/SLIDE/maps.zarr; raises OutputError as `open_result`."""
    return open_result(path.absolute().parent if path.name == MAPS else path)


def maps_subject(result: Result) -> Subject:
    """Return what an evaluation says of the maps; OutputError where the manifest is damaged."""
    folder = Path(result.folder)
    manifest = read_record(folder / MANIFEST)
    digest = manifest_part(str, manifest, folder, "model", "digest")
    key = manifest_part(str, manifest, folder, "key")
    return Subject(result.model, digest, {"maps_of": result.slide.name, "run_key": key})


def describe_maps(result: Result, truth: TruthFile) -> dict[str, Any]:
    """Return what the maps are compared with, as JSON values."""
    return {
        "maps": str(result.folder),
        "truth": str(truth.path),
        "class_names": dict(truth.class_names),
        "mask_mpp": truth.mask_mpp,
        "ignored_classes": list(truth.ignored_classes),
        "origin": truth.origin if truth.drawn else None,
        "ignored_codes": list(truth.ignored_codes),
    }


def is_results(path: Path) -> bool:
    """Return whether a path is a results folder of a slide, or its maps."""
    return path.name == MAPS or (path / MAPS).is_dir()


def evaluate_maps(path: Path, truth: TruthFile) -> Evaluation:
    """Compare finished maps of one slide with annotations, at the resolution of the map.

    Labels are compared pixel by pixel. Probabilities, which may be stored coarser, stand for all map pixels
    that they cover. Pixels that the run left out as background count as none of the classes, with
    probability 0.

    Args:
        path: results folder of a slide, or the `maps.zarr` in it.
        truth: annotations or mask.

    Raises:
        OutputError: the results are missing or damaged, or hold no probability of each class.
        DataError: the truth does not fit the maps or the model's classes.
        MaskError: the drawn regions cannot be read.
    """
    started = datetime.now(UTC)
    results = open_maps(Path(path))
    card = results.model
    scheme = LabelScheme(card.tissue_classes, card.mpp, truth.ignored_codes)
    known = open_truth(truth, results.slide, results.frame(), scheme)
    rows = Rows.of_card(card)
    if results.maps.layout.stored is not None:
        raise OutputError(
            f"{results.folder}: holds no probability of each class, which scores need; "
            "run again with --probabilities all"
        )
    section, shown = _count_boxes(results, known, rows)
    note, pictures = _pictures(results, shown)
    examples = tuple(
        sampler.example(image.name, picture, rows[0])
        for image, (_, sampler), picture in zip(section.images, shown, pictures, strict=False)
    )
    section = dataclasses.replace(
        section,
        digest=file_digest(truth.path),
        notes=(MAPS_NOTE, *known.notes, *note),
        seconds=(datetime.now(UTC) - started).total_seconds(),
    )
    data = describe_maps(results, truth)
    return finish(maps_subject(results), (section,), examples, data=data, started=started)


def _count_boxes(
    results: Result, known: Truth, rows: tuple[Rows, ...]
) -> tuple[Section, list[tuple[Box, Sampler]]]:
    """Count all boxes with truth, and keep small copies of the first ones."""
    by_group: dict[str, Tallies] = {}
    images: list[ImageTally] = []
    shown: list[tuple[Box, Sampler]] = []
    slide = results.slide.name
    for box in known.boxes:
        blocks = stored_blocks(results, known, box)
        if len(shown) < EXAMPLES:
            shown.append((box, Sampler(Size(box.width, box.height))))
            blocks = shown[-1][1].watch(blocks)
        tallies = count(blocks, rows)
        merge(by_group, slide, tallies)
        name = f"{slide}_x{box.x0}_y{box.y0}"
        images.append(ImageTally(name, slide, tuple(t.counts for t in tallies)))
    known_patient = patient_by_name(Path(slide)) is not None
    section = Section(
        slide, rows, by_group, tuple(images), files=1, digest="", patients_known=known_patient, notes=()
    )
    return section, shown


def stored_blocks(results: Result, truth: Truth, box: Box) -> Iterator[PredictedBlock]:
    """Yield the parts of the stored maps inside a box, block by block; their boxes count from its corner."""
    maps = results.maps
    side, ds = maps.layout.block, maps.probability_downsample
    channel_of = np.full(256, NO_ROW, np.uint8)
    channel_of[[c.code for c in maps.classes]] = np.arange(len(maps.classes))
    for y in range(box.y0 // side * side, box.y1, side):
        for x in range(box.x0 // side * side, box.x1, side):
            part = Box.at(x, y, side, side).intersect(box)
            target = truth.read(part)
            if (target == IGNORED).all():
                continue
            rows, columns = part.within(Box(0, 0, 0, 0))
            labels = np.asarray(maps.labels[rows, columns])
            yield PredictedBlock(
                part.shifted(-box.x0, -box.y0), target, channel_of[labels], _probabilities(maps, part, ds)
            )


def _probabilities(maps: Maps, part: Box, ds: int) -> NDArray[np.float32]:
    """Return the stored probabilities (C, h, w) of map pixels."""
    rows = np.arange(part.y0, part.y1) // ds
    columns = np.arange(part.x0, part.x1) // ds
    stored = np.asarray(
        maps.probabilities[: len(maps.classes), rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    )
    values = stored[:, (rows - rows[0])[:, None], columns - columns[0]].astype(np.float32)
    return values / np.float32(255) if stored.dtype == np.uint8 else values


def _pictures(
    results: Result, wanted: list[tuple[Box, Sampler]]
) -> tuple[tuple[str, ...], list[NDArray[np.uint8] | None]]:
    """Return the image of each box, or a note and None where the slide is not at hand."""
    info = results.slide
    pictures: list[NDArray[np.uint8] | None] = []
    try:
        with reopen_slide(info) as slide:
            for box, sampler in wanted:
                pictures.append(read_small(Place(slide, results.frame(), box), sampler.step, sampler.size))
    except SlideError as error:
        return (f"The slide could not be opened for pictures: {error}.",), [None] * len(wanted)
    return (), pictures
