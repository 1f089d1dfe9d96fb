"""Speed of a network on a device: measured once, kept in the cache folder, used by later runs."""

from __future__ import annotations

import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from wsi_seg.core.files import atomic_path, writing
from wsi_seg.core.folders import cache_folder
from wsi_seg.inference.models.predictor import NetworkPredictor, cpu_threads

REPEATS = 3
# A larger batch must be faster by this much to be taken: it takes more memory.
WORTH = 0.03


@dataclass(frozen=True, slots=True)
class Timing:
    """One measurement of the forward pass alone, logits only."""

    tile: int
    """Side of the network's input in pixels."""
    batch: int
    passes: int
    """Forward passes at a time."""
    seconds_per_tile: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """The measurements of one model on one device, in one file of the cache folder."""

    digest: str
    """Hash of weights and card, see `registry.model_hash`."""
    device: str
    precision: str
    tta: bool = False

    @property
    def path(self) -> Path:
        way = self.device.split(":")[0]
        words = (self.digest[:16], way, machine(self.device), self.precision, *(["tta"] if self.tta else []))
        name = re.sub(r"[^A-Za-z0-9.]+", "-", " ".join((*words, "torch", torch.__version__)))
        return cache_folder("calibration") / f"{name}.json"

    def timings(self) -> list[Timing]:
        """Return what was measured before; nothing where no file can be read: it is measured again then."""
        try:
            plain = json.loads(self.path.read_text(encoding="utf-8"))
            return [Timing(**one) for one in plain]
        except (OSError, ValueError, TypeError, RecursionError):
            return []

    def seconds(self, tile: int) -> float | None:
        """Return the device's least seconds for a tile of this size; None where that was not measured."""
        return min((t.seconds_per_tile for t in self.timings() if t.tile == tile), default=None)

    def add(self, timings: Sequence[Timing]) -> None:
        """Keep new measurements; they take the place of older ones of the same shape.

        Raises:
            OutputError: the cache folder cannot be written.
        """
        known = {(t.tile, t.batch, t.passes): t for t in (*self.timings(), *timings)}
        text = json.dumps([asdict(t) for t in known.values()], indent=1) + "\n"
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path, shared=True) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def best_batches(self) -> dict[int, int]:
        """Return the fastest batch measured for each tile size, with as many passes as do best."""
        best: dict[int, Timing] = {}
        for timing in sorted(self.timings(), key=lambda t: (t.tile, t.batch, t.seconds_per_tile)):
            other = best.get(timing.tile)
            if other is None or timing.seconds_per_tile < other.seconds_per_tile * (1 - WORTH):
                best[timing.tile] = timing
        return {tile: timing.batch for tile, timing in best.items()}


def measure(predictor: NetworkPredictor, tile: int, batch: int, passes: int) -> Timing:
    """Time forward passes alone on noise, so many at a time: the median of `REPEATS` after one more.

    Raises:
        ModelError: the device has not enough memory.
    """
    noise = np.random.default_rng(0).integers(0, 256, (batch, tile, tile, 3), np.uint8)
    seconds = []
    with ThreadPoolExecutor(passes, "forward", initializer=predictor.share, initargs=(passes,)) as pool:
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            for done in [pool.submit(predictor.logits, noise) for _ in range(passes)]:
                done.result()
            seconds.append(time.perf_counter() - start)
    predictor.unshare()
    return Timing(tile, batch, passes, round(statistics.median(seconds[1:]) / (batch * passes), 6))


def measure_shapes(
    predictor: NetworkPredictor,
    tiles: Sequence[int],
    batches: Sequence[int],
    passes: Callable[[int, int], int],
) -> Iterator[Timing]:
    """Time every shape; for one tile size no larger batch is tried once a batch is slower than the last.

    Args:
        predictor: to be timed.
        tiles: sides of the input in pixels.
        batches: tiles in a pass.
        passes: returns for tile and batch how many passes go at a time.

    Raises:
        ModelError: the device has not enough memory.
    """
    for tile in tiles:
        last = float("inf")
        for batch in sorted(batches):
            timing = measure(predictor, tile, batch, passes(tile, batch))
            yield timing
            if timing.seconds_per_tile > last * (1 + WORTH):
                break
            last = timing.seconds_per_tile


def machine(device: str) -> str:
    """Return what decides the speed of a device: its name, and for a CPU the threads that torch uses."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{_cpu_name()} {cpu_threads()} threads"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()
