"""The settings of a plan: tiles, blocks, blending, memory, and what is stored of the probabilities."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass

from wsi_seg.core.settings import CONFIG, Bytes, checked, setting

Blend = Literal["crop", "gaussian", "mean"]
ProbabilityDtype = Literal["uint8", "float32"]
# The other choice is a list of names.
StoredChoice = Literal["all", "groups", "none"]

# Blocks in flight, so that reading, predicting and writing overlap.
DEFAULT_THREADS = 2
# The same where a GPU predicts, which leaves the cores to reading and writing.
GPU_THREADS = 4


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class PlanSettings:
    """How a slide is cut and what is stored; None: from the model card, or worked out."""

    title: ClassVar = "Tiles, memory and maps"

    tile: int | None = setting(
        None,
        "Side of the network's input, a multiple of 32; null: the model card's. An axis of the map that is "
        "no longer is not cut into tiles.",
        unit="map pixels",
        gt=0,
    )
    overlap: int | None = setting(
        None, "Overlap of neighboring tiles; null: the model card's.", unit="map pixels", ge=0
    )
    block: int | None = setting(
        None, "Side of a block, which is one task and one shard of the maps.", unit="map pixels", gt=0
    )
    blend: Blend = setting(
        "crop",
        "Blending: crop takes each pixel from its own tile; gaussian and mean average overlapping tiles.",
    )
    batch: int | None = setting(
        None, "Tiles in a forward pass; null: the fastest that wsi-seg calibrate found, else 1.", ge=1
    )
    threads: int | None = setting(
        None,
        f"Blocks in flight in each process; null: {DEFAULT_THREADS}, or {GPU_THREADS} with a GPU.",
        scope="run",
        ge=1,
    )
    max_memory: Bytes | None = setting(
        None,
        "Memory to stay below, such as 2GB: with fewer blocks in flight, smaller blocks, then smaller tiles.",
        metavar="SIZE",
        scope="run",
    )
    probabilities: StoredChoice | tuple[str, ...] = setting(
        "all",
        "Probabilities to store: of all classes, of the model card's groups, none, or names of groups and "
        "classes, separated by commas.",
        metavar="all|groups|none|NAMES",
    )
    probability_downsample: int = setting(
        4,
        "Map pixels per stored probability pixel along each axis: 1, 2, 4, 8 and so on.",
        unit="map pixels",
        ge=1,
    )
    probability_dtype: ProbabilityDtype = setting(
        "uint8", "Type of stored probabilities; uint8 holds the value × 255."
    )
    uncertainty: bool = setting(
        False, "Store the entropy of the probabilities as a channel, 0 (sure) to 1 (any class)."
    )
    allow_upsampling: bool = setting(False, "Accept slides much coarser than the model, and stretch them.")
