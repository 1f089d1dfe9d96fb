"""Networks that look at a slide at low power before it is planned, and find its tissue and artifacts.

They run through the same engine as the main network: a plan, blocks, tiles, stitching. But they are small and
see few pixels (1.5 to 10 µm/px), and the plan needs what they find, so they run in the process of the driver.
Memory holds one block and the cells of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotations.reading import ENDINGS
from wsi_seg.core.card import ModelCard, Task
from wsi_seg.core.classes import TissueClass, canonical_name, find_class_or_group
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.folders import kind_of
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.inference.blocks import BlockMaps, BlockSettings, Predictor, segment_block
from wsi_seg.inference.models.registry import (
    CHECKPOINT_SUFFIXES,
    HUB_PREFIX,
    bundled_names,
    installed_names,
)
from wsi_seg.pipeline.models import Model, load_model
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import ModelFacts, plan_segmentation
from wsi_seg.planning.settings import PlanSettings
from wsi_seg.slides.slide import Slide
from wsi_seg.slides.tolerant import UNREADABLE, read_tolerantly
from wsi_seg.tissue.artifacts import Artifacts
from wsi_seg.tissue.cells import Cells
from wsi_seg.tissue.mask import (
    CELL_UM,
    METHODS,
    MODEL_SOURCE,
    MOST_CELLS,
    TissueMask,
    find_tissue,
)

# Name of the class or group that a tissue finder calls tissue.
TISSUE = "tissue"
# Classes of a finder of artifacts that are none.
NO_ARTIFACTS = ("background", "tissue", "clean", "normal", "no_artifact")
# Cells of artifacts along the longer side of a slide, at most: up to 64 MiB of them.
MOST_ARTIFACT_CELLS = 8192


@dataclass(frozen=True, slots=True)
class Finders:
    """The networks that look at a slide before it is planned; None: there is none for that."""

    tissue: Model | None = None
    artifacts: Model | None = None

    @property
    def facts(self) -> dict[Task, ModelFacts]:
        """Facts of each network by its task."""
        named: tuple[tuple[Task, Model | None], ...] = (
            ("tissue", self.tissue),
            ("artifacts", self.artifacts),
        )
        return {task: model.facts for task, model in named if model is not None}


def is_model(reference: str) -> bool:
    """Return whether the setting `tissue` names a model, not a method and not a file of drawn regions."""
    if reference in METHODS or reference.lower().endswith(ENDINGS):
        return False
    if reference in (*bundled_names(), *installed_names()) or reference.startswith(HUB_PREFIX):
        return True
    return kind_of(Path(reference)) != "file" or reference.lower().endswith(CHECKPOINT_SUFFIXES)


def load_finders(settings: RunSettings) -> Finders:
    """Find the networks that settings ask for, and read their cards.

    Raises:
        ModelError: there is no such model, or its card is wrong.
        UsageError: a model has another task, or artifacts are to be kept that nothing looks for.
    """
    if settings.keep_artifacts and settings.qc is None:
        raise UsageError("keep_artifacts: nothing looks for artifacts without qc; give qc, or leave it out")
    tissue = artifacts = None
    if is_model(settings.tissue):
        tissue = _tissue_finder(settings)
    if settings.qc is not None:
        try:
            artifacts = _load(settings.qc, "artifacts", settings)
            _artifact_classes(artifacts.facts.card)
        except ModelError as error:
            raise ModelError(f"qc: {error}") from error
    return Finders(tissue, artifacts)


def _tissue_finder(settings: RunSettings) -> Model:
    reference = settings.tissue
    try:
        model = _load(reference, "tissue", settings)
        _tissue_codes(model.facts.card)
        return model
    except ModelError as error:
        if reference.startswith(HUB_PREFIX) or kind_of(Path(reference)) in ("folder", "file"):
            raise ModelError(f"tissue: {error}") from error
        raise UsageError(
            f"unknown tissue method {reference!r}; use otsu, none, the path of a GeoJSON file, or a model "
            f"for tissue ({error})"
        ) from error


def _load(reference: str, task: Task, settings: RunSettings) -> Model:
    """Return a model for the driver: on the run's device, or on the CPU where workers are elsewhere."""
    asked = settings.model
    here = ("cpu", "auto") if settings.workers.elsewhere else (asked.device, asked.precision)
    model = load_model(reference, *here)
    card = model.facts.card
    if card.task != task:
        raise UsageError(
            f"{reference}: a model for {card.task} (task in its card), where one for {task} is needed"
        )
    return model


def _tissue_codes(card: ModelCard) -> tuple[int, ...]:
    """Return the codes that a tissue finder calls tissue; ModelError where its card does not name any."""
    try:
        return find_class_or_group(TISSUE, card.tissue_classes, card.class_groups).codes
    except UsageError as error:
        raise ModelError(f"{card.name}: its card names no class or group {TISSUE!r} ({error})") from error


