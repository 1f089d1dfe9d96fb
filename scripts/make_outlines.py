"""Draw outlines around the masks of an image folder, as if it had been annotated with polygons.

    python scripts/make_outlines.py data/busi data/busi_outlines

The new folder gets the images and `outlines.csv` (columns image, class, points; one row for each outline),
which the data set kind `outlines` reads. Outlines go along the pixels of the mask; holes are filled, as an
outline has none.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from PIL import Image

from wsi_seg.datasets.folders import image_name
from wsi_seg.datasets.masks import find_masks

LEAST_CORNERS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder with CLASS/NAME.png and CLASS/NAME_mask.png")
    parser.add_argument("out", type=Path, help="folder to make")
    arguments = parser.parse_args()
    masks = find_masks(arguments.images)
    arguments.out.mkdir(parents=True)
    with (arguments.out / "outlines.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "points"])
        for path in sorted(arguments.images.glob("*/*.png")):
            name = image_name(path, arguments.images)
            if name not in masks:
                continue  # a mask
            with Image.open(path) as image:
                size = image.size
            if any(mask_size(mask) != size for mask in masks[name]):
                print(f"{path}: left out, since a mask of it has another size")
                continue
            (arguments.out / name).parent.mkdir(exist_ok=True)
            shutil.copy(path, (arguments.out / name).with_suffix(".png"))
            outlines = [outline for mask in masks[name] for outline in outline_mask(mask)]
            for outline in outlines or [""]:
                writer.writerow([f"{name}.png", path.parent.name if outline else "", outline])


def mask_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def outline_mask(path: Path) -> list[str]:
    """Return the outer outlines of a mask, each as "x y x y …" in pixels of the image."""
    with Image.open(path) as image:
        mask = np.asarray(image.convert("L")) > 0
    height, width = mask.shape
    x, y = np.arange(-1, width + 1) + 0.5, np.arange(-1, height + 1) + 0.5
    field = np.pad(mask, 1).astype(np.float64)
    rings = contour_generator(x, y, field, fill_type="OuterOffset").filled(0.5, np.inf)
    outlines = []
    for points, offsets in zip(*rings, strict=True):
        outer = points[: offsets[1] - 1]
        if len(outer) >= LEAST_CORNERS:
            outlines.append(" ".join(f"{value:g}" for value in outer.ravel()))
    return outlines


if __name__ == "__main__":
    main()
