"""Configuration files that come with a model, as plain values. Free of torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import reading
from wsi_seg.core.yaml_config import load_yaml


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file, or of a YAML file where its name says so.

    Raises:
        ModelError: the file cannot be read, is not valid, or holds no object.
    """
    kind = "YAML" if path.suffix in (".yaml", ".yml") else "JSON"
    with reading(path, ModelError):
        text = path.read_bytes()
    try:
        found = load_yaml(text.decode()) if kind == "YAML" else json.loads(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ModelError(f"{path}: no valid {kind} ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds no {kind} object")
    return found
