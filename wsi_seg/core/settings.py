"""Settings that are declared once, as fields of frozen dataclasses that check their values.

A field made by `setting` holds its default, limits, unit and help. `find_settings` lists the settings of a
class and of the classes in it by their flat names; command line, YAML, tables of slides and docs all read
that list. `from_flat` makes an instance of flat values.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

from wsi_seg.core.errors import UsageError

T = TypeVar("T")
# A number of bytes, also of text such as 2GB.
if TYPE_CHECKING:
    Bytes = int
else:
    Bytes = ByteSize
# `slide`: a table may give it for one slide; `run`: the same for all slides; `command`: a flag only.
Scope = Literal["slide", "run", "command"]
CONFIG = ConfigDict(allow_inf_nan=False, validate_default=False)
SIGNS = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ "}
SERIES = {tuple: "list", dict: "table"}
TYPE_NAMES = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    ByteSize: "size",
}


def setting(
    default: Any,
    help: str,
    *,
    key: str = "",
    unit: str = "",
    short: str = "",
    metavar: str = "",
    scope: Scope = "slide",
    **limits: Any,
) -> Any:
    """Declare a field as a setting.

    Args:
        default: its value where nothing else is said.
        help: a noun phrase or an imperative sentence; ends with a full stop.
        key: flat name in YAML and flags, where it is not that of the field.
        unit: of the number.
        short: short flag, such as `-m`.
        metavar: stands for the value in `--help`.
        scope: where it may be given.
        limits: of pydantic's `Field`, such as `ge=0`.
    """
    shown: dict[str, Any] = {"key": key, "unit": unit, "short": short, "metavar": metavar, "scope": scope}
    return Field(default, description=help, json_schema_extra=shown, **limits)


def checked(cls: type[T]) -> type[T]:
    """Make a pydantic dataclass raise `UsageError` in one line where a value is wrong."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    make = cls.__init__

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **values: Any) -> None:
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__} takes {len(names)} values, got {len(args)}")
        values = {**dict(zip(names, args, strict=False)), **values}
        _refuse_unknown(values, names, cls.__name__)
        try:
            make(self, **values)
        except ValidationError as error:
            raise UsageError(describe_error(error.errors()[0], cls)) from error

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as declared."""

    name: str
    """Flat name: the key in YAML and `--set`, and the column of a table."""
    path: tuple[str, ...]
    """Fields that lead to it from the class of all settings."""
    title: str
    """Of the class that declares it."""
    type: Any
    default: Any
    help: str
    unit: str
    short: str
    metavar: str
    scope: Scope
    limits: tuple[str, ...]

    @property
    def flag(self) -> str:
        """Long flag of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def help_text(self) -> str:
        """Help with limits, unit and default, for the command line."""
        unit = f" {self.unit}" if self.unit else ""
        shown = [f"{limit}{unit}" for limit in self.limits] or ([self.unit] if self.unit else [])
        default = "" if self.default_text in ("null", "[]", "false") else f"default: {self.default_text}"
        more = "; ".join(filter(None, (default, *shown)))
        return f"{self.help}  [{more}]" if more else self.help

    @property
    def types(self) -> tuple[Any, ...]:
        """Types that its value may have, without None."""
        return _types(self.type)

    @property
    def words(self) -> tuple[str, ...]:
        """Words that its value may be."""
        return tuple(w for kind in self.types if get_origin(kind) is Literal for w in get_args(kind))

    @property
    def is_list(self) -> bool:
        """True where the value is a list, which text separates by commas."""
        return any(get_origin(kind) is tuple for kind in self.types)

    @property
    def type_text(self) -> str:
        """Type in words."""
        return _type_text(self.types)

    @property
    def default_text(self) -> str:
        """Default as in YAML."""
        value = self.default
        if ByteSize in self.types and value is not None:
            return ByteSize(value).human_readable(decimal=True, separator="").replace(".0", "")
        if value in (None, "") or isinstance(value, bool):
            return str(value).lower() if isinstance(value, bool) else "null"
        return (
            f"[{', '.join(map(str, value))}]"
            if isinstance(value, tuple)
            else f"{value:g}"
            if isinstance(value, float)
            else str(value)
        )


