"""A model of many workers on many slides: what limits them, simulated event by event.

A worker is a process with one device and a few threads. A thread takes a block, waits for the scheduler's
turn, reads from the shared filesystem, decodes on a core of its node, waits for the device and predicts,
stitches and compresses on a core, and writes. The driver plans a slide before it hands out its blocks. Once
four blocks are there a job builds the pyramid above them; after the last of these the polygons of each group
are a job, and then the overview is one. Filesystem and scheduler serve one request after another, cores and
devices one thread each.

Seconds, MB of 10⁶ bytes. A limit of `inf` is no limit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import inf
from typing import Any

import simpy

Events = Generator[simpy.Event, Any, None]
# What a thread of a worker, given by number, has to do.
Job = Callable[[int], Events]

BLOCKS_A_SHARD = 4
"""Blocks under one job of the pyramids."""


@dataclass(frozen=True, slots=True)
class BlockWork:
    """Mean seconds of one block."""

    read: float
    """Decoding and resampling on a core."""
    predict: float
    """On the device."""
    write: float
    """Stitching and compression on a core."""
    read_mb: float = 0.0
    read_requests: float = 0.0
    write_mb: float = 0.0
    write_requests: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """A batch of slides."""

    slides: int
    blocks: int
    """Of a slide, in the mean."""
    block: BlockWork
    plan: float = 0.0
    """Of a slide, on the driver."""
    pyramids: float = 0.0
    """Of a slide, on cores of workers."""
    trace: float = 0.0
    """Of a slide, on cores: the polygons of all groups."""
    groups: int = 1
    """Groups whose polygons are traced, each by a job of its own."""
    overview: float = 0.0
    """Of a slide, on one core."""
    startup: float = 0.0
    """Of a worker: imports and weights."""
    spread: float = 0.0
    """Standard deviation over mean of a slide's blocks and of a block's seconds."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the batch runs."""

    workers: int = 1
    nodes: int = 1
    threads: int = 2
    """Of a worker."""
    cores: float = inf
    """Of a node, shared by its workers."""
    device_takes_core: bool = False
    """True where the device is the CPU: predicting then takes a core too."""
    filesystem_mb_s: float = inf
    filesystem_requests_s: float = inf
    scheduler_tasks_s: float = inf
    slides_in_flight: float = inf
    driver_threads: float = inf
    """Slides that the driver plans at a time."""
    separate: bool = False
    """True where each worker has a driver and slides of its own, one at a time."""


@dataclass(slots=True)
class Outcome:
    """Result of the simulation."""

    seconds: float = 0.0
    """From start to the last file of the last slide."""
    done: list[tuple[int, int]] = field(default_factory=list)
    """(slide, block) in the order of completion."""
    device_busy: list[float] = field(default_factory=list)
    """Seconds of each worker's device."""
    last_block: list[float] = field(default_factory=list)
    """When each worker ended its last block."""
    filesystem_busy: float = 0.0
    scheduler_busy: float = 0.0
    slides: int = 0

    @property
    def slides_per_hour(self) -> float:
        return 3600 * self.slides / self.seconds

    @property
    def device_share(self) -> float:
        """Share of all devices' time in which they predicted."""
        return sum(self.device_busy) / (len(self.device_busy) * self.seconds)

    @property
    def tail_share(self) -> float:
        """Share of the time after the first worker ran out of blocks."""
        return 1 - min(self.last_block) / self.seconds


def simulate(work: Work, cluster: Cluster) -> Outcome:
    """Run a batch on a cluster; the same arguments give the same outcome."""
    return _Simulation(work, cluster).run()


