from __future__ import annotations

import errno
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given
from hypothesis import strategies as st
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from tests.test_shards import largest_file
from wsi_seg.core.classes import BCSS, TissueClass
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.maps.maps import MapLayout, Maps, create_maps, output_bytes, remove_partial_files
from wsi_seg.maps.pyramid import halve_labels, halve_probabilities
from wsi_seg.planning.grid import cut_blocks

THREE = BCSS[:3]


def layout(width: int = 1300, height: int = 701, **changes: Any) -> MapLayout:
    values = {
        "name": "slide",
        "map_size": Size(width, height),
        "mpp": 0.5,
        "block": 256,
        "probability_downsample": 4,
        "probability_dtype": "uint8",
        "classes": THREE,
    }
    return MapLayout(**{**values, **changes})


def content(lay: MapLayout, seed: int = 0) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    blocks = {}
    for block in cut_blocks(lay.map_size, lay.block):
        h, w, ds = block.box.height, block.box.width, lay.probability_downsample
        labels = rng.integers(0, 4, (h, w), dtype=np.uint8)
        shape = (len(lay.channels), -(-h // ds), -(-w // ds))
        if lay.probability_dtype == "uint8":
            probabilities = rng.integers(0, 256, shape, dtype=np.uint8)
        else:
            probabilities = rng.random(shape, dtype=np.float32)
        blocks[block.ix, block.iy] = {"labels": labels, "tissue": labels > 0, "probabilities": probabilities}
    return blocks


def fill(path: Path, lay: MapLayout, seed: int = 0) -> Maps:
    create_maps(path, lay)
    maps = Maps.open(path)
    blocks = content(lay, seed)
    for block in cut_blocks(lay.map_size, lay.block):
        maps.write_block(block, **blocks[block.ix, block.iy])
    for level in range(lay.block_levels, maps.level_count):
        for shard in maps.pyramid_shards(level):
            maps.build_shard(shard)
    return maps


def tree_hash(path: Path) -> dict[str, str]:
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize(
    "lay",
    [
        layout(),
        layout(100, 90),
        layout(2000, 1, block=64, probability_downsample=8),
        layout(700, 600, block=320, probability_downsample=1, probability_dtype="float32"),
        layout(classes=BCSS, probability_downsample=2),
        layout(uncertainty=True),
    ],
    ids=["usual", "smaller-than-block", "thin", "float", "bcss", "uncertainty"],
)
def test_store_is_valid_ome_zarr(tmp_path: Path, lay: MapLayout) -> None:
    path = tmp_path / "maps.zarr"
    fill(path, lay)
    yaozarrs.validate_zarr_store(str(path))
    Image.from_zarr(zarr.open_group(path, mode="r"))
    for name in ("classes", "tissue"):
        ImageLabel.from_zarr(zarr.open_group(path / "labels" / name, mode="r"))


def test_blocks_read_back_in_place(tmp_path: Path) -> None:
    lay = layout()
    fill(tmp_path / "m.zarr", lay)
    maps, blocks = Maps.open(tmp_path / "m.zarr"), content(lay)
    assert maps.labels.shape == (701, 1300) and maps.probabilities.shape == (3, 176, 325)
    for block in cut_blocks(lay.map_size, lay.block):
        expected, box = blocks[block.ix, block.iy], block.box
        rows, columns = slice(box.y0, box.y1), slice(box.x0, box.x1)
        np.testing.assert_array_equal(maps.labels[rows, columns], expected["labels"])
        np.testing.assert_array_equal(maps.tissue[rows, columns], expected["tissue"])
        h, w = expected["probabilities"].shape[1:]
        y, x = box.y0 // 4, box.x0 // 4
        np.testing.assert_array_equal(maps.probabilities[:, y : y + h, x : x + w], expected["probabilities"])


def test_layout_survives_the_store(tmp_path: Path) -> None:
    lay = layout(classes=BCSS)
    create_maps(tmp_path / "m.zarr", lay)
    maps = Maps.open(tmp_path / "m.zarr")
    assert maps.layout == lay
    assert (maps.mpp, maps.classes, maps.probability_downsample) == (0.5, BCSS, 4)
    assert MapLayout.from_json(json.loads(json.dumps(lay.to_json()))) == lay


@pytest.mark.parametrize(
    ("dtype", "block", "owned"),
    [("uint8", 256, 2), ("float32", 256, 2), ("uint8", 84, 1), ("uint8", 2048, 2)],
)
def test_pyramid_does_not_depend_on_the_cut(tmp_path: Path, dtype: str, block: int, owned: int) -> None:
    lay = layout(probability_dtype=dtype, block=block)
    assert lay.block_levels == owned
    maps = fill(tmp_path / "m.zarr", lay)
    labels, tissue = maps.labels[:], maps.tissue[:]
    probabilities = maps.probabilities[:]
    for level in range(1, maps.level_count):
        labels, tissue = halve_labels(labels), halve_labels(tissue)
        probabilities = np.stack([halve_probabilities(p) for p in probabilities])
        np.testing.assert_array_equal(maps.array("classes", level)[:], labels)
        np.testing.assert_array_equal(maps.array("tissue", level)[:], tissue)
        np.testing.assert_array_equal(maps.array("probabilities", level)[:], probabilities)


def test_levels_end_at_one_screen() -> None:
    lay = layout(100_001, 3)
    top = lay.level_count - 1
    assert lay.size("classes", top).width <= 512 < lay.size("classes", top - 1).width
    assert lay.size("probabilities", top).height == 1
    assert layout(512, 512).level_count == 1


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    lay = layout()
    maps = fill(tmp_path / "a.zarr", lay)
    fill(tmp_path / "b.zarr", lay)
    first = tree_hash(tmp_path / "a.zarr")
    assert len(first) > 50 and first == tree_hash(tmp_path / "b.zarr")
    blocks = content(lay)
    for block in reversed(list(cut_blocks(lay.map_size, lay.block))):
        maps.write_block(block, **blocks[block.ix, block.iy])
    for shard in maps.pyramid_shards(lay.block_levels):
        maps.build_shard(shard)
    assert tree_hash(tmp_path / "a.zarr") == first


def test_threads_write_the_same_bytes(tmp_path: Path) -> None:
    lay = layout(block=128)
    fill(tmp_path / "a.zarr", lay)
    create_maps(tmp_path / "b.zarr", lay)
    maps, blocks = Maps.open(tmp_path / "b.zarr"), content(lay)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(maps.write_block, b, **blocks[b.ix, b.iy]) for b in cut_blocks(lay.map_size, 128)]
        for job in jobs:
            job.result()
        for level in range(1, maps.level_count):
            list(pool.map(maps.build_shard, maps.pyramid_shards(level)))
    assert tree_hash(tmp_path / "a.zarr") == tree_hash(tmp_path / "b.zarr")


def test_a_block_writes_one_shard_of_each_array_at_two_levels(tmp_path: Path) -> None:
    lay = layout()
    create_maps(tmp_path / "m.zarr", lay)
    before = set(tree_hash(tmp_path / "m.zarr"))
    block = list(cut_blocks(lay.map_size, lay.block))[7]
    Maps.open(tmp_path / "m.zarr").write_block(block, **content(lay)[block.ix, block.iy])
    key = f"{block.iy}/{block.ix}"
    assert set(tree_hash(tmp_path / "m.zarr")) - before == {
        f"{folder}/{key}"
        for level in (0, 1)
        for folder in (f"{level}/c/0", f"labels/classes/{level}/c", f"labels/tissue/{level}/c")
    }


def test_empty_shards_are_not_written(tmp_path: Path) -> None:
    lay = layout()
    create_maps(tmp_path / "m.zarr", lay)
    before, maps = tree_hash(tmp_path / "m.zarr"), Maps.open(tmp_path / "m.zarr")
    for block in cut_blocks(lay.map_size, lay.block):
        zeros = {k: np.zeros_like(v) for k, v in content(lay)[block.ix, block.iy].items()}
        maps.write_block(block, **zeros)
    for shard in maps.pyramid_shards(lay.block_levels):
        maps.build_shard(shard)
    assert tree_hash(tmp_path / "m.zarr") == before


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    lay = layout()
    create_maps(tmp_path / "m.zarr", lay)
    block = next(cut_blocks(lay.map_size, lay.block))
    values = content(lay)[0, 0]
    with pytest.raises(ValueError, match="classes"):
        Maps.open(tmp_path / "m.zarr").write_block(block, **{**values, "labels": values["labels"][:-1]})


def test_pixel_centers_agree_between_levels_and_with_labels(tmp_path: Path) -> None:
    lay = layout()
    create_maps(tmp_path / "m.zarr", lay)
    for kind, folder in {"probabilities": "", "classes": "labels/classes", "tissue": "labels/tissue"}.items():
        attributes = json.loads((tmp_path / "m.zarr" / folder / "zarr.json").read_text())["attributes"]
        for level, dataset in enumerate(attributes["ome"]["multiscales"][0]["datasets"]):
            transforms = dataset["coordinateTransformations"]
            assert [t["type"] for t in transforms] in (["scale"], ["scale", "translation"])
            scale = transforms[0]["scale"][-1]
            shift = transforms[1]["translation"][-1] if len(transforms) > 1 else 0.0
            n = lay.downsample(kind, level)
            # The left edge of pixel 0 is half a full-resolution pixel left of that one's center.
            assert scale == 0.5 * n
            assert shift - scale / 2 == pytest.approx(-0.25)


def test_channels_and_labels_carry_names_and_colors(tmp_path: Path) -> None:
    create_maps(tmp_path / "m.zarr", layout(classes=BCSS))
    root = json.loads((tmp_path / "m.zarr/zarr.json").read_text())["attributes"]["ome"]
    channels = root["omero"]["channels"]
    assert [c["label"] for c in channels] == [c.name for c in BCSS]
    assert channels[0]["color"] == "C80000" and channels[0]["window"]["end"] == 255
    assert [c["label"] for c in channels if c["active"]] == ["tumor"]
    classes = json.loads((tmp_path / "m.zarr/labels/classes/zarr.json").read_text())["attributes"]["ome"]
    label = classes["image-label"]
    assert {p["label-value"]: p["name"] for p in label["properties"]}[20] == "dcis"
    rgba = {c["label-value"]: c["rgba"] for c in label["colors"]}
    assert rgba[1] == [200, 0, 0, 255] and rgba[0][3] == 0
    assert json.loads((tmp_path / "m.zarr/0/zarr.json").read_text())["dimension_names"] == ["c", "y", "x"]
    assert "consolidated_metadata" not in json.loads((tmp_path / "m.zarr/zarr.json").read_text())


def test_uncertainty_is_a_channel_after_the_classes(tmp_path: Path) -> None:
    lay = layout(uncertainty=True)
    maps = fill(tmp_path / "m.zarr", lay)
    assert maps.classes == THREE and Maps.open(tmp_path / "m.zarr").layout == lay
    assert maps.probabilities.shape == (4, 176, 325)
    for block in cut_blocks(lay.map_size, lay.block):
        expected = content(lay)[block.ix, block.iy]["probabilities"][3]
        y, x = block.box.y0 // 4, block.box.x0 // 4
        key = (slice(y, y + expected.shape[0]), slice(x, x + expected.shape[1]))
        np.testing.assert_array_equal(maps.uncertainty[key], expected)
    whole = maps.uncertainty[:]
    assert (whole.shape, whole.dtype) == (maps.uncertainty.shape, np.uint8)
    np.testing.assert_array_equal(maps.array("probabilities", 1)[3], halve_probabilities(whole))
    root = json.loads((tmp_path / "m.zarr/zarr.json").read_text())["attributes"]["ome"]
    channels = root["omero"]["channels"]
    assert [c["label"] for c in channels] == [*(c.name for c in THREE), "uncertainty"]
    assert (channels[3]["color"], channels[3]["active"]) == ("FFFFFF", False)
    classes = json.loads((tmp_path / "m.zarr/labels/classes/zarr.json").read_text())["attributes"]["ome"]
    assert len(classes["image-label"]["properties"]) == 4  # not analyzed, and the three classes


def test_maps_without_uncertainty_have_none_also_those_of_before_it_was_known(tmp_path: Path) -> None:
    create_maps(tmp_path / "m.zarr", layout())
    group = zarr.open_group(tmp_path / "m.zarr", mode="r+")
    group.attrs["wsi_seg"] = {k: v for k, v in group.attrs["wsi_seg"].items() if k != "uncertainty"}
    maps = Maps.open(tmp_path / "m.zarr")
    assert maps.layout == layout() and maps.uncertainty is None


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_halved_probabilities_are_area_means(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    halved = halve_probabilities(values)
    assert halved.shape == (-(-height // 2), -(-width // 2))
    for y, x in np.ndindex(halved.shape):
        existing = values[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].astype(int)
        assert halved[y, x] == int(existing.mean() + 0.5)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_halved_labels_are_majorities(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, (height, width), dtype=np.uint8)
    halved = halve_labels(values)
    for y, x in np.ndindex(halved.shape):
        existing = values[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        covered = [v for v in existing if v]
        expected = 0
        if 2 * len(covered) > len(existing):
            expected = max(covered, key=lambda v: (covered.count(v), -covered.index(v)))
        assert halved[y, x] == expected
    np.testing.assert_array_equal(halve_labels((values > 0).astype(np.uint8)) > 0, halved > 0)


def test_output_estimate_is_above_what_noise_takes(tmp_path: Path) -> None:
    lay = layout(classes=(*THREE, TissueClass(9, "fat", (1, 2, 3))))
    fill(tmp_path / "m.zarr", lay)
    taken = sum(p.stat().st_size for p in (tmp_path / "m.zarr").rglob("*") if p.is_file())
    assert taken < output_bytes(lay) < 4 * taken
    assert output_bytes(lay, 0.5) < output_bytes(lay)


@pytest.mark.parametrize(
    "changes", [{"probability_downsample": 3}, {"block": 250}, {"probability_dtype": "f2"}]
)
def test_layouts_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        layout(**changes)


def test_an_existing_store_is_not_overwritten(tmp_path: Path) -> None:
    create_maps(tmp_path / "m.zarr", layout())
    with pytest.raises(OutputError, match="already exists"):
        create_maps(tmp_path / "m.zarr", layout())


def test_a_store_left_half_made_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "m.zarr.partial/labels").mkdir(parents=True)
    create_maps(tmp_path / "m.zarr", layout())
    assert Maps.open(tmp_path / "m.zarr").layout == layout()
    assert not (tmp_path / "m.zarr.partial").exists()


def test_opening_something_else_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("absent.zarr", "empty.zarr", "other.zarr", "damaged.zarr"):
        path = tmp_path / name
        if name == "empty.zarr":
            path.mkdir()
        if name == "other.zarr":
            zarr.open_group(path, mode="w", zarr_format=3)
        if name == "damaged.zarr":
            create_maps(path, layout())
            (path / "zarr.json").write_text('{"zarr_format": 3, "node_')
        with pytest.raises(OutputError, match=name) as caught:
            Maps.open(path)
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    lay = layout()
    create_maps(tmp_path / "m.zarr", lay)

    block = next(cut_blocks(lay.map_size, lay.block))
    with largest_file(10):
        with pytest.raises(OutputError, match=r"m\.zarr: cannot write the maps \(File too large\)") as raised:
            Maps.open(tmp_path / "m.zarr").write_block(block, **content(lay)[0, 0])
        assert raised.value.errno == errno.EFBIG
        with pytest.raises(OutputError, match=r"n\.zarr: cannot write the maps \(File too large\)"):
            create_maps(tmp_path / "n.zarr", lay)


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        create_maps(tmp_path / "file" / "m.zarr", layout())


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    fill(tmp_path / "m.zarr", layout())
    before = tree_hash(tmp_path / "m.zarr")
    (tmp_path / "m.zarr/0/c/0/0/0_deadbeef.__lock").write_bytes(b"half")
    remove_partial_files(tmp_path / "m.zarr")
    assert tree_hash(tmp_path / "m.zarr") == before


def test_all_kinds_have_the_same_number_of_levels(tmp_path: Path) -> None:
    maps = fill(tmp_path / "m.zarr", layout())
    for kind in maps.layout.kinds:
        assert maps.array(kind, maps.level_count - 1).shape
        with pytest.raises(OutputError, match="No such file"):
            maps.array(kind, maps.level_count)
