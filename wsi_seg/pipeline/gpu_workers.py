"""The number of processes on each GPU, by what was measured of the network, where the user gives none."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

from wsi_seg.core.system import usable_cores, usable_memory
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.inference.settings import ModelSettings
from wsi_seg.pipeline.models import Model, calibration
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.gpu_processes import GpuMachine, GpuProcesses, gpu_processes, gpu_work
from wsi_seg.planning.plan import choose_grid, usual_batch

# Forward passes of a tile with test-time augmentation, which is not measured apart.
VIEWS = 8

logger = logging.getLogger(__name__)


def share_gpus(
    settings: RunSettings, models: Mapping[ModelSettings, Model], devices: tuple[int, ...]
) -> WorkerSettings:
    """Return the workers of a run on GPUs, with as many processes as keep these busy.

    The slowest network decides. One that was never timed on this kind of GPU is timed first, which takes some
    seconds; where that fails, each GPU gets one process.

    Args:
        settings: of the run; with a number of processes, or workers elsewhere, nothing is changed.
        models: that will run, loaded for the first of the devices, by the settings that name them.
        devices: numbers of the GPUs, one at least.
    """
    workers = settings.workers
    if workers.processes is not None or workers.elsewhere:
        return workers
    choices = [_choose(model, asked.reference, settings, devices) for asked, model in models.items()]
    chosen = min(choices, key=lambda choice: choice.each)
    return replace(workers, processes=chosen.each * len(devices), reason=chosen.why)


def _choose(model: Model, reference: str, settings: RunSettings, devices: tuple[int, ...]) -> GpuProcesses:
    from wsi_seg.inference.models.devices import memory_of

    facts, plan = model.facts, settings.plan
    grid = choose_grid(facts.card, plan.tile, plan.overlap)
    usual = facts.card.batch or usual_batch(grid, facts)
    batch = plan.batch or dict(facts.batches).get(grid.tile) or usual
    seconds = network_seconds(model, reference, grid.tile, usual)
    if isinstance(seconds, str):
        return GpuProcesses(1, f"1 for each GPU, as the network could not be timed: {seconds}")
    work = gpu_work(
        seconds, grid.stride, batch * grid.tile**2, len(facts.card.codes), facts.activation_bytes,
        facts.weights_bytes,
    )  # fmt: skip
    memory = min(usable_memory(), plan.max_memory or sys.maxsize)
    machine = GpuMachine(len(devices), min(map(memory_of, devices)), usable_cores(), memory)
    return gpu_processes(work, machine)


def network_seconds(model: Model, reference: str, tile: int, batch: int) -> float | str:
    """Return the seconds of a tile on the model's device; measured once, in a process of its own.

    A process that has used a GPU keeps some of its memory, so this one, which runs on, does not.

    Args:
        model: on its device.
        reference: from which it was loaded.
        tile: side in pixels.
        batch: tiles in a pass, where nothing is known; it must be the one that runs take without a
            measurement, as they take what was measured from then on.

    Returns:
        Seconds; or one line that says why there are none.
    """
    facts = model.facts
    kept = calibration(replace(model, facts=replace(facts, tta=False)))
    views = VIEWS if facts.tta else 1
    if (seconds := kept.seconds(tile)) is None:
        logger.info("timing %s on %s once", facts.card.name, facts.device)
        options = ["--device", facts.device, "--precision", facts.precision, "--tile", str(tile)]
        command = [sys.executable, "-P", "-m", "wsi_seg.cli", "calibrate", reference, *options]
        done = subprocess.run(
            [*command, "--batch", str(batch), "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        seconds = kept.seconds(tile)
        if done.returncode or seconds is None:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return lines[-1].removeprefix("error: ")
    return views * seconds
