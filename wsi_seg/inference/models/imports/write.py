"""The import itself: the card completed, the new folder tested against the original and put in place."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.files import writing
from wsi_seg.core.folders import is_there
from wsi_seg.core.settings import describe_error
from wsi_seg.inference.models.formats import FORMATS
from wsi_seg.inference.models.heads import Head
from wsi_seg.inference.models.imports.geometry import Found, find_geometry
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.loaded import map_of
from wsi_seg.inference.models.network import as_jpeg, normalized
from wsi_seg.inference.models.predictor import load_predictor

TILE = 512  # where neither the source nor the user says
TOLERANCE = 1e-4
# Fields that a card must name, with the flag of each and a sentence for who is asked.
NEEDED = {
    "architecture": ("--architecture", "Architecture of segmentation-models-pytorch, such as Unet"),
    "encoder": ("--encoder", "Encoder of segmentation-models-pytorch, such as resnet34"),
    "mpp": ("--mpp", "Microns per pixel that the network was trained at"),
    "classes": ("--class NAME, once for each", "Classes in the order of the channels, separated by commas"),
    "groups": (
        "--group NAME=CLASS,CLASS or --no-groups",
        "Groups of classes to report, as NAME=CLASS,CLASS separated by semicolons; - for none",
    ),
    "normalization": (
        "--normalization",
        "Normalization: imagenet, unit (0 … 1), symmetric (-1 … 1) or none (0 … 255)",
    ),
}
ARCHITECTURE = ("architecture", "encoder")
Ask = Callable[[str, str, Mapping[str, Any]], Any]


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import."""

    folder: Path
    card: ModelCard
    kind: str
    difference: float
    """Largest difference of a probability between the original and the new folder, for one tile."""


def import_model(
    source: Source, given: Mapping[str, Any], folder: Path, reference: str, ask: Ask | None = None
) -> Imported:
    """Write the model folder of a source; it appears whole or not at all.

    Args:
        source: from `read_source`.
        given: fields of the card, which win over what the source tells.
        folder: to be made.
        reference: names the source in errors.
        ask: returns the value of a field, given its name, a question and the other fields; None: nobody is
            there to answer.

    Raises:
        UsageError: the card lacks something, or a value is wrong.
        ModelError: the network does not fit the card, or predicts something else than the original.
        OutputError: the folder cannot be written, or is there already.
    """
    if is_there(folder):
        raise UsageError(f"{folder}: is there already; give another folder with --output")
    card = complete_card(source, given, reference, ask)
    part = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    with writing(folder):
        part.mkdir(parents=True)
    try:
        with writing(folder):
            source.write(card, part)
            card.write(part)
        difference = self_test(source, card, part)
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{reference}: the imported network differs from the original by {difference:.2g} in a "
                f"probability, of {TOLERANCE:g} that rounding explains; nothing is written"
            )
        with writing(folder):
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Imported(folder, card, source.kind, difference)


def complete_card(
    source: Source, given: Mapping[str, Any], reference: str, ask: Ask | None = None
) -> ModelCard:
    """Return the card: what is given, what the source tells, and what running it shows.

    Raises:
        UsageError: something is missing or wrong.
        ModelError: the network takes no RGB tiles, or returns no map.
    """
    values: dict[str, Any] = {**source.card, **given}
    channels = source.channels
    found: Found | None = None
    if source.probe is not None:
        found = find_geometry(source.probe, source.input_shape, int(values.get("tile") or TILE), reference)
        channels = found.channels
        if "output" in found.card:
            found.card["output"] |= source.output
        values = {**found.card, **values}
        if "output" not in values:
            raise UsageError(
                f"{reference}: the network returns {found.output_side} pixels for a tile of "
                f"{values['tile']}, which leaves open where they lie; give --set output.margin=PIXELS cut "
                "off on each side, or --set output.stride=INPUT PIXELS PER OUTPUT"
            )
    named = () if source.state_dict_only and values.get("format", "smp") == "smp" else ARCHITECTURE
    missing = [name for name in NEEDED if name not in named and values.get(name) is None]
    if missing and ask is None:
        flags = "; ".join(NEEDED[name][0] for name in missing)
        known = f" (its network has {channels} channels)" if channels else ""
        raise UsageError(f"{reference}: the file does not tell everything{known}; give {flags}")
    for name in missing:
        assert ask is not None
        question = NEEDED[name][1]
        values[name] = ask(name, question.replace("the channels", f"the {channels or ''} channels"), values)
    values.setdefault("head", _head(values["classes"], channels, found, reference))
    try:
        return ModelCard.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{reference}: {describe_error(error.errors()[0])}") from error


def _head(classes: Any, channels: int | None, found: Found | None, reference: str) -> str:
    """Return the head that the number of classes leaves."""
    if found is not None and found.sums_to_one:
        return "none"
    if channels in (None, len(classes)):
        return "softmax"
    if channels == len(classes) - 1:
        return "sigmoid"
    raise UsageError(
        f"{reference}: the network has {channels} channels, and {len(classes)} classes are named; name one "
        "for each channel (softmax), or one more for the rest (sigmoid)"
    )


def self_test(source: Source, card: ModelCard, folder: Path) -> float:
    """Return the largest difference of a probability between the original and a model folder, for one tile.

    Raises:
        ModelError: one of them fails, or the output does not fit the card.
    """
    shape = (card.batch or 1, card.tile, card.tile, 3)
    tiles = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    margin = card.output.margin
    found = load_predictor(str(folder.absolute()), "cpu", "float32")(tiles, margin=margin)
    with torch.inference_mode():
        quality = card.normalization.jpeg_quality
        seen = as_jpeg(tiles, quality) if quality else tiles
        inputs = normalized(torch.from_numpy(seen), card.normalization).contiguous()
        output = map_of(source.original(card)(inputs))
        expected = Head(card)(output, (card.tile, card.tile), margin)
    return float((found - expected).abs().max())


def describe(imported: Imported) -> str:
    """Return what was made, in a few lines."""
    card = imported.card
    geometry, numbers = card.output, card.normalization
    size = f"{card.tile}×{card.tile} px" + ("" if card.input_multiple != card.tile else " only")
    groups = ", ".join(group.name for group in card.groups) or "none"
    return "\n".join(
        [
            f"{imported.folder}: {card.name}, {imported.kind} as format {card.format} "
            f"({FORMATS[card.format].weights})",
            f"  input          {card.mpp:g} µm/px, {size}, batch {card.batch or 'any'}",
            f"  normalization  RGB / {numbers.scale:g}, mean {_row(numbers.mean)}, std {_row(numbers.std)}, "
            f"{numbers.channel_order}",
            f"  output         head {card.head}, margin {geometry.margin} px, stride {geometry.stride}",
            f"  classes        {', '.join(f'{c.code} {c.name}' for c in card.classes)}",
            f"  groups         {groups}",
            f"  test           one tile, original and copy differ by {imported.difference:.1g} at most",
        ]
    )


def _row(values: tuple[float, ...]) -> str:
    return json.dumps([round(value, 4) for value in values])
