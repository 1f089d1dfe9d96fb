"""wsi_seg: whole-slide histopathology tiling and segmentation.

    from wsi_seg import open_result, segment_slide

    result = segment_slide("slide.svs", "results", "bcss-demo")  # or open_result("results/slide")
    labels, tumor = result.labels(mpp=2), result.probabilities("tumor", mpp=2)
    regions = result.regions()

Names are imported when they are first used, so `import wsi_seg` is quick and loads neither torch nor dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wsi_seg.core.card import ModelCard
    from wsi_seg.core.errors import Interrupted, WsiSegError
    from wsi_seg.core.geometry import Box, Scale, Size
    from wsi_seg.evaluation.config import EvaluateConfig, read_evaluate_config
    from wsi_seg.evaluation.explain import ExplainSettings, explain_image
    from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model
    from wsi_seg.evaluation.stored import evaluate_maps
    from wsi_seg.evaluation.truth import TruthFile
    from wsi_seg.evaluation.write import write_evaluation
    from wsi_seg.execution.tasks import BlockRecord
    from wsi_seg.exporters.geojson import write_geojson
    from wsi_seg.inference.models.own import Network
    from wsi_seg.inference.settings import ModelSettings
    from wsi_seg.maps.maps import Maps
    from wsi_seg.pipeline.export import export_regions
    from wsi_seg.pipeline.models import Model, load_model
    from wsi_seg.pipeline.result import Result, open_result
    from wsi_seg.pipeline.run import Progress, segment_slide
    from wsi_seg.pipeline.settings import RunSettings
    from wsi_seg.planning.plan import SegmentationPlan, plan_segmentation
    from wsi_seg.planning.settings import PlanSettings
    from wsi_seg.regions.polygons import Region, trace
    from wsi_seg.regions.settings import RegionSettings, TraceSettings
    from wsi_seg.slides.readers import open_slide
    from wsi_seg.slides.slide import MapFrame, Slide, SlideInfo, map_frame, read_region
    from wsi_seg.tissue.mask import TissueMask, find_tissue

_HOMES = {
    "ModelCard": "core.card",
    "Interrupted": "core.errors",
    "WsiSegError": "core.errors",
    "Box": "core.geometry",
    "Scale": "core.geometry",
    "Size": "core.geometry",
    "EvaluateConfig": "evaluation.config",
    "read_evaluate_config": "evaluation.config",
    "ExplainSettings": "evaluation.explain",
    "explain_image": "evaluation.explain",
    "EvaluateSettings": "evaluation.model",
    "evaluate_model": "evaluation.model",
    "evaluate_maps": "evaluation.stored",
    "TruthFile": "evaluation.truth",
    "write_evaluation": "evaluation.write",
    "BlockRecord": "execution.tasks",
    "write_geojson": "exporters.geojson",
    "Network": "inference.models.own",
    "ModelSettings": "inference.settings",
    "Maps": "maps.maps",
    "export_regions": "pipeline.export",
    "Model": "pipeline.models",
    "load_model": "pipeline.models",
    "Result": "pipeline.result",
    "open_result": "pipeline.result",
    "Progress": "pipeline.run",
    "segment_slide": "pipeline.run",
    "RunSettings": "pipeline.settings",
    "SegmentationPlan": "planning.plan",
    "plan_segmentation": "planning.plan",
    "PlanSettings": "planning.settings",
    "Region": "regions.polygons",
    "trace": "regions.polygons",
    "RegionSettings": "regions.settings",
    "TraceSettings": "regions.settings",
    "open_slide": "slides.readers",
    "MapFrame": "slides.slide",
    "Slide": "slides.slide",
    "SlideInfo": "slides.slide",
    "map_frame": "slides.slide",
    "read_region": "slides.slide",
    "TissueMask": "tissue.mask",
    "find_tissue": "tissue.mask",
}

__all__ = [
    "BlockRecord",
    "Box",
    "EvaluateConfig",
    "EvaluateSettings",
    "ExplainSettings",
    "Interrupted",
    "MapFrame",
    "Maps",
    "Model",
    "ModelCard",
    "ModelSettings",
    "Network",
    "PlanSettings",
    "Progress",
    "Region",
    "RegionSettings",
    "Result",
    "RunSettings",
    "Scale",
    "SegmentationPlan",
    "Size",
    "Slide",
    "SlideInfo",
    "TissueMask",
    "TraceSettings",
    "TruthFile",
    "WsiSegError",
    "__version__",
    "evaluate_maps",
    "evaluate_model",
    "explain_image",
    "export_regions",
    "find_tissue",
    "load_model",
    "map_frame",
    "open_result",
    "open_slide",
    "plan_segmentation",
    "read_evaluate_config",
    "read_region",
    "segment_slide",
    "trace",
    "write_evaluation",
    "write_geojson",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return __all__
