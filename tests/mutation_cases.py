"""Runs damaged inputs, each in a process of its own with limits; prints a line of JSON for each.

    python tests/mutation_cases.py FOLDER --kinds svs,card --count 20 [--seed 1] [--only 7]

What is heavy is imported once; each case is a fork of that process. A case is right where its commands end
well or with a clear line of ours: no traceback, no signal, nothing else on stderr.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import importlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests.mutation_inputs import KINDS, Case, Command, Kind, picture, run_again
from tests.mutations import damaged

if TYPE_CHECKING:
    from wsi_seg.execution.tasks import BlockRecord

ROUTES = (
    "", "/thumbnail.jpg", "/tiles/9/0_0.jpg", "/tiles/8/0_0.jpg", "/layers/classes/9/0_0.png",
    "/layers/tissue/8/0_0.png", "/layers/coverage/9/0_0.png", "/layers/probability/9/0_0.png?channel=tumor",
    "/layers/uncertainty/9/0_0.png", "/regions?box=0,0,320,320&scale=1", "/regions/at?x=60&y=60",
    "/regions/0", "/contours?channel=tumor&threshold=0.4&box=0,0,320,320&scale=1", "/polygons.geojson",
    "/polygons.geojson?channel=tumor&threshold=0.4", "/progress", "/same",
)  # fmt: skip
CPU_SECONDS, SECONDS = 20, 120
MEMORY_BYTES = 3 * 2**30
# As `batch.unforeseen` says it, and the server.
UNFORESEEN = re.compile(r"^.*unexpected [A-Z]\w*: .*$", re.MULTILINE)
# What may stand at the beginning of a line on stderr.
SAID = ("error: ", "  log: ", "tiny: untrained", "WARNING wsi_seg", "INFO wsi_seg")
# libtiff within Pillow prints what it finds wrong with a file, and nothing can keep it from that.
OF_LIBTIFF = re.compile(r"(TIFF\w+|LZW\w+|tempfile\.tif|_TIFF\w+|Fax\w+|ZIP\w+|JPEG\w+): .*")


def cases(folder: Path, kind: Kind, seed: int, numbers: range) -> Iterator[dict[str, object]]:
    """Damage an input again and again, run its commands, and say what was wrong with what they did."""
    home = folder / kind.name
    whole = home / "whole"
    if not whole.exists():
        whole.mkdir(parents=True)
        _made_or_exit(lambda: kind.make(whole, folder / "shared"), home / "log")
    for i in numbers:
        number = random.Random(f"{seed} {kind.name} {i}")
        case = Case(home / f"case{i}", folder / "shared")
        made = Path(shutil.copytree(whole, case.folder / "input"))
        if len(inside := list(made.iterdir())) == 1:
            made = inside[0]
        where = str(made.parent) if kind.named else ""
        path = number.choice(_files(made, kind.only))
        data, said = damaged(path.read_bytes(), number, text=kind.text, hot=kind.hot(path))
        path.write_bytes(data)
        start = time.perf_counter()
        faults = []
        commands = kind.commands(made, case, number)
        status = in_child(partial(run_all, commands, case.folder), case.folder / "log")
        if status != 0:
            faults.append(f"{_ending(status)}: {_tail(case.folder / 'log')}")
        faults += [
            fault for j, command in enumerate(commands) for fault in judge(case.folder, j, command, where)
        ]
        yield {
            "kind": kind.name, "number": i, "file": path.name, "damage": said, "faults": faults,
            "commands": [" ".join(command) for command in commands],
            "seconds": round(time.perf_counter() - start, 2),
            "said": [_tail(case.folder / f"{j}.err", 200) for j in range(len(commands))],
        }  # fmt: skip
        if not faults:
            shutil.rmtree(case.folder)


def _files(made: Path, only: tuple[str, ...]) -> list[Path]:
    if made.is_file():
        return [made]
    patterns = only or ("*",)
    return sorted({path for pattern in patterns for path in made.rglob(pattern) if path.is_file()})


def in_child(work: Callable[[], object], log: Path) -> int:
    """Do work in a fork of this process that may take so much time and memory; return its wait status."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code = 1
    try:
        with log.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        _limit()
        work()
        code = 0
    except BaseException:  # noqa: BLE001 (the log of the case says it, and nothing else follows)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _limit() -> None:
    # Where it hangs is worth knowing.
    faulthandler.register(signal.SIGXCPU, all_threads=True, chain=True)
    faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    signal.alarm(SECONDS)


def run_all(commands: list[Command], folder: Path) -> None:
    """Run commands one after the other, with what they print in files of their number."""
    for j, command in enumerate(commands):
        for descriptor, name in ((1, f"{j}.out"), (2, f"{j}.err")):
            with (folder / name).open("wb", buffering=0) as file:
                os.dup2(file.fileno(), descriptor)
        code = look(command) if command[0] == "view" else call(command)
        sys.stdout.flush()
        sys.stderr.flush()
        (folder / f"{j}.code").write_text(str(code))


def call(command: Command) -> int:
    """Run a command line as the program does; return its exit code."""
    from wsi_seg.cli import main

    sys.argv = ["wsi-seg", *command]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 (what Python itself does with what nobody catches)
        traceback.print_exc()
        return 1
    return 0


