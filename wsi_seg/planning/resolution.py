"""Resolution of a slide against that of a model: what is said of it, and what is refused."""

from __future__ import annotations

from wsi_seg.core.errors import SlideError
from wsi_seg.slides.slide import MapFrame, SlideInfo, upsampling

# Stretching level-0 pixels by more than this needs --allow-upsampling.
UPSAMPLING_LIMIT = 1.25


def resolution_warnings(info: SlideInfo, frame: MapFrame, allowed: bool) -> tuple[str, ...]:
    """Return what to say about the resolution; SlideError where it is too coarse and not `allowed`."""
    warnings = []
    if info.mpp_estimated and info.mpp is not None:
        warnings.append(
            f"microns per pixel estimated from the objective power ({info.mpp.x:g}); "
            "give --mpp if you know better"
        )
    factor = upsampling(frame)
    if factor > UPSAMPLING_LIMIT and not allowed:
        raise SlideError(
            f"{info.path}: at {frame.mpp * factor:.3g} µm/px the slide is {factor:.2f}× coarser than "
            f"the model's {frame.mpp:g} µm/px; choose another model, or pass --allow-upsampling to stretch it"
        )
    if factor > 1.01:
        warnings.append(f"the slide is {factor:.2f}× coarser than the model's resolution and is stretched")
    return tuple(warnings)
