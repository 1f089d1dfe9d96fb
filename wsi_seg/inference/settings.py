"""The settings of the network: which one, and where it runs."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from wsi_seg.core.settings import CONFIG, checked, setting


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class ModelSettings:
    """Network to load, and how it runs."""

    title: ClassVar = "Model"

    reference: str = setting(
        "bcss-demo",
        "Name, model folder, hf://owner/name[@revision], .pth file with a card.json, or module:factory.",
        key="model",
        short="-m",
    )
    device: str = setting(
        "auto",
        "auto (a GPU where there is one), cpu, openvino (the CPU, often faster), cuda, or cuda:1.",
        scope="run",
    )
    precision: str = setting("auto", "auto, float32, bf16, or fp16 (GPU).")
    tta: bool = setting(
        False,
        "Average the predictions of the eight flips and turns of each tile; takes eight times the time.",
    )