def look(command: Command) -> int:
    """Ask the server for everything that it shows of results; print what it did not foresee."""
    from tests.viewer_server import client

    with client(Path(command[1])) as asking:
        answers = [asking.get("/api/slides")]
        if answers[0].status_code == 200:
            for one in answers[0].json():
                answers += [asking.get(f"/api/slides/{one['id']}{route}") for route in ROUTES]
    for answer in answers:
        if answer.status_code >= 400:
            line = answer.json()["error"]
            unforeseen = " in the server; see" in line or "\n" in line
            sys.stderr.write(f"{'unexpected Answer' if unforeseen else 'error'}: {answer.url.path}: {line}\n")
    return 0


def judge(folder: Path, j: int, command: Command, where: str) -> list[str]:
    """Return what is wrong with how a command ended, one line each; errors have to name `where`."""
    code = folder / f"{j}.code"
    if not code.exists():
        return [f"{command[0]}: did not end: {_tail(folder / f'{j}.err')}"]
    out, err = [(folder / f"{j}.{end}").read_text("utf-8", "replace") for end in ("out", "err")]
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    faults = []
    if "Traceback (most recent call last)" in out + err:
        last = next((line for line in reversed(lines) if line.strip()), "")
        return [f"{command[0]}: traceback: {last[:300]}"]
    if unforeseen := UNFORESEEN.search(out + err):
        return [f"{command[0]}: not foreseen: {unforeseen[0][:400]}"]
    other = [line for line in lines if not line.startswith(SAID) and not OF_LIBTIFF.fullmatch(line)]
    if other:
        faults.append(f"{command[0]}: on stderr: {other[0][:300]}")
    if any(len(line) > 2000 for line in errors):
        faults.append(f"{command[0]}: a line of {max(map(len, errors))} characters: {errors[0][:200]}")
    problems = command[0] == "validate" and "problems" in out
    number = code.read_text()
    if number not in ("0", "3") and not errors and not problems:
        faults.append(f"{command[0]}: ended with {number} and no line that says why: {out[-200:]}")
    if command[0] != "view" and len(errors) > (2 if number == "3" else 1):
        faults.append(f"{command[0]}: {len(errors)} errors: {errors[:2]}")
    if errors and command[0] != "view" and not any(where in line for line in errors):
        faults.append(f"{command[0]}: which file? {errors[0][:300]}")
    return faults


def _ending(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"ended with {os.WEXITSTATUS(status)}"


def _tail(path: Path, most: int = 1500) -> str:
    return path.read_text("utf-8", "replace")[-most:] if path.exists() else ""


def _made_or_exit(work: Callable[[], object], log: Path) -> None:
    status = in_child(work, log)
    if status:
        raise SystemExit(f"{_ending(status)}: {_tail(log)}")


def make_shared(folder: Path) -> None:
    """Make a slide, a model and the results of a run in an empty folder."""
    from tests.conftest import small_model
    from wsi_seg.cli import app

    Image.fromarray(picture()).save(folder / "slide.png")
    small_model(folder / "model", "tu-test_resnet", 4)
    app(run_again(folder / "done", folder), standalone_mode=False)


def make_stopped(folder: Path) -> None:
    """Make what a run leaves that was killed after its third block; ends this process."""
    from wsi_seg.cli import app
    from wsi_seg.results.folder import ResultsFolder

    record, count = ResultsFolder.record, itertools.count(1)

    def kill(self: ResultsFolder, block: BlockRecord) -> None:
        record(self, block)
        if next(count) == 3:
            os._exit(0)

    ResultsFolder.record = kill  # type: ignore[method-assign]
    app(run_again(folder / "stopped", folder), standalone_mode=False)


def warm_up(folder: Path) -> None:
    """Make what all cases share, in forks, and import here what that took."""
    for name in MODULES:  # PyTorch alone maps more than the limit of a case
        importlib.import_module(name)
    shared = folder / "shared"
    if not shared.exists():
        shared.mkdir()
        for work in (make_shared, make_stopped):
            _made_or_exit(partial(work, shared), folder / "log")
    gc.freeze()  # no fork looks through all that for garbage, and so copies it


MODULES = (
    "wsi_seg.cli",
    "wsi_seg.pipeline.settings",
    "wsi_seg.pipeline.inputs",
    "wsi_seg.pipeline.run",
    "wsi_seg.execution.workers",
    "wsi_seg.inference.models.predictor",
    "wsi_seg.inference.models.convert",
    "wsi_seg.inference.models.calibrate",
    "wsi_seg.slides.readers.openslide",
    "wsi_seg.slides.readers.tiled_tiff",
    "wsi_seg.slides.readers.tiffslide",
    "wsi_seg.slides.readers.image",
    "wsi_seg.pipeline.export",
    "wsi_seg.exporters.check",
    "wsi_seg.exporters.overview",
    "wsi_seg.results.pages.check",
    "wsi_seg.results.pages.slide",
    "tests.viewer_server",
    "torch._dynamo",  # by the first prediction
    "torch._inductor",
)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", default=",".join(kind.name for kind in KINDS))
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    asked = parser.parse_args()
    os.environ["XDG_CACHE_HOME"] = str(asked.folder / "cache")
    numbers = range(asked.count) if asked.only is None else range(asked.only, asked.only + 1)
    warm_up(asked.folder)
    known = {kind.name: kind for kind in KINDS}
    for name in asked.kinds.split(","):
        for line in cases(asked.folder, known[name], asked.seed, numbers):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
