"""`wsi-seg trace`: maps of other software become the regions that our own become."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import shapely
import tifffile
import zarr
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from tests.made.exports import MadeResult, make_exported
from tests.test_exporters import EXACT, landmark_error
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.cli import app
from wsi_seg.core.classes import TissueClass
from wsi_seg.core.geometry import Scale
from wsi_seg.exporters.check import check_geojson
from wsi_seg.maps.foreign.opening import open_map
from wsi_seg.maps.foreign.pixels import Pixels
from wsi_seg.maps.foreign.stored import StoredMap
from wsi_seg.maps.foreign.views import OTHER, probability_maps
from wsi_seg.maps.maps import Maps
from wsi_seg.results.files import MAPS

TRACED = ("--min-area-um2", "10", "--min-hole-um2", "10", "--tolerance-um", "0.05")
NAMES = ("--class-names", "0=tumor,1=stroma")
CODES = ("--class-names", "1=tumor,2=stroma")
MICROMETER = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]


@dataclass(frozen=True)
class Case:
    """A made result, its slide and its maps."""

    made: MadeResult
    slide: Path
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.uint8]
    mpp: float


@dataclass(frozen=True)
class Truth:
    """Pixels of a case, and the regions that our own export makes of them."""

    array: NDArray[np.uint8]
    mpp: float
    names: tuple[str, ...]
    regions: dict[str, Any]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A slide with bounds."""
    return make_case("bounds", tmp_path_factory.mktemp("bounds"))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A slide without, whose resolution differs on x and y."""
    return make_case("odd", tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module", params=["probabilities", "labels"])
def truth(request: pytest.FixtureRequest, case: Case, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """The case as `wsi-seg export` writes it."""
    out = tmp_path_factory.mktemp("truth") / "a.geojson"
    wanted = ("--classes", "tumor", "--source", request.param)
    done = CliRunner().invoke(app, ["export", str(case.made.folder), "-o", str(out), *wanted, *EXACT])
    assert done.exit_code == 0, done.output
    if request.param == "labels":
        return Truth(case.labels, case.mpp, CODES, ids(out))
    return Truth(case.probabilities, 2 * case.mpp, NAMES, ids(out))


def make_case(kind: str, folder: Path) -> Case:
    made = make_exported(kind, folder)
    maps = Maps.open(made.folder / MAPS)
    (slide,) = (path for path in folder.iterdir() if path.stem == kind and path.is_file())
    return Case(made, slide, np.asarray(maps.labels), np.asarray(maps.probabilities), maps.mpp)


def trace(path: Path, out: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["trace", str(path), "-o", str(out), *map(str, arguments)])


def ids(path: Path) -> dict[str, Any]:
    """Geometries by the ids of regions, which are hashes of slide, group and geometry."""
    assert check_geojson(path) == []
    features = json.loads(path.read_text(encoding="utf-8"))["features"]
    return {item["id"]: item["geometry"] for item in features}


def bounds(feature: dict[str, Any]) -> tuple[float, float, float, float]:
    found: tuple[float, float, float, float] = shapely.from_geojson(json.dumps(feature["geometry"])).bounds
    return found


def refused(done: Result, *words: str, out: Path) -> None:
    """Assert that there is one line with these words, and nothing written."""
    assert done.exit_code in (1, 2), done.output
    lines = [line for line in done.output.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.output
    assert all(word in lines[0] for word in words), lines[0]
    assert not list(out.parent.glob(f"{out.name}*"))


# Ways to write (c, y, x) probabilities, with what else trace has to know.
Write = Callable[[Path, NDArray[Any], float], tuple[Path, tuple[object, ...]]]


def zarr_2(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    found = zarr.create_array(folder / "a.zarr", data=array, chunks=chunks(array, 100), zarr_format=2)
    found.attrs["_ARRAY_DIMENSIONS"] = list("cyx"[-array.ndim :])
    return folder / "a.zarr", ("--mpp", mpp)


def zarr_3_in_zip(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    with zarr.storage.ZipStore(folder / "a.zip", mode="w") as store:
        group = zarr.create_group(store)
        found = group.create_array(
            "x/y", shape=array.shape, dtype=array.dtype, chunks=chunks(array, 64), shards=chunks(array, 128)
        )
        found[:] = array
    return folder / "a.zip", ("--array", "x/y", "--mpp", mpp, *first(array))


def ome_zarr_4(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    group = zarr.create_group(folder / "a.ome.zarr", zarr_format=2)
    group.create_array(
        "s0", data=array, chunks=chunks(array, 128), chunk_key_encoding={"name": "v2", "separator": "/"}
    )
    scale = [{"type": "scale", "scale": [1.0] * (array.ndim - 2) + [mpp * 1000] * 2}]
    axes = [{"name": "c", "type": "channel"}] * (array.ndim - 2)
    axes += [axis | {"unit": "nanometer"} for axis in MICROMETER]
    datasets = [{"path": "s0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    return folder / "a.ome.zarr", ()


def tiff_tiled(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    extra = {"metadata": {"axes": "CYX"[-array.ndim :], "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}}
    tifffile.imwrite(
        folder / "a.ome.tiff", array, tile=(64, 128), bigtiff=True, compression="zlib", ome=True,
        photometric="minisblack", **extra,
    )  # fmt: skip
    return folder / "a.ome.tiff", ()


def tiff_strips(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    pixels = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    tifffile.imwrite(
        folder / "a.tif", pixels, rowsperstrip=7, compression="lzw", photometric="minisblack",
        planarconfig="contig" if array.ndim == 3 else None, resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER", byteorder=">",
    )  # fmt: skip
    return folder / "a.tif", ()


def tiff_plain(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    tifffile.imwrite(
        folder / "a.tif", array, photometric="minisblack", metadata={"axes": "CYX"[-array.ndim :]}
    )
    return folder / "a.tif", ("--mpp", mpp)


def npy(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    np.save(folder / "a.npy", array)
    return folder / "a.npy", ("--mpp", mpp, *first(array))


def npy_channels_last(folder: Path, array: NDArray[Any], mpp: float) -> tuple[Path, tuple[object, ...]]:
    last = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    np.save(folder / "a.npy", np.asfortranarray(last))
    return folder / "a.npy", ("--mpp", mpp, *(("--channels", "last") if array.ndim == 3 else ()))


def chunks(array: NDArray[Any], side: int) -> tuple[int, ...]:
    return (1,) * (array.ndim - 2) + (side, side)


def first(array: NDArray[Any]) -> tuple[str, ...]:
    return ("--channels", "first") if array.ndim == 3 else ()


FORMATS = (
    zarr_2, zarr_3_in_zip, ome_zarr_4, tiff_tiled, tiff_strips, tiff_plain, npy, npy_channels_last,
)  # fmt: skip


@pytest.mark.parametrize("write", FORMATS)
def test_any_format_gives_the_polygons_of_export(
    write: Write, truth: Truth, case: Case, tmp_path: Path
) -> None:
    path, facts = write(tmp_path, truth.array, truth.mpp)
    out = tmp_path / "b.geojson"
    done = trace(path, out, "--slide", case.slide, *facts, *truth.names, "--classes", "tumor", *TRACED)
    assert done.exit_code == 0, done.output
    assert ids(out) == truth.regions != {}
    found = json.loads(out.read_text(encoding="utf-8"))["features"][0]["properties"]["measurements"]
    # Labels have no probability, so none is written.
    assert ("Mean probability" in found) == (truth.array.ndim == 3)
    assert found["Share tumor"] > 0.9


@pytest.mark.parametrize("place", ["", "1", "labels/classes", "labels/classes/1"])
def test_our_own_store_lies_where_it_lies(place: str, case: Case, tmp_path: Path) -> None:
    """Names, resolution and place are read from OME-Zarr 0.5, levels with a translation included."""
    done = trace(
        case.made.folder / MAPS / place, tmp_path / "b.geojson", "--slide", case.slide, "--classes", "tumor",
        "--origin", "level0", *TRACED,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    # A coarse label cannot say where within it a class begins: half of it is 0.5 µm, 2 l0 pixels.
    most = 2.1 if place == "labels/classes/1" else 0.5 if place != "1" else 1
    found = read_annotations(tmp_path / "b.geojson")
    assert landmark_error(list(found.in_l0(None, "level0").geometries), case.made) <= most


def test_other_resolutions_on_x_and_y(odd: Case, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", odd.labels)
    out = tmp_path / "b.geojson"
    shared = (*CODES, "--classes", "tumor", *TRACED)
    done = trace(tmp_path / "a.npy", out, "--slide", odd.slide, "--mpp", odd.mpp, *shared)
    assert done.exit_code == 0, done.output
    assert landmark_error(list(read_annotations(out).geometries), odd.made) <= 0.5
    # The same pixels, of the slide's 2 × 2.5: an image that is no map frame of ours.
    tall = np.repeat(odd.labels, 2, axis=0)
    np.save(tmp_path / "c.npy", tall)
    both = f"{odd.mpp},{odd.mpp / 2}"
    done = trace(tmp_path / "c.npy", out, "--slide", odd.slide, "--mpp", both, *shared)
    assert done.exit_code == 0, done.output
    assert landmark_error(list(read_annotations(out).geometries), odd.made) <= 0.5


def test_without_a_slide_positions_are_what_is_said(case: Case, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", case.labels)
    out = tmp_path / "b.geojson"
    few = (tmp_path / "a.npy", out, "--mpp", case.mpp, *CODES, "--classes", "tumor", *TRACED)
    done = trace(*few, "--slide-mpp", 0.25)
    assert done.exit_code == 0 and "no slide: positions are pixels of 0.25 µm" in done.output
    found = read_annotations(out).in_l0(None, "level0").geometries
    assert landmark_error(list(found), case.made) <= 0.5
    done = trace(*few)
    assert done.exit_code == 0 and f"pixels of {case.mpp:g} µm" in done.output
    coarse = read_annotations(out).in_l0(None, "level0").geometries
    assert landmark_error(list(shapely.transform(coarse, lambda xy: xy * case.mpp / 0.25)), case.made) <= 0.5
    # Two slides of one map shape have other regions, though they lie at the same place.
    shutil.copy(tmp_path / "a.npy", tmp_path / "other.npy")
    assert trace(tmp_path / "other.npy", tmp_path / "c.geojson", *few[2:]).exit_code == 0
    assert not ids(out).keys() & ids(tmp_path / "c.geojson").keys()


def test_offsets(case: Case, tmp_path: Path) -> None:
    """A map of a part of the slide, by --offset, by --offset bounds and by the translation of OME-Zarr."""
    x, y = case.made.origin_l0
    part = case.labels[y // 2 :, x // 2 :]
    path, facts = ome_zarr_4(tmp_path, part, case.mpp)
    shared = ("--slide", case.slide, *CODES, "--classes", "tumor", "--origin", "level0", *TRACED)
    out = tmp_path / "b.geojson"
    for offset in (f"{x},{y}", "bounds"):
        done = trace(path, out, *facts, *shared, "--offset", offset)
        assert done.exit_code == 0, done.output
        found = list(read_annotations(out).in_l0(None, "level0").geometries)
        assert landmark_error(found, case.made) <= 0.5
    group = zarr.open_group(path)
    multiscales = group.attrs["multiscales"]
    shift = {"type": "translation", "translation": [y * 250.0, x * 250.0]}
    multiscales[0]["datasets"][0]["coordinateTransformations"].append(shift)
    group.attrs["multiscales"] = multiscales
    assert trace(path, out, *shared).exit_code == 0
    found = list(read_annotations(out).in_l0(None, "level0").geometries)
    assert landmark_error(found, case.made) <= 0.5


def test_hovernext_gives_classes_to_numbered_nuclei(tmp_path: Path) -> None:
    """`pinst_pp.zip` (Zarr 2, int32) holds numbers, `class_inst.json` their classes and centroids."""
    numbers = np.zeros((90, 120), np.int32)
    numbers[10:30, 10:40], numbers[50:80, 20:60], numbers[10:30, 70:90] = 70_001, 3, 12
    with zarr.storage.ZipStore(tmp_path / "pinst_pp.zip", mode="w") as store:
        zarr.save_array(store, numbers, zarr_format=2)
    classes = {"70001": [2, [20.0, 25.0]], "3": [5, [65.0, 40.0]], "12": [2, [20.0, 80.0]]}
    (tmp_path / "class_inst.json").write_text(json.dumps(classes))
    out = tmp_path / "b.geojson"
    done = trace(
        tmp_path / "pinst_pp.zip", out, "--instances", tmp_path / "class_inst.json", "--mpp", 0.5,
        "--class-names", "2=epithelial,5=eosinophil", *TRACED,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    features = json.loads(out.read_text(encoding="utf-8"))["features"]
    names = [item["properties"]["classification"]["name"] for item in features]
    assert names == ["Epithelial", "Epithelial", "Eosinophil"]
    assert bounds(features[2]) == pytest.approx((20, 50, 60, 80), abs=0.6)
    other = tmp_path / "c.geojson"
    done = trace(tmp_path / "pinst_pp.zip", other, "--instances", out, "--mpp", 0.5)
    refused(done, "b.geojson", "classes", out=other)


def test_tiatoolbox_labels_count_from_zero(tmp_path: Path) -> None:
    """Its Zarr groups hold `predictions` (y, x), 0 is the first class, and `probabilities` (y, x, c)."""
    labels = np.ones((80, 100), np.int64)
    labels[20:60, 20:60] = 0
    group = zarr.create_group(tmp_path / "0.zarr")
    group.create_array("predictions", data=labels)
    group.create_array("probabilities", data=np.stack([labels == 0, labels == 1], axis=-1).astype(np.float32))
    out = tmp_path / "b.geojson"
    refused(trace(tmp_path / "0.zarr", out, "--mpp", 1), "predictions, probabilities", "--array", out=out)
    for more in (("--array", "predictions"), ("--array", "probabilities", "--channels", "last")):
        done = trace(tmp_path / "0.zarr", out, *more, "--mpp", 1, *NAMES, "--classes", "tumor", *TRACED)
        assert done.exit_code == 0, done.output
        (feature,) = json.loads(out.read_text(encoding="utf-8"))["features"]
        assert bounds(feature) == pytest.approx((20, 20, 60, 60), abs=0.6)


def test_names_and_colors_of_the_file(tmp_path: Path) -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[5:25, 5:25], labels[30:50, 5:25], labels[5:25, 30:50] = 3, 7, 9
    path, _ = ome_zarr_4(tmp_path, labels, 2.0)
    group = zarr.open_group(path)
    group.attrs["image-label"] = {
        "colors": [{"label-value": 3, "rgba": [1, 2, 3, 255]}],
        "properties": [{"label-value": 3, "name": "gland"}, {"label-value": 7, "name": "Background"}],
    }
    assert classes(path, tmp_path) == {"Gland": [1, 2, 3]}  # background is not traced unless asked for
    assert classes(path, tmp_path, "--class-names", "7=nerve:#0a0b0c,3=nerve") == {"Nerve": [10, 11, 12]}
    palette = np.zeros((3, 256), np.uint16)
    palette[:, 9] = 0x2200, 0x3300, 0x4400
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="palette", colormap=palette)
    found = classes(tmp_path / "a.tif", tmp_path, "--mpp", 2)
    assert list(found) == ["Class 3", "Class 7", "Class 9"] and found["Class 9"] == [0x22, 0x33, 0x44]
    both = np.stack([labels == 3, labels == 7]).astype(np.float32)
    about = {"axes": "CYX", "Channel": {"Name": ["a", "b"], "Color": [0x102030FF, -1]}}
    about |= {"PhysicalSizeX": 2000, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 2, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", both, photometric="minisblack", metadata=about)
    assert classes(tmp_path / "a.ome.tif", tmp_path) == {"A": [0x10, 0x20, 0x30], "B": [255, 255, 255]}


def classes(path: Path, folder: Path, *arguments: object) -> dict[str, list[int]]:
    done = trace(path, folder / "b.geojson", *arguments, *TRACED)
    assert done.exit_code == 0, done.output
    found = json.loads((folder / "b.geojson").read_text(encoding="utf-8"))["features"]
    return {
        f["properties"]["classification"]["name"]: f["properties"]["classification"]["color"] for f in found
    }


def test_labels_of_probabilities_are_the_most_probable_class() -> None:
    values = np.random.default_rng(1).dirichlet([0.3] * 4, (20, 30)).astype(np.float32).transpose(2, 0, 1)[:3]
    values[:, :2], values[0, 3, 3] = 0, np.nan
    names = tuple(TissueClass(i + 1, f"c{i}", (0, 0, 0)) for i in range(3))
    found = probability_maps(StoredMap("a", values, values.shape, "cyx"), "cyx", Scale(1, 1), names).labels
    known = np.nan_to_num(values)
    truth = np.argmax(np.concatenate([known, 1 - known.sum(0, keepdims=True)]), axis=0) + 1
    truth = np.where(truth == 4, OTHER, truth)
    truth[:2] = 0
    assert (found[0:20, 0:30] == truth).all() and {0, 1, 2, 3, OTHER} == set(np.unique(truth))


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=25, deadline=None)
def test_boxes_are_those_of_the_array(data: st.DataObject) -> None:
    axes = "".join(data.draw(st.permutations("cyxt")))
    shape = [1 if axis == "t" else data.draw(st.integers(1, 40)) for axis in axes]
    sides = tuple(data.draw(st.integers(1, length)) for length in shape)
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    pixels = Pixels(StoredMap("a", array, sides, axes), axes, np.int32, lambda values: values)
    truth = array.transpose([axes.index(axis) for axis in "tcyx"])[0]
    pixels._piece = tuple(sides[axes.index(axis)] for axis in "cyx")  # else one piece holds all of it
    assert pixels.shape == truth.shape
    for _ in range(3):
        bounds = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in truth.shape]
        box = tuple(slice(*bound) for bound in bounds)
        assert (pixels[box] == truth[box]).all()


SAID = {
    "no resolution": (np.ones((9, 9), np.uint8), (), ("microns per pixel", "--mpp")),
    "three axes": (np.ones((3, 9, 9), np.float32), ("--mpp", 1), ("3 × 9 × 9", "--channels")),
    "out of range": (np.full((9, 9), 5, np.float32), ("--mpp", 1), ("holds 5", "0 to 1")),
    "uint16": (np.ones((2, 9, 9), np.uint16), ("--mpp", 1, "--channels", "first"), ("uint16", "uint8")),
    "complex": (np.ones((9, 9), complex), ("--mpp", 1), ("complex128",)),
    "one axis": (np.ones(9, np.uint8), ("--mpp", 1), ("rows and columns",)),
    "all zero": (np.zeros((9, 9), np.uint8), ("--mpp", 1), ("no class",)),
    "many values": (np.arange(900).reshape(30, 30), ("--mpp", 1), ("more than", "--instances")),
    "no labels": (np.ones((9, 9), np.float32), ("--mpp", 1, "--kind", "labels"), ("float32", "integers")),
    "a threshold": (np.ones((9, 9), np.uint8), ("--mpp", 1, "--threshold", 0.3), ("--threshold", "label")),
    "no such class": (np.ones((9, 9), np.uint8), ("--mpp", 1, "--classes", "tumor"), ("tumor", "class 1")),
    "negative mpp": (np.ones((9, 9), np.uint8), ("--mpp", -1), ("--mpp", "positive")),
    "no number": (np.ones((9, 9), np.uint8), ("--mpp", "a"), ("--mpp 'a'",)),
    "no pair": (np.ones((9, 9), np.uint8), ("--mpp", 1, "--class-names", "tumor=1"), ("VALUE=NAME",)),
    "no channel": (np.ones((9, 9), np.float32), ("--mpp", 1, "--class-names", "4=a"), ("no channel 4",)),
    "no bounds": (np.ones((9, 9), np.uint8), ("--mpp", 1, "--offset", "bounds"), ("--slide",)),
    "maps": (np.ones((9, 9), np.uint8), ("--mpp", 1, "--to", "nothing"), ("nothing", "geojson")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_what_is_not_said_or_does_not_fit_is_one_line(name: str, tmp_path: Path) -> None:
    array, arguments, words = SAID[name]
    np.save(tmp_path / "a.npy", array)
    refused(trace(tmp_path / "a.npy", tmp_path / "b.geojson", *arguments), *words, out=tmp_path / "b.geojson")


def test_pictures_and_wrong_endings_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((16, 16, 3), np.uint8), photometric="rgb")
    out = tmp_path / "b.geojson"
    refused(trace(tmp_path / "a.tif", out, "--mpp", 1), "color picture", out=out)
    refused(trace(tmp_path / "a.tif", tmp_path / "b.svg"), ".geojson", out=tmp_path / "b.svg")
    refused(trace(tmp_path / "a.tif", out, "--array", 3), "image '3'", out=out)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(trace(tmp_path / "a.png", out), "neither Zarr", out=out)
    refused(trace(tmp_path / "none.npy", out), "No such file", out=out)
    refused(trace(tmp_path, out), "Zarr", out=out)


# Hostile files: what is written, and a word of what is said.


def truncated_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.ones((90, 90), np.uint8))
    os.truncate(folder / "a.npy", 4000)
    return folder / "a.npy"


def pickled_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", np.array([[{"a": 1}]], dtype=object))
    return folder / "a.npy"


def huge_npy(folder: Path) -> Path:
    shape = (9 * 10**15, 9 * 10**15)
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    (folder / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"0" * 99
    )
    return folder / "a.npy"


def truncated_tiff(folder: Path) -> Path:
    values = np.random.default_rng(1).integers(0, 3, (300, 300)).astype(np.uint8)
    tifffile.imwrite(folder / "a.tif", values, tile=(128, 128), compression="zlib")
    os.truncate(folder / "a.tif", (folder / "a.tif").stat().st_size // 2)
    return folder / "a.tif"


def damaged_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", np.ones((300, 300), np.uint8), tile=(128, 128), compression="zlib")
    with tifffile.TiffFile(folder / "a.tif") as tiff:
        at = tiff.pages.first.dataoffsets[4]
    with (folder / "a.tif").open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 12)
    return folder / "a.tif"


def one_strip_tiff(folder: Path) -> Path:
    """A claim of 30,000 × 30,000 pixels that are compressed as one strip."""
    tifffile.imwrite(folder / "a.tif", np.ones((16, 16), np.uint8), rowsperstrip=16, compression="zlib")
    with tifffile.TiffFile(folder / "a.tif", mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages.first.tags[name].overwrite(30_000)
    return folder / "a.tif"


def zarr_array(folder: Path, **changes: Any) -> Path:
    zarr.create_array(folder / "a.zarr", data=np.ones((90, 90), np.uint8), chunks=(50, 50))
    text = json.loads((folder / "a.zarr" / "zarr.json").read_text())
    (folder / "a.zarr" / "zarr.json").write_text(json.dumps(text | changes))
    return folder / "a.zarr"


def huge_zarr(folder: Path) -> Path:
    return zarr_array(folder, shape=[10**15, 10**15])


def huge_chunks(folder: Path) -> Path:
    grid = {"name": "regular", "configuration": {"chunk_shape": [100_000, 100_000]}}
    return zarr_array(folder, shape=[100_000, 100_000], chunk_grid=grid)


def damaged_zarr(folder: Path) -> Path:
    path = zarr_array(folder)
    (path / "c" / "0" / "1").write_bytes(b"(\xb5/\xfd nonsense")
    return path


def link_in_zarr(folder: Path) -> Path:
    path = zarr_array(folder)
    (path / "c" / "0" / "1").unlink()
    (path / "c" / "0" / "1").symlink_to("/dev/zero")
    return path


def linked_folder_in_zarr(folder: Path) -> Path:
    path = zarr_array(folder)
    shutil.move(path / "c" / "1", folder / "elsewhere")
    (path / "c" / "1").symlink_to(folder / "elsewhere")
    return path


def pipe_in_zarr(folder: Path) -> Path:
    path = zarr_array(folder)
    (path / "c" / "1" / "1").unlink()
    os.mkfifo(path / "c" / "1" / "1")
    return path


def path_trick(folder: Path) -> Path:
    zarr_array(folder)
    group = zarr.create_group(folder / "b.zarr")
    datasets = [{"path": "../a.zarr", "coordinateTransformations": []}]
    group.attrs["ome"] = {"multiscales": [{"axes": MICROMETER, "datasets": datasets}]}
    return folder / "b.zarr"


def wrong_metadata(folder: Path) -> Path:
    path, _ = ome_zarr_4(folder, np.ones((9, 9), np.uint8), 1.0)
    group = zarr.open_group(path)
    group.attrs["multiscales"] = [
        {"axes": MICROMETER, "datasets": [{"path": "s0", "coordinateTransformations": 7}]}
    ]
    return path


def zip_bomb(folder: Path) -> Path:
    zarr_array(folder)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "a.zarr" / "zarr.json", "zarr.json")
        file.writestr("c/0/0", b"")
        file.getinfo("c/0/0").file_size = 2**40
    return folder / "a.zip"


def no_zip(folder: Path) -> Path:
    (folder / "a.zip").write_bytes(b"PK\x03\x04 and so on")
    return folder / "a.zip"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.npy")
    return folder / "a.npy"


HOSTILE = {
    truncated_npy: "a.npy", pickled_npy: "object", huge_npy: "a.npy", truncated_tiff: "incomplete",
    damaged_tiff: "damaged", one_strip_tiff: "MiB", huge_zarr: "claims", huge_chunks: "MiB",
    damaged_zarr: "damaged", link_in_zarr: "link", linked_folder_in_zarr: "link", pipe_in_zarr: "plain",
    path_trick: "out of the store", wrong_metadata: "metadata", zip_bomb: "claims", no_zip: "a.zip",
    a_pipe: "neither a file",
}  # fmt: skip


@pytest.mark.timeout(30)
@pytest.mark.parametrize("write", HOSTILE, ids=lambda write: write.__name__)
def test_hostile_files_are_one_line(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    out = tmp_path / "out.geojson"
    refused(trace(path, out, "--mpp", 1), HOSTILE[write], out=out)


def test_an_inner_path_stays_in_the_store(tmp_path: Path) -> None:
    zarr_array(tmp_path)
    zarr.create_group(tmp_path / "b.zarr")
    out = tmp_path / "out.geojson"
    for inner in ("../a.zarr", "/etc", "x/../../a.zarr"):
        refused(trace(tmp_path / "b.zarr", out, "--mpp", 1, "--array", inner), "out of the store", out=out)


def test_what_was_written_before_stays_where_a_map_turns_out_damaged(tmp_path: Path) -> None:
    path = zarr_array(tmp_path, shape=[90, 90])
    (path / "c" / "1" / "1").write_bytes(b"nonsense")
    out = tmp_path / "out.geojson"
    out.write_text("old")
    done = trace(path, out, "--mpp", 1, *CODES, *TRACED)
    assert done.exit_code == 1 and "damaged" in done.output
    assert out.read_text() == "old" and not list(tmp_path.glob("*.tmp"))


def test_a_view_opens_without_reading(tmp_path: Path) -> None:
    path = damaged_zarr(tmp_path)
    assert open_map(path).array.shape == (90, 90)
