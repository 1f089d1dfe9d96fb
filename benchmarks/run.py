"""Run the parts of the benchmarks one after another, each with the settings of the published results.

    python benchmarks/run.py [PART …] [--small] [--results FOLDER] [--work FOLDER]

Each part is a script of its own and writes FOLDER/PART.json, with the seconds that it took; `parts.py` has
its options and how long it should take. A part that fails keeps its older file and does not stop the others.
Parts whose name ends with _gpu need a GPU and run only where they are named. In the end `tables.py` makes
FOLDER/README.md of what is there. The exit code is 1 where a part failed.
`make bench PARTS="readers polygons"` does the same.

`--small` shows in a few minutes that the parts work here: its figures mean nothing, and go to a temporary
folder unless `--results` names one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import RESULTS, write_result
from parts import GPU, PARTS, usual_parts
from tables import write_tables

SCRIPTS = Path(__file__).resolve().parent


def run_part(
    name: str, results: Path, scripts: Path = SCRIPTS, work: Path | None = None, small: bool = False
) -> int:
    """Run one part and return its exit code; its file is replaced only where it ends well.

    Args:
        name: of the part.
        results: gets its file.
        scripts: has its script.
        work: keeps what parts make for later runs; None: the cache folder.
        small: run with the options that only show that it works.
    """
    part, out = PARTS[name], results / f"{name}.json"
    aside = out.with_suffix(".partial")
    environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if part.one_thread else {})}
    options = part.small if small else part.options
    kept = ("--work", work) if work and part.keeps else ()
    command = [sys.executable, scripts / f"{name.removesuffix(GPU)}.py", *options, *kept, "--output", aside]
    start = time.perf_counter()
    try:
        code = subprocess.run(command, env=environment).returncode
        if code == 0:
            result = json.loads(aside.read_text(encoding="utf-8"))
            write_result(aside, result | {"part_seconds": time.perf_counter() - start})
            aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return code


def run_parts(names: list[str], results: Path, work: Path | None, small: bool) -> list[str]:
    """Run parts, make the page, and return the names of those that failed."""
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    whole = time.perf_counter()
    for name in names:
        budget = "" if small else f", about {PARTS[name].budget} s on two idle cores"
        print(f"--- {name}{budget}", flush=True)
        start = time.perf_counter()
        code = run_part(name, results, work=work, small=small)
        if code:
            failed.append(name)
        end = f"failed with exit code {code}" if code else "done"
        print(f"--- {name}: {end} after {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{len(names)} parts in {(time.perf_counter() - whole) / 60:.1f} min")
    print(f"tables and targets: {write_tables(results)}")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    said = f"of {', '.join(PARTS)}; default: all but those for a GPU"
    parser.add_argument("parts", nargs="*", metavar="PART", help=said)
    parser.add_argument("--small", action="store_true", help="only show that the parts work")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results; temporary with --small")
    parser.add_argument("--work", type=Path, help="keeps model and environments; default: the cache folder")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    names = given.parts or usual_parts()
    if given.small and given.results is None:
        with tempfile.TemporaryDirectory() as folder:
            failed = run_parts(names, Path(folder), given.work, small=True)
    else:
        failed = run_parts(names, given.results or RESULTS, given.work, given.small)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
