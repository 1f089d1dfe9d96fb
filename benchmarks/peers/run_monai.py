"""MONAI: `sliding_window_inference` over a region that its `WSIReader` has read.

It takes no mask, so the region is the smallest that holds all tiles with tissue, on their grid, and it is
spared what lies around. Windows of a tile, no overlap, four per forward pass as in MONAI's tutorials; all
else as it comes: windows weigh alike, and the result stays on the device of the input.
"""

from __future__ import annotations

import numpy as np
import torch
from job import Network, Report, read_job, tissue_tiles
from monai.data import WSIReader
from monai.inferers import sliding_window_inference

WINDOWS = 4


def main() -> None:
    job = read_job()
    report = Report(job, "monai", "openslide-python", "numpy")
    network = Network(job)
    side = job.card["tile"]
    report.ready()
    reader = WSIReader(backend="openslide", level=0)
    slide = reader.read(job.slide)
    height, width = reader.get_size(slide, level=0)
    tiles = tissue_tiles(job, (width, height))
    x0, y0 = (min(tile[axis] for tile in tiles) for axis in (0, 1))
    x1, y1 = (min(max(tile[axis] for tile in tiles) + side, (width, height)[axis]) for axis in (0, 1))
    region, _ = reader.get_data(slide, location=(y0, x0), size=(y1 - y0, x1 - x0))
    with torch.inference_mode():
        image = torch.tensor(region)[None].to(job.device).float()  # the result gets its type
        probabilities = sliding_window_inference(
            image, (side, side), WINDOWS, lambda window: network(window).softmax(1), overlap=0
        )
        labels = np.zeros((height, width), np.uint8)
        labels[y0:y1, x0:x1] = probabilities[0].argmax(0).cpu().numpy()
    report.done()
    report.write(labels, -(-(x1 - x0) // side) * -(-(y1 - y0) // side))


if __name__ == "__main__":
    main()
