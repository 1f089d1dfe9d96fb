"""The command line. Each command imports what it needs when it runs, so `--help` and `info` are quick."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wsi_seg import __version__
from wsi_seg.cli.calibrate import calibrate
from wsi_seg.cli.evaluate import evaluate
from wsi_seg.cli.explain import explain
from wsi_seg.cli.export import export
from wsi_seg.cli.inspect import info, readers
from wsi_seg.cli.join import join
from wsi_seg.cli.merge import merge
from wsi_seg.cli.models import COMMANDS as MODELS_COMMANDS
from wsi_seg.cli.models import models
from wsi_seg.cli.options import command_class
from wsi_seg.cli.output import lost_output, prepare_output, say
from wsi_seg.cli.qupath import qupath
from wsi_seg.cli.report import report
from wsi_seg.cli.review import COMMANDS as REVIEW_COMMANDS
from wsi_seg.cli.review import review
from wsi_seg.cli.run import run
from wsi_seg.cli.seams import check_seams
from wsi_seg.cli.trace import trace
from wsi_seg.cli.train import train
from wsi_seg.cli.validate import validate
from wsi_seg.cli.view import view
from wsi_seg.core.errors import Interrupted, WsiSegError


class _Recording(TyperGroup):
    """Keeps the words of the command line as the root context's `obj`, for commands that store their call."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        prepare_output()  # before any help is printed
        ctx.obj = tuple(args)
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="wsi-seg",
    cls=_Recording,
    help="Segment whole-slide images: OME-Zarr class maps and polygons that QuPath opens in the right place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        say(f"wsi-seg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options before the command."""


def _reporting(command: Callable[..., int | None]) -> Callable[..., None]:
    """Turn what a command returns or raises into an exit code; a foreseen error is one line on stderr.

    None is what the callback of a group returns where a command of the group follows.
    """

    @functools.wraps(command)
    def run_command(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
        except WsiSegError as error:
            say(f"error: {error}", err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            say("error: interrupted", err=True)
            code = Interrupted.exit_code
        if code is None:
            return
        raise typer.Exit(code or int(lost_output()))

    return run_command


def _group(callback: Callable[..., int | None], commands: tuple[Callable[..., int], ...]) -> typer.Typer:
    """Return a command that has commands of its own; the callback does what it does without one."""
    group = typer.Typer(invoke_without_command=True, add_completion=False, rich_markup_mode=None)
    group.callback()(_reporting(callback))
    _add(group, *commands)
    return group


def _add(group: typer.Typer, *commands: Callable[..., int]) -> None:
    for command in commands:
        name = command.__name__.strip("_").replace("_", "-")
        group.command(name, cls=command_class(command))(_reporting(command))


_add(app, run, merge, view, report, qupath, info, readers, export, trace, join, validate)
_add(app, train, evaluate, explain, calibrate, check_seams)
app.add_typer(_group(review, REVIEW_COMMANDS), name="review")
app.add_typer(_group(models, MODELS_COMMANDS), name="models")


def main() -> None:
    """Run the command line."""
    app()
