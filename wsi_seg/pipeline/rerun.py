"""A table of slides with the settings of their results, for a run of another model in the same way."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.pipeline.settings import KEYS

# Of the settings of a slide: those that say nothing of its maps and regions.
LEFT_OUT = ("model", "precision", "formats")


def settings_texts(manifest: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the settings of finished results that are not at their defaults, as cells of a table of slides.

    Args:
        manifest: of the results.
        folder: theirs, for the message.

    Raises:
        OutputError: the manifest is damaged, or has two µm/px, which no table can hold.
    """
    texts = {}
    try:
        given, tta = manifest["settings"], manifest["plan"]["tta"]
        for name, declared in KEYS.items():
            if declared.scope != "slide" or name in LEFT_OUT:
                continue
            value = tta if name == "tta" else _inner(given, declared.path)
            default = list(declared.default) if isinstance(declared.default, tuple) else declared.default
            if value is not None and value != default:
                texts[name] = _text(value)
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{folder}: its settings cannot be repeated ({error}); run it again") from error
    return texts


def write_table(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a table of slides for `wsi-seg run`, whole or not at all.

    Args:
        path: of the CSV file.
        rows: cells by column; `slide` is an absolute path.

    Raises:
        OutputError: it cannot be written.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (
        writing(path),
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _inner(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(value)
    if isinstance(value, Mapping):  # µm/px of both axes
        if value["x"] != value["y"]:
            raise ValueError(f"{value['x']} and {value['y']} µm/px")
        return repr(value["x"])
    return str(value)
