"""wsi_seg next to other programs and the loop most people write: same weights, tiles and slide, one run.

    python benchmarks/peers.py [--rounds 1] [--device cpu] [--work FOLDER] [--output FILE]

The slide is made (8192² at 0.25 µm/px, JPEG, 38 % tissue), the network is that of `bench_model.py`, tiles are
512² without overlap where the tissue mask has tissue. Each peer gets a virtual environment of its own; what
it runs, and how it was set, stands in `benchmarks/peers/`. First everyone segments a small slide, which warms
caches and compilers, and all labels must agree where a program has some; then each is timed in a process of
its own. wsi_seg runs as the command line does, and does more in its time than the others: maps, pyramids,
polygons and a picture.

Memory is the highest sum of the resident memory of a process and its children, until the labels are there.
On a machine that is shared, see `processes.alone`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_model import CARD, SLIDE, benchmark_model, default_work
from comparison import agreement, figures, medians, table, verdict, with_ratios
from machine import begin, paired, versions, write_result
from numpy.typing import NDArray
from peer_environments import REQUIREMENTS, environment, remove_environment, shared_versions
from PIL import Image
from processes import OutOfMemory, alone, watch

from tests.made.slides import SlideSpec, make_slide
from wsi_seg import find_tissue, open_slide
from wsi_seg.core.geometry import Size
from wsi_seg.maps.maps import Maps

PROGRAM = Path(sys.executable).with_name("wsi-seg")
SCRIPTS = Path(__file__).resolve().parent / "peers"
AGREEMENT = 0.99  # of the tissue's labels with those of wsi_seg in float32
EXACT = "wsi_seg, float32"
DEFAULT = "wsi_seg, default"
OPENVINO = "wsi_seg, OpenVINO"
TIATOOLBOX = "TIAToolbox"
KEEPING = "TIAToolbox, all in memory"
NEVER = 100_000  # per cent of the memory, from which on TIAToolbox would move data to disk
TITLES = {
    "tiatoolbox": TIATOOLBOX,
    "monai": "MONAI",
    "plain": "plain loop",
    "lazyslide": "LazySlide",
    "wsinfer": "WSInfer, a class a tile",
}
NO_LABEL = 255
CHECK = SlideSpec(size=Size(2048, 2048), tissue=0.6)

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Task:
    """One slide, as everyone gets it."""

    slide: Path
    mask: Path
    model: Path
    device: str


@dataclass(frozen=True)
class Outcome:
    """Result of one program on one slide."""

    labels: Labels | None
    """Channel of each pixel, (H, W), 255 where there is none; None: pixels have no labels."""
    row: dict[str, Any]


def make_task(folder: Path, spec: SlideSpec, model: Path, device: str) -> Task:
    """Write the slide and its tissue mask, which is wsi_seg's own, into `folder`."""
    folder.mkdir()
    slide = make_slide(folder / "made.svs", spec)
    with open_slide(slide) as opened:
        mask = find_tissue(opened).mask
    Image.fromarray(mask).convert("RGB").save(folder / "mask.png")
    return Task(slide, folder / "mask.png", model, device)


def run_ours(task: Task, folder: Path, *options: str) -> Outcome:
    """Run the command line of wsi_seg."""
    log = folder / "log"
    grid = ("--set", f"tile={CARD.tile}", "--set", "overlap=0")
    command: list[str | Path] = [PROGRAM, "run", task.slide, "-o", folder / "out"]
    command += ["--model", task.model, *grid, *options]
    start, end, memory = watch(command, log)
    results = folder / "out" / task.slide.stem
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    plan = json.loads((results / "manifest.json").read_text(encoding="utf-8"))["plan"]
    channel = np.zeros(256, np.uint8)
    channel[list(CARD.codes)] = np.arange(len(CARD.codes))
    work = summary["bottleneck"]["wall_seconds"]
    facts = {
        "precision": plan["precision"],
        "batch": plan["batch"],
        "forward_only_seconds": summary["bottleneck"]["network_seconds"],
    }
    row = {**figures(end - start, work, memory, summary["tiles"]), **facts}
    return Outcome(channel[np.asarray(Maps.open(results / "maps.zarr").labels[:])], row)


def run_peer(peer: str, python: Path, task: Task, folder: Path, **options: Any) -> Outcome:
    """Run the script of a peer in its environment, with further settings of the peer's own."""
    job = {**asdict(task), "out": folder, "options": options}
    (folder / "job.json").write_text(json.dumps(job, default=str), encoding="utf-8")
    start, _, memory = watch([python, SCRIPTS / f"run_{peer}.py", folder / "job.json"], folder / "log")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    done = report["done"]
    until = [(moment, size) for moment, size in memory if moment <= done]
    row = figures(done - start, done - report["ready"], until, report["tiles"])
    labels = folder / "labels.npy"
    return Outcome(np.load(labels) if labels.is_file() else None, {**row, "versions": report["versions"]})


