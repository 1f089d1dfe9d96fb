"""The commands below `wsi-seg models`, which lists the models when it is called without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.options import JsonOption
from wsi_seg.cli.output import say
from wsi_seg.core.errors import DataError

if TYPE_CHECKING:
    from wsi_seg.core.card import Domain, ModelCard
    from wsi_seg.datasets.region import AnnotatedRegion


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


def domain(
    model: Annotated[Path, typer.Argument(help="Model folder; its card.json is written again.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "-d", help="YAML with data_dir and datasets; by default train.yaml of the model."
        ),
    ] = None,
) -> int:
    """Measure the stain of a model's training data, so that runs mark slides unlike them.

    Of data sets with a weight the training part is measured; where none has one, all of them. The hash of the
    model changes with its card.
    """
    from wsi_seg.core.card import read_card
    from wsi_seg.datasets.domain import measure_domain
    from wsi_seg.datasets.labels import LabelScheme
    from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config

    card = read_card(model)
    config = read_evaluate_config(data or model / TRAIN_CONFIG)
    scheme = LabelScheme(card.tissue_classes, card.mpp, config.ignored_codes, card.image_labels)
    trained = [dataset for dataset in config.datasets if dataset.weight > 0]
    regions: list[AnnotatedRegion] = []
    for dataset in trained or config.datasets:
        parts = dataset.parts(config.data_dir, scheme)
        regions += parts.training if trained else (*parts.training, *parts.validation, *parts.test)
    found = measure_domain(regions, card.mpp)
    if found is None:
        raise DataError(
            f"{data or model / TRAIN_CONFIG}: fewer than three patients have stained tissue, so how much "
            "patients differ is not known; add data"
        )
    card.model_copy(update={"domain": found}).write(model)
    say(_stain_line(card.name, found))
    return 0


def _stain_line(name: str, domain: Domain) -> str:
    scores = ", ".join(f"{score:.1f}" for score in domain.left_out)
    return (
        f"{name}: optical density {domain.density.low:.2f} to {domain.density.high:.2f} in {domain.patients} "
        f"patients ({domain.tiles} tiles); each compared with the others lies {scores} spreads outside, and "
        f"slides are marked above {domain.threshold:g}"
    )


# Commands of the group, in the order of its help.
COMMANDS: tuple[Callable[..., int], ...] = (domain,)
