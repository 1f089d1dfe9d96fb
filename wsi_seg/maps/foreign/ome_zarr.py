"""Metadata of OME-Zarr (0.4 and 0.5) images and label images: axes, resolution, place, names and colors.

A coordinate is that of a pixel's center. Without a translation an image begins at the corner of the slide.
With one, 0 µm is taken for the center of the first of the finest pixels of the image and its labels, as these
share one space: the corner of a level of scale s and translation t then lies at t - s / 2 + s_finest / 2.

https://ngff.openmicroscopy.org/0.4/, https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import zarr

from wsi_seg.core.classes import RGB
from wsi_seg.core.errors import MapError
from wsi_seg.core.geometry import Scale
from wsi_seg.maps.foreign.stored import ValueName

# Microns per unit of length that OME-Zarr names; what it names otherwise has no known length.
MICRONS = {
    "micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
    "angstrom": 1e-4, "inch": 25_400.0, "picometer": 1e-6, "decimeter": 1e5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """One level of an OME-Zarr image."""

    array: str
    """Path of its array in the store."""
    axes: str | None = None
    mpp: Scale | None = None
    corner_um: tuple[float, float] | None = None
    values: dict[int, ValueName] = field(default_factory=dict)
    channels: dict[int, ValueName] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Level:
    path: str
    scale_um: Scale | None
    """None where an axis has no unit of length."""
    shift_um: tuple[float, float] | None
    """x, y; None without a translation."""


def image_of_array(store: Any, place: str, name: str) -> Image | None:
    """Return what the group around an array says of it; None where it is in no OME-Zarr image."""
    parent, _, key = place.rpartition("/")
    attributes = _attributes(store, parent) if place else {}
    return describe_image(store, parent, attributes, name, level=key) if attributes else None


def describe_image(
    store: Any, place: str, attributes: Mapping[str, Any], name: str, level: str | None = None
) -> Image | None:
    """Return what the attributes of a group say of one of its levels, by default the finest.

    Args:
        store: the Zarr store.
        place: of the group in it.
        attributes: of the group.
        name: of the map, for messages.
        level: name of the array within the group.

    Returns:
        None where the group is no OME-Zarr image, or has no such level.

    Raises:
        MapError: the metadata are damaged.
    """
    try:
        ome = _ome(attributes)
        multiscale = _multiscale(ome)
        if multiscale is None:
            return None
        axes, levels = _levels(multiscale)
        found = next((item for item in levels if level in (None, item.path)), None)
        if found is None:
            return None
        return Image(
            array=_inside(place, found.path, name),
            axes="".join(axes),
            mpp=found.scale_um,
            corner_um=_corner(found, levels, _other_levels(store, place)),
            values=dict(_label_values(ome)),
            channels=dict(_channels(ome)),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MapError(
            f"{name}: its OME-Zarr metadata are damaged ({type(error).__name__}: {error})"
        ) from error


def _ome(attributes: Mapping[str, Any]) -> Any:
    """Return the attributes of OME-Zarr: in a member of their own since 0.5."""
    return attributes.get("ome", attributes)


def _multiscale(ome: Any) -> Any:
    found = ome.get("multiscales") if isinstance(ome, Mapping) else None
    return found[0] if found else None


def _levels(multiscale: Mapping[str, Any]) -> tuple[list[str], list[_Level]]:
    """Return a letter for each axis, and the levels, finest first."""
    described = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in multiscale["axes"]]
    axes = ["c" if axis.get("type") == "channel" else str(axis["name"])[:1].lower() for axis in described]
    y, x = axes.index("y"), axes.index("x")
    microns = [MICRONS.get(str(described[axis].get("unit"))) for axis in (x, y)]
    levels = []
    for dataset in multiscale["datasets"]:
        scale, shift, is_shifted = [1.0] * len(axes), [0.0] * len(axes), False
        for step in _transforms(dataset, multiscale):
            if step["type"] == "scale":
                factors = [float(value) for value in step["scale"]]
                scale = [a * b for a, b in zip(scale, factors, strict=True)]
                shift = [a * b for a, b in zip(shift, factors, strict=True)]
            elif step["type"] == "translation":
                is_shifted = True
                shift = [a + float(b) for a, b in zip(shift, step["translation"], strict=True)]
            elif step["type"] != "identity":
                raise ValueError(f"a transformation of type {step['type']!r}")
        if not all(math.isfinite(value) for value in (*scale, *shift)) or min(scale[x], scale[y]) <= 0:
            raise ValueError("a scale that is not positive, or no number")
        ux, uy = microns
        known = ux is not None and uy is not None
        scale_um = Scale(scale[x] * ux, scale[y] * uy) if known and ux and uy else None
        shift_um = (shift[x] * ux, shift[y] * uy) if is_shifted and ux and uy else None
        levels.append(_Level(str(dataset["path"]), scale_um, shift_um))
    return axes, levels


def _transforms(dataset: Mapping[str, Any], multiscale: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from dataset.get("coordinateTransformations") or ()
    yield from multiscale.get("coordinateTransformations") or ()


def _corner(level: _Level, levels: list[_Level], others: list[_Level]) -> tuple[float, float] | None:
    if level.scale_um is None or level.shift_um is None:
        return None
    known = [item.scale_um for item in (*levels, *others) if item.scale_um is not None]
    x = level.shift_um[0] - level.scale_um.x / 2 + min(scale.x for scale in known) / 2
    y = level.shift_um[1] - level.scale_um.y / 2 + min(scale.y for scale in known) / 2
    return x, y


def _other_levels(store: Any, place: str) -> list[_Level]:
    """Return the levels of the image that a label image belongs to, and of the labels of an image."""
    before, _, name = place.rpartition("labels/")
    image = before.rstrip("/") if "/" not in name and (before or place.startswith("labels/")) else place
    found: list[_Level] = []
    listed = _ome(_attributes(store, _join(image, "labels"))).get("labels", ())
    for other in (image, *(_join(image, f"labels/{label}") for label in listed if isinstance(label, str))):
        multiscale = _multiscale(_ome(_attributes(store, other))) if ".." not in other else None
        if other != place and multiscale is not None:
            found += _levels(multiscale)[1]
    return found


def _attributes(store: Any, place: str) -> dict[str, Any]:
    """Return the attributes of a group, none where there is no group."""
    try:
        return dict(zarr.open_group(store, path=place, mode="r").attrs.asdict())
    except FileNotFoundError:
        return {}


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _inside(place: str, path: str, name: str) -> str:
    if path.startswith("/") or not {"..", "."}.isdisjoint(path.split("/")):
        raise MapError(f"{name}: its metadata lead out of the store, to {path!r}")
    return _join(place, path)


def _label_values(ome: Mapping[str, Any]) -> Iterator[tuple[int, ValueName]]:
    """Yield label values with the color and name that `image-label` gives them."""
    label = ome.get("image-label") or {}
    colors = {int(item["label-value"]): _rgb(item.get("rgba")) for item in label.get("colors") or ()}
    names = {int(item["label-value"]): item.get("name") for item in label.get("properties") or ()}
    for value in sorted({*colors, *names}):
        named = names.get(value)
        yield value, ValueName(named if isinstance(named, str) and named else None, colors.get(value))


def _rgb(rgba: Any) -> RGB | None:
    if rgba is None:
        return None
    red, green, blue = (min(255, max(0, int(value))) for value in rgba[:3])
    return red, green, blue


def _channels(ome: Mapping[str, Any]) -> Iterator[tuple[int, ValueName]]:
    """Yield channels with what `omero` says of them."""
    for number, channel in enumerate((ome.get("omero") or {}).get("channels") or ()):
        text = str(channel.get("color", "")).lstrip("#")
        color = _rgb(bytes.fromhex(text)) if len(text) == 6 else None
        label = channel.get("label")
        yield number, ValueName(label if isinstance(label, str) and label else None, color)
