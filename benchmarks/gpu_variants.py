"""The network on a device in other ways than runs take: memory format, number format, compiler, CUDA graphs.

    python benchmarks/gpu_variants.py [--device cuda] [--batch 16] [--side 512] [--rounds 7] [--output FILE]

Each way predicts the same batch of tiles of the benchmarks' slide, logits only. They take turns within each
round, and ratios are of the same round. `equal_labels` is the share of pixels with the label of the way that
runs take. Way "CUDA graphs" is PyTorch's compiler with mode "reduce-overhead"; it and fp16 need CUDA.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_model import SLIDE, benchmark_model, default_work
from machine import begin, versions, write_result
from numpy.typing import NDArray
from roofline import in_turn

from tests.made.slides import make_slide
from wsi_seg import open_slide
from wsi_seg.core.geometry import Box, Size
from wsi_seg.inference.models.devices import resolve_device
from wsi_seg.inference.models.predictor import NetworkPredictor, load_predictor

PRODUCT = "wsi_seg"


def some_tiles(side: int, batch: int) -> NDArray[Any]:
    """Return tiles (N, side, side, 3) from the middle of a made slide."""
    spec = replace(SLIDE, size=Size(2 * side, side * batch), tissue=1.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_slide(make_slide(Path(folder) / "a.svs", spec)) as slide,
    ):
        column = slide.read_level(0, Box(0, 0, side, side * batch))
    return column.reshape(batch, side, side, 3)


def with_network(
    predictor: NetworkPredictor, change: Callable[[Any], Callable[..., Any]]
) -> NetworkPredictor:
    """Return a predictor that is the same but for its network."""
    other = copy.copy(predictor)
    other._network = change(copy.deepcopy(predictor._network))
    return other


def planar(network: Any) -> Callable[..., Any]:
    network = network.to(memory_format=torch.contiguous_format)
    return lambda pixels: network(pixels.contiguous())


def ways(folder: Path, device: str) -> dict[str, NetworkPredictor]:
    """Return the ways by name, first that of runs."""
    predictor = load_predictor(str(folder), device)
    found = {
        PRODUCT: predictor,
        "planar": with_network(predictor, planar),
        "torch.compile": with_network(predictor, torch.compile),
    }
    if device.startswith("cuda"):
        graphs = with_network(predictor, lambda network: torch.compile(network, mode="reduce-overhead"))
        found |= {"CUDA graphs": graphs, "fp16": load_predictor(str(folder), device, "fp16")}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    device = resolve_device(given.device)
    tiles = some_tiles(given.side, given.batch)
    result = begin(device=device, packages=versions("torch"), side=given.side, batch=given.batch)
    found = ways(benchmark_model(given.work), device)
    figures = in_turn({name: lambda one=one: one.logits(tiles) for name, one in found.items()}, given.rounds)
    labels = {name: one.logits(tiles).argmax(1).cpu() for name, one in found.items()}
    rows = []
    for name, row in figures.items():
        row.pop("seconds", None)  # of each round
        row["ms_per_tile"] = (row["ms_per_tile"] or 0) / given.batch
        equal = float((labels[name] == labels[PRODUCT]).float().mean())
        rows.append({"way": name, "precision": found[name].precision, **row, "equal_labels": equal})
        print(
            f"{name:<14} {row['ms_per_tile']:8.3f} ms a tile, {row['ratio_of_time']:.2f} of the time of "
            f"{PRODUCT}; first {row['first_seconds']:.1f} s; {equal:.3%} of labels",
            flush=True,
        )
    write_result(given.output, result | {"rows": rows})


if __name__ == "__main__":
    main()
