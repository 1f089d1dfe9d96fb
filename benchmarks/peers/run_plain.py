"""The loop that most people write: a tile read and predicted at a time, all kept in one array.

One tile per forward pass, `inference_mode`, and a float32 canvas of all classes of the whole slide.
"""

from __future__ import annotations

import numpy as np
import openslide
import torch
from job import Network, Report, read_job, tissue_tiles


def main() -> None:
    job = read_job()
    report = Report(job, "openslide-python", "numpy")
    network = Network(job)
    side, classes = job.card["tile"], len(job.card["classes"])
    report.ready()
    with openslide.OpenSlide(job.slide) as slide, torch.inference_mode():
        width, height = slide.dimensions
        tiles = tissue_tiles(job, slide.dimensions)
        canvas = np.zeros((classes, height, width), np.float32)
        for x, y in tiles:
            tile = np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))
            pixels = torch.from_numpy(tile.copy()).permute(2, 0, 1)[None].to(job.device)
            probabilities = network(pixels).softmax(1)[0].cpu().numpy()
            rows, columns = min(side, height - y), min(side, width - x)
            canvas[:, y : y + rows, x : x + columns] = probabilities[:, :rows, :columns]
        labels = canvas.argmax(0).astype(np.uint8)
    report.done()
    report.write(labels, len(tiles))


if __name__ == "__main__":
    main()
