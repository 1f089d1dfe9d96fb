"""Files of drawn regions: every format at the same place, its shapes, real files, and what is refused."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pytest
import shapely
from PIL import Image
from shapely import affinity

from tests.made.datasets import corners, feature
from tests.made.slides import SlideSpec, make_slide
from tests.mutations import damaged
from wsi_seg.annotations.annotation import Annotations, ellipse_of
from wsi_seg.annotations.drawing import Drawing
from wsi_seg.annotations.points import read_cells
from wsi_seg.annotations.reading import FORMATS, read_annotations
from wsi_seg.core.classes import BCSS
from wsi_seg.core.errors import MaskError
from wsi_seg.core.files import SMALL_TEXT
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.slides import AnnotatedSlides
from wsi_seg.exporters.check import check_geojson
from wsi_seg.slides.readers import open_slide
from wsi_seg.tissue.mask import find_tissue

# A square of 40 px at x 20, y 30, with a hole of 10 px at x 30, y 40.
SQUARE, HOLE = Box(20, 30, 60, 70), Box(30, 40, 40, 50)
HOLED = shapely.box(20, 30, 60, 70).difference(shapely.box(30, 40, 40, 50))
HEIGHT, WIDTH = 90, 80
PIXELS = np.zeros((HEIGHT, WIDTH), bool)
PIXELS[SQUARE.slices] = True
PIXELS[HOLE.slices] = False


def pixels_in(shapes: list[shapely.Geometry], box: Box) -> np.ndarray:
    """Return the pixels of a box whose center lies in any of the shapes, one by one."""
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1] + 0.5
    return np.any([shapely.contains_xy(shape, x, y) for shape in shapes], axis=0)


def ring(box: Box) -> list[list[float]]:
    return corners(box)[:-1]


def asap(*items: str) -> str:
    inner = f"<Annotations>{''.join(items)}</Annotations>"
    return f"<?xml version='1.0'?><ASAP_Annotations>{inner}</ASAP_Annotations>"


def asap_item(points: list[list[float]], kind: str = "Polygon", group: str = "Tumor") -> str:
    inner = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
    return (
        f'<Annotation Name="a" Type="{kind}" PartOfGroup="{group}">'
        f"<Coordinates>{inner}</Coordinates></Annotation>"
    )


def layers(
    *regions: tuple[str, list[list[float]], int], name: str = "Tumor", vertex: str = "V", more: str = ""
) -> str:
    """Return the XML of HALO, or with `Vertex` that of Aperio."""
    inner = "".join(
        f'<Region Type="{kind}" NegativeROA="{negative}"><Vertices>'
        + "".join(f'<{vertex} X="{x}" Y="{y}" />' for x, y in points)
        + "</Vertices></Region>"
        for kind, points, negative in regions
    )
    return (
        f'<Annotations><Annotation Name="{name}">{more}<Regions>{inner}</Regions></Annotation></Annotations>'
    )


def dsa(*elements: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"_id": "1", "annotation": {"name": "n", "elements": [{"group": "Tumor", **e} for e in elements]}}
    ]


def coco(segmentation: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 2, "name": "Tumor"}],
        "annotations": [{"id": 3, "image_id": 1, "category_id": 2, "segmentation": segmentation}],
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return run lengths down the columns, the slow and obvious way."""
    lengths, last = [0], False
    for value in mask.T.ravel().tolist():
        if value != last:
            lengths.append(0)
        lengths[-1] += 1
        last = value
    return lengths


