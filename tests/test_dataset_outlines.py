"""Outlines as annotations: every file format, what they say of an image, and what is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapely import Polygon

from tests.made.datasets import corners, feature, write_features
from wsi_seg.annotations.annotation import Annotation
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.core.classes import BCSS, IGNORED_CODES
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.outlined_images import OutlinedImages
from wsi_seg.datasets.region import IGNORED, ArrayRegion, not_class

SCHEME = LabelScheme(BCSS, 1.0, ignored_codes=IGNORED_CODES)
SQUARE = [(2, 1), (6, 1), (6, 4), (2, 4)]
FLAT = " ".join(f"{x} {y}" for x, y in SQUARE)
HEIGHT, WIDTH = 6, 9
IN_SQUARE = np.zeros((HEIGHT, WIDTH), bool)
IN_SQUARE[1:4, 2:6] = True


def read_outlines(path: Path) -> dict[str, list[Annotation]]:
    found = read_annotations(path, strict=True, may_be_empty=True, many_images=True)
    return {name: [item for item in found.items if item.image == name] for name in found.images}


# --- formats ------------------------------------------------------------------------------------------


def write_csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


VERTICES = ["image,polygon,class,x,y", *(f"a.png,1,Tumor,{x},{y}" for x, y in SQUARE), "b,,,,"]
COCO = {
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b"}],
    "categories": [{"id": 1, "name": "Tumor"}],
    "annotations": [
        {"id": 3, "image_id": 7, "category_id": 1, "segmentation": [[*map(float, FLAT.split())]]}
    ],
}
FORMATS = {
    "outlines.csv": "\n".join(["image,class,points", f"a.png,Tumor,{FLAT}", "b,,"]),
    "excel.csv": "\ufeff" + "\r\n".join(["points,image,class,note", f"{FLAT},a.png,Tumor,x", ",b,,"]),
    "corners.csv": "\n".join(VERTICES),
    "own.json": json.dumps([{"image": "a.png", "class": "Tumor", "points": SQUARE}, {"image": "b"}]),
    "coco.json": json.dumps(COCO),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FORMATS[name], encoding="utf-8")
    outlines = read_outlines(path)
    assert list(outlines) == ["a.png", "b"] and outlines["b"] == []
    (outline,) = outlines["a.png"]
    assert outline.name == "Tumor" and outline.geometry.equals(Polygon(SQUARE))
    assert str(path) in outline.where


def test_an_outline_that_crosses_itself_counts_as_encircled(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "o.csv", "image,points", "a,0 0 4 4 4 0 0 4")
    assert read_outlines(path)["a"][0].geometry.area == 8


def test_parts_of_a_coco_object_are_one_outline(tmp_path: Path) -> None:
    parts = [[0, 0, 2, 0, 2, 2, 0, 2], [5, 5, 6, 5, 6, 6, 5, 6]]
    document = {**COCO, "annotations": [{"image_id": 7, "category_id": 1, "segmentation": parts}]}
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    assert read_outlines(path)["a.png"][0].geometry.area == 5


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["image,points", "a,1 1 2 2"], "row 2 has no area (fewer than three points?)"),
        (["image,points", "a,1 1 2 2 3"], "row 2: points are pairs of x and y, but there are 5 numbers"),
        (["image,points", "a,1 1 2 2 3 3"], "row 2 has no area"),
        (["image,points", "a,1 1 2 x 3 3"], "row 2: 'x' is no number"),
        (["image,points", "a,1 1 2 nan 3 3"], "row 2: a position is not a finite number"),
        (["image,points", "a,1,1,2,2,3,3"], "row 2 has not the 2 columns of the first row"),
        (["image,class,points", "b,x"], "row 2 has not the 3 columns of the first row"),
        (
            ["name,points", "a,1 1"],
            "the columns are name, points; needed are image and points, or image, poly",
        ),
        ([""], "the columns are none; needed are"),
        (
            ["image,polygon,x,y,class", "a,1,0,0,tumor", "a,1,1,0,stroma"],
            "row 3: polygon '1' is of class 'stroma' here and 'tumor' above",
        ),
        (
            ["image,polygon,x,y", "a,p,0,0", "a,p,1,0"],
            "polygon 'p' of image 'a' has no area (fewer than three points?)",
        ),
    ],
)
def test_bad_csv(rows: list[str], message: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "o.csv", *rows)
    with pytest.raises(DataError) as caught:
        read_outlines(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([{"points": SQUARE}], "outlines (image, class, points): 0.image: Field required"),
        ([{"image": "a", "points": [[1, 2], [3, 4]]}], "outline 0 has no area (fewer"),
        ([{"image": "a", "points": [1, 2, 3, 4]}], "0.points.0: Input should be a valid tuple"),
        (
            {"image": "a"},
            "JSON, but neither a FeatureCollection, a Feature, a geometry nor a list of them (GeoJSON), nor",
        ),
        ({**COCO, "annotations": [{"image_id": 9, "segmentation": [[1, 2]]}]}, "there is no image of id 9"),
        (
            {**COCO, "annotations": [{"image_id": 7, "category_id": 5, "segmentation": [[1, 2]]}]},
            "annotation 0: there is no category of id 5",
        ),
        (
            {**COCO, "annotations": [{"image_id": 7, "segmentation": {"counts": "X", "size": [1, 2]}}]},
            "0: its run lengths are cut off",
        ),
        ({**COCO, "annotations": [{"image_id": 7, "segmentation": []}]}, "annotation 0: has no polygon"),
        (
            {**COCO, "annotations": [{"image_id": 7, "segmentation": [[1, 2, 3]]}]},
            "annotation 0: a polygon has an odd number of coordinates",
        ),
    ],
)
def test_bad_json(document: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "o.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError) as caught:
        read_outlines(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("o.csv", b"\xff\xfe\x00", "no valid CSV"),
        ("o.json", b"[{", "not JSON"),
        ("o.xml", b"", "damaged XML"),
    ],
)
def test_damaged_files(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_outlines(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="cannot be read"):
        read_outlines(tmp_path / "gone.csv")


# --- images -------------------------------------------------------------------------------------------


def write_image(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)
    return path


def load(folder: Path, **values) -> tuple[ArrayRegion, ...]:
    dataset = OutlinedImages(name="made", folder=folder, **{"mpp": 1.0, **values})
    return dataset.parts(Path(), SCHEME).training  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("values", "inside", "outside"),
    [
        ({}, 0, IGNORED),
        ({"background_class": "stroma"}, 0, 1),
        ({"mask_class": "stroma"}, 1, not_class(1)),
        ({"mask_class": "folder"}, 8, not_class(8)),
        ({"mask_class": "folder", "background_class": "other"}, 8, 20),
        ({"ignored_classes": ("Tumour",), "background_class": "other"}, IGNORED, 20),
        ({"class_names": {"tumor": "dcis"}}, 19, IGNORED),
    ],
)
def test_classes(values: dict[str, object], inside: int, outside: int, tmp_path: Path) -> None:
    write_image(tmp_path, "fat/a.png")
    write_csv(tmp_path / "o.csv", "image,class,points", f"fat/a,Tumor,{FLAT}")
    (region,) = load(tmp_path, outlines="o.csv", **values)
    np.testing.assert_array_equal(region.target, np.where(IN_SQUARE, inside, outside))
    assert region.files == (tmp_path / "fat/a.png", tmp_path / "o.csv")


def test_outlines_inside_others_and_images_with_nothing(tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    write_image(tmp_path, "normal/b.png")
    rows = ["image,class,points", f"a.png,tumor,{FLAT}", "a.png,stroma,0 0 9 0 9 6 0 6", "normal/b.png,,"]
    write_csv(tmp_path / "o.csv", *rows)
    first, second = load(tmp_path, outlines="o.csv", background_class="other")
    np.testing.assert_array_equal(first.target, np.where(IN_SQUARE, 0, 1))
    assert (second.target == 20).all()
    # The folder `normal` is no class, and need not be.
    write_csv(tmp_path / "o.csv", "image,points", "a,", "normal/b,")
    assert (
        load(tmp_path, outlines="o.csv", background_class="other", mask_class="folder")[1].target == 20
    ).all()


def test_outlines_are_painted_on_the_image_and_then_stretched(tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    write_csv(tmp_path / "o.csv", "image,points", f"a,{FLAT}")
    (region,) = load(
        tmp_path, outlines="o.csv", mask_class="tumor", background_class="other", mpp=None, resize=18
    )
    expected = IN_SQUARE.repeat(3, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(region.target == 0, expected)


@pytest.mark.parametrize("packed", [False, True])
def test_geojson_beside_the_image_keeps_holes(packed: bool, tmp_path: Path) -> None:
    image = write_image(tmp_path, "a.png")
    ring = feature(corners(Box(1, 0, 8, 5)), "Immune cells")
    ring["geometry"]["coordinates"].append(corners(Box(3, 1, 6, 4))[::-1])  # type: ignore[index]
    path = tmp_path / ("a.geojson.gz" if packed else "a.geojson")
    write_features(path, [ring])
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    (region,) = load(tmp_path)
    expected = np.full((HEIGHT, WIDTH), IGNORED)
    expected[0:5, 1:8] = 2
    expected[1:4, 3:6] = IGNORED
    np.testing.assert_array_equal(region.target, expected)
    assert region.files == (image, path)
    path.write_text('{"type": "FeatureCollection", "features": []}')  # nothing to outline
    (region,) = load(tmp_path, background_class="other")
    assert (region.target == 20).all()


def test_geojson_of_this_package_says_what_was_subtracted(tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    document = {"type": "FeatureCollection", "features": [feature(corners(Box(0, 0, 4, 3)), "Tumor")]}
    (tmp_path / "a.geojson").write_text(json.dumps({**document, "wsi_seg": {"subtracted_l0": [2, 1]}}))
    np.testing.assert_array_equal(load(tmp_path)[0].target, np.where(IN_SQUARE, 0, IGNORED))


def test_outlines_of_other_images_than_there_are(tmp_path: Path) -> None:
    image = write_image(tmp_path, "benign/a.png")
    file = write_csv(tmp_path / "o.csv", "image,points", f"benign/b,{FLAT}")
    with pytest.raises(DataError, match=r"o\.csv: there is no image 'benign/b'; did you mean 'benign/a'\?"):
        load(tmp_path, outlines="o.csv")
    write_csv(file, "image,points")
    with pytest.raises(DataError, match=r"has no outlines in .*o\.csv; list it without points") as caught:
        load(tmp_path, outlines="o.csv")
    assert str(caught.value).startswith(str(image))
    with pytest.raises(
        DataError, match=r"a\.png: has no outlines; expected .*a\.geojson, \.annotations, \.xml or \.json$"
    ):
        load(tmp_path)


def test_left_out_images_need_no_outlines_but_may_have_them(tmp_path: Path) -> None:
    for name in "abc":
        write_image(tmp_path, f"{name}.png")
    write_csv(tmp_path / "o.csv", "image,class,points", f"a,tumor,{FLAT}", f"b,tumor,{FLAT}")
    assert [r.name for r in load(tmp_path, outlines="o.csv", exclude=("b", "c"))] == ["a"]


@pytest.mark.parametrize("shift", [(20, 0), (0, 5), (-3, 0), (0, -3.5), (3.2, 0)])
def test_an_outline_outside_its_image(shift: tuple[float, float], tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    moved = " ".join(f"{x + shift[0]} {y + shift[1]}" for x, y in SQUARE)
    write_csv(tmp_path / "o.csv", "image,class,points", f"a,tumor,{FLAT}", f"a,tumor,{moved}")
    with pytest.raises(DataError, match=r"o\.csv: row 3 lies outside its image .*a\.png of 9×6 pixels: x"):
        load(tmp_path, outlines="o.csv")


def test_an_outline_along_the_border_may_slip(tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    write_csv(tmp_path / "o.csv", "image,class,points", "a,tumor,-0.02 -0.01 9.01 0 9 6.01 0 6")
    assert (load(tmp_path, outlines="o.csv")[0].target == 0).all()


def labelme(width: int = WIDTH) -> str:
    shape = {"label": "Tumor", "shape_type": "rectangle", "points": [[2, 1], [6, 4]]}
    document = {"imagePath": "x/a.png", "imageWidth": width, "imageHeight": HEIGHT, "shapes": [shape]}
    return json.dumps(document)


def test_other_formats_next_to_the_image(tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(labelme())
    (region,) = load(tmp_path, background_class="stroma")
    np.testing.assert_array_equal(region.target, np.where(IN_SQUARE, 0, 1))
    corner = "".join(f'<V X="{x}" Y="{y}"/>' for x, y in SQUARE)
    (tmp_path / "a.annotations").write_text(
        f'<Annotations><Annotation Name="dcis"><Regions><Region Type="Polygon"><Vertices>{corner}</Vertices>'
        "</Region></Regions></Annotation></Annotations>"
    )
    (region,) = load(tmp_path)  # a.json may be something else
    np.testing.assert_array_equal(region.target, np.where(IN_SQUARE, 19, IGNORED))
    write_features(tmp_path / "a.geojson", [feature(corners(Box(1, 1, 4, 4)), "Tumor")])
    with pytest.raises(DataError, match=r"a\.annotations: a\.geojson is there too; remove one of them"):
        load(tmp_path)


def test_outlines_of_an_image_of_another_size(tmp_path: Path) -> None:
    image = write_image(tmp_path, "a.png")
    (tmp_path / "a.json").write_text(labelme(width=18))
    said = rf"a\.json: was drawn on 18 × 6 pixels, but {image} has 9 × 6; draw on this image"
    with pytest.raises(DataError, match=said):
        load(tmp_path)
    listed = {**COCO, "images": [{"id": 7, "file_name": "a.png", "width": 18, "height": 6}]}
    (tmp_path / "c.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match=r"c\.json: was drawn on 18 × 6 pixels"):
        load(tmp_path, outlines="c.json")
    write_features(tmp_path / "q.json", [feature(corners(Box(1, 1, 4, 4)), "Tumor")])
    with pytest.raises(DataError, match=r"q\.json: does not say the image of each region; put a file next"):
        load(tmp_path, outlines="q.json")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Carcinoma",
            r"a\.geojson: polygon 1 is of class 'Carcinoma', which the model does not have \(tumor, ",
        ),
        (None, r"a\.geojson: polygon 1 has no class; give it one, or put Unclassified into ignored_classes"),
    ],
)
def test_unknown_classes(name: str | None, message: str, tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    write_features(tmp_path / "a.geojson", [feature(corners(Box(1, 1, 4, 4)), name)])
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    (region,) = load(tmp_path, ignored_classes=("carcinoma", "unclassified"))
    assert (region.target == IGNORED).all()


def test_a_class_name_that_leads_nowhere(tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    write_features(tmp_path / "a.geojson", [feature(corners(Box(1, 1, 4, 4)), "X")])
    with pytest.raises(
        DataError, match=r"polygon 1, by class_names: the model has no class 'tumr'; did you mean"
    ):
        load(tmp_path, class_names={"X": "tumr"})


@pytest.mark.parametrize("more", [[], [feature(corners(Box(1, 1, 4, 4)), "Tumor")]])
def test_a_polygon_of_two_points_in_geojson(more: list[dict[str, object]], tmp_path: Path) -> None:
    write_image(tmp_path, "a.png")
    flat = feature([[1, 1], [2, 2], [1, 1]], "Tumor")
    write_features(tmp_path / "a.geojson", [*more, flat])
    message = r"a\.geojson: polygon 2 has no area" if more else r"a\.geojson: polygon 1 has no area"
    with pytest.raises(DataError, match=message):
        load(tmp_path)
