"""The graph of one slide: each part of a pyramid waits for what it is built of, and for nothing else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.made.landmarks import darkness_model
from tests.made.memory_slides import ArraySlide
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.execution.graph import Flight, LocalWorkers, TaskSet
from wsi_seg.maps.maps import create_maps
from wsi_seg.pipeline.run import prepare
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.pipeline.slide_tasks import SlideTasks
from wsi_seg.planning.settings import PlanSettings


@pytest.mark.parametrize("size", [Size(5000, 3300), Size(700, 9000), Size(300, 200)])
@pytest.mark.parametrize("downsample", [1, 4])
def test_a_shard_waits_for_the_blocks_below_it(size: Size, downsample: int, tmp_path: Path) -> None:
    slide = ArraySlide(np.zeros((size.height, size.width, 3), np.uint8), Scale(0.5, 0.5))
    settings = RunSettings(
        tissue="none", plan=PlanSettings(block=256, tile=256, overlap=0, probability_downsample=downsample)
    )
    _, plan = prepare(slide, darkness_model(0.5, 256), settings)
    create_maps(tmp_path / "maps.zarr", plan.layout)
    tasks = SlideTasks(plan, tmp_path / "maps.zarr", None)
    blocks = {tasks._block_key(p.block.ix, p.block.iy): p.block.box for p in plan.blocks}
    shards, after = tasks.pyramids()
    below: dict[str, set[str]] = {key: {key} for key in blocks}
    for key, task in shards:
        below[key] = set().union(*(below[other] for other in after[key]))  # those before it alone
        layout, shard = plan.layout, task.shard
        side = layout.shard_side(shard.kind, shard.level) * layout.downsample(shard.kind, shard.level)
        region = Box.at(shard.ix * side, shard.iy * side, side, side)
        assert below[key] == {one for one, box in blocks.items() if not box.intersect(region).empty}
    levels = range(plan.layout.block_levels, plan.layout.level_count)
    assert {task.shard.level for _, task in shards} == set(levels)


@pytest.mark.parametrize("synchronous", [False, True])
def test_what_waits_runs_after_what_it_waits_for(synchronous: bool) -> None:
    ended: list[int] = []
    lock = threading.Lock()

    def note(number: int) -> int:
        with lock:
            ended.append(number)
        return number

    results: list[int] = []
    # 40 … 49 wait for four each, 50 for all of those; 39 is not among the tasks, so it is done already.
    tasks = [(str(n), n) for n in (*range(39), *range(40, 51))]
    after: dict[str, Any] = {
        str(n): [str(m) for m in range(4 * (n - 40), 4 * (n - 39))] for n in range(40, 50)
    }
    after["50"] = [str(n) for n in range(40, 50)]
    with LocalWorkers(synchronous=synchronous) as workers:
        workers.execute(TaskSet(note, tasks, results.append, after, threads=4))
    assert sorted(results) == sorted(ended) == [n for _, n in tasks] and ended[-1] == 50
    for key, others in after.items():
        assert all(ended.index(int(other)) < ended.index(int(key)) for other in others if other != "39")
    # As soon as they can, not when all else is done.
    assert min(ended.index(number) for number in range(40, 50)) < 10


def test_threads_that_slides_share_go_to_the_earlier_one_and_its_tail_needs_none() -> None:
    ended: list[str] = []
    later_waits, tail_ran = threading.Event(), threading.Event()

    def step(name: str) -> None:
        if name.startswith("one"):
            assert later_waits.wait(20)
        if name == "tail":
            tail_ran.set()
        if name == "two 0":  # has the only place
            assert tail_ran.wait(20)
        ended.append(name)

    def slide(workers: LocalWorkers, names: list[str], after: dict[str, list[str]]) -> None:
        workers.execute(TaskSet(step, [(name, name) for name in names], lambda _: None, after, threads=3))

    blocks = [f"one {n}" for n in range(3)]
    with LocalWorkers(shared_threads=1) as workers, ThreadPoolExecutor(2) as pool:
        one = pool.submit(slide, workers, [*blocks, "tail"], {"tail": blocks})
        while [running.waiting for running in workers._running] != [2]:
            time.sleep(0.01)
        two = pool.submit(slide, workers, ["two 0", "two 1"], {})
        while [running.waiting for running in workers._running] != [2, 2]:
            time.sleep(0.01)
        later_waits.set()
        one.result()
        two.result()
        assert workers.flight == Flight(1, 1)
    assert sorted(ended[:3]) == blocks and sorted(ended[3:]) == ["tail", "two 0", "two 1"]
