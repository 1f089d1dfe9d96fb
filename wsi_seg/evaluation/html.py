"""report.html: one file that holds everything, asks for nothing from outside and runs no script."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wsi_seg.datasets.patients import UNKNOWN_PATIENTS
from wsi_seg.evaluation.metrics import BRIEF_SCORES, SCORES
from wsi_seg.evaluation.sentences import explain_accuracy, explain_rows
from wsi_seg.results.pages.template import new_environment

TEMPLATE = "report.html.j2"
# Patients, or images and slides, listed in the page; metrics.json has all.
MOST_GROUPS = 60


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A figure of the page."""

    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode("ascii")


def render_report(metrics: dict[str, Any], figures: Sequence[PageFigure]) -> str:
    """Return the page for the content of metrics.json, with the figures in their order."""
    environment = new_environment("evaluation")
    environment.filters.update(
        score=score_text,
        limits=limits_text,
        explain_accuracy=explain_accuracy,
        explain_rows=explain_rows,
    )
    return environment.get_template(TEMPLATE).render(
        metrics,
        figures=figures,
        most_groups=MOST_GROUPS,
        score_names=SCORES,
        brief=BRIEF_SCORES,
        unknown_patients=UNKNOWN_PATIENTS,
    )


def score_text(value: float | None) -> str:
    """Return a score with three digits, "" where there is none."""
    return "" if value is None else f"{value:.3f}"


def limits_text(limits: Sequence[float]) -> str:
    """Return a confidence interval."""
    return f"{limits[0]:.3f} to {limits[1]:.3f}"
