"""Presets of the run dialog: a few settings together, in the words of docs/settings.md."""

from __future__ import annotations

from dataclasses import dataclass

from wsi_seg.pipeline.settings import KEYS


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings of a run that differ from the defaults."""

    name: str
    about: str
    """Their use in one sentence."""
    settings: tuple[tuple[str, str], ...] = ()
    """Name and text of each."""

    @property
    def flags(self) -> list[str]:
        """Return them as flags of `wsi-seg run`."""
        return [
            KEYS[name].flag if text == "true" else f"{KEYS[name].flag}={text}" for name, text in self.settings
        ]

    @property
    def meanings(self) -> list[str]:
        """Return the meaning of each, as the documentation has it."""
        return [KEYS[name].help for name, _ in self.settings]


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("standard", "The model card's overlap of tiles, and probabilities of all classes."),
        Preset(
            "quick look",
            "Tiles that do not overlap, so fewer of them: seams may show at their borders.",
            (("overlap", "0"), ("probabilities", "groups")),
        ),
        Preset(
            "full",
            "Eight predictions for each tile, and where the model is unsure, by which a review is sorted.",
            (("tta", "true"), ("uncertainty", "true")),
        ),
    )
}
