"""Results of real runs in a moment: a NumPy stand-in predicts, all else is as always."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.made.landmarks import darkness_model
from wsi_seg.pipeline.models import Model
from wsi_seg.pipeline.run import Progress, segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.polygons import TraceSettings

SMALL_BLOCKS = PlanSettings(tile=128, block=256, overlap=32, probability_downsample=2)


def make_results(
    slide: Path,
    out: Path,
    model: Model | None = None,
    progress: Progress | None = None,
    plan: PlanSettings = SMALL_BLOCKS,
    trace: TraceSettings | None = None,
) -> Path:
    """Run a stand-in on a slide, all of which is analyzed, and return the folder of its results.

    Args:
        slide: file to segment.
        out: folder that gets the results' folder.
        model: by default `darkness_model()`; its first group is traced.
        progress: told what happens, as in `segment_slide`.
        plan: small blocks by default, so that there are many.
        trace: how regions are cut out.
    """
    chosen = model or darkness_model()
    group = chosen.facts.card.groups[0].name
    regions = RegionSettings((group,), trace=trace or TraceSettings())
    settings = RunSettings(tissue="none", plan=plan, regions=regions)
    return Path(segment_slide(slide, out, chosen, settings, progress).folder)


def renamed(model: Model, name: str) -> Model:
    """Return a model whose first class and first group have another name."""
    card = model.facts.card
    classes = (card.classes[0].model_copy(update={"name": name}), *card.classes[1:])
    groups = (card.groups[0].model_copy(update={"name": name}), *card.groups[1:])
    other = card.model_copy(update={"classes": classes, "groups": groups})
    return replace(model, facts=replace(model.facts, card=other))
