"""ImageRewardDB as its files are: a table of ranked images of each prompt, and the unpacked images."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.preferences._rows import Found, LeftOut, file_rows
from ddspo.preferences._sides import COLUMNS, Unusable, side_of
from ddspo.preferences.base import Preference, Preferences, are_numbers, folder_of, need, prompt_of, ranked

READ = ("image_path", "prompt_id", "prompt", "rank")


@dataclass(frozen=True)
class ImageReward(Preferences):
    """Every two images of one `prompt_id` with different `rank`s, 1 being the best (arXiv 2304.05977).

    Scores are ranks, so that a gap counts them.
    The source is the folder with `images/`, whose zip files are unpacked each into a folder of its name
    (`images/train/train_1/`), and `metadata-train.parquet` or the JSON lists that come with the images.
    """

    split: Annotated[Literal["train", "validation", "test"], Doc("which images are read")] = "train"

    @property
    def has_scores(self) -> bool:
        """Ranks."""
        return True

    def check(self, source: str) -> None:
        """Its columns."""
        need(self._images(source), READ, source)

    def rows(self, source: str) -> Iterator[Found | LeftOut]:
        """Prompts, each with the rows of its images; the texts of all are held."""
        groups: dict[tuple[str, str], list[Found]] = {}
        for found in self._images(source):
            if isinstance(found, LeftOut):
                yield found
            else:
                key = (str(found.row.get("prompt_id")), str(found.row.get("prompt")))
                groups.setdefault(key, []).append(found)
        for images in groups.values():
            yield images[0]._replace(row=images[0].row | {"images": [found.row for found in images]})

    def pairs(self, found: Found) -> Iterator[Preference | LeftOut]:
        """n (n - 1) / 2 of n images."""
        images = found.row["images"]
        ranks = [image.get("rank") for image in images]
        if not are_numbers(ranks):
            raise Unusable(COLUMNS, f"rank: {ranks}")
        sides = [side_of(image.get("image_path"), found.root) for image in images]
        return ranked(found, prompt_of(found.row, "prompt"), sides, ranks)

    def _images(self, source: str) -> Iterator[Found | LeftOut]:
        root = folder_of(source)
        table = root / f"metadata-{self.split}.parquet"
        files = [table] if table.is_file() else sorted((root / "images" / self.split).glob("*/*.json"))
        if not files:
            raise InputError(
                f"dataset.source {source}: holds neither {table.name} nor images/{self.split}/*/*.json: check the path"
            )
        for path in files:
            for found in file_rows(path, READ):
                yield found._replace(root=root) if isinstance(found, Found) else found
