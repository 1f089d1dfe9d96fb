"""The commands below `wsi-seg models`, which lists the models when it is called without one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.models_import import import_
from wsi_seg.cli.options import JsonOption
from wsi_seg.cli.output import say
from wsi_seg.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from wsi_seg.core.card import Domain, ModelCard
    from wsi_seg.datasets.region import AnnotatedRegion
    from wsi_seg.inference.models.catalog import CatalogEntry


def models(context: typer.Context, json_: JsonOption = False) -> int | None:
    """List the models: bundled, installed, and those that `wsi-seg models add` installs.

    `--model` takes the names of bundled and installed ones. With --json each is its card, with `state`:
    "bundled", "installed" or "available"; the latter with what the catalog says besides.
    """
    if context.invoked_subcommand is not None:
        return None
    from wsi_seg.inference.models.catalog import catalog
    from wsi_seg.inference.models.registry import list_installed, list_models

    there = {"bundled": list_models(), "installed": list_installed()}
    names = {card.name for cards in there.values() for card in cards}
    available = [entry for name, entry in catalog().items() if name not in names]
    if json_:
        plain = [{"state": s, **card.model_dump(mode="json")} for s, cards in there.items() for card in cards]
        for entry in available:
            besides = entry.model_dump(mode="json", exclude={"card"})
            plain.append({"state": "available", **entry.card.model_dump(mode="json"), **besides})
        say(json.dumps(plain, indent=2))
        return 0
    for state, cards in there.items():
        if cards:
            say("\n".join([f"{state}:", *map(_described, cards)]))
    if available:
        say("\n".join(["available (wsi-seg models add NAME):", *map(_offered, available)]))
    return 0


def _described(card: ModelCard) -> str:
    """Return the lines of a model, indented."""
    return _lines(
        f"{card.name} (version {card.version}): {card.architecture} on {card.encoder}, "
        f"{len(card.classes)} classes, {card.mpp:g} µm/px",
        card.description,
        card.notice,
        f"groups: {', '.join(g.name for g in card.groups) or 'none'}; traced by default: "
        f"{', '.join(card.traced_names)}",
        _assessed(card),
    )


def _offered(entry: CatalogEntry) -> str:
    """Return the lines of a model that can be installed, indented."""
    card = entry.card
    return _lines(
        f"{card.name}: {card.description}",
        f"{card.task}, {card.mpp:g} µm/px: {', '.join(c.name for c in card.classes)}",
        f"license {card.license}, {entry.megabytes} MB",
        entry.scores and f"{entry.scores} ({entry.scores_source})",
    )


def _lines(first: str, *rest: str) -> str:
    return "\n".join([f"  {first}", *(f"    {line}" for line in filter(None, rest))])


def add(
    name: Annotated[str, typer.Argument(help="Name of an available model, see `wsi-seg models`.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to download.")] = False,
) -> int:
    """Download a published model and install it: `--model` then takes its name.

    Its license and size are shown first. The download resumes where it was interrupted, its SHA-256 must be
    the hub's, pickled code is never run, and the installed model must predict what the checkpoint does.
    """
    from wsi_seg.inference.models.catalog import find_entry

    entry = find_entry(name)
    # Imported only now: torch takes seconds.
    from wsi_seg.inference.models.install import install, look_up

    remote = look_up(entry)
    card = entry.card
    say(
        f"{card.name}: {card.description}\n  license  {card.license} ({entry.license_source})\n"
        f"  notice   {card.notice}\n  from     {entry.source}, {entry.file}, {remote.size / 1e6:.1f} MB\n"
        f"  cite     {entry.citation}"
    )
    if not yes:
        if not asks():
            raise UsageError(f"{name}: read the license above; --yes downloads the model without a terminal")
        if not typer.confirm("Download and install it?"):
            return 1
    folder = install(entry, remote)
    say(f"installed in {folder} (SHA-256 {remote.sha256}); use it with --model {name}")
    return 0


def asks() -> bool:
    """Return whether somebody is there to answer."""
    return sys.stdin.isatty()


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


def _assessed(card: ModelCard) -> str:
    from wsi_seg.core.assessed import unassessed_classes

    missing = unassessed_classes(card)
    if not missing:
        return ""
    names = ", ".join(c.name for c in card.classes if c.name not in missing)
    return f"assessed: {names}; not assessed, for lack of training data: {', '.join(missing)}"


def check(
    model: Annotated[str, typer.Argument(help="Model folder, bundled name, or hf://owner/name.")],
) -> int:
    """Check a model: its card, and that its network predicts what the card says, the same each time."""
    from wsi_seg.core.errors import WsiSegError
    from wsi_seg.inference.models.checks import CHECKS
    from wsi_seg.inference.models.registry import find_model

    folder = find_model(model)
    failed = 0
    for name, run in CHECKS.items():
        try:
            say(f"ok      {name}: {run(folder)}")
        except WsiSegError as error:
            failed += 1
            say(f"failed  {name}: {error}")
    return int(failed > 0)


# Commands of the group, in the order of its help.
COMMANDS: tuple[Callable[..., int], ...] = (add, import_, check, domain)
