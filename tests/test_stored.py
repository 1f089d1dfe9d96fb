"""Probabilities that are stored: of all classes, groups, names or none; regions and readers of each."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import yaozarrs
import zarr
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from tests.made.memory_slides import ArraySlide
from tests.made.predictors import Shares
from tests.made.pyramids import write_pyramid
from tests.test_stitch import OnAnotherDevice, stitched, texture
from tests.viewer_server import client, only_id
from wsi_seg import (
    PlanSettings,
    RegionSettings,
    Result,
    RunSettings,
    TraceSettings,
    open_result,
    segment_slide,
)
from wsi_seg.cli import app
from wsi_seg.core.card import CardClass, CardGroup, ModelCard
from wsi_seg.core.classes import find_channels
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.geometry import Scale
from wsi_seg.evaluation.stored import evaluate_maps
from wsi_seg.evaluation.truth import TruthFile
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.maps.fields import ChannelSum
from wsi_seg.pipeline.models import Model
from wsi_seg.planning.grid import Grid
from wsi_seg.planning.plan import ModelFacts
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.planning.stored import stored_groups

CODES = (1, 2, 20, 9)
SUMS = ((0, 2), (1,))  # of the outputs of `Shares`

CARD = ModelCard(
    name="shares",
    classes=tuple(
        CardClass(code=code, name=name, color=(code, 0, 0))
        for code, name in zip(CODES, ("tumor", "stroma", "dcis", "fat"), strict=True)
    ),
    groups=(
        CardGroup(name="tumor", codes=(1, 20), color=(200, 0, 0)),
        CardGroup(name="rest", codes=(2, 9), color=(0, 200, 0)),
    ),
    mpp=0.5,
    tile=128,
)
MODEL = Model(
    ModelFacts(CARD, digest="0" * 64, weights_bytes=0), PredictorRecipe("tests.made.predictors:shares")
)


def settings(probabilities: Any, source: str = "probabilities", **plan: Any) -> RunSettings:
    cut = PlanSettings(
        tile=128, block=256, overlap=32, probability_downsample=2, probabilities=probabilities, **plan
    )
    trace = TraceSettings(min_area_um2=10, min_hole_um2=10, source=source)
    return RunSettings(tissue="none", plan=cut, regions=RegionSettings(("tumor",), trace=trace))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """Results of one slide with other probabilities stored each."""
    folder = tmp_path_factory.mktemp("stored")
    image = Image.new("RGB", (640, 400), "white")
    pen = ImageDraw.Draw(image)
    for level, x in ((40, 40), (80, 230), (100, 420)):  # so that sums of rounded shares differ from 255 p
        pen.rectangle((x, 60, x + 150, 330), fill=(level, level, level))
    pen.rectangle((80, 100, 140, 200), fill="white")
    slide = folder / "slide.tiff"
    write_pyramid(slide, np.asarray(image), Scale(0.25, 0.25), (1, 4))
    chosen = {
        "all": settings("all", uncertainty=True),
        "groups": settings("groups", uncertainty=True),
        "names": settings(("tumor", "dcis")),
        "labels": settings("all", "labels", uncertainty=True),
        "none": settings("none", "labels", uncertainty=True),
        "nothing": settings("none", "labels"),
    }
    return {name: segment_slide(slide, folder / name, MODEL, asked) for name, asked in chosen.items()}


def polygons(result: Result) -> bytes:
    return (Path(result.folder) / "polygons.geojson").read_bytes()


def test_sums_are_found_among_the_channels() -> None:
    every = [(1,), (2,), (3,)]
    assert find_channels(every, (3, 1)) == (0, 2)
    assert find_channels([(1, 20), (20,), (4,)], (1, 20)) == (0,)
    assert find_channels([(20,), (1, 20), (4,), ()], (4, 20, 1)) == (1, 2)
    assert find_channels([(1, 20), (4,)], (1,)) is find_channels([], (1,)) is None
    assert find_channels([(1, 20), (4,)], (4, 7)) is None


def test_a_name_means_the_group_and_wrong_ones_are_refused() -> None:
    groups = CARD.class_groups
    assert stored_groups("all", CARD) is None and stored_groups("none", CARD) == ()
    assert stored_groups("groups", CARD) == groups
    named = stored_groups(("tumor", "dcis", "Tumour"), CARD)
    assert named is not None and [one.codes for one in named] == [(1, 20), (20,)]
    with pytest.raises(UsageError, match=r"probabilities: unknown .*did you mean dcis"):
        stored_groups(("dcsi",), CARD)
    with pytest.raises(UsageError, match="names nothing"):
        stored_groups((), CARD)
    with pytest.raises(UsageError, match="'shares' has no groups"):
        stored_groups("groups", CARD.model_copy(update={"groups": ()}))


@pytest.mark.parametrize(("blend", "elsewhere"), [("crop", False), ("mean", False), ("crop", True)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_stored_sums_are_those_of_the_stored_classes(
    dtype: Any, blend: Any, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = ArraySlide(texture(150, 90), mpp=0.5)
    every = StitchSettings(Grid(64, 32), blend, 2, dtype, uncertainty=True)
    labels, classes = stitched(slide, Shares(), every, 64, CODES)
    predict: Any = Shares()
    if elsewhere:
        monkeypatch.setattr("wsi_seg.inference.stitch.device", lambda array: "another")
        predict = OnAnotherDevice(Shares())
    same, sums = stitched(slide, predict, replace(every, stored=SUMS), 64, CODES)
    assert np.array_equal(same, labels) and sums.dtype == classes.dtype and len(sums) == 3
    for channel, members in zip(sums, SUMS, strict=False):
        np.testing.assert_array_equal(channel, ChannelSum(classes, members, 2)[:, :])
    np.testing.assert_allclose(sums[2].astype(float), classes[4], atol=1)  # logarithms round otherwise there
    none, empty = stitched(slide, predict, replace(every, stored=(), uncertainty=False), 64, CODES)
    assert np.array_equal(none, labels) and empty.shape == (0, 45, 75)


def test_regions_are_the_same_bytes_whatever_is_stored(results: dict[str, Result]) -> None:
    assert len(open_result(results["all"].folder).regions()) == 3
    assert polygons(results["groups"]) == polygons(results["all"])
    bare = json.loads(polygons(results["all"]))
    for feature in bare["features"]:
        del feature["properties"]["measurements"]["Mean uncertainty"]
    assert json.loads(polygons(results["names"])) == bare


def test_without_probabilities_regions_of_labels_lack_their_mean_alone(results: dict[str, Result]) -> None:
    known = json.loads(polygons(results["labels"]))
    assert len(known["features"]) == 3
    for feature in known["features"]:
        del feature["properties"]["measurements"]["Mean probability"]
    assert json.loads(polygons(results["none"])) == known  # their mean uncertainty too
    assert open_result(results["none"].folder).regions().mean_probability.isna().all()


def test_stores_are_valid_and_name_what_they_hold(results: dict[str, Result]) -> None:
    held = {
        "groups": ["tumor", "rest", "uncertainty"],
        "names": ["tumor", "dcis"],
        "none": ["uncertainty"],
    }
    for name, channels in held.items():
        path = results[name].maps.path
        yaozarrs.validate_zarr_store(str(path))
        ome: Any = zarr.open_group(path, mode="r").attrs["ome"]
        assert [c["label"] for c in ome["omero"]["channels"]] == channels
        assert [c["active"] for c in ome["omero"]["channels"]].count(True) == 1
        assert results[name].maps.probabilities.shape[0] == len(channels)
    bare = results["nothing"].maps.path
    yaozarrs.validate_zarr_store(str(bare))
    assert not (bare / "0").exists()
    group = zarr.open_group(bare, mode="r")
    (image,) = group.attrs["ome"]["multiscales"]  # type: ignore[index,call-overload]
    assert np.array_equal(group[image["datasets"][0]["path"]], results["nothing"].labels("tissue"))


def test_arrays_of_what_is_stored(results: dict[str, Result]) -> None:
    every, groups, names = (results[name] for name in ("all", "groups", "names"))
    assert np.array_equal(groups.probabilities("tumor"), every.probabilities("tumor"))
    assert groups.probabilities().shape[0] == 2 and np.array_equal(
        groups.probabilities()[0], groups.probabilities("tumor")
    )
    assert np.array_equal(names.probabilities("dcis"), every.probabilities("dcis"))
    for name in ("groups", "none"):
        assert np.array_equal(results[name].uncertainty(), every.uncertainty())
    with pytest.raises(
        UsageError, match=r"'dcis' is not stored \(stored: tumor, rest\); .*--probabilities all"
    ):
        groups.probabilities("dcis")
    with pytest.raises(UsageError, match="no probabilities are stored"):
        results["nothing"].probabilities()
    with pytest.raises(UsageError, match=r"no level 0 of 'probabilities'.* classes, tissue"):
        results["nothing"].dask_array("probabilities")
    with pytest.raises(OutputError, match="no probabilities are stored"):
        results["nothing"].maps.probabilities  # noqa: B018


def test_what_cannot_be_traced_is_said_before_a_run_and_after(
    results: dict[str, Result], tmp_path: Path
) -> None:
    slide = results["all"].slide.path
    for asked in ("none", ("fat",)):
        with pytest.raises(
            UsageError, match=r"regions of 'tumor' are traced by a probability .*--source labels"
        ):
            segment_slide(slide, tmp_path / "out", MODEL, settings(asked))
    assert not (tmp_path / "out").exists()
    fat = RegionSettings((), ("fat",), trace=results["all"].run_regions.trace)
    for name in ("groups", "nothing"):
        with pytest.raises(UsageError, match="probability of 'fat' is not stored"):
            results[name].regions(fat)
    assert len(results["groups"].regions(replace(fat, trace=replace(fat.trace, source="labels")))) == 0


def test_other_probabilities_are_other_results(results: dict[str, Result], tmp_path: Path) -> None:
    folder = Path(results["groups"].folder)
    with pytest.raises(OutputError, match=r"another slide, model or settings \(.*plan.probabilities"):
        segment_slide(results["all"].slide.path, folder.parent, MODEL, settings("all", uncertainty=True))
    again = segment_slide(
        results["all"].slide.path, folder.parent, MODEL, settings("groups", uncertainty=True)
    )
    assert again.status == "skipped"


def test_exports_hold_what_is_stored(results: dict[str, Result], tmp_path: Path) -> None:
    import tifffile

    for name, series in (("groups", 2), ("nothing", 1)):
        results[name].export("ome-tiff", tmp_path / f"{name}.ome.tiff")
        with tifffile.TiffFile(tmp_path / f"{name}.ome.tiff") as file:
            assert len(file.series) == series
    results["nothing"].export("ozx", tmp_path / "a.ozx")
    command = [
        "export",
        str(results["groups"].folder),
        "--to",
        "csv",
        "-o",
        str(tmp_path / "a.csv"),
        "--classes",
        "dcis",
    ]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "'dcis' is not stored" in refused.output
    if importlib.util.find_spec("highdicom") is None:
        return
    results["groups"].export("dicom-pm", tmp_path / "a.dicom-pm")
    assert {path.name for path in (tmp_path / "a.dicom-pm").glob("*_0.dcm")} == {
        "000_tumor_0.dcm", "000_rest_0.dcm", "000_uncertainty_0.dcm",
    }  # fmt: skip
    results["none"].export("dicom-ann", tmp_path / "a.dcm")
    with pytest.raises(UsageError, match="no probabilities are stored"):
        results["nothing"].export("dicom-pm", tmp_path / "b.dicom-pm")


def test_scores_of_maps_need_each_class(results: dict[str, Result], tmp_path: Path) -> None:
    shape = json.loads(shapely.to_geojson(shapely.box(20, 30, 180, 200)))
    feature = {
        "type": "Feature", "geometry": shape,
        "properties": {"classification": {"name": "tumor", "color": [1, 2, 3]}},
    }  # fmt: skip
    truth = tmp_path / "truth.geojson"
    truth.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    with pytest.raises(OutputError, match="no probability of each class"):
        evaluate_maps(Path(results["groups"].folder), TruthFile(truth))


@pytest.mark.parametrize(
    ("name", "channels", "stored"),
    [
        ("all", ["tumor", "stroma", "dcis", "fat"], [True, True]),
        ("groups", ["tumor", "rest"], [True, True]),
        ("names", ["dcis", "tumor"], [True, False]),
        ("nothing", [], [False, False]),
    ],
)
def test_the_viewer_offers_what_is_stored(
    name: str, channels: list[str], stored: list[bool], results: dict[str, Result]
) -> None:
    asking = client(Path(results[name].folder).parent)
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    assert facts["channels"] == channels and [one["stored"] for one in facts["groups"]] == stored
    assert ("probability" in facts["layers"]) is bool(channels)
    for channel in channels:
        assert asking.get(f"{base}/layers/probability/9/0_0.png?channel={channel}").status_code == 200
    view = "box=0,0,640,400&scale=1&channel=tumor&threshold=0.5"
    contours = asking.get(f"{base}/contours?{view}")
    if channels:
        assert len(contours.json()["regions"]) == 3
    else:
        assert contours.status_code == 404 and "not stored" in contours.text
