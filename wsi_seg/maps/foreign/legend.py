"""The classes of a map of other software: as the user names them, else as the file does, else by number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsi_seg.core.classes import RGB, TissueClass, canonical_name
from wsi_seg.core.errors import MapError, UsageError
from wsi_seg.core.files import read_plain
from wsi_seg.core.geometry import Size
from wsi_seg.core.threads import map_ahead
from wsi_seg.maps.foreign.pixels import Pixels
from wsi_seg.maps.foreign.stored import StoredMap, ValueName
from wsi_seg.maps.foreign.views import OTHER
from wsi_seg.planning.grid import cut_blocks

Kind = Literal["labels", "probabilities"]

# Classes that one map may have: codes 1 … 254, besides `OTHER`.
MOST_CLASSES = OTHER - 1

# Largest label value; a table of all of them has to be held.
MOST_VALUE = 2**28

# Channel that holds no class in the maps of this package.
UNCERTAINTY = "uncertainty"

# Colors of classes without one, far apart from one another (Okabe and Ito 2008, without black).
COLORS: tuple[RGB, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167),
)  # fmt: skip

PAIR = re.compile(r"(?P<value>\d+)=(?P<name>[^=]+?)(?::#(?P<color>[0-9a-fA-F]{6}))?")


@dataclass(frozen=True, slots=True)
class Legend:
    """The classes of a map."""

    classes: tuple[TissueClass, ...]
    """Of a probability map in the order of its channels."""
    codes: dict[int, int]
    """From label values to codes of the classes; empty for a probability map."""
    uncertainty: int | None = None
    """Channel of the uncertainty."""


def parse_names(text: str | None) -> dict[int, ValueName]:
    """Return the names and colors in `1=tumor,2=stroma:#96c896`, by label value or channel.

    Raises:
        UsageError: a part is no such pair, or a value is named twice.
    """
    found: dict[int, ValueName] = {}
    for pair in filter(None, (part.strip() for part in (text or "").split(","))):
        match = PAIR.fullmatch(pair)
        value = int(match["value"]) if match and len(match["value"]) < 10 else -1
        if match is None or not 0 <= value < MOST_VALUE:
            raise UsageError(
                f"--class-names {pair!r}: write VALUE=NAME, such as 1=tumor or 1=tumor:#c80000, with the "
                "value of label pixels or the number of a channel, from 0"
            )
        if value in found:
            raise UsageError(f"--class-names names {value} twice")
        color = bytes.fromhex(match["color"]) if match["color"] else None
        found[value] = ValueName(
            match["name"].strip(), None if color is None else (color[0], color[1], color[2])
        )
    return found


def kind_of(stored: StoredMap, axes: str, asked: Kind | None) -> Kind:
    """Return which kind of map it is, by type and axes where the user does not say.

    Integers without an axis of classes are labels; floats, and uint8 with such an axis, probabilities.

    Raises:
        MapError: it is neither, or not what the user says.
    """
    dtype = np.dtype(stored.array.dtype)
    channels = stored.array.shape[axes.index("c")] if "c" in axes else 1
    kind = asked or ("probabilities" if dtype.kind == "f" or channels > 1 else "labels")
    if kind == "labels" and (dtype.kind == "f" or channels > 1):
        what = f"{dtype} values" if dtype.kind == "f" else f"{channels} channels"
        raise MapError(f"{stored.path}: holds {what}; a label map is one channel of integers")
    if kind == "probabilities" and dtype.kind != "f" and dtype != np.uint8:
        raise MapError(
            f"{stored.path}: holds {dtype} values; probabilities are uint8 (value / 255) or floats, 0 to 1"
        )
    return kind


def axes_of(stored: StoredMap, channels: Literal["first", "last"] | None) -> str:
    """Return a letter for each axis of an array.

    Args:
        stored: the array.
        channels: where its classes are counted, if the file does not say.

    Raises:
        MapError: the file does not say and neither does the user, or it holds more than one plane.
    """
    shape = tuple(stored.array.shape)
    size = " × ".join(map(str, shape))
    axes = stored.axes
    if axes is None or not (axes.count("y") == axes.count("x") == 1 and axes.count("c") <= 1):
        planes = "yx"
        if channels is not None:
            planes = "cyx" if channels == "first" else "yxc"
        elif any(length > 1 for length in shape[:-2]):
            raise MapError(
                f"{stored.path}: has the axes {size} and does not say which one counts classes; "
                "give --channels first or last"
            )
        if len(planes) > len(shape):
            raise MapError(f"{stored.path}: has the axes {size}, none of which counts classes")
        axes = planes.rjust(len(shape), "o")
    elif channels is not None and "c" not in axes and len(shape) > 2:
        raise MapError(f"{stored.path}: says that its axes are {', '.join(axes)}; leave --channels out")
    wrong = [f"{axis}: {n}" for axis, n in zip(axes, shape, strict=True) if axis not in "cyx" and n > 1]
    if wrong:
        raise MapError(f"{stored.path}: has more than one plane (axes {size}); give one")
    return axes


def read_instances(path: Path) -> dict[int, int]:
    """Return the class of each numbered object, as HoVerNeXt's `class_inst.json` gives them.

    It is an object of JSON whose members are `number: class` or `number: [class, [y, x]]`; read from
    `src/post_process_utils.py` of hover_next_inference, where `pinst_pp.zip` is the map of numbers.

    Raises:
        MapError: it cannot be read, or is something else.
    """
    text = read_plain(path, MapError)
    try:
        members = json.loads(text).items()
        found = {int(key): int(item[0] if isinstance(item, list) else item) for key, item in members}
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise MapError(f"{path}: gives no classes of numbered objects ({error})") from error
    if not found or min(found) < 0 or min(found.values()) < 0:
        raise MapError(f"{path}: gives no classes of numbered objects")
    return found


def label_legend(
    stored: StoredMap,
    axes: str,
    named: Mapping[int, ValueName],
    instances: Mapping[int, int] | None = None,
) -> Legend:
    """Return the classes of a label map; values of one name are one class.

    Without names of the user or the file, the map is read once for its values.

    Args:
        stored: the array.
        axes: a letter for each of its axes.
        named: by the user, in place of what the file says.
        instances: from values to numbers of classes, where the values number objects.

    Raises:
        MapError: it is damaged, or holds more values than there can be classes.
    """
    known = dict(named) or {v: n for v, n in stored.values.items() if n.name is not None and v > 0}
    if not known and instances is not None:
        known = {number: ValueName() for number in sorted(set(instances.values()))}
    elif not known:
        known = {value: stored.values.get(value, ValueName()) for value in _values(stored, axes)}
    names: dict[str, list[int]] = {}
    for value, item in known.items():
        names.setdefault(item.name or f"class {value}", []).append(value)
    if len(names) > MOST_CLASSES:
        raise MapError(f"{stored.path}: has {len(names)} classes; up to {MOST_CLASSES} are traced")
    # A code is the value itself where it can be.
    free = iter(sorted(set(range(1, OTHER)) - set(known)))
    classes: list[TissueClass] = []
    codes: dict[int, int] = {}
    for number, (name, values) in enumerate(names.items()):
        code = next((value for value in values if 0 < value < OTHER), None) or next(free)
        stated = (known[value].color or stored.values.get(value, ValueName()).color for value in values)
        color = next(filter(None, stated), None) or COLORS[number % len(COLORS)]
        classes.append(TissueClass(code, name, color))
        codes |= dict.fromkeys(values, code)
    if instances is not None:
        codes = {value: codes[number] for value, number in instances.items() if number in codes}
    if max(codes, default=0) >= MOST_VALUE:
        raise MapError(
            f"{stored.path}: has the label value {max(codes)}; values below {MOST_VALUE:,} are traced"
        )
    return Legend(tuple(classes), codes)


def channel_legend(stored: StoredMap, axes: str, named: Mapping[int, ValueName]) -> Legend:
    """Return the classes of a probability map, one for each channel; the code of channel i is i + 1.

    Raises:
        MapError: there are too many channels, two of one name, or names of channels that there are not.
    """
    count = stored.array.shape[axes.index("c")] if "c" in axes else 1
    if count > MOST_CLASSES:
        raise MapError(f"{stored.path}: has {count} channels; up to {MOST_CLASSES} are traced")
    if named and max(named) >= count:
        raise MapError(f"{stored.path}: has no channel {max(named)}; its {count} count from 0")
    items = [named.get(i) or stored.channels.get(i, ValueName()) for i in range(count)]
    uncertainty = None
    if count > 1 and count - 1 not in named and items[-1].name == UNCERTAINTY:
        uncertainty = count - 1
        items.pop()
    classes = tuple(
        TissueClass(i + 1, item.name or f"channel {i}", item.color or COLORS[i % len(COLORS)])
        for i, item in enumerate(items)
    )
    twice = _first_double([canonical_name(c.name) for c in classes])
    if twice is not None:
        raise MapError(f"{stored.path}: two channels are called {twice!r}; name them with --class-names")
    return Legend(classes, {}, uncertainty)


def _first_double(names: Sequence[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)


def _values(stored: StoredMap, axes: str) -> list[int]:
    """Return the values above 0 in a label map, sorted."""
    pixels = Pixels(stored, axes, stored.array.dtype, lambda values: values)
    _, height, width = pixels.shape

    def values_in(block: Any) -> list[int]:
        found = np.unique(pixels[(slice(0, 1), *block.box.slices)])
        return [int(value) for value in islice(found[found > 0], MOST_CLASSES + 1)]

    known: set[int] = set()
    for found in map_ahead(values_in, cut_blocks(Size(width, height), 1024)):
        known.update(found)
        if len(known) > MOST_CLASSES:
            raise MapError(
                f"{stored.path}: holds more than {MOST_CLASSES} values, as a map of single nuclei does; name "
                "the values that are classes with --class-names, or give their classes with --instances"
            )
    return sorted(known)
