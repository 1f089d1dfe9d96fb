"""`wsi-seg models import`: a model folder from what another library stored."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_seg.cli.options import output_option, takes_options
from wsi_seg.cli.output import say
from wsi_seg.core.errors import UsageError
from wsi_seg.inference.models.imports.classes import classes_of

# Names of usual normalizations, of RGB 0 … 255.
NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "imagenet": {"scale": 255, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "unit": {"scale": 255, "mean": [0, 0, 0], "std": [1, 1, 1]},
    "symmetric": {"scale": 255, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "none": {"scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]},
}


@dataclass
class ImportOptions:
    """Arguments and flags of the command."""

    source: Annotated[
        str,
        typer.Argument(
            help="Folder of save_pretrained, hf://owner/name, MONAI bundle, BioImage.IO archive, or .onnx, "
            ".pt, .pt2, .pth, .safetensors."
        ),
    ]
    output: Annotated[Path, output_option("Model folder to make.")]
    card: Annotated[
        Path | None, typer.Option(help="JSON file with fields of the card; flags win over it.")
    ] = None
    name: Annotated[str | None, typer.Option(help="Name of the model; by default that of the source.")] = None
    class_: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="NAME[=#RRGGBB]", help="Class of the next channel; repeat in their order."
        ),
    ] = None
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME=CLASS,…", help="Classes reported together; repeatable."),
    ] = None
    no_groups: Annotated[bool, typer.Option("--no-groups", help="Report each class on its own.")] = False
    mpp: Annotated[float | None, typer.Option(help="Microns per pixel of the network's input.")] = None
    tile: Annotated[int | None, typer.Option(help="Side of the network's input in pixels.")] = None
    normalization: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(NORMALIZATIONS)}; others: --set normalization.mean=[r,g,b]."),
    ] = None
    head: Annotated[
        str | None, typer.Option(help="softmax, sigmoid, argmin or none; by default from the classes.")
    ] = None
    architecture: Annotated[
        str | None, typer.Option(help="State dict: architecture of segmentation-models-pytorch.")
    ] = None
    encoder: Annotated[
        str | None, typer.Option(help="State dict: encoder of segmentation-models-pytorch.")
    ] = None
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any field of the card, such as output.margin=256."),
    ] = None
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle a checkpoint, or run the code that builds a network.")
    ] = False


@takes_options(ImportOptions)
def import_(context: typer.Context, options: ImportOptions) -> int:
    """Make a model folder of a network that another library stored, and test it against the original.

    What the card needs and the file does not tell is taken from flags, or asked for on a terminal.
    """
    given = card_values(options)
    # Imported only now: torch takes seconds.
    from wsi_seg.inference.models.imports.sources import name_of, read_source
    from wsi_seg.inference.models.imports.write import describe, import_model

    source = read_source(options.source, options.trust)
    if "name" not in source.card:
        given.setdefault("name", name_of(options.source))
    ask = _ask if _someone_is_there() else None
    say(describe(import_model(source, given, options.output, options.source, ask)))
    return 0


def card_values(options: ImportOptions) -> dict[str, Any]:
    """Return the fields of the card that flags and the card file give.

    Raises:
        UsageError: a value cannot be read.
    """
    # Imported only now: pydantic and YAML, which --help does without.
    from wsi_seg.inference.models.imports.source_files import read_json_object

    values: dict[str, Any] = {} if options.card is None else read_json_object(options.card)
    for name in ("name", "mpp", "tile", "head", "architecture", "encoder"):
        if getattr(options, name) is not None:
            values[name] = getattr(options, name)
    if options.normalization is not None:
        values["normalization"] = _normalization(options.normalization)
    if options.class_:
        values["classes"] = classes_of(options.class_)
    if options.no_groups and options.group:
        raise UsageError("--no-groups and --group exclude each other")
    if options.no_groups:
        values["groups"] = []
    if options.group:
        values["groups"] = groups_of(options.group, values.get("classes") or [])
    for text in options.set_ or ():
        _set(values, text)
    return values


def groups_of(texts: list[str], classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups of texts such as `tumor=invasive,in situ`.

    Raises:
        UsageError: a group names an unknown class.
    """
    by_name = {one["name"]: one for one in classes}
    groups = []
    for text in texts:
        name, _, members = text.partition("=")
        found = [by_name.get(member.strip()) for member in (members or name).split(",")]
        if None in found:
            raise UsageError(
                f"--group {text!r}: expected NAME=CLASS,CLASS with classes of "
                f"{', '.join(by_name) or '--class'}"
            )
        chosen = [one for one in found if one is not None]
        groups.append(
            {"name": name.strip(), "codes": [one["code"] for one in chosen], "color": chosen[0]["color"]}
        )
    return groups


def _normalization(name: str) -> dict[str, Any]:
    if name not in NORMALIZATIONS:
        raise UsageError(
            f"--normalization {name!r}: use one of {', '.join(NORMALIZATIONS)}, or "
            "--set normalization.mean=[r,g,b]"
        )
    return dict(NORMALIZATIONS[name])


def _set(values: dict[str, Any], text: str) -> None:
    import yaml

    from wsi_seg.core.yaml_config import load_yaml

    key, given, value = text.partition("=")
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    try:
        if not given or not isinstance(values, dict):
            raise yaml.YAMLError("KEY=VALUE is expected")
        values[last] = load_yaml(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text!r}: {' '.join(str(error).split())}") from error


def _ask(name: str, question: str, values: Mapping[str, Any]) -> Any:
    """Return a field of the card as somebody types it; asked again where it cannot be read."""
    while True:
        text = typer.prompt(question).strip()
        try:
            if name in ("architecture", "encoder"):
                return text
            if name == "mpp":
                return float(text)
            if name == "classes":
                return classes_of(_parts(text, ","))
            if name == "groups":
                return [] if text == "-" else groups_of(_parts(text, ";"), values["classes"])
            return _normalization(text)
        except (UsageError, ValueError) as error:
            say(f"error: {error}", err=True)


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator) if part.strip()]


def _someone_is_there() -> bool:
    return sys.stdin.isatty()
