"""How fast the network alone runs, logits only: what no pipeline around it can beat.

    python benchmarks/roofline.py [--tiles 512 1024] [--batches 1 2] [--rounds 7] [--output FILE]

Measures the benchmarks' U-Net (ResNet-34, 21 classes) on the CPU or on a GPU, in the number format that runs
choose here and in float32. First by tile and batch, as the product runs it; then one tile of 512² in other
ways: torch's own memory format, PyTorch's compiler, and OpenVINO where it is installed. These take turns
within each round, so that all meet the same noise, and ratios are of the same round.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_model import benchmark_model, default_work
from machine import begin, paired, versions, write_result

from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.inference.models.calibrate import measure
from wsi_seg.inference.models.devices import resolve_device, resolve_precision
from wsi_seg.inference.models.predictor import DTYPES, load_predictor

SIDE = 512
PRODUCT = "wsi_seg"
PLANAR, COMPILED, OPENVINO = "torch, planar", "torch.compile", "OpenVINO"


def shapes(folder: Path, device: str, precision: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time the product's own predictor by tile and batch."""
    predictor = load_predictor(str(folder), device, precision)
    for tile in given.tiles:
        for batch in given.batches:
            seconds = measure(predictor, tile, batch, predictor.passes).seconds_per_tile
            yield {"precision": precision, "tile": tile, "batch": batch, "ms_per_tile": 1000 * seconds,
                   "mpx_per_second": tile * tile / seconds / 1e6}  # fmt: skip


def ways(folder: Path, device: str, precision: str) -> dict[str, Callable[[], Any]]:
    """Return the ways to run one tile, the product's first."""
    tile = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    predictor = load_predictor(str(folder), device, precision)
    found: dict[str, Callable[[], Any]] = {PRODUCT: lambda: predictor.logits(tile)}
    if device != "cpu":
        return found
    compiled = copy.copy(predictor)
    compiled._network = torch.compile(predictor._network)
    found[COMPILED] = lambda: compiled.logits(tile)
    planar: Any = copy.deepcopy(predictor._network).to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
    pixels = torch.rand(1, 3, SIDE, SIDE).to(DTYPES[precision])
    found[PLANAR] = torch.inference_mode()(lambda: planar(pixels))
    if importlib.util.find_spec("openvino") is not None:
        other = load_predictor(str(folder), "openvino", precision)
        found[OPENVINO] = lambda: other.logits(tile)
    return found


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, Any]]:
    """Time each call once a round, after a first call of each, which compiles; ratios are to the first.

    A way that is faster but slower to start has won that back after `pays_after_tiles`; others have none.
    """
    first = {name: _seconds(call) for name, call in calls.items()}
    seconds = [{name: _seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    reference = next(iter(calls))
    usual = statistics.median(one[reference] for one in seconds)
    found: dict[str, dict[str, Any]] = {}
    for name in calls:
        ratio = statistics.median(one[name] / one[reference] for one in seconds)
        extra = max(0.0, first[name] - first[reference])
        found[name] = {
            "first_seconds": first[name],
            "ms_per_tile": 1000 * statistics.median(one[name] for one in seconds),
            "ratio_of_time": ratio,
            "seconds": [one[name] for one in seconds],
            "pays_after_tiles": math.ceil(extra / (usual * (1 - ratio))) if ratio < 1 else None,
        }
    return found


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as cache:  # what the compiler made for an earlier run would help it
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        write_result(given.output, measured(given))


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Return the figures, printing each as it comes."""
    device = resolve_device(given.device)
    folder = benchmark_model(given.work)
    result = begin(device=device, packages=versions("torch", "openvino"))
    result |= {"shapes": [], "ways": [], "pairs": []}
    for precision in dict.fromkeys((resolve_precision("auto", device), "float32")):
        for row in shapes(folder, device, precision, given):
            result["shapes"].append(row)
            shape = f"{row['tile']:>5} px × {row['batch']:<3}"
            speed = f"{row['ms_per_tile']:>8.1f} ms a tile {row['mpx_per_second']:>7.2f} Mpx/s"
            print(f"{precision:<8} {shape} {speed}", flush=True)
        found = in_turn(ways(folder, device, precision), given.rounds)
        seconds = {name: figures.pop("seconds") for name, figures in found.items()}
        result["pairs"] += [
            paired(f"{name}, {precision}", PLANAR, zip(seconds[name], seconds[PLANAR], strict=True))
            for name in (PRODUCT, OPENVINO)
            if PLANAR in seconds and name in seconds
        ]
        for name, figures in found.items():
            result["ways"].append({"precision": precision, "way": name, "tile": SIDE, **figures})
            share = f"{figures['ratio_of_time']:.2f} of the time of {PRODUCT}"
            speed = f"{figures['ms_per_tile']:>8.1f} ms a tile"
            first = f"first {figures['first_seconds']:.1f} s"
            tiles = figures["pays_after_tiles"]
            pays = "never pays" if tiles is None else f"pays after {tiles} tiles"
            said = "" if name == PRODUCT else f"; {pays}"
            print(f"{precision:<8} {name:<16} {speed}, {share}; {first}{said}", flush=True)
    return result


if __name__ == "__main__":
    main()