def everyone(
    task: Task, folder: Path, pythons: Mapping[str, Path], ours: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Let each program segment the slide, one after the other, and compare labels.

    Returns:
        For each program its figures; of one that ran out of memory, when and where that was.

    Raises:
        SystemExit: labels do not agree.
    """
    rows: dict[str, dict[str, Any]] = {}
    exact: Labels | None = None
    tissue = np.zeros(0, bool)
    waiting = [*ours, *(TITLES[peer] for peer in pythons)]
    while waiting:
        name = waiting.pop(0)
        with tempfile.TemporaryDirectory(dir=folder) as place, alone():
            try:
                outcome = run_one(name, task, Path(place), pythons, ours)
            except OutOfMemory as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                rows[name] = {"out_of_memory_seconds": error.seconds, "peak_mib": error.peak / 2**20}
                waiting[:0] = [KEEPING] if name == TIATOOLBOX else []
                continue
            if exact is None:
                exact = outcome.labels
                tissue = np.asarray(Maps.open(Path(place, "out", task.slide.stem, "maps.zarr")).tissue[:]) > 0
        rows[name] = outcome.row
        if outcome.labels is None:
            continue
        assert exact is not None, "the first program is wsi_seg, which labels pixels"
        labeled = tissue & (outcome.labels != NO_LABEL)
        same = agreement(outcome.labels, exact, labeled)
        rows[name] |= {"agreement": same, "labeled": labeled.sum() / tissue.sum()}
        print(f"{name}: {same:.4%} of the labels of {EXACT}", file=sys.stderr, flush=True)
        if same < AGREEMENT:
            raise SystemExit(f"{name}: labels differ, so times say nothing; the least is {AGREEMENT:.0%}")
    return rows


def run_one(
    name: str, task: Task, out: Path, pythons: Mapping[str, Path], ours: Mapping[str, Sequence[str]]
) -> Outcome:
    """Run one program by its title."""
    if name in ours:
        return run_ours(task, out, "--device", task.device, *ours[name])
    if name == KEEPING:
        return run_peer("tiatoolbox", pythons["tiatoolbox"], task, out, memory_threshold=NEVER)
    peer = next(peer for peer, title in TITLES.items() if title == name)
    return run_peer(peer, pythons[peer], task, out)


def our_ways(device: str) -> dict[str, tuple[str, ...]]:
    """Return the ways to run wsi_seg, by name; the first gives the labels that all are compared with."""
    ways = {EXACT: ("--precision", "float32"), DEFAULT: ()}
    if device == "cpu" and importlib.util.find_spec("openvino"):
        ways[OPENVINO] = ("--device", "openvino")
    return ways


def our_pairs(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the seconds of the ways of wsi_seg next to those of the plain loop, by round."""
    plain = TITLES["plain"]
    return [
        paired(way, plain, ((rows[way]["seconds"], rows[plain]["seconds"]) for rows in rounds))
        for way in (EXACT, DEFAULT, OPENVINO)
        if all("seconds" in rows.get(name, {}) for rows in rounds for name in (way, plain))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size", type=int, default=SLIDE.size.width, help="width and height of the slide in pixels"
    )
    parser.add_argument("--tissue", type=float, default=SLIDE.tissue, help="share of tissue, 0 to 1")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--peers", nargs="+", choices=list(REQUIREMENTS), default=list(REQUIREMENTS))
    parser.add_argument("--own-torch", action="store_true", help="each peer gets the PyTorch it asks for")
    parser.add_argument("--remove", action="store_true", help="remove the environments in the end")
    parser.add_argument("--work", type=Path, default=default_work(), help="keeps model and environments")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    spec = replace(SLIDE, size=Size(given.size, given.size), tissue=given.tissue)
    with alone():
        model = benchmark_model(given.work)
    pythons = {}
    for peer in given.peers:
        with alone():
            pythons[peer] = environment(peer, given.work, given.own_torch)
    ours = our_ways(given.device)
    with tempfile.TemporaryDirectory(dir=given.work) as place:
        folder = Path(place)
        everyone(make_task(folder / "check", CHECK, model, given.device), folder, pythons, ours)
        task = make_task(folder / "slide", spec, model, given.device)
        result = begin(
            slide={"size": given.size, "tissue": given.tissue, "mpp": spec.mpp, "codec": spec.codec},
            packages=versions("wsi-seg", "torch", "openvino"),
            shared_with_peers=shared_versions(given.own_torch),
        )
        rounds = [everyone(task, folder, pythons, ours) for _ in range(given.rounds)]
    for rows in rounds:
        print(table(rows, DEFAULT), flush=True)
    ratios = {reference: medians([with_ratios(rows, reference) for rows in rounds]) for reference in ours}
    result |= {"rounds": rounds, "median_ratios_to": ratios, "pairs": our_pairs(rounds)}
    for name in (TIATOOLBOX, KEEPING):
        if name in ratios[DEFAULT]:
            said = []
            for way in (way for way in (DEFAULT, OPENVINO) if way in ratios):
                alone_seconds = [rows[name]["seconds"] / rows[way]["forward_only_seconds"] for rows in rounds]
                said.append(verdict(name, way, ratios[way][name], statistics.median(alone_seconds)))
            result["verdict"] = "; ".join(said)
            print(result["verdict"])
            break
    write_result(given.output, result)
    if given.remove:
        for peer in given.peers:
            remove_environment(peer, given.work, given.own_torch)


if __name__ == "__main__":
    main()
