"""Regions of each group as tasks: the bytes of all at once, and none traced again by a run that resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import wsi_seg.pipeline.tracing
from tests.made.landmarks import darkness_model, exact_settings, landmark_slide
from wsi_seg.core.classes import BCSS, BCSS_GROUPS, ClassGroup
from wsi_seg.core.errors import Interrupted
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.exporters.geojson import export, write_geojson
from wsi_seg.exporters.overview import outline_tolerance
from wsi_seg.maps.maps import Maps, create_maps
from wsi_seg.pipeline.export import export_source
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.stages import Stages
from wsi_seg.pipeline.tracing import JoinTask, TraceTask
from wsi_seg.planning.grid import Block, cut_blocks
from wsi_seg.planning.map_layout import MapLayout
from wsi_seg.regions.block_contours import ContourRecipe, TracedBlocks
from wsi_seg.regions.group_outlines import GroupOutlines, note_outline
from wsi_seg.regions.polygons import iter_regions
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.results.files import CONTOURS, JOURNAL, POLYGONS, TRACED
from wsi_seg.slides.slide import Level, SlideInfo, map_frame

BLOCK = 64
# A class may have the name of a group; of the last there is nothing.
GROUPS = (*BCSS_GROUPS[:2], ClassGroup("tumor", (1,), (9, 9, 9)), ClassGroup("fat", (9,), (1, 2, 3)))


def made_maps(path: Path, size: Size, seed: int) -> Maps:
    """Write maps of blobs of three classes; probabilities are 0 or 1."""
    classes = (*BCSS[:2], *(c for c in BCSS if c.code in (9, 19)))
    layout = MapLayout("made", size, 0.5, BLOCK, 2, "uint8", classes)
    create_maps(path, layout)
    maps = Maps.open(path)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((size.height, size.width)), 2)
    codes = np.array([0, 1, 2, 19], np.uint8)
    labels = codes[np.digitize(noise, np.quantile(noise, [0.3, 0.5, 0.8]))]
    for block in cut_blocks(size, BLOCK):
        part = labels[block.box.slices]
        stacked = np.stack([(part[::2, ::2] == c.code) * np.uint8(255) for c in classes])
        maps.write_block(block, labels=part, tissue=part > 0, probabilities=stacked)
    return maps


@settings(max_examples=6, deadline=None)
@given(
    width=st.integers(30, 170),
    height=st.integers(30, 170),
    seed=st.integers(0, 99),
    source=st.sampled_from(["labels", "probabilities"]),
)
def test_groups_that_are_traced_apart_make_the_file_of_all(
    width: int, height: int, seed: int, source: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("maps")
    maps_size = Size(width, height)
    maps = made_maps(folder / "maps.zarr", maps_size, seed)
    l0 = Size(2 * width, 2 * height)
    slide = SlideInfo(
        "a", "a", "image", None, l0, (Level(l0, Scale(1, 1)),), Scale(0.25, 0.25), "image", None, "00"
    )
    frame, chosen = map_frame(slide, 0.5), TraceSettings(0.5, 1, 1, 1, source)
    noted: dict[ClassGroup, GroupOutlines] = {}
    tolerance = outline_tolerance(frame)
    whole = write_geojson(
        iter_regions(maps, GROUPS, chosen),
        folder / "whole.geojson",
        slide=slide,
        frame=frame,
        written=lambda region: note_outline(region, noted, tolerance),
    )
    of_slide, parts = (
        (slide, frame, str(maps.path)),
        [str(folder / TRACED / str(n)) for n in range(len(GROUPS))],
    )
    contours, blocks = ContourRecipe(str(folder / CONTOURS), GROUPS, chosen), [*cut_blocks(maps_size, BLOCK)]
    for block in blocks:
        small = Box(block.box.x0 // 2, block.box.y0 // 2, -(-block.box.x1 // 2), -(-block.box.y1 // 2))
        labels, probabilities = maps.labels[block.box.slices], maps.probabilities[(..., *small.slices)]
        contours.write(maps, block, labels, probabilities)
    of_blocks = TracedBlocks(contours.folder, BLOCK, tuple((block.ix, block.iy) for block in blocks))
    tasks = [
        TraceTask(
            *of_slide, group, chosen, "bounds", of_blocks, part, (parts[0],) if part == parts[2] else ()
        )
        for group, part in zip(GROUPS, parts, strict=True)
    ]
    traced = [task.run() for task in tasks]
    done = JoinTask(*of_slide, "bounds", tuple(parts), str(folder / POLYGONS)).run()
    assert (folder / done.name).read_bytes() == whole.path.read_bytes()
    assert sum(one.vanished for one in traced) == whole.vanished
    found = {one.outlines.group: one.outlines for one in traced if one.outlines.count}
    assert found == {group: replace(outlines, outlines=[]) for group, outlines in noted.items()}
    assert list(found) == list(noted) and whole.count > 3
    for task in tasks:
        expected = noted.get(task.group, GroupOutlines(task.group))
        assert wsi_seg.pipeline.tracing._traced(task.part, task.group).outlines == expected
    assert [task.run() for task in tasks] == traced


# --- a run that resumes ---------------------------------------------------------------------------

SETTINGS = exact_settings(groups=("tumor", "stroma"))
SETTINGS = replace(SETTINGS, formats=("csv",), workers=replace(SETTINGS.workers, scheduler="synchronous"))


def outcome(folder: Path) -> dict[str, str]:
    """Return the hash of each file but those that tell times."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".json", ".html")
    }


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return landmark_slide(tmp_path_factory.mktemp("slide") / "case.svs")


