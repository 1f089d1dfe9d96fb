"""What a run was asked to do, as a quick hash: finished slides are skipped by it without being opened."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import wsi_seg
from wsi_seg.formats import DICOM_ENDINGS, WITH_FOLDER
from wsi_seg.plan import ModelFacts
from wsi_seg.settings import RunSettings
from wsi_seg.tissue import METHODS


def request_key(path: str | Path, model: ModelFacts, settings: RunSettings) -> str | None:
    """Return a hash of the slide's files (name, size and time of change), the model and the settings.

    Equal hashes mean equal results. Different ones need not mean different results: a copy of a slide has
    another time of change, so then the slide is opened and its content decides (`report.run_key`). None for a
    URL, a missing file, or anything else that can only be told by opening it.
    """
    if "://" in str(path):
        return None
    try:
        files = [_signature(file) for file in slide_files(Path(path))]
        if settings.tissue not in METHODS:
            files.append(_signature(Path(settings.tissue)))
    except OSError:
        return None
    parts = (
        wsi_seg.__version__,
        files,
        model.digest,
        model.device.split(":")[0],
        model.precision,
        model.tta,
        settings.tissue,
        settings.ignored_classes,
        settings.reader,
        settings.series,
        settings.mpp and dataclasses.astuple(settings.mpp),
        {k: v for k, v in dataclasses.asdict(settings.plan).items() if k != "threads"},
        dataclasses.asdict(settings.regions),
        settings.strict,
    )
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _signature(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def slide_files(path: Path) -> list[Path]:
    """Return the files that make up a slide, sorted; OSError where there are none."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if path.suffix.lower() in DICOM_ENDINGS:
        return slide_files(path.parent)
    if path.suffix.lower() in WITH_FOLDER and path.with_suffix("").is_dir():
        return [path, *sorted(file for file in path.with_suffix("").rglob("*") if file.is_file())]
    return [path]
