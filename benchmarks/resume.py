"""How long `wsi-seg run` takes on a batch that is finished already.

    python benchmarks/resume.py [--slides 1000] [--rounds 3] [--output FILE]

One tiny slide under many names is run once, in full, through the command line; then the same command is
given again, and again on a single one of the slides, which is what starting takes: medians of `--rounds`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import begin, paired, write_result
from startup import TORCH, seconds_of

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Size

SIDE = 256
SETTINGS = ("--tissue", "none", "--set", f"tile={SIDE}", "--set", "overlap=0", "--set", f"block={SIDE}")


def run(slides: Path, out: Path, model: str) -> tuple[float, str]:
    """Return the seconds of a run and what it says."""
    command = [sys.executable, "-m", "wsi_seg.cli", "run", slides, "-o", out, "--model", model, *SETTINGS]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="of running it again")
    parser.add_argument("--model", default="bcss-demo")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    result = begin(model=given.model)
    with tempfile.TemporaryDirectory() as folder:
        scans, out = Path(folder) / "scans", Path(folder) / "out"
        scans.mkdir()
        names = [scans / f"slide{number:05}.svs" for number in range(given.slides)]
        make_slide(names[0], SlideSpec(size=Size(SIDE, SIDE), mpp=0.5, tissue=1.0))
        for name in names[1:]:
            name.hardlink_to(names[0])
        first, _ = run(scans, out, given.model)
        rounds = []
        for _ in range(given.rounds):
            whole, said = run(scans, out, given.model)
            if f"{given.slides} slides: {given.slides} skipped" not in said:
                raise SystemExit(f"not all slides were skipped:\n{said}")
            one, _ = run(names[0], out, given.model)
            rounds.append((whole, one, seconds_of([sys.executable, "-c", "import torch"])))
    again, one, _ = (statistics.median(values) for values in zip(*rounds, strict=True))
    a_slide = (again - one) / (given.slides - 1)
    print(
        f"{given.slides} slides: {first:.0f} s; again, finished: {again:.1f} s, of which starting "
        f"{one:.1f} s, {1000 * a_slide:.1f} ms a slide"
    )
    pairs = ((whole, torch) for whole, _, torch in rounds)
    figures = {"slides": given.slides, "first_seconds": first, "again_seconds": again,
               "one_again_seconds": one, "ms_a_slide": 1000 * a_slide,
               "pairs": [paired("a finished batch again", TORCH, pairs)]}  # fmt: skip
    write_result(given.output, result | figures)


if __name__ == "__main__":
    main()
