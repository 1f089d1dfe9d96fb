"""Plans: what they count, project and refuse. No torch, no dask, no reader."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import MppMissingError, SlideError, UsageError
from wsi_seg.core.geometry import Scale, Size
from wsi_seg.planning.plan import ModelFacts, PlanSettings, plan_segmentation
from wsi_seg.slides.slide import Level, SlideInfo
from wsi_seg.tissue.mask import TissueMask

CARD = ModelCard(name="test", tile=512, overlap=128)
MODEL = ModelFacts(CARD, "digest", 20_000_000, 400)


def info(size: int = 40_000, mpp: float | None = 0.25, source: str = "openslide") -> SlideInfo:
    levels = tuple(Level(Size(size // f, size // f), Scale(f, f)) for f in (1, 4, 16))
    scale = None if mpp is None else Scale(mpp, mpp)
    return SlideInfo("a.svs", "a", "openslide", "aperio", Size(size, size), levels, scale, source, None, "f")


def tissue(share: float, size: int = 40_000) -> TissueMask:
    mask = np.zeros((100, 100), bool)
    mask[: round(100 * share)] = True
    return TissueMask(mask, Scale(size / 100, size / 100), "test")


def plan(
    share: float = 1.0, slide: SlideInfo | None = None, model: ModelFacts = MODEL, **settings: Any
) -> Any:
    slide = slide or info()
    return plan_segmentation(slide, tissue(share, slide.size.width), model, PlanSettings(**settings))


def test_all_tissue_needs_every_tile_once() -> None:
    full = plan()
    assert full.frame.size == Size(20_000, 20_000)
    assert full.level == 0
    side = -(-20_000 // (512 - 128))
    assert full.tiles == side * side
    assert full.layout.block % (512 - 128) == 0
    assert len(full.blocks) == full.blocks_in_map == (-(-20_000 // full.layout.block)) ** 2


def test_a_gpu_gets_passes_of_the_usual_size_where_nothing_was_measured() -> None:
    gpu = replace(MODEL, device="cuda:0", pass_pixels=2**22)
    assert (plan(model=gpu).batch, plan(model=gpu).threads) == (16, 4)
    assert plan(model=gpu, tile=1024, overlap=256).batch == 4
    assert plan(model=gpu, tile=4096, overlap=256).batch == 1
    assert plan(model=replace(gpu, batches=((512, 8),))).batch == 8
    assert (plan(model=gpu, batch=3, threads=1).batch, plan(model=gpu, batch=3, threads=1).threads) == (3, 1)
    assert (plan().batch, plan().threads) == (1, 2)


def test_tiles_and_output_follow_the_tissue() -> None:
    full, tenth, none = plan(), plan(0.1), plan(0.0)
    assert none.tiles == 0
    assert none.blocks == ()
    assert 0.1 <= tenth.tiles / full.tiles < 0.14
    assert tenth.projected_output_bytes < 0.3 * full.projected_output_bytes
    assert none.projected_output_bytes < 1_000_000


def test_projected_memory_does_not_grow_with_the_slide() -> None:
    small, large = plan(slide=info(10_000)), plan(slide=info(160_000))
    assert large.projected_memory_bytes == small.projected_memory_bytes


@pytest.mark.parametrize(
    "more", [{"block": 4096}, {"blend": "gaussian"}, {"threads": 4}, {"batch": 8}, {"tile": 1024},
             {"uncertainty": True}, {"model": replace(MODEL, tta=True)}],
)  # fmt: skip
def test_what_takes_more_memory_is_projected_to(more: dict[str, Any]) -> None:
    assert plan(**more).projected_memory_bytes > plan().projected_memory_bytes


def test_what_the_uncertainty_is_summed_from_is_projected() -> None:
    more = plan(uncertainty=True, threads=1).projected_memory_bytes - plan(threads=1).projected_memory_bytes
    assert more >= 3 * 4 * plan().layout.block ** 2  # one channel, its logarithm and the sum, as float32


def test_the_uncertainty_counts_only_classes_that_are_assessed() -> None:
    two = replace(MODEL, card=MODEL.card.model_copy(update={"assessed": ("tumor", "stroma")}))
    assert plan(model=two, uncertainty=True).stitch.assessed == 2
    assert plan(uncertainty=True).stitch.assessed is plan(model=two).stitch.assessed is None
    assert plan(model=two).key == plan().key  # with the same digest
    assert plan(model=two, uncertainty=True).key != plan(uncertainty=True).key


def test_projected_output_counts_every_stored_byte() -> None:
    from wsi_seg.planning.map_layout import output_bytes

    full = plan()
    labels = 2 * 20_000**2
    probabilities = 21 * 5_000**2
    assert full.projected_output_bytes == output_bytes(full.layout)
    assert full.projected_output_bytes == pytest.approx((labels + probabilities) * 4 / 3, rel=0.02)
    more = plan(uncertainty=True).projected_output_bytes - full.projected_output_bytes
    assert more == pytest.approx(5_000**2 * 4 / 3, rel=0.02)
    fewer = full.projected_output_bytes - plan(probabilities="groups").projected_output_bytes
    assert fewer == pytest.approx(16 * 5_000**2 * 4 / 3, rel=0.02)
    assert plan(probabilities="groups").projected_memory_bytes < full.projected_memory_bytes


def test_the_key_changes_with_what_changes_bytes_and_with_nothing_else() -> None:
    base = plan(0.5)
    assert plan(0.5).key == base.key
    assert plan(0.5, threads=7).key == base.key
    assert plan(0.5, slide=replace(info(), path="elsewhere/b.svs", name="b")).key == base.key
    others = [
        plan(0.4),
        plan(0.5, overlap=64),
        plan(0.5, blend="mean"),
        plan(0.5, batch=2),
        plan(0.5, probability_downsample=2),
        plan(0.5, probability_dtype="float32"),
        plan(0.5, uncertainty=True),
        plan(0.5, probabilities="groups"),
        plan(0.5, probabilities=("tumor",)),
        plan(0.5, slide=replace(info(), fingerprint="g")),
        plan(0.5, slide=info(mpp=0.2501)),
        plan(0.5, model=replace(MODEL, digest="other")),
        plan(0.5, model=replace(MODEL, precision="bf16")),
        plan(0.5, model=replace(MODEL, tta=True)),
    ]
    assert len({base.key, *(other.key for other in others)}) == len(others) + 1


def test_maps_that_are_cut_otherwise_have_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those that another version has begun."""
    base = plan(0.5).key
    monkeypatch.setattr("wsi_seg.planning.map_layout.MapLayout.block_levels", 1)
    assert plan(0.5).key != base


