"""The floor of a metric that reads prompts: what images score against the rows of others."""

from collections.abc import Sequence
from dataclasses import replace

from ddspo.judging.pictures import BOOKKEEPING, Picture


def controls(pictures: Sequence[Picture]) -> list[Picture]:
    """One image of each prompt, with the row of a prompt half the list further on; of prompts that differ, if any do.

    Half the list away, so that neighbours of one template do not stand in for one another.
    """
    firsts = list({picture.item: picture for picture in reversed(pictures)}.values())[::-1]
    found = []
    for place, picture in enumerate(firsts):
        others = (firsts[(place + len(firsts) // 2 + step) % len(firsts)] for step in range(len(firsts)))
        other = next((each for each in others if each.row["prompt"] != picture.row["prompt"]), None)
        if other:
            own = {key: value for key, value in picture.row.items() if key in BOOKKEEPING}
            asked = {key: value for key, value in other.row.items() if key not in BOOKKEEPING}
            found.append(replace(picture, row=asked | own))
    return found
