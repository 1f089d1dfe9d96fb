"""Reviews as files: GeoJSON for QuPath and back, and the commands of `wsi-seg review`."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely import box
from typer.testing import CliRunner

from tests.made.pyramids import write_pyramid
from tests.made.results import make_results
from tests.made.reviews import regions_of, reviewed_results, slide_info, verdict_on
from wsi_seg.cli import app
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.exporters.check import check_geojson
from wsi_seg.results.files import POLYGONS
from wsi_seg.review.agreement import agreement
from wsi_seg.review.entries import ReviewEntry
from wsi_seg.review.exchange import Edits, read_edits, write_review
from wsi_seg.review.places import review_folder
from wsi_seg.review.results import open_reviewed
from wsi_seg.review.state import fold
from wsi_seg.review.store import ReviewStore

REGIONS = regions_of(
    (box(100, 100, 300, 300), "tumor"),
    (box(400, 100, 500, 300), "stroma"),
    (box(700, 700, 900, 900), "tumor"),
)
BOUNDS = Box(64, 32, 1800, 1400)
REVIEWED = reviewed_results(REGIONS, slide_info(bounds=BOUNDS))
AREA = ReviewEntry(
    verdict="reviewed-area", slide=REVIEWED.slide.fingerprint, reviewer="Ada", region="f" * 32,
    geometry=box(50, 50, 600, 600),
)  # fmt: skip
ENTRIES = [
    verdict_on(REGIONS, 0),
    verdict_on(REGIONS, 1, "rejected", comment="fat"),
    verdict_on(REGIONS, 2, "redrawn", class_name="stroma", geometry=box(700.25, 700, 950, 900)),
    AREA,
]


def saved_in_qupath(path: Path) -> dict[str, Any]:
    """Return the document of a file as QuPath saves it again: without our member at the top."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    del document["wsi_seg"]
    return document


def edits_of(path: Path, document: Any, entries: list[ReviewEntry], **options: Any) -> Edits:
    path.write_text(json.dumps(document), encoding="utf-8")
    return read_edits(path, REVIEWED, fold(entries), "Bob", **options)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "review.geojson"
    counts = write_review(fold(ENTRIES), REVIEWED, path)
    assert counts == {"accepted": 1, "rejected": 1, "redrawn": 1, "reviewed-area": 1}
    return path


def test_an_exported_review_is_what_qupath_reads(exported: Path, tmp_path: Path) -> None:
    assert check_geojson(exported) == []
    features = json.loads(exported.read_text(encoding="utf-8"))["features"]
    assert [one["properties"]["classification"]["name"] for one in features] == [
        "Tumor", "Ignore*", "Stroma", "Region*",
    ]  # fmt: skip
    assert [one["id"].replace("-", "") for one in features][:3] == [i.replace("-", "") for i in REGIONS.ids]
    assert features[1]["properties"]["metadata"]["comment"] == "fat"
    # Counted from the bounds, where QuPath counts from.
    assert shapely.geometry.shape(features[0]["geometry"]).bounds == (36, 68, 236, 268)
    packed = tmp_path / "review.geojson.gz"
    write_review(fold(ENTRIES), REVIEWED, packed, origin="level0", verdicts=("accepted",))
    assert check_geojson(packed) == []
    with pytest.raises(UsageError, match="must end with"):
        write_review(fold(ENTRIES), REVIEWED, tmp_path / "review.json")


def test_a_file_that_nobody_changed_says_nothing(exported: Path) -> None:
    edits = read_edits(exported, REVIEWED, fold(ENTRIES), "Bob")
    assert edits.entries == [] and edits.missing == 0
    again = edits_of(exported, saved_in_qupath(exported), ENTRIES)
    assert again.entries == [] and (again.unchanged, again.unclassified) == (4, 0)


