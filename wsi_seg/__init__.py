"""wsi_seg: whole-slide histopathology tiling and segmentation.

    from pathlib import Path
    from wsi_seg import RunSettings, load_model, segment_slide

    result = segment_slide("slide.svs", Path("results"), load_model("bcss-demo"), RunSettings())

Names are imported when they are first used, so `import wsi_seg` is quick and loads neither torch nor dask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wsi_seg.errors import WsiSegError
    from wsi_seg.evaluate.config import EvaluateConfig, read_evaluate_config
    from wsi_seg.evaluate.model import EvaluateSettings, evaluate_model
    from wsi_seg.evaluate.stored import evaluate_maps
    from wsi_seg.evaluate.truth import TruthFile
    from wsi_seg.evaluate.write import write_evaluation
    from wsi_seg.explain import ExplainSettings, explain_image
    from wsi_seg.export import export_regions
    from wsi_seg.exporters.geojson import write_geojson
    from wsi_seg.geometry import Box, Scale, Size
    from wsi_seg.maps import Maps
    from wsi_seg.plan import PlanSettings, SegmentationPlan, plan_segmentation
    from wsi_seg.polygons import Region, TraceSettings, trace
    from wsi_seg.readers import open_slide
    from wsi_seg.run import load_model, segment_slide
    from wsi_seg.settings import RegionSettings, RunSettings
    from wsi_seg.slide import Slide, SlideInfo, map_frame, read_region
    from wsi_seg.tissue import TissueMask, find_tissue

_HOMES = {
    "WsiSegError": "errors",
    "EvaluateConfig": "evaluate.config",
    "read_evaluate_config": "evaluate.config",
    "EvaluateSettings": "evaluate.model",
    "evaluate_model": "evaluate.model",
    "evaluate_maps": "evaluate.stored",
    "TruthFile": "evaluate.truth",
    "write_evaluation": "evaluate.write",
    "ExplainSettings": "explain",
    "explain_image": "explain",
    "export_regions": "export",
    "write_geojson": "exporters.geojson",
    "Box": "geometry",
    "Scale": "geometry",
    "Size": "geometry",
    "Maps": "maps",
    "PlanSettings": "plan",
    "SegmentationPlan": "plan",
    "plan_segmentation": "plan",
    "Region": "polygons",
    "TraceSettings": "polygons",
    "trace": "polygons",
    "open_slide": "readers",
    "load_model": "run",
    "segment_slide": "run",
    "RegionSettings": "settings",
    "RunSettings": "settings",
    "Slide": "slide",
    "SlideInfo": "slide",
    "map_frame": "slide",
    "read_region": "slide",
    "TissueMask": "tissue",
    "find_tissue": "tissue",
}

__all__ = [
    "Box",
    "EvaluateConfig",
    "EvaluateSettings",
    "ExplainSettings",
    "Maps",
    "PlanSettings",
    "Region",
    "RegionSettings",
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