class _Simulation:
    def __init__(self, work: Work, cluster: Cluster) -> None:
        self.work, self.cluster = work, cluster
        self.env = simpy.Environment()
        self.random = random.Random(work.seed)
        workers = cluster.workers
        self.outcome = Outcome(device_busy=[0.0] * workers, last_block=[0.0] * workers, slides=work.slides)
        self.filesystem, self.scheduler = self._served(1), self._served(1)
        self.cores = [self._served(cluster.cores) for _ in range(cluster.nodes)]
        self.devices = [self._served(1) for _ in range(workers)]
        drivers = workers if cluster.separate else 1
        self.queues = [simpy.Store(self.env) for _ in range(drivers)]
        at_a_time = 1 if cluster.separate else cluster.slides_in_flight
        self.flights = [self._served(at_a_time) for _ in range(drivers)]
        self.drivers = [
            self._served(1 if cluster.separate else cluster.driver_threads) for _ in range(drivers)
        ]

    def _served(self, capacity: float) -> simpy.Resource:
        return simpy.Resource(self.env, capacity if math.isfinite(capacity) else 10**9)

    def run(self) -> Outcome:
        counts = [max(1, round(self._varied(self.work.blocks))) for _ in range(self.work.slides)]
        slides = [self.env.process(self._slide(slide, count)) for slide, count in enumerate(counts)]
        for worker in range(self.cluster.workers):
            for _ in range(self.cluster.threads):
                self.env.process(self._thread(worker))
        self.env.run(self.env.all_of(slides))
        self.outcome.seconds = self.env.now
        return self.outcome

    def _varied(self, mean: float) -> float:
        """Return a value of a gamma distribution with this mean and the spread of the work."""
        if self.work.spread < 0.001 or mean == 0:
            return mean
        shape = self.work.spread**-2
        return self.random.gammavariate(shape, mean / shape)

    def _slide(self, slide: int, blocks: int) -> Events:
        own = slide % len(self.queues)
        with self.flights[own].request() as turn:
            yield turn
            yield from self._hold(self.drivers[own], self.work.plan)
            ended = self._hand_out(own, [self._block(slide, block) for block in range(blocks)])
            parts = [ended[start : start + BLOCKS_A_SHARD] for start in range(0, blocks, BLOCKS_A_SHARD)]
            seconds = self.work.pyramids / len(parts)
            yield self.env.all_of([self.env.process(self._after(own, part, seconds)) for part in parts])
            for jobs, seconds in ((self.work.groups, self.work.trace), (1, self.work.overview)):
                if seconds > 0:
                    yield self.env.all_of(self._hand_out(own, [self._on_a_core(seconds / jobs)] * jobs))

    def _after(self, queue: int, blocks: list[simpy.Event], seconds: float) -> Events:
        """Build the pyramid of a shard once its blocks are there."""
        yield self.env.all_of(blocks)
        if seconds > 0:
            yield self.env.all_of(self._hand_out(queue, [self._on_a_core(seconds)]))

    def _hand_out(self, queue: int, jobs: list[Job]) -> list[simpy.Event]:
        """Queue jobs for the workers; the events are that each is done."""
        ended = [self.env.event() for _ in jobs]
        for job, event in zip(jobs, ended, strict=True):
            self.queues[queue].put((job, event))
        return ended

    def _thread(self, worker: int) -> Events:
        queue = self.queues[worker % len(self.queues)]
        yield self.env.timeout(self.work.startup)
        while True:
            job, event = yield queue.get()
            yield from job(worker)
            event.succeed()

    def _core(self, worker: int) -> simpy.Resource:
        return self.cores[worker * self.cluster.nodes // self.cluster.workers]

    def _on_a_core(self, seconds: float) -> Job:
        def job(worker: int) -> Events:
            yield from self._schedule()
            yield from self._hold(self._core(worker), seconds)

        return job

    def _block(self, slide: int, number: int) -> Job:
        def job(worker: int) -> Events:
            yield from self._segment(worker)
            self.outcome.done.append((slide, number))
            self.outcome.last_block[worker] = self.env.now

        return job

    def _segment(self, worker: int) -> Events:
        block, core = self.work.block, self._core(worker)
        size = self._varied(1.0)
        yield from self._schedule()
        yield from self._transfer(block.read_mb * size, block.read_requests * size)
        yield from self._hold(core, block.read * size)
        with self.devices[worker].request() as turn:
            yield turn
            self.outcome.device_busy[worker] += block.predict * size
            if self.cluster.device_takes_core:
                yield from self._hold(core, block.predict * size)
            else:
                yield self.env.timeout(block.predict * size)
        yield from self._hold(core, block.write * size)
        yield from self._transfer(block.write_mb * size, block.write_requests * size)

    def _hold(self, resource: simpy.Resource, seconds: float) -> Events:
        if seconds > 0:
            with resource.request() as turn:
                yield turn
                yield self.env.timeout(seconds)

    def _transfer(self, mb: float, requests: float) -> Events:
        limits = self.cluster
        seconds = max(mb / limits.filesystem_mb_s, requests / limits.filesystem_requests_s)
        self.outcome.filesystem_busy += seconds
        yield from self._hold(self.filesystem, seconds)

    def _schedule(self) -> Events:
        seconds = 1 / self.cluster.scheduler_tasks_s
        self.outcome.scheduler_busy += seconds
        yield from self._hold(self.scheduler, seconds)
