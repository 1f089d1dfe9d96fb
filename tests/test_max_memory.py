"""The ceiling for memory: what a plan gives up to stay below it, and what it says where it cannot."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Scale, Size
from wsi_seg.planning.plan import ModelFacts, PlanSettings, SegmentationPlan, plan_segmentation
from wsi_seg.slides.slide import Level, SlideInfo
from wsi_seg.tissue.mask import TissueMask

MODEL = ModelFacts(ModelCard(name="test", tile=1024, overlap=256), "digest", 20_000_000, 400)
SIZE = Size(20_000, 20_000)
SLIDE = SlideInfo(
    "a.svs", "a", "tiff", "aperio", SIZE, (Level(SIZE, Scale(1, 1)),), Scale(0.25, 0.25), "tiff", None, "f"
)
TISSUE = TissueMask(np.eye(8, dtype=bool), Scale(2500, 2500), "test")


def plan(max_memory: int | None = None, **settings: Any) -> SegmentationPlan:
    return plan_segmentation(SLIDE, TISSUE, MODEL, PlanSettings(max_memory=max_memory, **settings))


def least_named(error: UsageError) -> int:
    found = re.search(r"the least that works is (\d+)MB", str(error))
    assert found is not None, error
    return int(found[1]) * 1_000_000


@settings(deadline=None, max_examples=30)
@given(
    ceiling=st.integers(100, 8000),
    fixed=st.fixed_dictionaries(
        {},
        optional={
            "tile": st.sampled_from([512, 2048]),
            "block": st.sampled_from([1024, 4096]),
            "threads": st.integers(1, 4),
            "batch": st.integers(1, 4),
        },
    ),
)
def test_a_plan_stays_below_or_names_what_would_do(ceiling: int, fixed: dict[str, int]) -> None:
    try:
        chosen = plan(ceiling * 1_000_000, **fixed)
    except UsageError as error:
        least = least_named(error)
        assert least > ceiling * 1_000_000
        chosen, ceiling = plan(least, **fixed), least // 1_000_000
        with pytest.raises(UsageError):
            plan(least - 1_000_000, **fixed)
    assert chosen.projected_memory_bytes <= ceiling * 1_000_000
    took = {"tile": chosen.stitch.grid.tile, "block": chosen.layout.block,
            "threads": chosen.threads, "batch": chosen.batch}  # fmt: skip
    assert {name: took[name] for name in fixed} == fixed


def test_what_is_given_up_first_and_last() -> None:
    free = plan()
    assert plan(free.projected_memory_bytes) == replace(free, max_memory_bytes=free.projected_memory_bytes)
    less = plan(free.projected_memory_bytes - 1)
    assert (less.threads, less.layout.block, less.stitch.grid) == (1, free.layout.block, free.stitch.grid)
    assert less.key == free.key
    smaller = plan(less.projected_memory_bytes - 1)
    assert smaller.layout.block < free.layout.block and smaller.stitch.grid == free.stitch.grid
    while smaller.stitch.grid == free.stitch.grid:
        assert not smaller.warnings
        smaller = plan(smaller.projected_memory_bytes - 1)
    assert smaller.stitch.grid.tile == 1024 - 128 and smaller.stitch.grid.overlap == 256
    assert "the tile is 896 px, not 1024 as the model's card says" in smaller.warnings[0]


def test_passes_are_as_many_as_their_memory_allows() -> None:
    cores = replace(MODEL, passes=8)

    def passes(max_memory: int | None = None, **settings: Any) -> int:
        return plan_segmentation(SLIDE, TISSUE, cores, PlanSettings(max_memory=max_memory, **settings)).passes

    assert plan().passes == 1  # a model that does best with one
    assert passes(tile=256, overlap=0) == 8
    assert 1 <= passes(tile=2048, overlap=0) < passes(tile=1024, overlap=0) < 8
    # With a ceiling, what costs no speed goes first.
    free = plan_segmentation(SLIDE, TISSUE, cores, PlanSettings(tile=512, overlap=0))
    less = plan_segmentation(
        SLIDE, TISSUE, cores, PlanSettings(tile=512, overlap=0, max_memory=free.projected_memory_bytes - 1)
    )
    assert (less.passes, less.threads) == (free.passes, 1)
    assert passes(1_500_000_000, tile=512, overlap=0) < free.passes
    assert less.key == plan_segmentation(SLIDE, TISSUE, cores, PlanSettings(tile=512, overlap=0)).key


def test_sizes_are_read_and_refused(tiny_model: Any, sample_svs: Any, tmp_path: Any) -> None:
    def call(size: str) -> Any:
        command = ["run", str(sample_svs), "-o", str(tmp_path / "out"), "-m", str(tiny_model), "--dry-run"]
        return CliRunner().invoke(app, [*command, "--json", "--max-memory", size])

    for text, size in (("2GB", 2 * 10**9), ("2GiB", 2 * 2**30), ("1500000000", 1_500_000_000)):
        done = call(text)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)[0]["max_memory_bytes"] == size
    for text, words in (("lots", "max_memory"), ("10MB", "the least that works is")):
        refused = call(text)
        assert refused.exit_code == 2 and refused.stderr.count("error: ") == 1, refused.output
        assert words in refused.stderr
    assert not (tmp_path / "out").exists()