def compressed(counts: list[int]) -> str:
    """Return run lengths as text, as COCO's own code writes them."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def labelme(*shapes: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": "5.5.0",
        "imagePath": "..\\a.png",
        "imageWidth": WIDTH,
        "imageHeight": HEIGHT,
        "shapes": [{"label": "Tumor", "group_id": None, "flags": {}, **shape} for shape in shapes],
    }


def png(mask: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def geoparquet() -> bytes:
    stream = io.BytesIO()
    geopandas.GeoDataFrame({"class": ["Tumor"]}, geometry=[HOLED]).to_parquet(stream)
    return stream.getvalue()


def write(path: Path, document: Any) -> Path:
    if isinstance(document, bytes):
        path.write_bytes(document)
        return path
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


GEOJSON = feature(corners(SQUARE), "Tumor")
GEOJSON["geometry"]["coordinates"].append(corners(HOLE))  # type: ignore[index]
RUNS = run_lengths(PIXELS)
# Of each format with holes, the square with its hole.
WITH_HOLE: dict[str, Any] = {
    "geojson": {"type": "FeatureCollection", "features": [GEOJSON]},
    "halo": layers(("Polygon", ring(HOLE), 1), ("Polygon", ring(SQUARE), 0)),
    "aperio": layers(("0", ring(SQUARE), 0), ("1", ring(HOLE), 1), vertex="Vertex"),
    "dsa": dsa({"type": "polyline", "closed": True, "points": [[*xy, 0] for xy in ring(SQUARE)],
                "holes": [[[*xy, 0] for xy in ring(HOLE)]]}),
    "coco": coco({"size": [HEIGHT, WIDTH], "counts": RUNS}),
    "coco text": coco({"size": [HEIGHT, WIDTH], "counts": compressed(RUNS)}),
    "labelme": labelme({"shape_type": "mask", "points": [[20, 30], [59, 69]],
                        "mask": png(PIXELS[SQUARE.slices])}),
    "geoparquet": geoparquet(),
}  # fmt: skip
# Of the others, the square.
WITHOUT_HOLE: dict[str, Any] = {
    "asap": asap(asap_item(ring(SQUARE))),
    "csv": 'image,class,points\na.png,Tumor,"20 30 60 30 60 70 20 70"\n',
    "outlines": [{"image": "a.png", "class": "Tumor", "points": ring(SQUARE)}],
}
ALL = WITH_HOLE | WITHOUT_HOLE
SUFFIX = {"csv": ".csv", "asap": ".xml", "aperio": ".xml", "halo": ".annotations", "geoparquet": ".parquet"}


def shape_of(name: str) -> shapely.Geometry:
    return HOLED if name in WITH_HOLE else shapely.box(20, 30, 60, 70)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_every_format_has_its_positions(name: str, packed: bool, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{SUFFIX.get(name, '.json')}", ALL[name])
    if packed:
        path = path.rename(tmp_path / f"{path.name}.gz")
        path.write_bytes(gzip.compress(path.read_bytes()))
    annotations = read_annotations(path, strict=True)
    (item,) = annotations.items
    expected = shape_of(name)
    assert item.name == "Tumor" and item.geometry.equals(expected) and item.geometry.is_valid
    assert item.where.startswith(f"{path}: ") and (annotations.subtracted_l0 is None) == (name == "geojson")
    painted = Drawing.of([item.geometry], [1]).paint(Box(0, 0, WIDTH, HEIGHT), ground=0)
    np.testing.assert_array_equal(painted > 0, pixels_in([expected], Box(0, 0, WIDTH, HEIGHT)))


def test_every_format_of_the_table_is_tried() -> None:
    assert {name.split()[0] for name in ALL} == set(FORMATS)


@pytest.fixture(scope="module")
def cropped_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide at 0.5 µm that states bounds, as QuPath crops to."""
    folder = tmp_path_factory.mktemp("slide")
    Image.fromarray(np.full((256, 256, 3), 128, np.uint8)).save(folder / "texture.png")
    spec = SlideSpec(Size(400, 400), 0.5, 1.0, texture=folder / "texture.png", bounds=Box(64, 32, 320, 330))
    return make_slide(folder / "slide.scn", spec)


@pytest.mark.parametrize("name", ["geojson", "halo", "aperio", "dsa", "asap"])
def test_runs_and_training_find_regions_at_the_same_place(
    name: str, cropped_slide: Path, tmp_path: Path
) -> None:
    """QuPath counts from the bounds of a slide, all others from its level 0."""
    path = write(tmp_path / f"slide{SUFFIX.get(name, '.json')}", ALL[name])
    at = (64, 32) if name == "geojson" else (0, 0)
    with open_slide(cropped_slide) as slide:
        assert slide.info.bounds == Box(64, 32, 320, 330)
        mask = find_tissue(slide, str(path))
        assert mask.drawn is not None
        painted = mask.drawn.paint(Box.at(*at, WIDTH, HEIGHT), ground=0) > 0
        whole = mask.drawn.paint(Box(0, 0, 400, 400), ground=0).sum()
    shape = shape_of(name)
    np.testing.assert_array_equal(painted, pixels_in([shape], Box(0, 0, WIDTH, HEIGHT)))
    assert whole == shape.area
    dataset = AnnotatedSlides(
        name="made", folder=cropped_slide.parent, annotations=tmp_path, slides="*.scn", margin=0
    )
    (region,) = dataset.parts(Path(), LabelScheme(BCSS, 0.5)).training
    assert region.box_map == SQUARE.shifted(*at)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(region.coarse_targets(1) == 0, painted[SQUARE.slices])


