"""Options that several commands share: flags of the settings of a run, and some that are no settings."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from wsi_seg.core.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.core.settings import Setting
    from wsi_seg.pipeline.settings import RunSettings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file of settings; flags win over it.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting of configs/run.yaml; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Verbose logging to stderr.")]


def local_path(text: str) -> Path:
    """Return the path of something to write; typer.BadParameter for a URL, of which Path makes a folder."""
    if "://" in text:
        raise typer.BadParameter(f"{text} is a URL, and this is written to local files only; give a path")
    return Path(text)


def output_option(about: str) -> Any:
    """Return the option `--output` of a command that writes local files."""
    return typer.Option("--output", "-o", help=about, parser=local_path, metavar="PATH")


def takes_settings(*names: str) -> Callable[[F], F]:
    """Give a command the flags of settings, of all without names; see `given_settings`."""

    def mark(command: F) -> F:
        command.settings = names  # type: ignore[attr-defined]
        return command

    return mark


def takes_options(kind: type[T]) -> Callable[[Callable[[typer.Context, T], int]], Callable[..., int]]:
    """Give a command the arguments and flags that a dataclass declares as its fields; it gets an instance."""

    def mark(command: Callable[[typer.Context, T], int]) -> Callable[..., int]:
        @wraps(command)
        def take(context: typer.Context, **values: Any) -> int:
            return command(context, kind(**values))

        hints = get_type_hints(kind, include_extras=True)
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            for name, parameter in inspect.signature(kind).parameters.items()
        ]
        return _with_parameters(take, [_keyword("context", typer.Context), *parameters])

    return mark


def command_class(command: Callable[..., int]) -> type[TyperCommand]:
    """Return the class of a command, which has the flags of the settings that the command takes."""
    if not hasattr(command, "settings"):
        return TyperCommand
    return type("SettingsCommand", (_SettingsCommand,), {"names": command.settings})


class _SettingsCommand(TyperCommand):
    """Adds flags when the command is parsed or explained: until then, pydantic is not imported."""

    names: tuple[str, ...] = ()

    @cached_property
    def _flags(self) -> list[Any]:
        """One parameter of the command line for each setting."""
        from wsi_seg.pipeline.settings import SETTINGS

        chosen = [SETTINGS[name] for name in self.names or SETTINGS]

        def stand_in(**_: Any) -> None: ...

        app = typer.Typer(add_completion=False)
        app.command()(_with_parameters(stand_in, [_parameter(declared) for declared in chosen]))
        return list(typer.main.get_command(app).params)

    def get_params(self, ctx: Any) -> list[Any]:
        *own, help_ = super().get_params(ctx)
        return [*own, *self._flags, help_]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        left = super().parse_args(ctx, args)
        ctx.meta[__name__] = {flag.name: ctx.params.pop(flag.name) for flag in self._flags}
        return left

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of options, those of settings by the part of the run that they belong to."""
        from wsi_seg.pipeline.settings import SETTINGS

        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            title = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if self.names == () and parameter in self._flags:
                title = SETTINGS[parameter.name].title
            sections.setdefault(title, []).append(parameter.get_help_record(ctx))
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _parameter(declared: Setting) -> inspect.Parameter:
    """Return the parameter of a function from which typer makes a flag; None: it was not given."""
    words = "|".join(declared.words)
    flag = typer.Option(
        *filter(None, (declared.flag, declared.short)),
        metavar=declared.metavar or words or None,
        help=declared.help_text,
        show_default=False,
    )
    kind = {"integer": int, "number": float, "path": Path, "true or false": bool}.get(declared.type_text, str)
    default, annotation = (False, kind) if kind is bool else (None, kind | None)
    return _keyword(declared.name, Annotated[annotation, flag], default)


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _with_parameters(function: F, parameters: Sequence[inspect.Parameter]) -> F:
    """Give a function the parameters from which typer makes arguments and flags."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def given_settings(context: typer.Context) -> dict[str, Any]:
    """Return the settings that were given as flags, by name."""
    return {
        name: value
        for name, value in context.meta[__name__].items()
        if value is not None and value is not False
    }


def parse_settings(pairs: list[str] | None) -> dict[str, str]:
    """Turn KEY=VALUE pairs into texts, which the type of each setting converts.

    Raises:
        UsageError: a pair has no "=" or no value.
    """
    values = {}
    for pair in pairs or []:
        key, _, text = (part.strip() for part in pair.partition("="))
        if not key or not text:
            raise UsageError(f"--set {pair!r}: write KEY=VALUE, such as --set tile=1024")
        values[key] = text
    return values


def settings_of(
    given: dict[str, Any],
    config: Path | None = None,
    pairs: list[str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> RunSettings:
    """Return the settings of a YAML file, with those given as flags and as KEY=VALUE pairs on top.

    `defaults` are for those that are given nowhere, in place of those of the settings.
    """
    from wsi_seg.pipeline.settings import make_settings, read_values

    values = {**(defaults or {}), **read_values(config, {**given, **parse_settings(pairs)})}
    return make_settings(values, config)


def set_up_logging(verbose: bool) -> None:
    """Log to stderr: warnings, or with -v what is being done. The logs of slides hold both.

    Without -v not why a slide failed: the command says that itself. Nor what tifffile finds wrong with a
    file, as whoever reads it says that.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        handler.addFilter(
            lambda record: record.name != "wsi_seg.pipeline.batch" or record.levelno < logging.ERROR
        )
        handler.addFilter(lambda record: record.name != "tifffile")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", handlers=[handler])
    logging.getLogger("wsi_seg").setLevel(logging.INFO)
