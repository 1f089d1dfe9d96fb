"""Parts of the benchmarks: their options and how long they take on two idle cores."""

from __future__ import annotations

from dataclasses import dataclass

GPU = "_gpu"
"""End of the names of parts that need a GPU; they run only where they are named."""
WHOLE_BUDGET = 45 * 60
"""Seconds that all parts but those for a GPU may take together."""


@dataclass(frozen=True)
class Part:
    """One script with its options."""

    budget: int
    """Seconds on two idle cores with AMX, from the figures of earlier results."""
    options: tuple[str, ...] = ()
    """Of the published figures."""
    small: tuple[str, ...] = ()
    """That show in seconds, with figures that mean nothing, that the part works."""
    keeps: bool = False
    """Takes `--work`: it keeps a model, or environments of other programs, in a folder."""
    one_thread: bool = False
    """Measures one core."""


# In the order in which they run.
PARTS: dict[str, Part] = {
    "startup": Part(125, ("--rounds", "5"), ("--rounds", "1")),
    "readers": Part(100, ("--seconds", "2.5"), ("--seconds", "0.2", "--size", "4096"), one_thread=True),
    "codecs": Part(120, ("--rounds", "3"), ("--rounds", "1", "--side", "512"), one_thread=True),
    "polygons": Part(130, ("--rounds", "3"), ("--rounds", "1", "--side", "3000", "--repeated-side", "2048")),
    "roofline": Part(
        140, ("--rounds", "7"), ("--tiles", "256", "--batches", "1", "--rounds", "1"), keeps=True
    ),
    "end_to_end": Part(200, ("--rounds", "3"), ("--rounds", "1", "--size", "2048"), keeps=True),
    "beside": Part(170, ("--rounds", "2"), ("--size", "4096", "--rounds", "1"), keeps=True),
    "stored": Part(60, ("--rounds", "7"), ("--models", "bundled", "--rounds", "2"), keeps=True),
    "memory": Part(160, ("--tissue", "0.05"), ("--sizes", "2048", "4096")),
    "allocator": Part(100, ("--size", "6144", "--rounds", "3"), ("--size", "2048", "--rounds", "1")),
    "flight": Part(60, (), ("--blocks", "16")),
    "idle": Part(
        120,
        ("--slides", "4", "--size", "8192", "--rounds", "2", "--source", "labels"),
        ("--slides", "1", "--size", "2048", "--rounds", "1"),
    ),
    "resume": Part(270, ("--rounds", "3"), ("--slides", "4", "--rounds", "1")),
    "throughput": Part(
        140,
        ("--tissue", "0.2", "--workers", "1", "2"),
        ("--size", "1024", "--slides", "2", "--workers", "1"),
        keeps=True,
    ),
    "peers": Part(
        780, ("--peers", "tiatoolbox", "monai", "plain"), ("--size", "2048", "--peers", "plain"), keeps=True
    ),
    "roofline_gpu": Part(
        120,
        ("--device", "cuda", "--tiles", "512", "1024", "--batches", "1", "4", "16"),
        ("--device", "cuda", "--tiles", "512", "--batches", "1", "--rounds", "1"),
        keeps=True,
    ),
    "throughput_gpu": Part(
        300,
        ("--size", "60000", "--tissue", "0.4", "--slides", "8", "--workers", "8", "--gpus", "0"),
        ("--size", "4096", "--slides", "2", "--workers", "1", "--gpus", "0"),
        keeps=True,
    ),
}


def usual_parts() -> list[str]:
    """Return the parts that run where none is named."""
    return [name for name in PARTS if not name.endswith(GPU)]
