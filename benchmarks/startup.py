"""Start-up: how long the command line takes until it answers, and `run` until it has its first tile.

    python benchmarks/startup.py [--rounds 5] [--model bcss-demo] [--slide FILE] [--output FILE]

Every command runs in a process of its own, all of them once in each round, on a disk cache that one round
before has warmed. `run` stops when the network has returned its first batch; what it did until then is listed
apart. Ratios are to a Python that does nothing, of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import begin, paired, versions, write_result

from wsi_seg.slides.sample import sample_slide

PROGRAM = Path(sys.executable).with_name("wsi-seg")
TORCH = "python -c 'import torch'"
OWN = "the first tile of the model's own size"
SMALL = "the first tile of 512² px"
FIRST_TILES = {SMALL: ["--set", "tile=512", "--set", "overlap=128"], OWN: []}
UNTIL_READ = "wsi-seg run, until the network gets"
UNTIL_PREDICTED = "wsi-seg run, until the network returns"
PREDICTING = "predict the first tile"

# Does what `wsi-seg run` does, in the same order and as it does it, and notes the time.
FIRST_TILE_CODE = """
import json, os, sys, threading, time
began, spent, only = float(sys.argv.pop(1)), {}, threading.Lock()
def done(step):
    global began
    now = time.time()
    spent[step] = spent.get(step, 0.0) + now - began
    began = now
done("start Python")
from wsi_seg import cli
done("import the command line")
from wsi_seg.pipeline import models, run
done("import readers, plan, maps and Dask")
import torch
done("import PyTorch")
from wsi_seg.inference.models import calibrate, predictor
done("import the networks' library")
def noting(before, function, after):
    def call(*arguments, **options):
        done(before)
        result = function(*arguments, **options)
        done(after)
        return result
    return call
models.load_model = noting("read options", models.load_model, "find and hash the model")
run.prepare = noting("open the slide", run.prepare, "find tissue and plan")
predictor.load_predictor = noting("create the maps", predictor.load_predictor, "load the weights")
predict = predictor.NetworkPredictor.__call__
def first(self, tiles, /, **options):
    only.acquire()  # other threads have a first tile, too; the process ends before they get on
    done("read the first tile")
    predict(self, tiles, **options)
    done("predict the first tile")  # PREDICTING
    print(json.dumps(spent))
    sys.stdout.flush()
    os._exit(0)
predictor.NetworkPredictor.__call__ = first
cli.main()
"""


def commands(slide: Path) -> dict[str, list[str]]:
    python = [sys.executable, "-c"]
    return {
        "python -c pass": [*python, "pass"],
        TORCH: [*python, "import torch"],
        "python -c 'import segmentation_models_pytorch'": [*python, "import segmentation_models_pytorch"],
        "wsi-seg --version": [str(PROGRAM), "--version"],
        "wsi-seg --help": [str(PROGRAM), "--help"],
        "wsi-seg info SLIDE": [str(PROGRAM), "info", str(slide)],
    }


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def first_tile(slide: Path, model: str, options: list[str]) -> tuple[float, dict[str, float]]:
    """Return the seconds from starting the process to its first batch, and what they went into."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["run", str(slide), "-o", folder, "--model", model, *options]
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", FIRST_TILE_CODE, repr(start), *arguments],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    steps: dict[str, float] = json.loads(done.stdout)
    return sum(steps.values()), steps


def measure(slide: Path, model: str, rounds: int) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Run everything once in each round; the first round only warms up."""
    runs = [f"{until} {name}" for name in FIRST_TILES for until in (UNTIL_READ, UNTIL_PREDICTED)]
    seconds: dict[str, list[float]] = {name: [] for name in (*commands(slide), *runs)}
    steps = []
    for number in range(rounds + 1):
        for name, command in commands(slide).items():
            seconds[name].append(seconds_of(command))
        for name, options in FIRST_TILES.items():
            whole, parts = first_tile(slide, model, options)
            seconds[f"{UNTIL_READ} {name}"].append(whole - parts[PREDICTING])
            seconds[f"{UNTIL_PREDICTED} {name}"].append(whole)
            if name == SMALL:
                steps.append(parts)
        print(f"round {number}: first tile after {whole:.2f} s", file=sys.stderr, flush=True)
    return {name: values[1:] for name, values in seconds.items()}, steps[1:]


def row(what: str, values: list[float]) -> dict[str, Any]:
    return {"what": what, "min_seconds": min(values), "median_seconds": statistics.median(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="bcss-demo")
    parser.add_argument("--slide", type=Path, default=sample_slide())
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    libraries = versions("torchvision", "timm", "segmentation-models-pytorch", "zarr", "dask", "typer")
    result = begin(rounds=arguments.rounds, model=arguments.model, versions=libraries)
    seconds, steps = measure(arguments.slide, arguments.model, arguments.rounds)
    result["rows"] = [row(name, values) for name, values in seconds.items()]
    for one in result["rows"]:
        # Of the same round each, as machines are noisy.
        pairs = zip(seconds[one["what"]], seconds[TORCH], strict=True)
        one["times_import_torch"] = statistics.median(mine / torch for mine, torch in pairs)
    result["pairs"] = [
        paired(name, TORCH, zip(values, seconds[TORCH], strict=True))
        for name, values in seconds.items()
        if name.startswith("wsi-seg")
    ]
    result["first_tile_of_512"] = [row(name, [one[name] for one in steps]) for name in steps[0]]
    for one in (*result["rows"], *result["first_tile_of_512"]):
        what = one["what"] if one in result["rows"] else f"    {one['what']}"
        print(f"{what:<56} min {one['min_seconds']:6.3f} s  median {one['median_seconds']:6.3f} s")
    write_result(arguments.output, result)


if __name__ == "__main__":
    main()
