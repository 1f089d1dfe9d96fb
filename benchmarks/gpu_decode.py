"""JPEG tiles decoded on a GPU by nvJPEG, next to a core's decoder that runs use: time, pixels, labels.

    python benchmarks/gpu_decode.py [--device cuda] [--tiles 256] [--rounds 5] [--output FILE]

The tiles are those of a made slide as standalone JPEG files of 256², chroma at half the resolution. Runs
decode with imagecodecs (libjpeg-turbo) on one core for each thread; torchvision.io.decode_jpeg decodes a
batch, on CUDA by nvJPEG, whose results stay on the device. `equal_labels` is the share of pixels of tiles
of 512² that get the same label from the benchmarks' network.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from bench_model import SLIDE, benchmark_model, default_work
from machine import begin, versions, write_result
from torchvision.io import ImageReadMode, decode_jpeg

from tests.made.slides import make_slide
from wsi_seg import open_slide
from wsi_seg.core.geometry import Box, Size
from wsi_seg.inference.models.devices import resolve_device
from wsi_seg.inference.models.predictor import load_predictor

SIDE = 256
QUALITY = 80


def jpeg_files(count: int) -> list[bytes]:
    """Return tiles as JPEG files, a row of a made slide after the other, two rows of tiles."""
    columns = -(-count // 2)
    spec = replace(SLIDE, size=Size(columns * SIDE, 2 * SIDE), tissue=1.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_slide(make_slide(Path(folder) / "a.svs", spec)) as slide,
    ):
        pixels = slide.read_level(0, Box(0, 0, columns * SIDE, 2 * SIDE))
    tiles = [
        np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE])
        for y in (0, SIDE)
        for x in range(0, columns * SIDE, SIDE)
    ]
    return [imagecodecs.jpeg8_encode(tile, level=QUALITY, subsampling="420") for tile in tiles]


def seconds_of(call: Callable[[], Any], rounds: int, device: str) -> float:
    """Return the median seconds of a call, after a first one."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def large(tiles: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Join tiles (2 n, 256, 256, 3), two rows, to (n // 2, 512, 512, 3)."""
    half = len(tiles) // 4 * 2
    rows = [np.concatenate(list(tiles[i : i + half]), axis=1) for i in (0, len(tiles) // 2)]
    return np.stack(np.split(np.concatenate(rows), half // 2, axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiles", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device)
    files = jpeg_files(given.tiles)
    packed = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]

    def on_device() -> list[torch.Tensor]:
        found = decode_jpeg(packed, mode=ImageReadMode.RGB, device=device)
        return list(found)

    result = begin(device=device, packages=versions("torch", "torchvision", "imagecodecs"), tiles=len(files))
    usual = seconds_of(lambda: [imagecodecs.jpeg8_decode(file) for file in files], given.rounds, "cpu")
    other = seconds_of(on_device, given.rounds, device)
    one = np.stack([imagecodecs.jpeg8_decode(file) for file in files])
    two = np.stack([tile.permute(1, 2, 0).cpu().numpy() for tile in on_device()])
    difference = np.abs(one.astype(np.int16) - two)
    predictor = load_predictor(str(benchmark_model(given.work)), device)
    labels = [predictor.logits(large(tiles)).argmax(1).cpu() for tiles in (one, two)]
    row = {
        "core_ms_per_tile": 1e3 * usual / len(files),
        "device_ms_per_tile": 1e3 * other / len(files),
        "largest_difference": int(difference.max()),
        "mean_difference": float(difference.mean()),
        "equal_labels": float((labels[0] == labels[1]).float().mean()),
    }
    print(
        f"imagecodecs {row['core_ms_per_tile']:.3f} ms of a core a tile of {SIDE}², torchvision on {device} "
        f"{row['device_ms_per_tile']:.3f} ms; pixels differ by {row['largest_difference']} at most and "
        f"{row['mean_difference']:.3f} in the mean; {row['equal_labels']:.3%} of labels equal",
        flush=True,
    )
    write_result(given.output, result | {"rows": [row]})


if __name__ == "__main__":
    main()
