"""Groups of clips, such as speech and music. Their scores are never averaged together, because that hides both."""

from collections.abc import Collection, Iterable

__all__ = ["select_speech_groups"]


def select_speech_groups(groups: Iterable[str], chosen: Collection[str] | None = None) -> list[str]:
    """The groups that metrics of speech apply to.

    Args:
        groups: Names of all groups.
        chosen: Those with speech. None takes the groups with `speech` in their name, or all if there is none.

    Raises:
        ValueError: A chosen group does not exist.
    """
    groups = list(groups)
    if chosen is not None:
        missing = sorted(set(chosen) - set(groups))
        if missing:
            raise ValueError(f"there is no group {missing[0]}; the groups are {', '.join(groups)}")
        return [group for group in groups if group in chosen]
    return [group for group in groups if "speech" in group.lower()] or groups