def test_what_is_changed_in_qupath_becomes_entries_once(exported: Path) -> None:
    document = saved_in_qupath(exported)
    first, second, third, area = document["features"]
    first["properties"]["classification"] = {"name": "Stroma", "color": [0, 0, 0]}
    second["properties"]["classification"] = {"name": "Stroma", "color": [0, 0, 0]}  # accepted after all
    moved = shapely.affinity.translate(shapely.geometry.shape(third["geometry"]), 10, 0)
    third["geometry"] = json.loads(shapely.to_geojson(moved))
    area["geometry"] = json.loads(shapely.to_geojson(box(0, 0, 500, 500)))
    drawn = json.loads(shapely.to_geojson(box(1000, 1000, 1050, 1050)))
    tumor = {"classification": {"name": "Tumor", "color": [1, 2, 3]}}
    document["features"] += [
        {"type": "Feature", "geometry": drawn, "properties": tumor},
        {"type": "Feature", "geometry": json.loads(shapely.to_geojson(box(9, 9, 20, 20))), "properties": {}},
    ]
    edits = edits_of(exported, document, ENTRIES)
    assert [(entry.verdict, entry.class_name) for entry in edits.entries] == [
        ("relabeled", "stroma"), ("accepted", "stroma"), ("redrawn", "stroma"), ("reviewed-area", None),
        ("added", "tumor"),
    ]  # fmt: skip
    assert box(100, 100, 300, 300).equals(edits.entries[0].geometry)
    assert edits.entries[2].geometry is not None
    assert edits.entries[2].geometry.bounds == (710.25, 700, 960, 900)
    assert edits.entries[3].supersedes == (AREA.entry,)
    assert edits.entries[4].geometry is not None
    assert edits.entries[4].geometry.bounds == (1064, 1032, 1114, 1082)
    assert edits.unclassified == 1
    entries = [*ENTRIES, *edits.entries]
    assert edits_of(exported, document, entries).entries == []
    assert len(fold(entries).areas) == 1 and len(fold(entries).decisions) == 4
    document["features"][4]["properties"]["classification"]["name"] = "Ignore*"
    document["features"][4]["id"] = edits.entries[4].region  # QuPath has given it this one
    (rejected,) = edits_of(exported, document, entries).entries
    assert rejected.verdict == "rejected" and rejected.supersedes == (edits.entries[4].entry,)


def test_files_of_regions_say_what_was_relabeled_or_deleted(tmp_path: Path) -> None:
    def feature(i: int, label: str) -> dict[str, Any]:
        moved = shapely.affinity.translate(REGIONS.shapes[i], -BOUNDS.x0, -BOUNDS.y0)
        properties = {"classification": {"name": label}}
        return {"type": "Feature", "id": REGIONS.ids[i], "geometry": json.loads(shapely.to_geojson(moved)),
                "properties": properties}  # fmt: skip

    document = {"type": "FeatureCollection", "features": [feature(0, "Tumor"), feature(1, "Necrosis")]}
    path = tmp_path / "regions.geojson"
    edits = edits_of(path, document, [])
    assert [entry.verdict for entry in edits.entries] == ["relabeled"] and edits.missing == 1
    both = edits_of(path, document, [], accept_unchanged=True, reject_missing=True)
    assert [entry.verdict for entry in both.entries] == ["accepted", "relabeled", "rejected"]
    # A file of all regions does not bring back what somebody has rejected.
    assert [e.verdict for e in edits_of(path, document, [verdict_on(REGIONS, 0, "rejected")]).entries] == [
        "relabeled"
    ]
    document["features"][1]["properties"]["classification"]["name"] = "Moon"
    with pytest.raises(UsageError, match=r"regions\.geojson: unknown class 'Moon'; the model has Tumor"):
        edits_of(path, document, [])
    strange = {**feature(0, "Tumor"), "id": str(uuid.uuid4())}
    strange["properties"]["metadata"] = {"group": "tumor", "codes": "1 19 20"}
    for other, kind, said in (
        ({**document, "features": [strange]}, UsageError, "none of its regions is of results/a; name"),
        ({**document, "wsi_seg": {"fingerprint": "x", "slide": "b"}}, UsageError, "of another slide"),
        ("no features", MaskError, "neither a FeatureCollection"),
    ):
        with pytest.raises(kind, match=said):
            edits_of(path, other, [])


