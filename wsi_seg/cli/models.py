"""The commands below `wsi-seg models`, which lists the models when it is called without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from wsi_seg.cli.options import JsonOption
from wsi_seg.cli.output import say

if TYPE_CHECKING:
    from wsi_seg.core.card import ModelCard


def models(context: typer.Context, json_: JsonOption = False) -> int | None:
    """List the models: bundled ones, and those that are installed. `--model` takes their names.

    With --json each is its card, with `state`, which is "bundled" or "installed".
    """
    if context.invoked_subcommand is not None:
        return None
    from wsi_seg.inference.models.registry import list_installed, list_models

    found = {"bundled": list_models(), "installed": list_installed()}
    if json_:
        plain = [{"state": s, **card.model_dump(mode="json")} for s, cards in found.items() for card in cards]
        say(json.dumps(plain, indent=2))
        return 0
    for state, cards in found.items():
        if cards:
            say("\n".join([f"{state}:", *(_described(card) for card in cards)]))
    return 0


def _described(card: ModelCard) -> str:
    """Return the lines of a model, indented."""
    lines = (
        f"{card.name} (version {card.version}): {card.architecture} on {card.encoder}, "
        f"{len(card.classes)} classes, {card.mpp:g} µm/px",
        card.description,
        card.notice,
        f"groups: {', '.join(g.name for g in card.groups) or 'none'}; traced by default: "
        f"{', '.join(card.traced_names)}",
    )
    first, *rest = filter(None, lines)
    return "\n".join([f"  {first}", *(f"    {line}" for line in rest)])


# Commands of the group, in the order of its help.
COMMANDS: tuple[Callable[..., int], ...] = ()
