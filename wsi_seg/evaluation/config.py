"""On which data a model is evaluated, as read from YAML: an own file, or the configuration of a training."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_seg.core.classes import IGNORED_CODES
from wsi_seg.core.yaml_config import expanded_path, read_yaml, validated
from wsi_seg.datasets.kinds import AnyDataset

# The configuration that training leaves in the model's folder.
TRAIN_CONFIG = "train.yaml"


class EvaluateConfig(BaseModel):
    """Annotated data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Path = Path()
    """Folder under which the data lie; relative to the configuration file."""
    datasets: tuple[AnyDataset, ...] = Field(min_length=1)
    ignored_codes: tuple[int, ...] = IGNORED_CODES
    """Mask codes of zero weight."""

    @model_validator(mode="after")
    def _distinct(self) -> EvaluateConfig:
        names = [dataset.name for dataset in self.datasets]
        if len(set(names)) < len(names):
            raise ValueError(f"data sets need distinct names, got {', '.join(names)}")
        return self


def read_evaluate_config(path: Path) -> EvaluateConfig:
    """Read a configuration; `$NAME` and `${NAME}` in `data_dir` stand for environment variables.

    Of a training configuration, which is told by its key `model`, only the keys about data are read. Data
    sets of any other are for evaluation only, which is what a weight of 0 says.

    Raises:
        UsageError: the file cannot be read, a key is unknown or missing, or a value is wrong.
    """
    values = read_yaml(path)
    if "model" in values:
        values = {key: values[key] for key in EvaluateConfig.model_fields if key in values}
    elif isinstance(values.get("datasets"), list):
        values["datasets"] = [{"weight": 0, **d} if isinstance(d, dict) else d for d in values["datasets"]]
    values["data_dir"] = str(expanded_path(str(values.get("data_dir", ".")), path))
    return validated(EvaluateConfig, values, str(path))