def test_a_second_reviewer_says_for_himself_what_the_first_has_said(tmp_path: Path) -> None:
    """Else only where they differ would count, and two who agree on all would agree on nothing."""

    def feature(i: int, label: str) -> dict[str, Any]:
        moved = shapely.affinity.translate(REGIONS.shapes[i], -BOUNDS.x0, -BOUNDS.y0)
        return {"type": "Feature", "id": REGIONS.ids[i], "geometry": json.loads(shapely.to_geojson(moved)),
                "properties": {"classification": {"name": label}}}  # fmt: skip

    labels = ("Tumor", "Necrosis", "Ignore*")
    document = {"type": "FeatureCollection", "features": [feature(i, name) for i, name in enumerate(labels)]}
    path = tmp_path / "regions.geojson"
    ada = [
        verdict_on(REGIONS, 0),
        verdict_on(REGIONS, 1, "relabeled", class_name="necrosis"),
        verdict_on(REGIONS, 2, "rejected"),
    ]
    bob = edits_of(path, document, ada, accept_unchanged=True).entries
    assert [entry.verdict for entry in bob] == ["accepted", "relabeled", "rejected"]
    both = agreement(fold([*ada, *bob], "Ada"), fold([*ada, *bob], "Bob"))
    assert (both.regions, both.same, both.kappa) == (3, 3, 1.0)
    assert edits_of(path, document, [*ada, *bob], accept_unchanged=True).entries == []
    # What differs from the results is his own word, also where he does not accept the rest.
    assert [one.verdict for one in edits_of(path, document, ada).entries] == ["relabeled", "rejected"]


def test_a_region_whose_id_was_lost_is_known_by_its_outline(exported: Path) -> None:
    """Other software than QuPath drops ids: what it hands on is no new region for that."""
    document = saved_in_qupath(exported)
    first, *_ = document["features"]
    for feature in document["features"]:
        del feature["id"], feature["properties"]["metadata"]
    document["features"] = [first]
    assert edits_of(exported, document, []).entries == []
    (entry,) = edits_of(exported, document, [], accept_unchanged=True).entries
    assert (entry.verdict, entry.region) == ("accepted", REGIONS.ids[0])
    first["properties"]["classification"]["name"] = "Stroma"
    (entry,) = edits_of(exported, document, []).entries
    assert (entry.verdict, entry.region, entry.class_name) == ("relabeled", REGIONS.ids[0], "stroma")


def test_an_exported_review_is_confirmed_and_lacks_only_what_was_deleted(tmp_path: Path) -> None:
    added = ReviewEntry(
        verdict="added", slide=REVIEWED.slide.fingerprint, reviewer="Ada", region=str(uuid.uuid4()),
        class_name="tumor", geometry=box(1000, 1000, 1100, 1100),
    )  # fmt: skip
    ada = [verdict_on(REGIONS, 0), verdict_on(REGIONS, 1, "rejected"), added]
    path = tmp_path / "review.geojson"
    write_review(fold(ada), REVIEWED, path)
    document = saved_in_qupath(path)
    bob = edits_of(path, document, ada, accept_unchanged=True).entries
    assert {entry.region: entry.verdict for entry in bob} == {entry.region: entry.verdict for entry in ada}
    # Region 2 has no verdict, so that the file never held it, and it was not deleted.
    deleted = {**document, "features": [one for one in document["features"] if one["id"] != added.region]}
    edits = edits_of(path, deleted, ada, reject_missing=True)
    assert [(one.region, one.verdict) for one in edits.entries] == [(added.region, "rejected")]
    assert edits.missing == 1 and edits_of(path, document, ada, reject_missing=True).entries == []


