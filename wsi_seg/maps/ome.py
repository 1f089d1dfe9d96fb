"""The metadata of our OME-Zarr 0.5 stores, and where each level of a pyramid lies in micrometers.

OME-Zarr 0.5: https://ngff.openmicroscopy.org/0.5/. A coordinate in OME-Zarr is that of a pixel's center, and
the center of label pixel (0, 0) at full resolution is the origin, 0 µm. A pixel that stands for n × n of
those has its center (n - 1) / 2 of their sides further on, so every level but that one carries a translation;
without it, coarse levels (and probabilities at a quarter of the resolution) appear shifted up and left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsi_seg.core.classes import RGB, ClassGroup, TissueClass, canonical_name
from wsi_seg.planning.settings import ProbabilityDtype

OME_VERSION = "0.5"


def image_metadata(
    name: str,
    mpp: float,
    downsamples: Sequence[int],
    channels: Sequence[ClassGroup],
    dtype: ProbabilityDtype,
) -> dict[str, Any]:
    """Return the `ome` attribute of the image of probabilities, with axes c, y, x.

    Args:
        name: name of the image.
        mpp: microns per full-resolution map pixel.
        downsamples: for each level, full-resolution map pixels per pixel.
        channels: name and color of each.
        dtype: of the probabilities; 255 of uint8 stands for 1.
    """
    return {
        "version": OME_VERSION,
        "multiscales": [_multiscale(name, mpp, downsamples, with_channels=True)],
        "omero": {"version": OME_VERSION, "channels": [_channel(c, channels, dtype) for c in channels]},
    }


def mask_metadata(name: str, mpp: float, downsamples: Sequence[int], folder: str) -> dict[str, Any]:
    """Return the `ome` attribute of an image (y, x) whose levels are those of one of its labels.

    OME-Zarr has labels in images alone; paths of levels may lead anywhere in the group of the image.

    Args:
        name: name of the image.
        mpp: microns per full-resolution map pixel.
        downsamples: for each level, full-resolution map pixels per pixel.
        folder: of the levels, such as `labels/tissue/`.
    """
    levels = _multiscale(name, mpp, downsamples, with_channels=False, folder=folder)
    return {"version": OME_VERSION, "multiscales": [levels]}


def label_metadata(
    name: str, mpp: float, downsamples: Sequence[int], values: Sequence[TissueClass]
) -> dict[str, Any]:
    """Return the `ome` attribute of a label image with axes y, x.

    Args:
        name: name of the label image.
        mpp: microns per full-resolution map pixel.
        downsamples: for each level, full-resolution map pixels per pixel.
        values: what each value means; 0 is transparent.
    """
    return {
        "version": OME_VERSION,
        "multiscales": [_multiscale(name, mpp, downsamples, with_channels=False)],
        "image-label": {
            "version": OME_VERSION,
            "colors": [{"label-value": v.code, "rgba": [*v.color, 255 if v.code else 0]} for v in values],
            "properties": [{"label-value": v.code, "name": v.name} for v in values],
            "source": {"image": "../../"},
        },
    }


def labels_metadata(names: Sequence[str]) -> dict[str, Any]:
    """Return the `ome` attribute of the group that lists the label images."""
    return {"version": OME_VERSION, "labels": list(names)}


def hex_color(color: RGB) -> str:
    """Return six hex digits, without a hash sign."""
    return "{:02X}{:02X}{:02X}".format(*color)


def _multiscale(
    name: str, mpp: float, downsamples: Sequence[int], *, with_channels: bool, folder: str = ""
) -> dict[str, Any]:
    axes: list[dict[str, str]] = [
        {"name": axis, "type": "space", "unit": "micrometer"} for axis in ("y", "x")
    ]
    if with_channels:
        axes.insert(0, {"name": "c", "type": "channel"})
    return {
        "name": name,
        "axes": axes,
        "datasets": [
            {
                "path": f"{folder}{level}",
                "coordinateTransformations": _transforms(mpp, downsample, with_channels),
            }
            for level, downsample in enumerate(downsamples)
        ],
        "type": "area mean" if with_channels else "majority of 2 x 2",
    }


def _transforms(mpp: float, downsample: int, with_channels: bool) -> list[dict[str, Any]]:
    scale = [mpp * downsample] * 2
    shift = [mpp * (downsample - 1) / 2] * 2
    if with_channels:
        scale, shift = [1.0, *scale], [0.0, *shift]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if downsample > 1:
        transforms.append({"type": "translation", "translation": shift})
    return transforms


def _channel(channel: ClassGroup, channels: Sequence[ClassGroup], dtype: ProbabilityDtype) -> dict[str, Any]:
    top = 255 if dtype == "uint8" else 1
    # Viewers add active channels up; more than one at a time shows a mixture that means nothing.
    shown = next((c for c in channels if canonical_name(c.name) == "tumor"), channels[0])
    return {
        "label": channel.name,
        "color": hex_color(channel.color),
        "window": {"min": 0, "max": top, "start": 0, "end": top},
        "active": channel == shown,
        "inverted": False,
        "coefficient": 1,
        "family": "linear",
    }
