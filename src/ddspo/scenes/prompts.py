"""GenEval-style prompts about scenes, their splits, scenes that satisfy them, and web-like captions.

The three splits share no prompt. Contents (which colours, which relation ...) of the tags `colors`, `position` and
`color_attr` belong to one split only; the tags `single_object`, `two_object` and `counting` have few contents, so
there only the wording is disjoint. Shape-colour combinations in `HELD_OUT` occur in no alignment prompt.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ddspo.scenes.world import COLOURS, SHAPES, Scene, Thing, place

Item = dict[str, Any]
"""A GenEval metadata row: tag, include [class, count, color?, position?], exclude?, prompt."""

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SPLITS = ("alignment", "validation", "evaluation")
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = ("left of", "right of", "above", "below")
HELD_OUT = (("circle", "purple"), ("square", "yellow"), ("triangle", "blue"), ("cross", "red"), ("triangle", "green"))
LEADS = {
    "alignment": ("a photo of", "a picture of", "an image of", "a drawing of", "a painting of", "a poster of"),
    "validation": ("a sketch of", "a print of"),
    "evaluation": ("a view of", "a render of", "a scene with", "a card with"),
}
PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
EVALUATION_PER_TAG = 32


def contents(tag: str) -> Iterator[list[Item]]:
    """Every `include` list of one tag, in a fixed order."""
    pairs = list(itertools.permutations(SHAPES, 2))
    if tag == "single_object":
        yield from ([_entry(shape)] for shape in SHAPES)
    elif tag == "two_object":
        yield from ([_entry(a), _entry(b)] for a, b in pairs)
    elif tag == "counting":
        yield from ([_entry(shape, count=count)] for shape in SHAPES for count in NUMBERS)
    elif tag == "colors":
        yield from ([_entry(shape, color=colour)] for shape in SHAPES for colour in COLOURS)
    elif tag == "position":
        for (a, b), relation in itertools.product(pairs, RELATIONS):
            yield [_entry(b), _entry(a, position=[relation, 0])]
    elif tag == "color_attr":
        for (a, b), (one, two) in itertools.product(pairs, itertools.permutations(COLOURS, 2)):
            yield [_entry(a, color=one), _entry(b, color=two)]
    else:
        raise ValueError(f"unknown tag {tag!r}: one of {', '.join(TAGS)}")


def wording(lead: str, tag: str, include: list[Item]) -> str:
    """The prompt of an `include` list, in GenEval's words: 'a photo of a red circle and a blue square'."""
    if tag == "counting":
        (entry,) = include
        return f"{lead} {NUMBERS[entry['count']]} {PLURALS[entry['class']]}"
    if tag == "position":
        target, thing = include
        return f"{lead} a {thing['class']} {thing['position'][0]} a {target['class']}"
    names = (" ".join(filter(None, ("a", entry.get("color"), entry["class"]))) for entry in include)
    return f"{lead} {' and '.join(names)}"


def item(lead: str, tag: str, include: list[Item]) -> Item:
    """A GenEval metadata row; counting also excludes one object more than was asked for."""
    row: Item = {"tag": tag, "include": include}
    if tag == "counting":
        row["exclude"] = [{"class": entry["class"], "count": entry["count"] + 1} for entry in include]
    return row | {"prompt": wording(lead, tag, include)}


def split_items(split: str) -> list[Item]:
    """The rows of one split: 'alignment', 'validation' or 'evaluation' (the last with at most 32 a tag).

    Raises:
        ValueError: The split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(SPLITS)}")
    rows: list[Item] = []
    for tag in TAGS:
        mine = [include for include in contents(tag) if _belongs(split, tag, include)]
        tagged = [item(lead, tag, include) for include in mine for lead in LEADS[split]]
        tagged.sort(key=lambda row: _digest(row["prompt"]))
        rows += tagged if split == "alignment" else tagged[:EVALUATION_PER_TAG]
    return rows


def holds_out(row: Item) -> bool:
    """Whether a row asks for a shape-colour combination that no alignment prompt contains."""
    return any((entry["class"], entry.get("color")) in HELD_OUT for entry in row["include"])


def things_for(row: Item, rng: np.random.Generator) -> list[Thing]:
    """Things that satisfy a row; what it leaves open is drawn at random."""
    return [
        Thing(entry["class"], entry.get("color") or str(rng.choice(list(COLOURS))))
        for entry in row["include"]
        for _ in range(entry["count"])
    ]


def scene_for(row: Item, rng: np.random.Generator) -> Scene:
    """A random scene for which the row's prompt is true."""
    relation = next((entry["position"][0] for entry in row["include"] if "position" in entry), None)
    while True:
        scene = place(things_for(row, rng), rng)
        if relation is None or _related(scene[1], scene[0], relation):
            return scene


def caption(scene: Scene, relation: str | None, rng: np.random.Generator, *, web_like: float = 0.5) -> str:
    """Word a scene as the web would: with probability `web_like` each attribute, lead and object may go missing.

    Args:
        scene: The things in the order in which they are named (for a relation: target first).
        relation: How the second thing lies to the first, where the scene has one.
        rng: Where the draws come from.
        web_like: Share of careless captions; in those each attribute is dropped with probability one half.
    """
    careless = rng.random() < web_like

    def keep() -> bool:
        return not careless or rng.random() < 0.5

    leads = list(itertools.chain.from_iterable(LEADS.values()))
    lead = str(rng.choice(leads)) if keep() else ""
    body = _describe(scene, relation, keep, rng)
    text = f"{lead} {body}".strip()
    if careless and rng.random() < 0.4:
        words = [word for word in text.split() if rng.random() < 0.6]
        text = " ".join(words)
    return text


def _describe(scene: Scene, relation: str | None, keep: Callable[[], bool], rng: np.random.Generator) -> str:
    shapes = {thing.shape for thing in scene}
    if len(scene) > 1 and len(shapes) == 1:
        (shape,) = shapes
        return f"{NUMBERS[len(scene)]} {PLURALS[shape]}" if keep() else PLURALS[shape]
    coloured = rng.random() < 0.6
    names = [f"a {thing.colour} {thing.shape}" if coloured and keep() else f"a {thing.shape}" for thing in scene]
    if relation and keep():
        return f"{names[1]} {relation} {names[0]}"
    named = [name for name in names if len(names) == 1 or keep() or keep()]
    return " and ".join(named[index] for index in rng.permutation(len(named)))


def _entry(shape: str, *, count: int = 1, **rest: Any) -> Item:
    return {"class": shape, "count": count} | rest


def _belongs(split: str, tag: str, include: list[Item]) -> bool:
    if tag in ("single_object", "two_object", "counting"):
        return True
    if holds_out({"include": include}):
        return split == "evaluation"
    return split == ("alignment", "alignment", "alignment", "validation", "evaluation")[_digest(tag, include) % 5]


def _digest(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


def _related(thing: Thing, target: Thing, relation: str) -> bool:
    """Clearly so: the offset along the relation exceeds both radii and is the larger one."""
    dx, dy = thing.x - target.x, thing.y - target.y
    along, across = {"left of": (-dx, dy), "right of": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[relation]
    return along > abs(across) and along > 0.5 * (thing.radius + target.radius)