def test_only_annotations_are_regions_and_an_id_is_one_region(exported: Path, tmp_path: Path) -> None:
    document = saved_in_qupath(exported)
    first, *_ = document["features"]
    del first["properties"]["metadata"]
    cell = {**first, "id": str(uuid.uuid4()), "properties": {**first["properties"], "objectType": "cell"}}
    old_cell = {**cell, "id": "PathCellObject", "properties": {}}
    document["features"] = [first, cell, old_cell, first]
    edits = edits_of(exported, document, [], accept_unchanged=True)
    assert [entry.verdict for entry in edits.entries] == ["accepted"] and edits.objects == 2
    stroma = {**first, "properties": {"classification": {"name": "Stroma"}}}
    document["features"] = [first, cell, stroma]
    with pytest.raises(MaskError, match=rf"feature 1 and feature 3 have the id {first['id']} and differ"):
        edits_of(exported, document, [])


def test_annotations_that_share_an_id_that_is_none_are_known_by_outline(
    exported: Path, tmp_path: Path
) -> None:
    """QuPath up to 0.2 calls all of them PathAnnotationObject; other programs count them."""
    document = saved_in_qupath(exported)
    first, *_ = document["features"]
    new = {**first, "geometry": json.loads(shapely.to_geojson(box(1000, 1000, 1050, 1050)))}
    other = {**first, "geometry": json.loads(shapely.to_geojson(box(1200, 1000, 1250, 1050)))}
    document["features"] = [
        {**one, "id": "PathAnnotationObject", "properties": {"classification": {"name": "Tumor"}}}
        for one in (first, new, other)
    ]
    edits = edits_of(exported, document, [], accept_unchanged=True)
    assert [entry.verdict for entry in edits.entries] == ["accepted", "added", "added"]
    assert edits.entries[0].region == REGIONS.ids[0] and len({entry.region for entry in edits.entries}) == 3
    assert edits_of(exported, document, edits.entries).entries == []


def test_corners_that_qupath_keeps_in_single_precision_are_no_edit(tmp_path: Path) -> None:
    regions = regions_of((box(150000.13, 100.37, 150300.77, 300.51), "tumor"))
    slide = replace(slide_info(bounds=Box(1003, 7, 190_000, 80_000)), size=Size(200_000, 90_000))
    shift = np.array([1003, 7])
    kept = shapely.transform(regions.shapes[0], lambda xy: (xy - shift).astype(np.float32).astype(float))
    moved = shapely.affinity.translate(kept, 0.02, 0)
    for shape, verdicts in ((kept, ["accepted"]), (moved, ["redrawn"])):
        geometry = json.loads(shapely.to_geojson(shape))
        feature = {"type": "Feature", "id": regions.ids[0], "geometry": geometry,
                   "properties": {"classification": {"name": "Tumor"}}}  # fmt: skip
        path = tmp_path / "far.geojson"
        path.write_text(json.dumps([feature]))
        edits = read_edits(path, reviewed_results(regions, slide), fold([]), "Bob", accept_unchanged=True)
        assert [entry.verdict for entry in edits.entries] == verdicts


def test_classes_of_another_model_are_exported_and_come_back(tmp_path: Path) -> None:
    path, ada = tmp_path / "review.geojson", [verdict_on(REGIONS, 0, "relabeled", class_name="villi")]
    write_review(fold(ada), REVIEWED, path)
    assert check_geojson(path) == []
    document = saved_in_qupath(path)
    assert document["features"][0]["properties"]["classification"]["name"] == "villi"
    assert edits_of(path, document, ada).entries == []
    (bob,) = edits_of(path, document, ada, accept_unchanged=True).entries
    assert (bob.verdict, bob.class_name) == ("relabeled", "villi")


# --- the commands ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a slide with two dark squares, which are tumor."""
    folder = tmp_path_factory.mktemp("review")
    pixels = np.full((300, 400, 3), 240, np.uint8)
    pixels[100:200, 100:200] = pixels[30:110, 290:390] = 30
    write_pyramid(folder / "slide.tiff", pixels, Scale(0.5, 0.5), (1, 2))
    return make_results(folder / "slide.tiff", folder / "results")


