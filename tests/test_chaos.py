"""Workers and drivers killed at random moments, until a batch is done: nothing is lost or wrong."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from tests.test_worker_processes import worker_processes
from wsi_seg.cli import app
from wsi_seg.core.geometry import Size

MAIN = "from wsi_seg.cli import main\nif __name__ == '__main__':\n    main()\n"
KILLS = 3
GOOD = 3


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five slides, two of which cannot be read."""
    folder = tmp_path_factory.mktemp("scans")
    for number in range(GOOD):
        spec = SlideSpec(size=Size(1024, 1024), mpp=0.5, tissue=0.7, seed=number)
        make_slide(folder / f"s{number}.svs", spec)
    whole = (folder / "s0.svs").read_bytes()
    (folder / "cut.svs").write_bytes(whole[:3000])
    (folder / "text.svs").write_text("no slide")
    return folder


def stored_bytes(folder: Path) -> dict[str, bytes]:
    """Return what a slide's results hold but for times: maps, polygons and picture."""
    files = [*(folder / "maps.zarr").rglob("*"), folder / "polygons.geojson", folder / "overview.png"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def differing(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    """Return the files that differ, or that only one has."""
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def kill_one(driver: psutil.Process, chance: random.Random) -> str:
    """Kill the driver or one of its workers; return which."""
    workers = worker_processes(driver)
    if workers and chance.random() < 0.5:
        victim = chance.choice(workers)
        victim.send_signal(signal.SIGKILL)
        return f"worker {victim.pid}"
    driver.send_signal(signal.SIGKILL)
    return "driver"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_batch_survives_any_death(scans: Path, quick_model: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("WSI_SEG_CHAOS_SEED", time.time_ns() % 100_000))
    print(f"WSI_SEG_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    program = tmp_path / "program.py"  # worker processes import it
    program.write_text(MAIN)
    arguments = ["run", str(scans), "--model", str(quick_model), "--precision", "float32",
                 "--set", "block=128", "--set", "overlap=32", "--set", "min_area_um2=0", "-o"]  # fmt: skip
    command = [sys.executable, str(program), *arguments]
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    assert CliRunner().invoke(app, [*arguments, str(quiet)]).exit_code == 3

    killed: list[str] = []
    code = None
    while code is None or code < 0:
        with subprocess.Popen(
            [*command, str(out), "--workers", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            driver = psutil.Process(process.pid)
            started = time.monotonic()
            while process.poll() is None and len(killed) < KILLS:
                # Most die while blocks are done, some while all is still being started.
                time.sleep(chance.uniform(0.5, 9 if time.monotonic() - started < 3 else 2))
                if process.poll() is None:
                    killed.append(kill_one(driver, chance))
            try:
                _, errors = process.communicate(timeout=200)
            finally:  # a driver that hangs fails the test, and does not make it hang
                process.kill()
            code = process.returncode
    print("killed:", ", ".join(killed))
    assert code == 3, errors
    assert killed

    with (out / "batch.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["name"] for row in rows}) == len(rows) == GOOD + 2
    for row in rows:
        if row["name"] in ("cut", "text"):
            assert row["status"] == "failed" and f"{row['name']}.svs" in row["reason"]
        else:
            assert row["status"] in ("done", "skipped"), row
            assert not differing(stored_bytes(out / row["name"]), stored_bytes(quiet / row["name"])), row
    assert (
        not list(out.glob(".*.partial")) and not list(out.glob(".*.claim")) and not list(out.glob(".*.old"))
    )
    left = [
        p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if str(program) in str(p.info["cmdline"])
    ]
    assert not left
