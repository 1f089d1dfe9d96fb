"""The benchmarks' model and slide: U-Net, ResNet-34, 21 BCSS classes, 0.25 µm/px, tiles of 512², no overlap.

    python benchmarks/bench_model.py [--work FOLDER]

It is made from nothing but this package, in a minute or two on two cores: weights from a seed, fitted for a
few dozen steps to what the bundled `bcss-demo` says about the packaged slide. It is no good as a model, but
it decides as a trained one does, with wide margins inside a region and narrow ones at its border, so that
labels can be compared between number formats and between programs. The folder is kept in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
import multiprocessing
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tests.made.slides import SlideSpec
from wsi_seg import RunSettings, load_model, open_slide, segment_slide
from wsi_seg.core.card import ModelCard
from wsi_seg.core.folders import cache_folder
from wsi_seg.core.geometry import Size
from wsi_seg.inference.models.network import build_network, normalized, save_network
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.inference.models.registry import find_model, model_hash
from wsi_seg.maps.maps import Maps
from wsi_seg.slides.sample import sample_slide
from wsi_seg.slides.slide import map_frame, read_region

TEACHER = "bcss-demo"
CARD = ModelCard(
    name="benchmark",
    description="Fitted for a few steps, to measure speed with. It is no model of tissue.",
    architecture="Unet",
    encoder="resnet34",
    mpp=0.25,
    tile=512,
    overlap=0,
    training_data=f"what {TEACHER} says about the packaged slide",
)
# What the model is run on, wherever whole runs are compared.
SLIDE = SlideSpec(size=Size(8192, 8192), mpp=0.25, tissue=0.38, codec="jpeg")
SEED = 0
STEPS = 40
CROPS = 4  # in a step
SIDE = 256  # of a crop
RATE = 1e-3  # highest learning rate

RGB = NDArray[np.uint8]
Labels = NDArray[np.uint8]
log = logging.getLogger(__name__)


def default_work() -> Path:
    """Return the folder in which benchmarks keep what they make, in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    return cache_folder("benchmarks")


def benchmark_model(work: Path) -> Path:
    """Return the folder of the benchmarks' model inside `work`; it is made unless it is there.

    Another process makes it, as this one may go on to measure its own peak of memory.
    """
    folder = work / f"model-{_key()[:16]}"
    if not folder.is_dir():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            other.submit(_make, work, folder, log.getEffectiveLevel()).result()
    return folder


def _make(work: Path, folder: Path, level: int) -> None:
    logging.basicConfig(level=level, format="%(message)s")
    work.mkdir(parents=True, exist_ok=True)
    log.info("making the model of the benchmarks in %s", folder)
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        image, labels = _lesson(Path(temporary))
        network = _fitted(image, labels)
        made = Path(temporary) / "model"
        save_network(network, CARD, made)
        # Renamed when whole; a second maker that was faster has made the same.
        if not folder.is_dir():
            shutil.move(made, folder)


def _key() -> str:
    """Return the hash of all that decides the weights, but for the processor."""
    settings = (CARD.model_dump_json(), SEED, STEPS, CROPS, SIDE, RATE)
    code = "".join(
        inspect.getsource(function) for function in (_lesson, taught, sample_image, _fitted, _place)
    )
    parts = (
        repr((settings, code)).encode(),
        sample_slide().read_bytes(),
        model_hash(find_model(TEACHER)).encode(),
        *(version(name).encode() for name in ("torch", "segmentation-models-pytorch")),
    )
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _lesson(temporary: Path) -> tuple[RGB, Labels]:
    """Return the packaged slide at the model's resolution and, for each pixel, the teacher's code.

    Returns:
        uint8 (H, W, 3) and uint8 (H, W), 0 where there is no tissue.
    """
    result = segment_slide(sample_slide(), temporary, load_model(TEACHER), RunSettings())
    maps = Maps.open(result.folder / "maps.zarr")
    codes = np.asarray(maps.labels[:])
    image = sample_image()
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) * CARD.mpp / maps.mpp).astype(int), known - 1)
        for side, known in zip(image.shape[:2], codes.shape, strict=True)
    )
    return image, taught(codes[np.ix_(rows, columns)])


def taught(codes: Labels) -> Labels:
    """Return codes with 0 for those of the teacher, such as glass, that are no class of the model."""
    return np.where(np.isin(codes, CARD.codes), codes, np.uint8(0))


def sample_image() -> RGB:
    """Return the packaged slide at the model's resolution, uint8 (H, W, 3)."""
    with open_slide(sample_slide()) as slide:
        frame = map_frame(slide.info, CARD.mpp)
        return read_region(slide, frame, frame.box)


def _fitted(image: RGB, labels: Labels) -> nn.Module:
    """Return a network fitted to the labels of random crops."""
    torch.manual_seed(SEED)
    network = build_network(CARD).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    # The rate falls to nothing, so that the statistics of batch normalization are those of the last weights.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=STEPS)
    target = torch.from_numpy(labels).long() - 1  # channel i is code i + 1; no tissue becomes -1
    places = np.random.default_rng(SEED)
    for step in range(STEPS):
        crops = [_place(places, labels) for _ in range(CROPS)]
        tiles = torch.from_numpy(np.stack([image[crop] for crop in crops]))
        logits = network(normalized(tiles, CARD.normalization))
        loss = functional.cross_entropy(logits, torch.stack([target[c] for c in crops]), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        log.info("step %d of %d: loss %.3f", step + 1, STEPS, loss.item())
    return network.eval()


def _place(places: np.random.Generator, labels: Labels) -> tuple[slice, slice]:
    """Return a random crop that is at least half tissue."""
    while True:
        y, x = (int(places.integers(0, side - SIDE)) for side in labels.shape)
        crop = slice(y, y + SIDE), slice(x, x + SIDE)
        if np.count_nonzero(labels[crop]) * 2 >= SIDE * SIDE:
            return crop


def labels_of(folder: Path, precision: str, tiles: RGB, device: str = "cpu") -> Tensor:
    """Return the model's channel for each pixel of tiles uint8 (N, H, W, 3), int64 (N, H, W)."""
    predict = load_predictor(str(folder), device, precision)
    return torch.cat([predict(tile[None]).argmax(1).cpu() for tile in tiles])


def check_tiles(image: RGB, count: int = 6) -> RGB:
    """Return `count` tiles spread over an image, uint8 (count, tile, tile, 3)."""
    side = CARD.tile
    corners = [
        (y, x) for y in range(0, image.shape[0] - side, side) for x in range(0, image.shape[1] - side, side)
    ]
    chosen = corners[:: max(1, len(corners) // count)][:count]
    return np.stack([image[y : y + side, x : x + side] for y, x in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    arguments = parser.parse_args()
    log.setLevel(logging.INFO)
    start = time.perf_counter()
    folder = benchmark_model(arguments.work)
    print(f"{folder}  ({time.perf_counter() - start:.0f} s)")
    tiles = check_tiles(sample_image())
    exact, rounded = (labels_of(folder, precision, tiles) for precision in ("float32", "bf16"))
    counts = torch.bincount(exact.ravel(), minlength=len(CARD.classes)) / exact.numel()
    shares = {c.name: round(float(n), 3) for c, n in zip(CARD.classes, counts, strict=True) if n > 0.001}
    print(f"shares of the classes: {shares}")
    print(f"labels of bf16 equal to those of float32: {float((exact == rounded).float().mean()):.4%}")


if __name__ == "__main__":
    main()