def _artifact_classes(card: ModelCard) -> tuple[TissueClass, ...]:
    """Return the classes of artifacts; ModelError where the card names none."""
    found = tuple(c for c in card.tissue_classes if canonical_name(c.name) not in NO_ARTIFACTS)
    if not found:
        raise ModelError(f"{card.name}: all classes of its card are without artifacts")
    return found


def tissue_of(slide: Slide, settings: RunSettings, finders: Finders) -> TissueMask:
    """Return the tissue of a slide as settings say, with the artifacts in it where these are looked for.

    Raises:
        UsageError, MaskError, SlideError, ModelError: see `find_tissue` and `plan_segmentation`.
    """
    if finders.tissue is None:
        tissue = find_tissue(
            slide,
            settings.tissue,
            origin=settings.regions.origin,
            ignored_classes=settings.ignored_classes,
        )
    else:
        tissue = _found_tissue(slide, settings, finders.tissue)
    if finders.artifacts is None:
        return tissue
    return replace(tissue, artifacts=_found_artifacts(slide, settings, finders.artifacts, tissue))


def _found_tissue(slide: Slide, settings: RunSettings, model: Model) -> TissueMask:
    """Return what a network calls tissue.

    What no level of a damaged slide shows counts as tissue, and is missed.
    """
    codes = _tissue_codes(model.facts.card)

    def value(maps: BlockMaps) -> NDArray[np.uint8]:
        unread = False if maps.coverage is None else maps.coverage == UNREADABLE
        return (np.isin(maps.labels, codes) | unread).view(np.uint8)

    cells = _look(slide, model, find_tissue(slide, "none"), settings, CELL_UM, MOST_CELLS, value)
    return TissueMask(cells.values.astype(bool), cells.l0_per_cell, _source(model))


def _found_artifacts(slide: Slide, settings: RunSettings, model: Model, tissue: TissueMask) -> Artifacts:
    """Return what a network calls artifacts, in tissue; cells are as large as its pixels."""
    classes = _artifact_classes(model.facts.card)
    kept = np.zeros(256, np.uint8)
    for one in classes:
        kept[one.code] = one.code
    cells = _look(slide, model, tissue, settings, 0.0, MOST_ARTIFACT_CELLS, lambda maps: kept[maps.labels])
    return Artifacts(cells, classes, _source(model), excluded=not settings.keep_artifacts)


def _source(model: Model) -> str:
    return f"{MODEL_SOURCE}{model.facts.card.name} ({model.facts.digest[:12]})"


def _look(
    slide: Slide,
    model: Model,
    within: TissueMask,
    settings: RunSettings,
    least_um: float,
    most_cells: int,
    value: Callable[[BlockMaps], NDArray[np.uint8]],
) -> Cells:
    """Run a network over a slide, and keep a value for each cell: that of the pixel at its center.

    Args:
        slide: an open slide.
        model: its resolution is that of the pixels.
        within: where to look; cells elsewhere are 0.
        settings: of the run: its ceiling of memory holds here too.
        least_um: side of a cell in µm, at least; never less than a pixel.
        most_cells: along the longer side of the slide.
        value: makes the values of a block, (h, w).
    """
    how = PlanSettings(
        threads=1, max_memory=settings.plan.max_memory, allow_upsampling=settings.plan.allow_upsampling
    )
    plan = plan_segmentation(slide.info, within, model.facts, how)
    block_settings = BlockSettings(plan.frame, plan.stitch, plan.codes, plan.level, plan.batch)
    predictor = _predictor(model.predictor, model.facts.digest)
    width, height = plan.frame.size.width, plan.frame.size.height
    side = max(1, math.ceil(least_um / plan.frame.mpp - 0.01), math.ceil(max(width, height) / most_cells))
    centers = tuple(np.minimum(np.arange(side // 2, n + side // 2, side), n - 1) for n in (height, width))
    values = np.zeros((len(centers[0]), len(centers[1])), np.uint8)
    for planned in plan.blocks:
        box = planned.block.box
        tissue = within.crop(plan.frame.to_l0(box))
        maps = segment_block(slide, planned.block, tissue, predictor, block_settings, read=read_tolerantly)
        rows, columns = _cells_in(centers, box)
        inside = np.ix_(centers[0][rows] - box.y0, centers[1][columns] - box.x0)
        values[rows, columns] = value(maps)[inside]
    return Cells(values, plan.frame.l0_per_map * Scale(side, side))


def _cells_in(centers: tuple[NDArray[np.int64], ...], box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of the cells whose centers lie in a box."""
    rows = slice(*np.searchsorted(centers[0], (box.y0, box.y1)))
    columns = slice(*np.searchsorted(centers[1], (box.x0, box.x1)))
    return rows, columns


@lru_cache(maxsize=2)
def _predictor(recipe: PredictorRecipe, digest: str) -> Predictor:
    """Return a predictor of this process, apart from those of tasks, which keep one at a time.

    Args:
        recipe: of the predictor.
        digest: of the model, as its files may change.
    """
    predictor: Predictor = resolve_name(recipe.factory)(**dict(recipe.arguments))
    return predictor
