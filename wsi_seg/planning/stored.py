"""Choice of the probabilities that the maps hold: of each class, sums of classes, or none."""

from __future__ import annotations

from collections.abc import Iterable

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, canonical_name, find_channels, find_class_or_group
from wsi_seg.core.errors import UsageError
from wsi_seg.planning.settings import StoredChoice


def stored_groups(choice: StoredChoice | tuple[str, ...], card: ModelCard) -> tuple[ClassGroup, ...] | None:
    """Return what each probability channel holds; None: each class by itself.

    Of a name that is a group's and a class's, the group is stored.

    Raises:
        UsageError: the model has no groups, or no group or class of a name.
    """
    if choice == "all":
        return None
    if choice == "none":
        return ()
    if choice == "groups":
        if not card.class_groups:
            raise UsageError(
                f"probabilities groups: the model {card.name!r} has no groups; give all, or names of classes"
            )
        return card.class_groups
    if not choice:
        raise UsageError(
            "probabilities: names nothing; give all, groups, none, or names of groups or classes"
        )
    return tuple(dict.fromkeys(_named(name, card) for name in choice))


def _named(name: str, card: ModelCard) -> ClassGroup:
    groups = {canonical_name(group.name): group for group in card.class_groups}
    named = groups.get(canonical_name(name))
    try:
        return named or find_class_or_group(name, card.tissue_classes, card.class_groups)
    except UsageError as error:
        raise UsageError(f"probabilities: {error}") from error


def stored_outputs(
    groups: tuple[ClassGroup, ...] | None, card: ModelCard
) -> tuple[tuple[int, ...], ...] | None:
    """Return the network's outputs that add up to each of `stored_groups`, in their order."""
    if groups is None:
        return None
    return tuple(tuple(sorted({card.codes.index(code) for code in group.codes})) for group in groups)


def check_traced(
    choice: StoredChoice | tuple[str, ...], card: ModelCard, traced: Iterable[ClassGroup]
) -> None:
    """Refuse to trace by their probability groups of which it is not stored.

    Raises:
        UsageError: as `stored_groups`; or a group cannot be traced.
    """
    stored = stored_groups(choice, card)
    for group in traced:
        if stored is not None and find_channels((one.codes for one in stored), group.codes) is None:
            raise UsageError(
                f"probabilities {_text(choice)}: regions of {group.name!r} are traced by a probability that "
                "would not be stored; name it among --probabilities, or trace labels (--source labels)"
            )


def _text(choice: str | tuple[str, ...]) -> str:
    return choice if isinstance(choice, str) else ",".join(choice)