# --- shapes -----------------------------------------------------------------------------------------------


def shapes_of(path: Path) -> Annotations:
    return read_annotations(path, strict=True)


def turned(x: Any, y: Any, angle: float) -> tuple[Any, Any]:
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


@pytest.mark.parametrize("radii", [(3.0, 3.0), (40.0, 25.0), (9000.0, 20000.0)])
def test_ellipses_are_polygons_of_many_corners(radii: tuple[float, float]) -> None:
    polygon = ellipse_of((100, 50), radii, 0.3)
    assert polygon.area == pytest.approx(math.pi * radii[0] * radii[1], rel=0.03)
    turn = np.linspace(0, 2 * math.pi, 1001)
    x, y = turned(radii[0] * np.cos(turn), radii[1] * np.sin(turn), 0.3)
    true = shapely.points(np.column_stack([100 + x, 50 + y]))
    assert shapely.distance(polygon.exterior, true).max() < 0.06


def test_shapes_of_the_archive(tmp_path: Path) -> None:
    elements: list[dict[str, Any]] = [
        {"type": "rectangle", "center": [50, 40, 0], "width": 20, "height": 10, "rotation": math.pi / 2},
        {"type": "ellipse", "center": [50, 40, 0], "width": 20, "height": 10, "rotation": 0},
        {"type": "circle", "center": [50, 40, 0], "radius": 5, "group": None, "label": {"value": "Ring"}},
        {"type": "polyline", "closed": False, "points": [[0, 0, 0], [9, 0, 0], [9, 9, 0]]},
        {"type": "point", "center": [1, 1, 0]},
        {"type": "rectangle", "center": [0, 0], "width": 20, "height": 2, "rotation": math.pi / 4},
    ]
    one, two, three, four = shapes_of(write(tmp_path / "a.json", dsa(*elements))).items
    assert one.geometry.bounds == pytest.approx((45, 30, 55, 50)) and one.geometry.area == pytest.approx(200)
    assert two.geometry.bounds == pytest.approx((40, 35, 60, 45), abs=0.05)
    assert three.geometry.area == pytest.approx(25 * math.pi, rel=0.02) and three.name == "Ring"
    # A turn is from x toward y, down on the screen.
    assert four.geometry.covers(shapely.Point(6, 6)) and not four.geometry.covers(shapely.Point(6, -6))
    bare = dsa(elements[0])[0]["annotation"]
    assert len(shapes_of(write(tmp_path / "c.json", bare)).items) == 1


@pytest.mark.parametrize("vertex", ["V", "Vertex"])
def test_shapes_of_layers(vertex: str, tmp_path: Path) -> None:
    """Two corners span rectangles and ellipses; holes are cut from larger regions of their layer alone."""
    kinds = ("Polygon", "Rectangle", "Ellipse", "Pin") if vertex == "V" else ("0", "1", "2", "3")
    island = Box(33, 43, 37, 47)
    first = layers(
        (kinds[1], [[20, 30], [60, 70]], 0),
        (kinds[1], [[40, 50], [30, 40]], 1),
        (kinds[0], ring(island), 0),
        (kinds[2], [[100, 100], [140, 120]], 0),
        (kinds[3], [[1, 1], [5, 5]], 0),
        vertex=vertex,
    )
    more = '<Attributes><Attribute Name="Description" Value="Stroma"/></Attributes>'
    second = layers((kinds[0], ring(SQUARE), 0), name="", vertex=vertex, more=more)
    both = first.replace("</Annotations>", "") + second.replace("<Annotations>", "")
    items = shapes_of(write(tmp_path / "a.xml", both)).items
    assert [item.name for item in items] == ["Tumor", "Tumor", "Tumor", "Stroma"]
    assert items[0].geometry.equals(HOLED) and items[1].geometry.area == 16 and items[3].geometry.area == 1600
    assert items[2].geometry.area == pytest.approx(math.pi * 20 * 10, rel=0.01)
    assert items[2].geometry.centroid.distance(shapely.Point(120, 110)) < 1e-6
    assert items[3].where.endswith("region 1 of layer 2")