def invoke(*words: Any, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["review", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def test_a_review_goes_to_qupath_and_back_by_command(results: Path, tmp_path: Path) -> None:
    out, reviews = results.parent, tmp_path / "reviews"
    assert "0 of 2 regions reviewed" in invoke("status", out, "--reviews", reviews)
    assert "local folders" in invoke("status", out, "--reviews", "s3://bucket/reviews", code=2)
    assert not review_folder(out).exists() and not reviews.exists()
    document = json.loads((results / POLYGONS).read_text(encoding="utf-8"))
    document["features"][0]["properties"]["classification"] = {"name": "Stroma", "color": [1, 2, 3]}
    (tmp_path / "edited.geojson").write_text(json.dumps(document), encoding="utf-8")
    words = ("import", results, tmp_path / "edited.geojson", "--reviews", reviews, "--accept-unchanged")
    assert "1 accepted, 1 relabeled" in invoke(*words, "--reviewer", "Ada")
    assert "nothing new" in invoke(*words, "--reviewer", "Ada")
    assert {path.name for path in results.parent.iterdir()} == {results.name}, "something lies in the results"
    (row,) = json.loads(invoke("status", results, "--reviews", reviews, "--json"))
    assert (row["regions"], row["reviewed"], row["reviewers"]) == (2, 2, {"Ada": 2})
    assert row["verdicts"] == {"accepted": 1, "relabeled": 1} and row["notes"] == []
    exporting = ("export", results, "-o", tmp_path / "r.geojson", "--reviews", reviews)
    assert "1 accepted, 1 relabeled" in invoke(*exporting)
    assert check_geojson(tmp_path / "r.geojson") == []
    reviewed, store = open_reviewed(results), ReviewStore(reviews)
    state = fold(store.read(reviewed.slide).entries)
    bob = [
        decision.final.model_copy(update={"reviewer": "Bob", "entry": uuid.uuid4().hex})
        for decision in state.decisions.values()
    ]
    store.append(reviewed.slide, bob)
    said = invoke("agreement", results, "Ada", "Bob", "--reviews", reviews)
    assert "2 of 2 regions alike; Cohen's kappa 1.000" in said and "Dice stroma: 1.000" in said
    lost = [verdict_on(REGIONS, 0, slide=reviewed.slide.fingerprint, region=f"r{i}") for i in range(22)]
    ReviewStore(tmp_path / "others").append(reviewed.slide, lost)
    said = invoke("status", out, "--reviews", tmp_path / "others")
    assert said.count("not carried over: r") == 20 and "not carried over: 2 more, which --json lists" in said
    (journal, *_) = sorted(reviews.rglob("*.jsonl"))
    with journal.open("ab") as file:
        file.write(b'{"entry": "cut')
    assert "its last line was cut" in invoke("status", out, "--reviews", reviews)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("status", "{out}/nowhere"), 1, "holds no finished results"),
        (("export", "{out}", "-o", "x.geojson"), 1, "holds no finished results of a slide"),
        (("export", "{slide}", "-o", "x.json"), 2, "must end with"),
        (("export", "{slide}", "-o", "{slide}/polygons.geojson"), 2, "is a file of results"),
        (("export", "{slide}", "-o", "x.geojson", "--verdicts", "fine"), 2, "--verdicts fine: must be of"),
        (("export", "{slide}", "-o", "x.geojson", "--origin", "corner"), 2, "origin must be"),
        (("export", "{slide}", "-o", "x.geojson", "--reviews", "{slide}"), 2, "lies in the results"),
        (("import", "{slide}", "nowhere.geojson", "--reviewer", "A"), 1, "nowhere.geojson: cannot be read"),
        (("import", "{slide}", "nowhere.geojson", "--reviewer", " "), 2, "--reviewer"),
        (("agreement", "{slide}", "Ada", "Bob"), 2, "no review by 'Ada'; reviewers are none"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = invoke(*(word.format(out=results.parent, slide=results) for word in words), code=code)
    assert said in printed and printed.startswith("error: ") and printed.count("\n") == 1
    assert not any(tmp_path.iterdir())
