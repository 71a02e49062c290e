"""Pictures worth a look: those that changed most under any metric, either way, and a fair sample.

The page holds each once; a control on it, which needs no script, says which are shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddspo.pages.figures import Picture
from ddspo.pages.scores import Frame, Place
from ddspo.pages.tables import Key, keys
from ddspo.pages.words import Verdict, figure
from ddspo.rows import Row

SHOWN = 12
"""Cards of each choice."""
BUDGET = 7_000_000
"""Bytes of the page for these pictures, however many metrics and models there are; the most changed come first."""
LONGEST = 300
"""Characters of a note."""
BETTER, WORSE, SAMPLE = "better", "worse", "sample"
WAYS = {BETTER: "improved most", WORSE: "got worse most", SAMPLE: "a fair sample"}


class Choice(NamedTuple):
    """What is shown when the control stands so: numbers of a metric and a model, None for any, and a way.

    Attributes:
        text: What it is, in words.
        frames: The pictures, first those to be seen first.
    """

    metric: int | None
    way: str
    model: int | None
    text: str
    frames: list[Frame]


class Value(NamedTuple):
    """What a metric says of a picture."""

    metric: int
    title: str
    text: str
    verdict: Verdict
    note: str


class Shot(NamedTuple):
    """A model's picture, if there is one, and all that is said of it."""

    key: Key
    picture: Picture | None
    values: list[Value]


class Card(NamedTuple):
    """The pictures of all models from one prompt and seed.

    Attributes:
        ranks: In which choices it is, and where.
    """

    frame: Frame
    shots: list[Shot]
    ranks: dict[int, int]


class Gallery(NamedTuple):
    """All choices and the cards that they are made of."""

    choices: list[Choice]
    cards: list[Card]


def gallery(
    result: Row, frames: Sequence[Frame], verdicts: Mapping[str, bool], embed: Callable[[str], Picture | None]
) -> Gallery:
    """Choose what to show.

    Args:
        result: report.json.
        frames: All pictures.
        verdicts: Whether all values of a metric are 0 or 1.
        embed: Reads a picture by its path in the run folder.
    """
    choices = [*_changes(result, frames), _sample(frames)]
    pictures = _within_budget(result["models"], choices, embed)
    shown = [each._replace(frames=[one for one in each.frames if _place(one) in pictures]) for each in choices]
    cards: dict[Place, Card] = {}
    for number, choice in enumerate(shown):
        for rank, frame in enumerate(choice.frames):
            place = _place(frame)
            if place not in cards:
                cards[place] = Card(frame, _shots(result, frame, verdicts, pictures[place]), {})
            cards[place].ranks[number] = rank
    return Gallery(shown, list(cards.values()))


def _changes(result: Row, frames: Sequence[Frame]) -> list[Choice]:
    """Better and worse than the first model, by each metric and for each other model."""
    first, *others = result["models"]
    choices = []
    for number, (name, metric) in enumerate(result["metrics"].items()):
        for place, model in enumerate(others, start=1):
            for way in (BETTER, WORSE):
                up = (way == BETTER) == metric["higher_is_better"]
                gains = {_place(frame): frame.change(name, first, model) for frame in frames}
                known = {each: gain if up else -gain for each, gain in gains.items() if gain is not None}
                found = [frame for frame in frames if known.get(_place(frame), 0) > 0]
                verb, those = ("is", "that") if len(found) == 1 else ("are", "those")
                text = f"{len(found)} of {len(known)} pictures of {model} {verb} {way} than {those} of {first}."
                text = f"By {metric['title']}, {text}"
                choices.append(Choice(number, way, place, text, _most_changed(found, known)))
    return choices


def _most_changed(found: Sequence[Frame], gains: Mapping[Place, float]) -> list[Frame]:
    """The picture of each prompt that changed most; of equal ones, that of the prompt that changed most."""
    by_prompt: dict[str, list[float]] = {}
    for (item, _), gain in gains.items():
        by_prompt.setdefault(item, []).append(gain)
    # Equal changes take turns between the tags, or the first tag would fill the page.
    turns = {place: turn for group in _by_tag(found).values() for turn, place in enumerate(map(_place, group))}
    ranked = sorted(found, key=lambda one: (-gains[_place(one)], -np.mean(by_prompt[one.item]), turns[_place(one)]))
    return list({frame.item: frame for frame in reversed(ranked)}.values())[::-1][:SHOWN]


def _sample(frames: Sequence[Frame]) -> Choice:
    """The first picture of some prompts, equally many and evenly spaced in each tag."""
    firsts = list({frame.item: frame for frame in reversed(frames)}.values())[::-1]
    groups = list(_by_tag(firsts).values())
    count = max(1, SHOWN // max(1, len(groups)))
    chosen = [group[round(place)] for group in groups for place in _places(len(group), count)]
    text = f"The first pictures of some of {len(firsts)} prompts, evenly spaced in each tag, whatever came out."
    return Choice(None, SAMPLE, None, text, chosen[:SHOWN])


def _places(size: int, count: int) -> Iterable[float]:
    return np.linspace(0, size - 1, min(size, count)).tolist()


def _by_tag(frames: Iterable[Frame]) -> dict[str, list[Frame]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(frame.tag, []).append(frame)
    return groups


def _within_budget(
    models: Sequence[str], choices: Sequence[Choice], embed: Callable[[str], Picture | None]
) -> dict[Place, dict[str, Picture | None]]:
    """The first of every choice, then the second, as long as there is room."""
    found: dict[Place, dict[str, Picture | None]] = {}
    spent = 0
    for rank in range(SHOWN):
        for frame in (choice.frames[rank] for choice in choices if rank < len(choice.frames)):
            if _place(frame) not in found:
                paths = {model: frame.images.get(model) for model in models}
                pictures = {model: embed(path) if path else None for model, path in paths.items()}
                spent += sum(len(picture.uri) for picture in pictures.values() if picture)
                if spent > BUDGET:
                    return found
                found[_place(frame)] = pictures
    return found


def _shots(
    result: Row, frame: Frame, verdicts: Mapping[str, bool], pictures: Mapping[str, Picture | None]
) -> list[Shot]:
    first = result["models"][0]
    shots = []
    for model, key in keys(result["models"]).items():
        values = [
            _value(number, metric, frame.scores[name][model], frame.change(name, first, model), verdicts[name])
            for number, (name, metric) in enumerate(result["metrics"].items())
            if model in frame.scores.get(name, {})
        ]
        shots.append(Shot(key, pictures[model], values))
    return shots


def _value(number: int, metric: Row, row: Row, change: float | None, is_verdict: bool) -> Value:
    higher = metric["higher_is_better"]
    note = row["note"] if len(row["note"]) <= LONGEST else f"{row['note'][:LONGEST]} …"
    if is_verdict and higher:
        right = row["value"] == 1
        return Value(number, metric["title"], "✓" if right else "✗", "better" if right else "worse", note)
    side: Verdict = "" if not change else "better" if (change > 0) == higher else "worse"
    return Value(number, metric["title"], figure(row["value"]), side, note)


def _place(frame: Frame) -> Place:
    return frame.item, frame.index
