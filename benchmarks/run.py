"""Run the parts of the benchmarks one after another, each with the settings of the published results.

    python benchmarks/run.py [PART …] [--results FOLDER] [--work FOLDER]

Each part is a script of its own and writes FOLDER/PART.json; a part that fails keeps its older file and does
not stop the others. Parts whose name ends with _gpu need a GPU and run only where they are named. In the end
`tables.py` makes FOLDER/README.md of what is there. The exit code is 1 where a part failed. `make bench
PARTS="readers polygons"` does the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from machine import RESULTS
from tables import write_tables

SCRIPTS = Path(__file__).resolve().parent
# The options of each part, in the order in which they run.
PARTS: dict[str, tuple[str, ...]] = {
    "startup": ("--rounds", "5"),
    "readers": (),
    "codecs": (),
    "polygons": (),
    "roofline": (),
    "end_to_end": ("--rounds", "5"),
    "beside": (),
    "memory": (),
    "allocator": (),
    "flight": (),
    "resume": (),
    "throughput": ("--workers", "1", "2"),
    "peers": (),
    "roofline_gpu": ("--device", "cuda", "--tiles", "512", "1024", "--batches", "1", "4", "16"),
    "throughput_gpu": (
        "--size",
        "60000",
        "--tissue",
        "0.4",
        "--slides",
        "8",
        "--workers",
        "8",
        "--gpus",
        "0",
    ),
}
GPU = "_gpu"
# Of parts that measure one core.
ONE_THREAD = {"readers", "codecs"}
# Of parts that keep a model, or environments of other programs, in a folder.
KEEPING = {"roofline", "end_to_end", "beside", "throughput", "peers"}


def run_part(name: str, results: Path, scripts: Path = SCRIPTS, work: Path | None = None) -> int:
    """Run one part and return its exit code; its file is replaced only where it ends well.

    Args:
        name: of the part.
        results: gets its file.
        scripts: has its script.
        work: keeps what parts make for later runs; None: the cache folder.
    """
    out = results / f"{name}.json"
    aside = out.with_suffix(".partial")
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if name in ONE_THREAD else {})}
    script = name.removesuffix(GPU)
    kept = ("--work", work) if work and script in KEEPING else ()
    command = [sys.executable, scripts / f"{script}.py", *PARTS[name], *kept, "--output", aside]
    try:
        code = subprocess.run(command, env=environment).returncode
        if code == 0:
            aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = [name for name in PARTS if not name.endswith(GPU)]
    said = f"of {', '.join(PARTS)}; default: all but those for a GPU"
    parser.add_argument("parts", nargs="*", metavar="PART", help=said)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", type=Path, help="keeps model and environments; default: the cache folder")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    given.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in given.parts or usual:
        print(f"--- {name}", flush=True)
        start = time.perf_counter()
        code = run_part(name, given.results, work=given.work)
        if code:
            failed.append(name)
        end = f"failed with exit code {code}" if code else "done"
        print(f"--- {name}: {end} after {time.perf_counter() - start:.0f} s", flush=True)
    print(f"tables and targets: {write_tables(given.results)}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
