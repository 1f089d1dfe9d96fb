"""Requests to the filesystem for the pixels of a local slide: a slow, shared one answers each in its time."""

from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import make_settings


def even() -> object:
    """Make a predictor that finds each of four classes as probable as the others."""

    def predict(tiles: NDArray[np.uint8], margin: int = 0) -> NDArray[np.float32]:
        count, height, width, _ = tiles.shape
        return np.full((count, 4, height - 2 * margin, width - 2 * margin), 0.25, np.float32)

    return predict


def test_blocks_read_each_stored_tile_once(
    made_svs: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request for each, of its bytes and no more, though blocks overlap; nothing is read ahead."""
    reads: Counter[tuple[int, int]] = Counter()
    pread = os.pread

    def counted(file: int, count: int, offset: int) -> bytes:
        if threading.current_thread().name.startswith("block"):
            reads[offset, count] += 1
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", counted)
    model = load_model(str(tiny_model), "cpu", "float32")
    model = replace(model, predictor=PredictorRecipe(f"{__name__}:even"))
    settings = make_settings({"device": "cpu", "threads": 1, "block": 512, "overlap": 32, "tissue": "none"})
    result = segment_slide(made_svs, tmp_path, model, settings)
    assert result.summary["blocks"] == 6
    with tifffile.TiffFile(made_svs) as tiff:
        page = tiff.pages.first
        stored = set(zip(page.dataoffsets, page.databytecounts, strict=True))
    assert set(reads) == stored
    assert sum(reads.values()) == len(stored) == 45