def test_shapes_of_asap_and_labelme(tmp_path: Path) -> None:
    dots = asap(
        asap_item(ring(SQUARE), "Spline", "None"),
        asap_item([[1, 1]], "Dot"),
        asap_item(ring(HOLE), "Rectangle"),
    )
    items = shapes_of(write(tmp_path / "a.xml", dots)).items
    assert [(item.name, item.geometry.area) for item in items] == [(None, 1600), ("Tumor", 100)]
    drawn = labelme(
        {"shape_type": "rectangle", "points": [[60, 70], [20, 30]]},
        {"shape_type": "circle", "points": [[50, 50], [53, 54]]},
        {"points": ring(HOLE)},
        {"shape_type": "linestrip", "points": [[0, 0], [1, 1]]},
    )
    annotations = shapes_of(write(tmp_path / "a.json", drawn))
    assert annotations.images == {"../a.png": Size(WIDTH, HEIGHT)}
    assert [item.geometry.area for item in annotations.items] == [
        1600,
        pytest.approx(25 * math.pi, rel=0.02),
        100,
    ]


@pytest.mark.parametrize("seed", range(4))
def test_run_lengths_come_back_pixel_by_pixel(seed: int, tmp_path: Path) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < (0.02, 0.5, 0.9, 1.1)[seed]
    runs = run_lengths(mask)
    for counts in (runs, compressed(runs)):
        path = write(tmp_path / "a.json", coco({"size": [17, 23], "counts": counts}))
        (item,) = shapes_of(path).items
        np.testing.assert_array_equal(pixels_in([item.geometry], Box(0, 0, 23, 17)), mask)


def test_run_lengths_as_a_known_text(tmp_path: Path) -> None:
    """A text that COCO's own code is known to write for [6, 1, 40, 4, 5, 4, 5, 4, 21]."""
    path = write(tmp_path / "a.json", coco({"size": [9, 10], "counts": "61X13mN000`0"}))
    (item,) = shapes_of(path).items
    mask = np.repeat([0, 1, 0, 1, 0, 1, 0, 1, 0], [6, 1, 40, 4, 5, 4, 5, 4, 21]).reshape(10, 9).T > 0
    np.testing.assert_array_equal(pixels_in([item.geometry], Box(0, 0, 10, 9)), mask)


# --- real files -------------------------------------------------------------------------------------------

# Regions of each file, and their classes.
REAL: dict[str, tuple[int, set[str | None]]] = {
    "bach_aperio/A01.xml": (78, {"benign", "newmeta", "metastases_org"}),
    "bach_aperio/A06.xml": (10, {"benign", "newmeta", "metastases_org"}),
    "bach_aperio/A10.xml": (9, {"metastases_org", None}),
    "camelyon16_asap/tumor_009.xml": (6, {"metastasis"}),
    "camelyon16_asap/tumor_076.xml": (39, {"metastasis"}),
    "dlup/HaloMultilayerTest.annotations": (
        13, {"TP1", *(f"Layer {i} voor Rolf" for i in (1, 2, 3))},
    ),
    "dlup/qupath05.geojson": (3, {None}),
    "histoqc/TCGA-EJ-5518-01Z-00-DX1.xml": (4, {"CaP", None}),
    "histoqc/geojson_example.json": (2, {"Tumor", "Invborder"}),
    "histoqc/holed.geojson": (1, {None}),
    "wsi_handling/TCGA-EJ-5519-01Z-00-DX1.json": (3, {"Tumor", "Other", "Negative"}),
    "wsi_handling/TCGA-EJ-5519-01Z-00-DX1.xml": (3, {"CaP", None}),
}  # fmt: skip


def test_real_files(data_dir: Path) -> None:
    folder = data_dir / "annotations"
    found = {name: read_annotations(folder / name).items for name in REAL}
    assert {name: (len(items), {i.name for i in items}) for name, items in found.items()} == REAL
    with pytest.raises(MaskError, match=r"103S\.json: JSON, but neither a FeatureCollection"):
        read_annotations(folder / "dlup" / "103S.json")  # of Darwin


