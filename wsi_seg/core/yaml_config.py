"""YAML files as checked values: what is wrong in them is said in one line, with the nearest right key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from wsi_seg.core.errors import UsageError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import home_expanded
from wsi_seg.core.settings import describe_error, did_you_mean

M = TypeVar("M", bound=BaseModel)
BASES = {"0o": 8, "0x": 16}


class _Loader(yaml.SafeLoader):
    """YAML as its version 1.2 reads plain scalars: `no`, `off`, `12:30` and dates are text."""

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = super().construct_scalar(node)
        if "\0" in str(text):  # no path and no name holds one
            raise yaml.constructor.ConstructorError(None, None, "a text holds a null byte", node.start_mark)
        return str(text)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = node.value
        return int(text, BASES.get(text[:2], 10))


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)


def load_yaml(text: str) -> Any:
    """Return what YAML 1.2 (core schema) stands for; raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)  # a subclass of SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits, a text of no UTF-16
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty mapping.

    A key `extends` names another such file, relative to this one, whose values hold where this one gives
    none: mappings are joined key by key, anything else is replaced.

    Raises:
        UsageError: the file, or one that it extends, cannot be read, is no valid YAML, holds something else,
            or extends itself.
    """
    return _read_extended(path, ())


def _read_extended(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    values = _read_one(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    seen = (*seen, path.resolve())
    above = path.parent / str(base)
    if above.resolve() in seen:
        raise UsageError(f"{path}: extends {str(base)!r}, which leads back to {above.name}")
    return _joined(_read_extended(above, seen), values)


def _joined(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    joined = {**base, **values}
    for key in base.keys() & values.keys():
        if isinstance(base[key], dict) and isinstance(values[key], dict):
            joined[key] = _joined(base[key], values[key])
    return joined


def _read_one(path: Path) -> dict[str, Any]:
    try:
        with reading(path, UsageError):
            values = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no valid YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path}: the configuration must be a mapping of keys to values")
    return values


def expanded_path(text: str, config: Path) -> Path:
    """Return a path of a configuration file: `$NAME` and `${NAME}` are environment variables, `~` is home.

    Args:
        text: as it stands in the file.
        config: that file; a relative path starts in its folder.

    Raises:
        UsageError: an environment variable is not set.
    """
    expanded = os.path.expandvars(text)
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise UsageError(f"{config}: {text!r}: environment variable {unset.group(1)} is not set")
    return (config.parent / home_expanded(expanded)).absolute()


def validated(cls: type[M], values: Mapping[str, Any], where: str) -> M:
    """Return `values` as a `cls`.

    Args:
        cls: a pydantic model; it may hold other models, also in tuples, lists, dictionaries and unions.
        values: keys and values as read from YAML.
        where: start of the error message, such as the file's path.

    Raises:
        UsageError: a key is unknown or missing, or a value is wrong; the first of these is named.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(cls, error)}") from error


def explain(cls: type[BaseModel], error: ValidationError) -> str:
    """Return the first error of a validation of `cls` in one line."""
    errors = error.errors()
    # A misspelled key may be reported as a missing one as well; the misspelling says more.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    location = first["loc"]
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{did_you_mean(location[-1], _keys_at(cls, location[:-1]))}"
    if first["type"] == "missing":
        return f"key {key!r} is missing"
    return describe_error(first, cls)


def _keys_at(cls: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys that the model at `location` inside `cls` knows."""
    section = cls
    for part in location:
        field = section.model_fields.get(str(part))
        if field is not None:
            section = next(_models_in(field.annotation), section)
    return list(section.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models that occur in a type, from the outside in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
