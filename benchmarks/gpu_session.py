"""All that is to be measured on a GPU, in one command and a given number of minutes.

    python benchmarks/gpu_session.py [--minutes 8] [--results FOLDER] [--small]

Each step is a program of its own and writes FOLDER/STEP.json or, with what it prints, FOLDER/STEP.log. A
step gets no more than its seconds and what is left of the time; one that fails does not stop the others, and
one for which too little time is left is skipped, which is said. FOLDER/session.json lists the ends of all.
The exit code is 1 where a step failed or was skipped. `--small` runs every step on the CPU with the least
that it takes, to show that all of them work where there is no GPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import begin, write_result

SCRIPTS = Path(__file__).resolve().parent
# Less time than this is not worth a start.
LEAST_SECONDS = 20.0


@dataclass(frozen=True)
class Step:
    """A program to run."""

    name: str
    seconds: float
    """At most."""
    command: tuple[str, ...]
    """Arguments of Python."""
    writes: bool = True
    """It takes `--output`."""


def script(name: str, *options: str) -> tuple[str, ...]:
    return (str(SCRIPTS / name), *options)


SAMPLE = str(SCRIPTS.parent / "wsi_seg" / "slides" / "sample" / "CMU-1-Small-Region.svs")
RUN = ("-m", "wsi_seg.cli", "run", SAMPLE, "-o", "unused", "--dry-run")
TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_devices.py", "tests/test_predictor.py")
# In the order of what would be missed most; together within eight minutes.
STEPS = (
    Step("gpu_tests", 60, (*TESTS, "-k", "gpu or cuda"), writes=False),
    Step("roofline_gpu", 60, script("roofline.py", "--device", "cuda", "--tiles", "512", "1024", "--batches",
                                    "1", "4", "16")),
    Step("gpu_processes", 40, (*RUN, "--gpus", "all"), writes=False),
    Step("throughput_gpu", 240, script("throughput.py", "--size", "60000", "--tissue", "0.4", "--slides", "3",
                                       "--workers", "8", "4", "16", "--gpus", "0")),
    Step("gpu_decode", 30, script("gpu_decode.py", "--device", "cuda")),
    Step("gpu_variants", 90, script("gpu_variants.py", "--device", "cuda")),
)  # fmt: skip
SMALL = (
    Step("gpu_tests", 600, (*TESTS, "-k", "test_devices or test_precisions"), writes=False),
    Step("roofline_gpu", 600, script("roofline.py", "--device", "cpu", "--tiles", "64", "--batches", "1",
                                     "--rounds", "1")),
    Step("gpu_processes", 600, RUN, writes=False),
    Step("throughput_gpu", 600, script("throughput.py", "--size", "1024", "--slides", "2")),
    Step("gpu_decode", 600, script("gpu_decode.py", "--device", "cpu", "--tiles", "8", "--rounds", "1")),
    Step("gpu_variants", 600, script("gpu_variants.py", "--device", "cpu", "--side", "64", "--batch", "2",
                                     "--rounds", "1")),
)  # fmt: skip


def run_step(step: Step, results: Path, seconds: float) -> dict[str, Any]:
    """Run a step and return how it ended: "done", "failed" or "out of time"; an older result stays then."""
    log, aside = results / f"{step.name}.log", results / f"{step.name}.partial"
    output = ("--output", str(aside)) if step.writes else ()
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *step.command, *output],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=SCRIPTS.parent,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), *sys.path])},
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
            end = "failed" if code else "done"
        except subprocess.TimeoutExpired:
            code, end = None, "out of time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and what it started
                process.wait()
    if end == "done" and step.writes:
        aside.replace(results / f"{step.name}.json")
    aside.unlink(missing_ok=True)
    return {"step": step.name, "end": end, "exit_code": code, "seconds": time.perf_counter() - start}


def run_all(steps: Sequence[Step], results: Path, seconds: float) -> list[dict[str, Any]]:
    """Run steps within a time, and return how each ended."""
    deadline = time.perf_counter() + seconds
    ends = []
    for step in steps:
        left = deadline - time.perf_counter()
        if left < min(LEAST_SECONDS, step.seconds):
            ends.append({"step": step.name, "end": "skipped", "exit_code": None, "seconds": 0.0})
        else:
            print(f"--- {step.name}", flush=True)
            ends.append(run_step(step, results, min(step.seconds, left)))
            print((results / f"{step.name}.log").read_text(encoding="utf-8").rstrip(), flush=True)
        print(f"--- {step.name}: {ends[-1]['end']} after {ends[-1]['seconds']:.0f} s", flush=True)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--results", type=Path, help="default: a temporary folder, which stays")
    parser.add_argument("--small", action="store_true", help="on the CPU, to show that the steps work")
    given = parser.parse_args()
    results = given.results or Path(tempfile.mkdtemp(prefix="gpu-session-"))
    results.mkdir(parents=True, exist_ok=True)
    head = begin(small=given.small)
    steps = SMALL if given.small else STEPS
    ends = run_all(steps, results.resolve(), 60 * given.minutes)
    write_result(results / "session.json", head | {"steps": ends, "asked": [asdict(step) for step in steps]})
    print(f"results: {results}")
    left = [f"{one['step']} ({one['end']})" for one in ends if one["end"] != "done"]
    if left:
        raise SystemExit(f"not done: {', '.join(left)}")


if __name__ == "__main__":
    main()
