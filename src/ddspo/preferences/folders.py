"""Two folders of images, win/ and lose/, with equal names; or one folder with names that end in _win and _lose."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.maths.pair import Pair
from ddspo.preferences._rows import Found, LeftOut, file_rows
from ddspo.preferences._sides import MISSING, SUFFIXES, ImageFile, Unusable
from ddspo.preferences.base import PROMPT, Preference, Preferences, folder_of, prompt_of

AMBIGUOUS = "two files of one name"


@dataclass(frozen=True)
class Folders(Preferences):
    """`win/NAME.png` was preferred to `lose/NAME.jpg`, or `NAME_win.png` to `NAME_lose.png`, whatever the endings.

    The prompt of NAME is in `NAME.txt`, in the source or beside its winner, or in `metadata.jsonl` in the source: rows
    with `prompt` (or `text`) and `file_name`, the winner's path (or NAME).
    """

    win: Annotated[str, Doc("name of the folder of preferred images, or what their names end in after `_`")] = "win"
    lose: Annotated[str, Doc("the same of the others")] = "lose"

    def check(self, source: str) -> None:
        """That there are images."""
        if next(self.rows(source), None) is None:
            raise InputError(
                f"dataset.source {source}: holds neither {self.win}/ with images nor any NAME_{self.win}: "
                "check the path, dataset.format.folders.win and lose"
            )

    def count(self, source: str) -> int:
        """The names."""
        return len(self._names(folder_of(source)))

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """Names in order."""
        root = folder_of(source)
        prompts = _prompts(root / "metadata.jsonl")
        for name, sides in sorted(self._names(root).items()):
            yield Found(name, {"prompt": prompts.get(name), **sides}, root)

    def pairs(self, found: Found) -> Iterator[Preference]:
        """One."""
        root, row = found.root, found.row
        assert root
        for side in (self.win, self.lose):
            if len(row.get(side, ())) != 1:
                raise Unusable(AMBIGUOUS if side in row else MISSING, f"{side}: {', '.join(row.get(side, ('none',)))}")
        win, lose = (ImageFile(root, row[side][0]) for side in (self.win, self.lose))
        prompt = row["prompt"] or _sidecar(root, (root / win.name).parent, found.place)
        yield Preference(found.place, prompt_of({"prompt": prompt}, "prompt"), Pair(win, lose))

    def _names(self, root: Path) -> dict[str, dict[str, list[str]]]:
        """The image files of either side by name, relative to the folder."""
        found: dict[str, dict[str, list[str]]] = {}
        for side in (self.win, self.lose):
            folder, end = (root / side, "") if (root / self.win).is_dir() else (root, f"_{side}")
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                if path.suffix.lower() in SUFFIXES and path.stem.endswith(end):
                    sides = found.setdefault(path.stem.removesuffix(end), {})
                    sides.setdefault(side, []).append(path.relative_to(root).as_posix())
        return found


def _prompts(path: Path) -> dict[str, str]:
    """Prompts by name; a row without a prompt or a name counts for nothing, and its image will be without one."""
    found: dict[str, str] = {}
    for each in file_rows(path) if path.is_file() else ():
        if isinstance(each, Found):
            prompt, name = each.row.get("prompt") or each.row.get("text"), each.row.get("file_name")
            if isinstance(prompt, str) and isinstance(name, str):
                found[PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in SUFFIXES else name] = prompt
    return found


def _sidecar(root: Path, beside: Path, name: str) -> str:
    for folder in (beside, root):
        path = folder / f"{name}.txt"
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8").strip()
            except UnicodeDecodeError:
                raise Unusable(PROMPT, f"{path.name} is not UTF-8") from None
    raise Unusable(PROMPT, f"no {name}.txt and no row in metadata.jsonl")
