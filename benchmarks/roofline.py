"""How fast the network alone runs, logits only: what no pipeline around it can beat.

    python benchmarks/roofline.py [--tiles 512 1024] [--batches 1 2] [--output FILE]

Measures the benchmarks' U-Net (ResNet-34, 21 classes) on the CPU or on a GPU: number formats, tile and batch
sizes, the memory format that the product uses against torch's default, PyTorch's compiler with the time that
compiling takes, and OpenVINO where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_model import benchmark_model, default_work
from torch import nn

from wsi_seg.models.calibrate import machine, measure
from wsi_seg.models.network import load_network
from wsi_seg.models.predictor import load_predictor, resolve_device, resolve_precision

REPEATS = 5
SIDE = 512


def timed(call: Callable[[], Any]) -> float:
    """Return the median seconds of a call, after one to warm up."""
    call()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def row(what: str, tile: int, batch: int, seconds: float, **more: Any) -> dict[str, Any]:
    ms = seconds * 1000 / batch
    return {"what": what, "tile": tile, "batch": batch, "ms_per_tile": round(ms, 2),
            "mpx_per_second": round(tile * tile / ms / 1e3, 3), **more}  # fmt: skip


def shapes(folder: Path, device: str, tiles: list[int], batches: list[int]) -> Iterator[dict[str, Any]]:
    """Time the product's own predictor."""
    for precision in dict.fromkeys((resolve_precision("auto", device), "float32")):
        predictor = load_predictor(str(folder), device, precision)
        for tile in tiles:
            for batch in batches:
                seconds = measure(predictor, tile, batch).seconds_per_tile * batch
                yield row(f"wsi_seg {precision}", tile, batch, seconds)


def alternatives(folder: Path) -> Iterator[dict[str, Any]]:
    """Time float32 on the CPU in other ways, one after another on the same input."""
    network = load_network(folder)
    planar = torch.rand(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        yield row("torch float32, planar", SIDE, 1, timed(lambda: network(planar)))
        last: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        pixels = planar.contiguous(memory_format=torch.channels_last)
        yield row("torch float32, channels last", SIDE, 1, timed(lambda: last(pixels)))
        compiled = torch.compile(last)
        start = time.perf_counter()
        compiled(pixels)
        once = time.perf_counter() - start
        seconds = timed(lambda: compiled(pixels))
        yield row("torch.compile float32", SIDE, 1, seconds, compile_seconds=round(once, 1))
    if importlib.util.find_spec("openvino") is not None:
        yield openvino(last, pixels)


def openvino(network: nn.Module, pixels: torch.Tensor) -> dict[str, Any]:
    import openvino as ov

    start = time.perf_counter()
    converted = ov.convert_model(network, example_input=pixels, input=[1, 3, SIDE, SIDE])
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(converted, "CPU", hints).create_infer_request()
    once = time.perf_counter() - start
    array = np.ascontiguousarray(pixels.numpy())
    seconds = timed(lambda: request.infer([array]))
    return row("OpenVINO float32", SIDE, 1, seconds, compile_seconds=round(once, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiles", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = resolve_device(arguments.device)
    folder = benchmark_model(arguments.work)
    rows = []
    parts = [shapes(folder, device, arguments.tiles, arguments.batches)]
    if device == "cpu":
        parts.append(alternatives(folder))
    for part in parts:
        for one in part:
            rows.append(one)
            more = f"  ({one['compile_seconds']} s to compile)" if "compile_seconds" in one else ""
            shape = f"{one['tile']:>5} px × {one['batch']:<3}"
            speed = f"{one['ms_per_tile']:>9.1f} ms a tile {one['mpx_per_second']:>8.2f} Mpx/s"
            print(f"{one['what']:<30} {shape} {speed}{more}", flush=True)
    if arguments.output:
        result = {
            "device": machine(device),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "command": "python benchmarks/roofline.py " + shlex.join(sys.argv[1:]),
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
