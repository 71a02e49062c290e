"""T2I-CompBench's: PROMPT_000000.png, as the prompt is in the name; the number orders the images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ddspo.errors import InputError, quoted
from ddspo.judging.pictures import Gallery, Picture
from ddspo.judging.sheets import METADATA
from ddspo.layouts.base import SAMPLES, Layout, Opened, files, numbered, write_png

LONGEST = 255 - len("_000000.png")
"""Bytes that a file's name has for a prompt."""
_NAME = re.compile(r"(?P<prompt>[^_]*[^_\s][^_]*)_(?P<number>\d{1,9})\.png", re.IGNORECASE)


@dataclass(frozen=True)
class CompBenchLayout(Layout):
    """As the official scripts name images: what is before the underscore is the prompt, so that none has one."""

    writes = True

    def recognises(self, folder: Path) -> bool:
        """All images, in samples/ where there is one, are named so, and nothing else says what they are of."""
        found = list(files(_place(folder)))
        alone = not (folder / METADATA).exists() and not any(_place(folder).glob("*.txt"))
        return bool(found) and alone and all(_NAME.fullmatch(path.name) for path in found)

    def read(self, folder: Path) -> Opened:
        """The prompts are the names; there is no more of a row."""
        named = [(path, match) for path in files(_place(folder)) if (match := _NAME.fullmatch(path.name))]
        named.sort(key=lambda each: (int(each[1]["number"]), each[0].name))
        return Opened(
            [Gallery(folder.name, numbered((path, {"prompt": match["prompt"]}) for path, match in named))], []
        )

    def write(self, folder: Path, pictures: Sequence[Picture]) -> None:
        """All images in samples/, numbered on."""
        for picture in pictures:
            prompt = picture.row["prompt"]
            if "/" in prompt or "_" in prompt or "\0" in prompt or len(prompt.encode()) > LONGEST or prompt[:1] == ".":
                raise InputError(
                    f"t2i_compbench: prompt {quoted(prompt)} cannot be part of a file's name: leave it out"
                )
        for number, picture in enumerate(pictures):
            write_png(picture.path, folder / SAMPLES / f"{picture.row['prompt']}_{number:06d}.png")


def _place(folder: Path) -> Path:
    return folder / SAMPLES if (folder / SAMPLES).is_dir() else folder
