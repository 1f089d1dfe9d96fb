"""Slides with dark shapes at known places, and results of them: for tests of everything that shows both.

The shapes are segmented by the stand-in `predictors.Darkness`, so that outlines, class map and slide have to
agree wherever they are drawn.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.card import CardClass, CardGroup, ModelCard
from wsi_seg.core.geometry import Box, Size
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.pipeline.models import Model
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import ModelFacts, PlanSettings
from wsi_seg.regions.polygons import TraceSettings

LIGHT, DARK = (226, 178, 208), (84, 40, 92)
BELOW = ((300, 1630, 520, 1910), (1130, 1640, 1700, 1800))  # what larger slides show too
SIDE = 2048  # of the drawing
SIZE = Size(2048, 1600)  # of the slide, which shows the upper part of the drawing
# Rectangles x0, y0, x1, y1 of the drawing; their edges lie on l0 pixels.
RECTANGLES = (
    (160, 200, 420, 380), (700, 150, 790, 640), (1100, 300, 1500, 520), (230, 900, 640, 990),
    (900, 860, 1240, 1300), (1500, 1010, 1850, 1090),
)  # fmt: skip


def landmark_slide(path: Path, *, bounds: Box | None = None) -> Path:
    """Write a slide of `SIZE` at 0.25 µm/px with `RECTANGLES`.

    Args:
        path: of the slide; `.scn` where there are bounds.
        bounds: place of the scan on a larger slide, in l0 pixels; rectangles count from its corner.
    """
    drawing = Image.new("RGB", (SIDE, SIDE), LIGHT)
    pen = ImageDraw.Draw(drawing)
    for x0, y0, x1, y1 in (*RECTANGLES, *BELOW):
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill=DARK)
    texture = path.with_suffix(".texture.png")
    drawing.save(texture)
    size = Size(bounds.x1 + 512, bounds.y1 + 448) if bounds else SIZE
    make_slide(path, SlideSpec(size, 0.25, tissue=1.0, texture=texture, bounds=bounds))
    texture.unlink()
    return path


def darkness_model(mpp: float = 0.5, tile: int = 256) -> Model:
    """Return a model without a network: dark is tumor, the rest is stroma."""
    card = ModelCard(
        name="darkness",
        notice="for tests only",
        classes=(
            CardClass(code=1, name="tumor", color=(200, 0, 0)),
            CardClass(code=2, name="stroma", color=(150, 200, 150)),
        ),
        groups=(
            CardGroup(name="tumor", codes=(1,), color=(200, 0, 0)),
            CardGroup(name="stroma", codes=(2,), color=(150, 200, 150)),
        ),
        mpp=mpp,
        tile=tile,
    )
    recipe = PredictorRecipe("tests.made.predictors:darkness")
    return Model(ModelFacts(card, digest="0" * 64, weights_bytes=0), recipe)


def exact_settings(threshold: float = 0.5, groups: tuple[str, ...] = ("tumor",)) -> RunSettings:
    """Return settings with outlines as exact as the map: all of the probabilities, hardly simplified."""
    trace = TraceSettings(threshold=threshold, min_area_um2=100, min_hole_um2=100, tolerance_um=0.05)
    return RunSettings(
        tissue="none",
        plan=PlanSettings(block=1024, overlap=16, probability_downsample=1, uncertainty=True),
        regions=RegionSettings(groups=groups, trace=trace),
    )
