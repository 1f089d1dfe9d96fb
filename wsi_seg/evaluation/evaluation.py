"""An evaluation as a value: what was evaluated, what was counted, and the scores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import DataError
from wsi_seg.evaluation.intervals import RESAMPLES, SEED
from wsi_seg.evaluation.section import Example, Section
from wsi_seg.evaluation.tables import section_table
from wsi_seg.pipeline.summary import result_versions


@dataclass(frozen=True, slots=True)
class Subject:
    """Subject of an evaluation: a model, or the maps that one made."""

    card: ModelCard
    digest: str
    """Hash of weights and card."""
    made_with: dict[str, Any]
    """Device, precision and the like, for the record."""
    folder: Path | None = None
    """Of the model, which may hold the log of its training."""
    versions: dict[str, str] = field(default_factory=result_versions)
    """Of packages, as they were when the evaluation began."""

    def to_json(self) -> dict[str, Any]:
        """Return what metrics.json says of it."""
        card = self.card
        return {
            "name": card.name,
            "version": card.version,
            "digest": self.digest,
            "notice": card.notice,
            "training_data": card.training_data,
            "mpp": card.mpp,
            **self.made_with,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation."""

    metrics: dict[str, Any]
    """Content of metrics.json."""
    sections: tuple[Section, ...]
    examples: tuple[Example, ...]
    subject: Subject


def finish(
    subject: Subject,
    sections: tuple[Section, ...],
    examples: tuple[Example, ...],
    *,
    data: dict[str, Any],
    started: datetime,
) -> Evaluation:
    """Score what was counted.

    `data` says on what and how, as JSON values; with the subject it is the identity of the evaluation.

    Raises:
        DataError: a section holds no pixel of a known class, and no labels of whole images.
    """
    for section in sections:
        if not section.tallies[0].counts.total and not section.labels:
            raise DataError(
                f"{section.name}: no pixel is of a known class, so there is nothing to score; annotate more, "
                "or ignore fewer classes or codes"
            )
    labels = subject.card.image_labels
    tables = [section_table(s, labels) for s in sections]
    ended = datetime.now(UTC)
    metrics = {
        "key": evaluation_key(subject, data),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((ended - started).total_seconds(), 3),
        "versions": subject.versions,
        "model": subject.to_json(),
        "data": data,
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED},
        "results": tables,
    }
    return Evaluation(metrics, sections, examples, subject)


def evaluation_key(subject: Subject, data: dict[str, Any]) -> str:
    """Return a hash that tells this evaluation from one of another model, other data or another choice."""
    text = json.dumps([subject.digest, subject.made_with, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
