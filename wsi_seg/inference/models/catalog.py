"""Published models that can be installed by name, from `catalog.yaml`. Free of torch."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import UsageError
from wsi_seg.core.yaml_config import load_yaml

CATALOG = Path(__file__).with_name("catalog.yaml")


class CatalogEntry(BaseModel):
    """One published model: where its weights are, under which license, and its card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(pattern=r"^hf://[^/@]+/[^/@]+(@.+)?$")
    """Repository on the Hugging Face hub, with a revision if not the newest."""
    file: str
    """The checkpoint in it."""
    sha256: str | None = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the file, in hex; None: not known here, and what the hub says is taken."""
    megabytes: int
    """Size of the file, roughly."""
    license_source: str
    """Where the license of the weights, `card.license`, is stated."""
    scores: str = ""
    """Published scores; none was measured here."""
    scores_source: str = ""
    citation: str
    card: ModelCard


@cache
def catalog() -> dict[str, CatalogEntry]:
    """Return the entries by the names of their models, as the file has them."""
    entries = load_yaml(CATALOG.read_text(encoding="utf-8"))["models"]
    found = [CatalogEntry.model_validate(entry) for entry in entries]
    return {entry.card.name: entry for entry in found}


def find_entry(name: str) -> CatalogEntry:
    """Return the entry of this name.

    Raises:
        UsageError: there is none; the message names those that are there.
    """
    entries = catalog()
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"{name}: no model of the catalog; {hint}available: {', '.join(entries)}")
    return entries[name]