@pytest.fixture(scope="module")
def quiet(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    result = segment_slide(slide, tmp_path_factory.mktemp("quiet"), darkness_model(), SETTINGS)
    return outcome(Path(result.folder))


@pytest.mark.parametrize("cut", [False, True], ids=["blocks done", "a block to do"])
def test_a_group_that_is_traced_is_not_traced_again(
    cut: bool, slide: Path, quiet: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a block is repeated, for its group may have changed."""
    traced: list[str] = []

    def noting(maps: Maps, groups: Sequence[ClassGroup], chosen: TraceSettings, blocks: TracedBlocks) -> Any:
        traced.extend(group.name for group in groups)
        if len(traced) == 2:
            raise Interrupted("interrupted")
        return iter_regions(maps, groups, chosen, blocks)

    monkeypatch.setattr(wsi_seg.pipeline.tracing, "iter_regions", noting)
    with pytest.raises(Interrupted):
        segment_slide(slide, tmp_path, darkness_model(), SETTINGS)
    partial, first = tmp_path / ".case.partial", list(traced)
    assert sorted(first) == ["stroma", "tumor"] and len(list((partial / TRACED).glob("*.npz"))) == 1
    if cut:
        lines = (partial / JOURNAL).read_text().splitlines(keepends=True)
        (partial / JOURNAL).write_text("".join(lines[1:]))
    result = segment_slide(slide, tmp_path, darkness_model(), SETTINGS)
    assert sorted(traced[2:]) == (["stroma", "tumor"] if cut else first[1:])
    assert outcome(Path(result.folder)) == quiet


@pytest.mark.parametrize("source", ["labels", "probabilities"])
def test_contours_of_finished_blocks_are_kept_by_a_run_that_resumes(
    source: Any, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the regions are those that an export traces of the maps."""
    trace = replace(SETTINGS.regions.trace, source=source)
    plan = replace(SETTINGS.plan, block=256)
    chosen = replace(SETTINGS, formats=(), plan=plan, regions=replace(SETTINGS.regions, trace=trace))
    written: list[tuple[int, int]] = []
    write = ContourRecipe.write

    def noting(recipe: ContourRecipe, maps: Maps, block: Block, *arrays: Any) -> None:
        if len(written) == 2:
            written.append((-1, -1))
            raise Interrupted("interrupted")
        written.append((block.ix, block.iy))
        write(recipe, maps, block, *arrays)

    monkeypatch.setattr(ContourRecipe, "write", noting)
    with pytest.raises(Interrupted):
        segment_slide(slide, tmp_path, darkness_model(), chosen)
    left = tmp_path / ".case.partial" / CONTOURS
    assert {path.name for path in left.iterdir()} == {f"{iy}-{ix}.npz" for ix, iy in written[:2]}
    result = segment_slide(slide, tmp_path, darkness_model(), chosen)
    assert len(written) == len({*written}) and len(written) - 1 == result.summary["blocks"]
    assert not {CONTOURS, TRACED} & {path.name for path in Path(result.folder).iterdir()}
    source_of_maps = export_source(Path(result.folder), chosen.regions)
    export(source_of_maps, tmp_path / "again.geojson")
    regions = (Path(result.folder) / POLYGONS).read_bytes()
    assert (tmp_path / "again.geojson").read_bytes() == regions and regions.count(b'"Feature"') > 2


def test_stages_follow_each_other_and_have_all_of_the_time() -> None:
    begun: list[str] = []
    seconds = {"plan": 1.0}
    stages = Stages(["blocks", "blocks", "pyramids", "polygons", "exports"], seconds, begun.append)
    assert begun == ["blocks"]
    for ended in ("pyramids", "blocks", "exports", "blocks"):
        stages.one_ended(ended)
    assert begun == ["blocks", "pyramids", "polygons"] and "exports" not in seconds
    stages.one_ended("polygons")
    assert begun == ["blocks", "pyramids", "polygons", "exports"]  # which has ended, too
    assert list(seconds) == ["plan", "blocks", "pyramids", "polygons", "overview", "exports"]
    assert seconds["overview"] == 0 < seconds["blocks"] and seconds["plan"] == 1