def test_a_plan_is_json() -> None:
    made = plan(0.3)
    plain = json.loads(json.dumps(made.to_json()))
    assert plain["tiles"] == made.tiles == sum(tiles for _, _, tiles in plain["blocks"])
    assert plain["key"] == made.key
    grid = {"tile": 512, "overlap": 128, "whole": [None, None], "margin": 0, "multiple": 32}
    assert plain["stitch"]["grid"] == grid


def test_the_overlap_comes_from_the_card_only_for_its_own_tile() -> None:
    assert plan().stitch.grid.overlap == 128
    assert plan(tile=1024).stitch.grid.overlap == 384
    assert plan(overlap=0).stitch.grid.overlap == 0
    bare = replace(MODEL, card=CARD.model_copy(update={"overlap": None}))
    assert plan(model=bare).stitch.grid.overlap == 192


def test_slides_that_do_not_fit_the_model() -> None:
    with pytest.raises(MppMissingError, match=r"a\.svs.*--mpp"):
        plan(slide=info(mpp=None))
    with pytest.raises(SlideError, match=r"4\.00× coarser"):
        plan(slide=info(mpp=2.0))
    stretched = plan(slide=info(2_000, mpp=2.0), allow_upsampling=True)
    assert stretched.frame.size == Size(8_000, 8_000)
    assert "stretched" in stretched.warnings[0]
    assert plan(slide=info(mpp=0.5025)).warnings == ()


def test_an_estimated_mpp_is_said_aloud() -> None:
    guessed = plan(slide=info(source="objective-power (estimated)"))
    assert "estimated" in guessed.warnings[0]


def test_what_is_assumed_of_a_slide_is_said_aloud() -> None:
    assert plan(slide=replace(info(mpp=0.5), assumed=("a.dcm is a level",))).warnings == ("a.dcm is a level",)


@pytest.mark.parametrize("block", [100, 32, 2049])
def test_blocks_that_cannot_be_shards(block: int) -> None:
    with pytest.raises(UsageError, match=str(block)):
        plan(block=block)
