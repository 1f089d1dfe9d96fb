"""Grad-CAM for a class on an image or a region of a slide, as one picture."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, find_class_or_group
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.exporters.gradcam import GradCamSheet, write_gradcam
from wsi_seg.inference.blocks import reflected
from wsi_seg.inference.models.devices import resolve_device
from wsi_seg.inference.models.explain import Explanation, grad_cam, open_model
from wsi_seg.inference.models.openvino import DEVICE as OPENVINO
from wsi_seg.planning.grid import INPUT_MULTIPLE
from wsi_seg.planning.plan import choose_grid
from wsi_seg.planning.resolution import resolution_warnings
from wsi_seg.results.folder import results_name
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import MapFrame, SlideInfo, map_frame, read_region

logger = logging.getLogger(__name__)

# More map pixels than this are refused: a forward pass with its gradients needs about 3 kB for each.
MOST_PIXELS = 1536 * 1536


@dataclass(frozen=True, slots=True)
class ExplainSettings:
    """Class and place to explain."""

    name: str
    """A class of the model, or a group where no class has this name."""
    box_l0: Box | None = None
    """Region of a slide; None: all of it."""
    mpp: float | None = None
    """Microns per l0 pixel, where the image does not say or says it wrong."""
    layer: str | None = None
    """See `models.explain.grad_cam`."""
    device: str = "auto"
    allow_upsampling: bool = False


@dataclass(frozen=True, slots=True)
class ExplainSummary:
    """Record of an explanation."""

    path: Path
    """The picture."""
    name: str
    """The class or group."""
    layer: str
    predicted: int
    """Pixels predicted as the class; when 0, all pixels were the target."""
    pixels: int
    """Map pixels in the picture."""
    silent: bool
    """Nothing in the layer speaks for the class: the heat map is 0 everywhere."""


def explain_image(
    path: str | Path, model: str, settings: ExplainSettings, output: Path | None = None
) -> ExplainSummary:
    """Write a picture of an image, the prediction of a class on it, and its Grad-CAM.

    The image is read as a run reads it, at the model's resolution; the network sees what the picture shows,
    and up to 31 pixels beyond its edges.

    Args:
        path: an image or a slide, as for `open_slide`.
        model: reference as for `load_model`.
        settings: class, region, layer.
        output: PNG file, replaced when it exists; by default a new one in the working folder,
            IMAGE_gradcam_CLASS.png.

    Raises:
        UsageError: the class or layer is unknown, the box is not on the slide, the region is too large, or
            the picture of the default name is there already.
        SlideError: the image cannot be read or is too coarse; MppMissingError: its resolution is unknown.
        ModelError: the model is missing or damaged.
        MissingExtraError: captum is not installed.
        OutputError: the picture cannot be written.
    """
    card, load = open_model(model)
    if not card.output.plain or card.head != "softmax":
        raise UsageError(
            f"{model}: Grad-CAM explains a softmax of the size of the input only, not a network with head "
            f"{card.head}, margin {card.output.margin} and stride {card.output.stride}"
        )
    group = find_class_or_group(settings.name, card.tissue_classes, card.class_groups)
    place = _output_path(path, group, output)
    with open_slide(path, mpp=settings.mpp) as slide:
        info, frame = slide.info, map_frame(slide.info, card.mpp)
        for warning in resolution_warnings(info, frame, settings.allow_upsampling):
            logger.warning("%s: %s", info.name, warning)
        box_map = _region(info, frame, settings.box_l0)
        seen_map = box_map.aligned(INPUT_MULTIPLE)
        grid = choose_grid(card).fitted(frame.size)
        pixels = reflected(read_region(slide, frame, seen_map), seen_map, frame, grid)
    inside = box_map.within(seen_map)
    device = resolve_device(settings.device)
    if device == OPENVINO:
        raise UsageError(f"device {device!r} computes no gradients for Grad-CAM; use auto, cpu or cuda")
    found = grad_cam(load().to(device), card, pixels, group.codes, settings.layer, inside)
    shown = Explanation(found.heat[inside], found.predicted[inside], found.layer)
    write_gradcam(
        place, pixels[inside], shown.heat, shown.predicted, _sheet(info.name, frame.mpp, card, group, shown)
    )
    count = int(shown.predicted.sum())
    return ExplainSummary(place, group.name, found.layer, count, shown.heat.size, not shown.heat.any())


def parse_box(text: str) -> Box:
    """Return the box of "x,y,width,height" in l0 pixels.

    Raises:
        UsageError: it is no such text.
    """
    values = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(values) != 4 or text.count(",") != 3 or 0 in values[2:]:
        raise UsageError(
            f"--box {text!r}: write x,y,width,height in level-0 pixels, such as 2048,1024,1000,1000"
        )
    return Box.at(*values)


def _output_path(path: str | Path, group: ClassGroup, output: Path | None) -> Path:
    if output is None:
        name = re.sub(r"[^\w.+-]+", "_", group.name)
        place = Path.cwd() / f"{results_name(path)}_gradcam_{name}.png"
        if place.exists():  # perhaps of another image of this name
            raise UsageError(f"{place}: is there already; remove it, or give a name with --output FILE.png")
        return place
    if output.suffix.lower() != ".png":
        raise UsageError(f"{output}: the picture is a PNG file; give it a name that ends with .png")
    return output


def _region(info: SlideInfo, frame: MapFrame, box_l0: Box | None) -> Box:
    """Return the map pixels to explain."""
    slide_l0 = Box(0, 0, info.size.width, info.size.height)
    if box_l0 is not None and box_l0.intersect(slide_l0) != box_l0:
        raise UsageError(
            f"{info.path}: --box {box_l0.x0},{box_l0.y0},{box_l0.width},{box_l0.height} reaches beyond the "
            f"slide's {info.size.width} × {info.size.height} pixels; it is x,y,width,height in level-0 pixels"
        )
    map_per_l0 = Scale(1, 1) / frame.l0_per_map
    box_map = frame.box if box_l0 is None else box_l0.scaled(map_per_l0).outward().intersect(frame.box)
    if box_map.width * box_map.height > MOST_PIXELS:
        side_l0 = int(MOST_PIXELS**0.5 * min(frame.l0_per_map.x, frame.l0_per_map.y)) // 100 * 100
        raise UsageError(
            f"{info.path}: {box_map.width} × {box_map.height} pixels at {frame.mpp:g} µm/px are too many to "
            f"explain at once; give a part of the slide with --box x,y,width,height, up to {side_l0} a side"
        )
    return box_map


def _sheet(name: str, mpp: float, card: ModelCard, group: ClassGroup, shown: Explanation) -> GradCamSheet:
    height_um, width_um = (side * mpp for side in shown.heat.shape)
    return GradCamSheet(
        slide=name,
        facts=f"{card.name} · layer {shown.layer} · {width_um:.3g} × {height_um:.3g} µm at {mpp:.3g} µm/px",
        name=group.name.replace("_", " "),
        color=group.color,
        share=float(shown.predicted.mean()),
        silent=not shown.heat.any(),
        notice=card.notice,
        um_per_map=mpp,
    )
