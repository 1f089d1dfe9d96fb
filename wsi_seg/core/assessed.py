"""Classes that a model does not assess, for lack of training data, and what that means for its groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup


def assessed_codes(card: ModelCard) -> frozenset[int]:
    """Return the codes of the classes that a model predicts."""
    return frozenset(c.code for c in card.classes if card.assessed is None or c.name in card.assessed)


def unassessed_classes(card: ModelCard) -> tuple[str, ...]:
    """Return the names of the classes that a model does not predict, in the order of its channels."""
    return () if card.assessed is None else tuple(c.name for c in card.classes if c.name not in card.assessed)


def describe_unassessed(card: ModelCard) -> dict[str, Any] | None:
    """Return what a model does not assess, as JSON data; None where it assesses all of its classes.

    Returns:
        `classes` and `groups` by name, a group only where it has no assessed class; `in_part`, the names of
        the assessed classes of each group that has others too.
    """
    classes = unassessed_classes(card)
    if not classes:
        return None
    groups, in_part = [], {}
    for group in card.groups:
        members = [c.name for c in card.classes if c.code in group.codes]
        assessed = [name for name in members if name not in classes]
        if not assessed:
            groups.append(group.name)
        elif len(assessed) < len(members):
            in_part[group.name] = assessed
    return {"classes": list(classes), "groups": groups, "in_part": in_part}


def unassessed_warning(card: ModelCard, groups: Iterable[ClassGroup]) -> str:
    """Return the line about what is asked for and not assessed, or "".

    Args:
        card: of the model.
        groups: to be traced; those are named of which no class is assessed.
    """
    known = assessed_codes(card)
    names = dict.fromkeys(group.name for group in groups if known.isdisjoint(group.codes))
    if not names:
        return ""
    listed = ", ".join(name.replace("_", " ") for name in names)
    return f"{card.name}: does not assess {listed}, for lack of training data; no region of it will be found"
