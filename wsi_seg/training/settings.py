"""Settings of a retraining. Free of torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

# Of the comparison of old and new model, in the folder of the new one.
COMPARISON = "comparison.json"


class RetrainSettings(BaseModel):
    """Settings of a retraining; see the options of `wsi-seg train --from`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slides: Path | None = None
    """Folder in or below which the slides lie now."""
    review_folder: Path | None = None
    """Folder of the reviews; None: that next to the results."""
    replay: Path | None = None
    """Training configuration of the old data; None: that in the model's folder, if there is one."""
    patients: str | None = None
    """Regular expression with one group: the patient in a slide's name."""
    held_out: tuple[str, ...] = ()
    """Patients, or slides of unknown patients, to compare on; none: drawn at random."""
    epochs: int = Field(default=8, ge=1)
    steps: int = Field(default=25, ge=1)
    """Steps of an epoch."""
    learning_rate: float = Field(default=2e-4, gt=0)
    seed: int = Field(default=0, ge=0)
