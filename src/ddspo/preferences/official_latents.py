"""The latent store of the official DDSPO release: metadata.jsonl and one safetensors file a latent."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut, file_rows
from ddspo.preferences._sides import COLUMNS, ImageFile, LatentFile, Side, Unusable
from ddspo.preferences.base import Preference, Preferences, file_of, folder_of, need, prompt_of, value_of
from ddspo.rows import Row

NEEDED = ("prompt", "neg_prompt", "pos_file", "neg_file")
SHARED = "file of several prompts"


@dataclass(frozen=True)
class OfficialLatents(Preferences):
    """`pos_file` was sampled with `prompt`, `neg_file` with `neg_prompt` (github.com/KU-MIIL/DDSPO).

    The source is the folder with `metadata.jsonl` and `latents/`, which are in model space already, or `images/`.
    A file that rows of different prompts name was overwritten while it was made (there, each process counts ids from
    1), so that nobody knows whose it is: all those rows are left out.
    """

    degraded: ClassVar[bool] = True

    def check(self, source: str) -> None:
        """Its keys."""
        need(self._lines(source), NEEDED, source)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """Lines, each with whether another prompt has its files too."""
        prompts: dict[str, str] = {}
        several = set()
        for found in self._lines(source):
            for name, prompt in _files(found.row) if isinstance(found, Found) else ():
                if prompts.setdefault(name, prompt) != prompt:
                    several.add(name)
        for found in self._lines(source):
            mine = several & {name for name, _ in _files(found.row)} if isinstance(found, Found) else ()
            yield LeftOut(found.place, SHARED, ", ".join(sorted(mine))) if mine else found

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One."""
        row = found.row
        sides = Pair(*(self._side(found, value_of(row, name)) for name in ("pos_file", "neg_file")))
        prompt, degraded = prompt_of(row, "prompt"), prompt_of(row, "neg_prompt")
        yield Preference(found.place, prompt, sides, degraded, {"tag": row.get("tag")})

    def _lines(self, source: str) -> Iterator[Found | LeftOut]:
        return file_rows(file_of(folder_of(source), "metadata.jsonl"))

    def _side(self, found: Found, name: object) -> Side:
        assert found.root
        if not isinstance(name, str):
            raise Unusable(COLUMNS, f"{name!r} in place of a file name")
        if name.endswith(".safetensors"):
            return LatentFile(found.root / "latents", name)
        return ImageFile(found.root / "images", name)


def _files(row: Row) -> list[tuple[str, str]]:
    """(file, prompt) of both sides, as far as they are there."""
    both = ((row.get("pos_file"), row.get("prompt")), (row.get("neg_file"), row.get("neg_prompt")))
    return [(name, prompt) for name, prompt in both if isinstance(name, str) and isinstance(prompt, str)]
