"""What is wrong with a row of GenEval: what cannot be judged, or could only ever be wrong."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ddspo.detectors.base import Detector
from ddspo.errors import quoted

RELATIONS = ("left of", "right of", "above", "below")
KEYS = {"include": ("class", "count", "color", "position"), "exclude": ("class", "count")}


def fault_of(item: Mapping[str, Any], detector: Detector, most: int) -> str | None:
    """The first fault of a row's `include` and `exclude`, or None.

    Args:
        item: The row.
        detector: Who will look for what it names.
        most: Objects of a class that are counted.
    """
    lists = {"include": item.get("include"), "exclude": item.get("exclude", [])}
    for name, entries in lists.items():
        if not isinstance(entries, list) or (name == "include" and not entries):
            return f"`{name}` is no list of {{class, count}}"
        for place, entry in enumerate(entries):
            fault = _of_entry(entry, place, KEYS[name], detector, most)
            if fault:
                return f"{name}[{place}]: {fault}"
    return _of_both(item["include"], lists["exclude"] or [])


def _of_entry(entry: Any, place: int, keys: Sequence[str], detector: Detector, most: int) -> str | None:
    if not isinstance(entry, Mapping) or not {"class", "count"} <= entry.keys():
        return f"{quoted(entry, 60)} is no {{class, count}}"
    unread = [key for key in entry if key not in keys]
    if unread:
        return f"{unread[0]!r} is none of {', '.join(keys)}"
    if type(entry["count"]) is not int or not 1 <= entry["count"] <= most:  # `true` is an int as well
        return f"count {quoted(entry['count'], 40)} is no whole number from 1 to {most}"
    faults = [_of_name("class", entry["class"], detector.classes)]
    if "color" in entry:
        faults.append(_of_name("color", entry["color"], detector.colours))
    if "position" in entry:
        faults.append(_of_position(entry["position"], place))
    return next((fault for fault in faults if fault), None)


def _of_name(what: str, value: Any, known: Collection[str] | None) -> str | None:
    if not isinstance(value, str) or not value:
        return f"{what} {quoted(value, 40)} is no text"
    if known is not None and value not in known:
        return f"{what} {quoted(value, 40)} is none that the detector knows: {', '.join(known):.200}"
    return None


def _of_position(value: Any, place: int) -> str | None:
    """Targets are found first, so that one lies further up in the list."""
    if not isinstance(value, list) or len(value) != 2 or value[0] not in RELATIONS:
        return f"position {quoted(value, 60)} is no list of one of {', '.join(RELATIONS)} and a number"
    if type(value[1]) is not int or not 0 <= value[1] < place:
        return f"position {quoted(value, 60)}: its target must be an earlier entry, counted from 0"
    return None


def _of_both(include: Sequence[Mapping[str, Any]], exclude: Sequence[Mapping[str, Any]]) -> str | None:
    for wanted in include:
        for bound in exclude:
            if bound["class"] == wanted["class"] and bound["count"] <= wanted["count"]:
                return f"`exclude` forbids the {wanted['count']} x {wanted['class']} that `include` wants"
    return None