def _types(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a union names, without None, or the only one."""
    united = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return tuple(kind for kind in united or (annotation,) if kind is not NoneType)


def _type_text(types: Iterable[Any]) -> str:
    """Return types in words; those of `Literal` come last."""
    kinds = [(get_origin(kind), kind) for kind in types]
    items = [
        SERIES.get(origin) or TYPE_NAMES.get(k, "number") for origin, k in kinds if origin is not Literal
    ]
    return " or ".join([*items, *(str(w) for origin, k in kinds if origin is Literal for w in get_args(k))])


def find_settings(cls: Any, path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield the settings that a pydantic dataclass and the classes of its fields declare.

    Its class variable `title` names it in help and docs; `path` are the fields that lead to it.
    """
    inner = []
    for name, field in cls.__pydantic_fields__.items():
        kinds = [
            kind
            for kind in (field.annotation, *get_args(field.annotation))
            if hasattr(kind, "__pydantic_fields__")
        ]
        if isinstance(field.json_schema_extra, dict):
            extra: Any = field.json_schema_extra
            limits = tuple(
                f"{sign}{getattr(limit, attribute):g}"
                for limit in field.metadata
                for attribute, sign in SIGNS.items()
                if hasattr(limit, attribute)
            )
            yield Setting(
                extra["key"] or name, (*path, name), cls.title, field.annotation, field.default,
                field.description or "", extra["unit"], extra["short"], extra["metavar"], extra["scope"],
                limits,
            )  # fmt: skip
        elif kinds:
            inner.append((kinds[0], (*path, name)))
    for kind, place in inner:
        yield from find_settings(kind, place)


def from_flat(cls: type[T], settings: Mapping[str, Setting], values: Mapping[str, Any], where: str) -> T:
    """Return an instance of flat values; text is split at commas where a setting is a list.

    Args:
        cls: pydantic dataclass.
        settings: its settings by name.
        values: flat name to value, as of YAML, flags or the cells of a table.
        where: start of the error message, such as the file's path.

    Raises:
        UsageError: a key is unknown, or a value is wrong; the first of these is named.
    """
    _refuse_unknown(values, settings, where)
    nested: dict[str, Any] = {}
    for name, value in values.items():
        place = nested
        for part in settings[name].path[:-1]:
            place = place.setdefault(part, {})
        place[settings[name].path[-1]] = _split(settings[name], value)
    kind: Any = cls
    try:
        made: T = _adapter(kind).validate_python(nested)
        return made
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"]
        named = next((s for s in settings.values() if s.path == loc[: len(s.path)]), None)
        if named is None:
            raise UsageError(f"{where}: {describe_error(first)}") from error
        if len(named.types) > 1:
            message = _not_of_types(named.name, named.metavar, named.types, values[named.name])
            raise UsageError(f"{where}: {message}") from error
        keys = (named.name, *loc[len(named.path) :])
        raise UsageError(f"{where}: {describe_error({**first, 'loc': keys})}") from error


_adapter = functools.cache(TypeAdapter)


def _refuse_unknown(values: Mapping[str, Any], known: Mapping[str, Any] | list[str], where: str) -> None:
    for name in values:
        if name not in known:
            raise UsageError(f"{where}: unknown key {name!r}{did_you_mean(name, known)}")


def did_you_mean(key: object, known: Iterable[str]) -> str:
    """Return the end of an error about an unknown key: the known one most like it, if any is known."""
    near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""


def _split(declared: Setting, value: Any) -> Any:
    """Return the parts of text such as `tumor,stroma` or `[tumor]` where the setting is a list."""
    if not declared.is_list or not isinstance(value, str) or value in declared.words:
        return value
    inside = value.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inside.split(",") if part.strip()]


def describe_error(error: Mapping[str, Any], cls: Any = None) -> str:
    """Return one of pydantic's errors in one line: key, message and wrong value.

    Args:
        error: one of `ValidationError.errors()`.
        cls: pydantic class whose values were wrong; of a field that takes several types, pydantic tells of
            one of these, in words of its own.
    """
    place, field = list[str](), None
    for part in error["loc"]:
        fields = getattr(cls, "__pydantic_fields__", {})
        if part not in fields:
            break
        place.append(str(part))
        field = fields[part]
        cls = next((kind for kind in _types(field.annotation) if hasattr(kind, "__pydantic_fields__")), None)
    types = () if field is None or cls is not None else _types(field.annotation)
    if field is not None and len(types) > 1 and len(error["loc"]) > len(place):
        extra = field.json_schema_extra
        metavar = extra["metavar"] if isinstance(extra, dict) else ""
        return _not_of_types(".".join(place), metavar, types, error["input"])
    key = ".".join(str(part) for part in error["loc"])
    message = " ".join(error["msg"].removeprefix("Value error, ").split())
    if isinstance(error["input"], Mapping):
        return f"{key}: {message}" if key else message
    quotes = "; put it in quotes" if error["type"] == "string_type" and key else ""
    return f"{key or 'configuration'}: {message} (got {error['input']!r:.80}){quotes}"


def _not_of_types(key: str, metavar: str, types: Iterable[Any], value: Any) -> str:
    return f"{key}: must be {metavar or _type_text(types)} (got {value!r:.80})"


def absolute_path(value: Any) -> Any:
    """Return a path as an absolute one of the same type; links stay, and so do URLs, None and empty text.

    Workers and later commands may run in other folders.
    """
    if not value or not isinstance(value, str | os.PathLike) or "://" in str(value):
        return value
    path = Path(value).absolute()
    return path if isinstance(value, Path) else str(path)