@pytest.mark.parametrize("name", [name for name in REAL if "TCGA" in name and name.endswith("xml")])
def test_areas_are_those_that_imagescope_states(name: str, data_dir: Path) -> None:
    """Of outlines that cross themselves it states another area, by less than one in a hundred."""
    path = data_dir / "annotations" / name
    regions = list(ElementTree.parse(path).iter("Region"))
    for item, region in zip(shapes_of(path).items, regions, strict=True):
        drawn = shapely.Polygon([(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")])
        off = 1e-6 if drawn.is_valid else 1e-2
        assert item.geometry.area == pytest.approx(float(region.attrib["Area"]), rel=off)


def test_aperio_and_qupath_say_the_same(data_dir: Path) -> None:
    """The annotations of one slide in two formats; QuPath has rounded them to a hundredth of a pixel."""
    path = data_dir / "annotations" / "wsi_handling" / "TCGA-EJ-5519-01Z-00-DX1.xml"
    aperio, qupath = ([i.geometry for i in shapes_of(p).items] for p in (path, path.with_suffix(".json")))
    for one, other in zip(aperio, (qupath[0], qupath[2], qupath[1]), strict=True):
        assert one.bounds == pytest.approx(other.bounds, abs=0.011)
        assert one.symmetric_difference(other).area < 1e-4 * one.area


def test_halo_holes_are_as_if_painted_from_large_to_small(data_dir: Path) -> None:
    path = data_dir / "annotations" / "dlup" / "HaloMultilayerTest.annotations"
    found, box, holes = read_annotations(path).items, Box(-80, -80, 220, 170), 0
    for count, layer in enumerate(ElementTree.parse(path).getroot(), start=1):
        shapes, values = [], []
        for region in layer.iter("Region"):
            points = np.array([(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("V")]) / 100
            if region.attrib["Type"] in ("Rectangle", "Ellipse"):
                shapes.append(shapely.box(*points[0], *points[1]))
                if region.attrib["Type"] == "Ellipse":
                    (x0, y0), (x1, y1) = points
                    circle = shapely.Point((x0 + x1) / 2, (y0 + y1) / 2).buffer(1, 200)
                    shapes[-1] = affinity.scale(circle, (x1 - x0) / 2, (y1 - y0) / 2)
            elif region.attrib["Type"] == "Polygon":
                shapes.append(shapely.make_valid(shapely.Polygon(points), method="structure"))
            else:
                continue
            values.append(int(region.attrib["NegativeROA"] == "0"))
        holes += values.count(0)
        painted = Drawing.of(shapes, values).paint(box, ground=0) > 0
        of_layer = [i.geometry for i in found if i.where.endswith(f"of layer {count}")]
        cut = pixels_in([shapely.transform(shape, lambda xy: xy / 100) for shape in of_layer], box)
        assert painted.any() and (cut != painted).sum() <= 3
    assert holes == 6


def test_regions_of_the_archive_are_the_masks_that_they_were_made_from(data_dir: Path) -> None:
    """Contours go through pixel centers, which are half a pixel further in our frame; a shift is worse."""
    codes = {"mostly_tumor": 1, "mostly_stroma": 2, "mostly_lymphocytic_infiltrate": 3}
    items = shapes_of(data_dir / "dsa" / "TCGA-A2-A0YE-01Z-00-DX1_DSA_annotations.json").items
    drawn = [item for item in items if item.name in codes]
    assert {str(item.name) for item in items} == {*codes, "roi"}
    drawing = Drawing.of([i.geometry for i in drawn], [codes[str(i.name)] for i in drawn])
    (path,) = (data_dir / "dsa" / "polygon_merger_roi_masks").glob("*left-44350_top-43750*")
    truth = np.asarray(Image.open(path))
    right, *shifted = (
        (drawing.paint(Box.at(44350 + by, 43750 + by, 511, 511), ground=0) == truth).mean()
        for by in (0, -6, 6, -3, 3)
    )
    assert right > 0.98 and max(shifted) < 0.97


# --- what is refused ----------------------------------------------------------------------------------------

BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><Annotations>&c;</Annotations>'
EXTERNAL = '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd"><Annotations/>'
NO_MASK = {"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "AAAA"}
REFUSED: dict[str, tuple[str, Any, str]] = {
    "entities": ("a.xml", BOMB, "holds a document type or entities"),
    "external": ("a.annotations", EXTERNAL, "holds a document type or entities"),
    "cut": ("a.xml", ALL["asap"][:-30], "damaged XML ("),
    "nested": ("a.xml", "<Annotations>" * 50_000, "damaged XML ("),
    "encoding": ("a.xml", "<?xml version='1.0' encoding='foo'?><a/>", "damaged XML (unknown encoding"),
    "root": ("a.xml", "<annotations><ndpviewstate/></annotations>", "XML, but its root is <annotations>; "),
    "no number": ("a.xml", asap(asap_item([["1,5", 2]])), "annotation 1: X is '1,5', which is no number"),
    "infinite": ("a.xml", asap(asap_item([[1e999, 2], [3, 4], [5, 6]])), "1: a position is not a finite num"),
    "far": ("a.xml", asap(asap_item([[1e300, 2], [3, 1e300], [5, 6]])), "1: a position is 1e+300; positions"),
    "dots": ("a.xml", asap(asap_item([[1, 2]], "Dot")), "no polygon with an area (found 1 × Dot); dr"),
    "no area": ("a.xml", layers(("0", [[1, 2], [3, 4]], 0)), "region 1 of layer 1 has no area (fewer than"),
    "empty": ("a.xml", asap(), "no polygon with an area (found nothing drawn)"),
    "images": ("a.csv", "image,points\na,0 0 1 1 1 0\nb,\n", "holds regions of 2 images (a, b), not of one"),
    "element": ("a.json", dsa({"type": "polyline", "points": [[1]]}), "Archive: 0.elements.0.points.0: List"),
    "counts": ("a.json", coco({"size": [9, 9]}), "annotations.0.segmentation.runs.counts: Field required"),
    "parts": ("a.json", coco([["x"]]), "annotations.0.segmentation.polygons.0.0: Input should be a valid"),
    "few": ("a.json", coco({"size": [9, 9], "counts": [80]}), "of 80 pixels, but its size is 9×9"),
    "negative": ("a.json", coco({"size": [9, 9], "counts": [90, -9]}), "run lengths are those of 81 pixels"),
    "text": ("a.json", coco({"size": [9, 9], "counts": "é"}), "'é' in its run lengths is damaged"),
    "cut text": ("a.json", coco({"size": [9, 9], "counts": "X"}), "its run lengths are cut off"),
    "boxes": ("a.json", coco([]), "annotation 0: has no polygon"),
    "mask": ("a.json", labelme(NO_MASK), "shape 1: its mask is no PNG"),
    "circle": ("a.json", labelme({"shape_type": "circle", "points": [[0, 0]]}), "a circle has 2 points"),
    "no points": ("a.json", labelme({"shape_type": "circle"}), "Labelme: shapes.0.points: Field"),
}  # fmt: skip


def test_what_has_no_end_or_fills_the_memory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.geojson")
    packed = gzip.compress(b" " * (SMALL_TEXT + 1))
    (tmp_path / "b.geojson.gz").write_bytes(packed)
    (tmp_path / "c.geojson.gz").write_bytes(packed[:100] + b"damaged" + packed[107:])
    for name, said in (
        ("a.geojson", "is no plain file"),
        ("b.geojson.gz", r"its [\d,]+ bytes unpack to more than 67,108,864"),
        ("c.geojson.gz", "damaged gzip file"),
    ):
        for read in (read_annotations, read_cells):
            with pytest.raises(MaskError, match=rf"{name}: {said}"):
                read(tmp_path / name)
        (problem,) = check_geojson(tmp_path / name)
        assert re.search(f"{name}: {said}", problem)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file, document, message = REFUSED[name]
    path = write(tmp_path / file, document)
    with pytest.raises(MaskError) as caught:
        read_annotations(path, strict=True)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ALL)
def test_damage_is_no_harm_or_one_clear_line(name: str, tmp_path: Path) -> None:
    data = write(tmp_path / "whole", ALL[name]).read_bytes()
    path = tmp_path / f"a{SUFFIX.get(name, '.json')}"
    for seed in range(40):
        text = name != "geoparquet"
        path.write_bytes(damaged(data, random.Random(f"{seed} {name}"), text=text)[0])
        try:
            read_annotations(path, strict=True)
        except MaskError as error:
            assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 1000, seed
