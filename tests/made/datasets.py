"""Small data sets of every kind, with pixels and targets that are known and can be learned.

Each shows the same scenes: stroma, in it a box of tumor, 80 × 96 pixels at 0.5 µm.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from pydantic import TypeAdapter

from tests.made.pyramids import write_pyramid
from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import BCSS
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.outlined_images import OutlinedImages
from wsi_seg.datasets.region import Pixels
from wsi_seg.datasets.reviews import ReviewedSlides
from wsi_seg.datasets.slides import AnnotatedSlides
from wsi_seg.results.files import MANIFEST
from wsi_seg.review.entries import ReviewEntry
from wsi_seg.review.places import review_folder
from wsi_seg.review.store import ReviewStore
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import SlideInfo

SCHEME = LabelScheme(classes=BCSS[:2], mpp=0.5, image_labels=("benign", "malignant"))
"""Channel 0 is tumor, channel 1 stroma."""
SIZE = Size(96, 80)
COUNT = 4
TUMOR_COLOR, STROMA_COLOR = (110, 40, 130), (230, 190, 215)


def scene(number: int) -> tuple[Pixels, Box]:
    """Return an image, uint8 RGB (80, 96, 3), and the box that is tumor; its edges are even."""
    random = np.random.default_rng(number)
    box = Box.at(*(2 * random.integers(4, 16, 2)).tolist(), *(2 * random.integers(10, 20, 2)).tolist())
    image = np.empty((SIZE.height, SIZE.width, 3))
    image[:] = STROMA_COLOR
    image[box.within(Box(0, 0, 0, 0))] = TUMOR_COLOR
    image += random.normal(0, 6, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), box


def tumor_mask(box: Box) -> Pixels:
    """Return a mask, uint8 (80, 96), 255 in a box and 0 elsewhere."""
    mask = np.zeros((SIZE.height, SIZE.width), np.uint8)
    mask[box.within(Box(0, 0, 0, 0))] = 255
    return mask


def corners(box: Box) -> list[list[float]]:
    """Return the corners of a box as a closed ring."""
    ring = [(box.x0, box.y0), (box.x1, box.y0), (box.x1, box.y1), (box.x0, box.y1), (box.x0, box.y0)]
    return [[float(x), float(y)] for x, y in ring]


def feature(ring: list[list[float]], name: str | None) -> dict[str, object]:
    """Return a GeoJSON feature as QuPath writes it; `name` is its class."""
    classification = {} if name is None else {"classification": {"name": name, "color": [200, 0, 0]}}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", **classification},
    }


def write_features(path: Path, features: list[dict[str, object]]) -> None:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def make_bcss(folder: Path) -> Dataset:
    """Write regions at 0.25 µm/px with masks of codes, of one patient each."""
    for part in ("rgbs", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(COUNT):
        image, box = scene(number)
        name = f"TCGA-A{number}-A0XX-DX1_xmin0.png"
        codes = np.where(tumor_mask(box) > 0, 1, 2).astype(np.uint8)
        for part, pixels in (("rgbs", image), ("masks", codes)):
            doubled = pixels.repeat(2, axis=0).repeat(2, axis=1)
            Image.fromarray(doubled).save(folder / part / name)
    return BcssRegions(name="made-bcss", folder=folder, mpp=0.25)


def make_masks(folder: Path) -> Dataset:
    """Write images in two folders of classes, the tumor of each in one mask or in two."""
    for number in range(COUNT):
        image, box = scene(number)
        of_class = folder / SCHEME.image_labels[number % 2]
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(of_class / f"case ({number}).png")
        half = Box(box.x0, box.y0, box.x0 + 10, box.y1) if number % 2 else box
        Image.fromarray(tumor_mask(half) > 0).save(of_class / f"case ({number})_mask.png")
        if half != box:
            rest = np.dstack([tumor_mask(Box(half.x1 - 3, box.y0, box.x1, box.y1))] * 3)
            Image.fromarray(rest).save(of_class / f"case ({number})_mask_1.png")
    return MaskedImages(
        name="made-masks", folder=folder, mask_class="tumor", background_class="stroma", mpp=0.5
    )


def make_outlines(folder: Path) -> Dataset:
    """Write images in one folder and a CSV file with the outlines of their tumors."""
    folder.mkdir(parents=True)
    with (folder / "outlines.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "points"])
        for number in range(COUNT):
            image, box = scene(number)
            Image.fromarray(image).save(folder / f"case-{number}.png")
            points = " ".join(f"{x:g} {y:g}" for x, y in corners(box)[:-1])
            writer.writerow([f"case-{number}.png", "Tumor", points])
    return OutlinedImages(
        name="made-outlines",
        folder=folder,
        outlines=Path("outlines.csv"),
        background_class="stroma",
        mpp=0.5,
    )


def make_slides(folder: Path) -> Dataset:
    """Write pyramids at 0.25 µm/px, the scene in the middle of each annotated and blank ground around it."""
    folder.mkdir(parents=True)
    for number in range(COUNT):
        pixels, box = scene(number)
        level0 = np.full((320, 384, 3), 245, np.uint8)
        at = Box(96, 80, 96 + 2 * SIZE.width, 80 + 2 * SIZE.height)
        level0[at.within(Box(0, 0, 0, 0))] = pixels.repeat(2, axis=0).repeat(2, axis=1)
        write_pyramid(folder / f"slide-{number}.tiff", level0, Scale(0.25, 0.25))
        tumor = Box(2 * box.x0 + 96, 2 * box.y0 + 80, 2 * box.x1 + 96, 2 * box.y1 + 80)
        features = [feature(corners(tumor), "Tumor"), feature(corners(at), "Stroma")]
        write_features(folder / f"slide-{number}.geojson", features)
    return AnnotatedSlides(name="made-slides", folder=folder, margin=16)


def make_reviews(folder: Path) -> Dataset:
    """Write the slides of `make_slides`, and results of which all was reviewed and the tumor is right."""
    make_slides(folder / "slides")
    for path in sorted((folder / "slides").glob("*.tiff")):
        with open_slide(path) as slide:
            info = slide.info
        results = folder / "results" / path.stem
        write_reviewed(results, info, ModelCard(name="made"))
        _, box = scene(int(path.stem[-1]))
        tumor = shapely.box(2 * box.x0 + 96, 2 * box.y0 + 80, 2 * box.x1 + 96, 2 * box.y1 + 80)
        whole = shapely.box(96, 80, 96 + 2 * SIZE.width, 80 + 2 * SIZE.height)
        facts = {"slide": info.fingerprint, "reviewer": "Ada", "region": "a"}
        entries = [
            ReviewEntry(verdict="reviewed-area", geometry=whole, **facts),
            ReviewEntry(verdict="added", geometry=tumor, class_name="tumor", **facts),
        ]
        ReviewStore(review_folder(folder / "results")).append(info, entries)
    return ReviewedSlides(
        name="made-reviews", folder=folder / "results", background_class="stroma", margin=16
    )


def write_reviewed(
    results: Path, info: SlideInfo, card: ModelCard, groups: tuple[str, ...] = ("tumor",)
) -> None:
    """Write what the data set reads of the results of a slide."""
    results.mkdir(parents=True)
    manifest = {
        "slide": TypeAdapter(SlideInfo).dump_python(info, mode="json"),
        "model": {"card": card.model_dump(mode="json"), "digest": "m"},
        "settings": {"regions": {"groups": groups}},
    }
    (results / MANIFEST).write_text(json.dumps(manifest))


MADE: Mapping[str, Callable[[Path], Dataset]] = {
    "bcss": make_bcss,
    "masks": make_masks,
    "outlines": make_outlines,
    "review": make_reviews,
    "slides": make_slides,
}
"""Kind to a function that writes a data set into a folder that is not there yet."""
