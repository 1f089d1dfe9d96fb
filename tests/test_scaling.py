"""The simulation of many workers: nothing lost, nothing twice, and each limit where arithmetic puts it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.scaling_model import BlockWork, Cluster, Work, simulate
from wsi_seg.cli import app

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "scaling.py"
BLOCK = BlockWork(
    read=0.2, predict=1.0, write=0.1, read_mb=40, read_requests=300, write_mb=5, write_requests=20
)
ONLY_DEVICE = BlockWork(read=0, predict=1.0, write=0)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 6), st.integers(1, 8), st.integers(1, 5), st.integers(1, 3),
    st.sampled_from([0, 0.3, 0.8]), st.sampled_from([1, 2, 5, float("inf")]),
    st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_every_block_is_done_once_and_no_limit_is_broken(
    slides: int,
    blocks: int,
    workers: int,
    threads: int,
    spread: float,
    flight: float,
    separate: bool,
    seed: int,
) -> None:
    serial = {"plan": 0.3, "pyramids": 0.4, "trace": 0.3, "groups": 2, "overview": 0.1, "startup": 2.0}
    work = Work(slides, blocks, BLOCK, **serial, spread=spread, seed=seed)
    cluster = Cluster(
        workers, nodes=min(2, workers), threads=threads, cores=2, filesystem_mb_s=100,
        filesystem_requests_s=900, scheduler_tasks_s=5, slides_in_flight=flight,
        driver_threads=1, separate=separate,
    )  # fmt: skip
    seen = simulate(work, cluster)
    counts = Counter(seen.done)
    assert set(counts.values()) == {1}
    per_slide = Counter(slide for slide, _ in seen.done)
    assert set(per_slide) == set(range(slides))
    assert all({b for s, b in counts if s == slide} == set(range(n)) for slide, n in per_slide.items())
    assert spread or len(counts) == slides * blocks
    rest = seen.seconds * (1 + 1e-9)
    for needed in (seen.filesystem_busy, seen.scheduler_busy, *seen.device_busy):
        assert needed <= rest
    assert seen.seconds >= 2.0 + BLOCK.predict * (not spread)
    assert 0 <= seen.tail_share <= 1 and 0 < seen.device_share <= 1
    assert seen.done == simulate(work, cluster).done


def test_one_device_takes_the_sum_of_its_forward_passes() -> None:
    work = Work(3, 7, ONLY_DEVICE)
    assert simulate(work, Cluster(threads=1)).seconds == pytest.approx(21)
    varied = simulate(replace(work, spread=0.5), Cluster())
    assert varied.seconds == pytest.approx(sum(varied.device_busy))


def test_a_second_thread_hides_all_but_the_device() -> None:
    work = Work(1, 100, BLOCK)
    assert simulate(work, Cluster(threads=1)).seconds == pytest.approx(130)
    assert simulate(work, Cluster(threads=2)).seconds == pytest.approx(100.3)
    on_cpu = Cluster(threads=2, cores=1, device_takes_core=True)
    assert simulate(work, on_cpu).seconds == pytest.approx(130)


@pytest.mark.parametrize("workers", [2, 8, 64])
def test_without_limits_speed_grows_with_the_workers(workers: int) -> None:
    work = Work(64, 20, BLOCK)
    one, many = (simulate(work, Cluster(n, nodes=max(1, n // 8))) for n in (1, workers))
    assert one.seconds / many.seconds == pytest.approx(workers, rel=0.02)
    assert many.device_share > 0.97


@pytest.mark.parametrize(
    ("limits", "blocks_a_second"),
    [
        ({"scheduler_tasks_s": 5}, 5),
        ({"filesystem_mb_s": 90}, 2),  # 45 MB a block
        ({"filesystem_requests_s": 640}, 2),  # 320 requests a block
        ({"cores": 3}, 10),  # 0.3 s of a core a block
    ],
)
def test_a_limit_caps_the_speed(limits: dict[str, float], blocks_a_second: float) -> None:
    work = Work(64, 20, BLOCK)
    seen = simulate(work, Cluster(64, **limits))
    assert len(seen.done) / seen.seconds == pytest.approx(blocks_a_second, rel=0.05)
    assert len(seen.done) / seen.seconds <= blocks_a_second * (1 + 1e-9)
    assert simulate(work, Cluster(64)).seconds < seen.seconds / 4


def test_one_slide_at_a_time_leaves_devices_idle() -> None:
    work = Work(20, 16, ONLY_DEVICE, plan=1.0, trace=3.0)
    alone = simulate(work, Cluster(8, slides_in_flight=1, driver_threads=1))
    assert alone.seconds == pytest.approx(20 * (1.0 + 16 / 8 + 3.0))
    together = simulate(work, Cluster(8, slides_in_flight=4, driver_threads=4))
    assert together.seconds < 0.5 * alone.seconds
    # However many the workers, one driver thread plans a slide in a second.
    assert simulate(work, Cluster(64, driver_threads=1)).seconds >= 20 + 3


def test_workers_share_pyramids_and_groups_and_one_of_them_draws() -> None:
    work = Work(1, 16, ONLY_DEVICE, trace=6.0, groups=3, overview=1.0)
    assert simulate(work, Cluster(1, threads=1)).seconds == pytest.approx(16 + 6 + 1)
    assert simulate(work, Cluster(4, threads=1)).seconds == pytest.approx(4 + 2 + 1)
    # A thread that has no block left builds the first pyramids.
    work = Work(1, 6, BlockWork(read=1.0, predict=0, write=0), pyramids=2.0)
    assert simulate(work, Cluster(4, threads=1)).seconds == pytest.approx(1 + 1 + 1)
    work = Work(1, 16, ONLY_DEVICE, pyramids=8.0, trace=3.0)
    assert simulate(work, Cluster(1, threads=1)).seconds == pytest.approx(16 + 8 + 3)
    assert simulate(work, Cluster(4, threads=1)).seconds == pytest.approx(4 + 2 + 3)
    assert simulate(work, Cluster(16, threads=1)).seconds == pytest.approx(1 + 2 + 3)  # four jobs
    assert simulate(work, Cluster(4, threads=1, cores=2)).seconds == pytest.approx(4 + 4 + 3)


def test_separate_drivers_keep_their_slides() -> None:
    work = Work(4, 5, ONLY_DEVICE, plan=1.0, trace=2.0, startup=3.0)
    assert simulate(work, Cluster(1, separate=True)).seconds == pytest.approx(4 * 8 + 2)
    assert simulate(work, Cluster(2, separate=True)).seconds == pytest.approx(2 * 8 + 2)


def test_finished_results_are_what_it_is_fed_with(made_svs: Path, tiny_model: Path, tmp_path: Path) -> None:
    run = ["run", str(made_svs), "-o", str(tmp_path), "-m", str(tiny_model), "--precision", "float32"]
    done = CliRunner().invoke(app, [*run, "--set", "block=1024"])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "made" / "summary.json").read_text(encoding="utf-8"))
    out = tmp_path / "scaling.json"
    command = [sys.executable, str(SCRIPT), str(tmp_path / "made"), "--slides", "4", "--blocks", "5",
               "--forward-ms", "8", "--spread", "0", "--output", str(out)]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(printed.splitlines()) == 2 + 7
    result = json.loads(out.read_text(encoding="utf-8"))
    busy, blocks = summary["worker_seconds"], summary["blocks"]
    block = result["work"]["block"]
    assert block["read"] == pytest.approx((busy["read"] + busy["resample"]) / blocks, rel=1e-3)
    assert block["predict"] == pytest.approx(
        summary["tiles"] / blocks * 0.008 / 16, rel=1e-3
    )  # tiles of 128²
    assert result["work"]["slides"] == 4 and result["work"]["blocks"] == 5
    assert {row["gpus"] for row in result["rows"]} == {1, 2, 4, 8, 16, 32, 64}
    assert all(0 < row["device_share"] <= 1 and row["slides_per_hour"] > 0 for row in result["rows"])
    refused = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and "name results folders, or pass --check" in refused.stderr
