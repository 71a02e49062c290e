"""What a recipe says of its prompts: where they are and which of them are used."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from typing_extensions import Doc

from ddspo.errors import InputError
from ddspo.prompts.addresses import identity, is_address
from ddspo.prompts.dataset import is_dataset
from ddspo.prompts.files import find, fingerprint, is_url
from ddspo.prompts.filters import Filter


@dataclass(frozen=True)
class Source:
    """Prompts, one a row. A row that is no prompt is an error unless an option here leaves it out."""

    path: Annotated[
        str,
        Doc(
            "text (one a line), JSONL, CSV or parquet, a folder or glob of such files, the URL of one, "
            "a dataset of the hub (OWNER/NAME, or a folder with `split`), benchmark://NAME or compose://SPLIT"
        ),
    ]
    column: Annotated[str, Doc("the column that holds the prompt")] = "prompt"
    id: Annotated[str | None, Doc("the column of unique ids; rows without an id are numbered, with null all are")] = (
        "id"
    )
    config: Annotated[str | None, Doc("of a dataset that has several")] = None
    split: Annotated[str | None, Doc("of a dataset; null: train")] = None
    revision: Annotated[str | None, Doc("of a dataset: branch, tag or commit")] = None
    where: Annotated[
        tuple[str, ...], Doc("conditions that a row must meet, such as 'cfg >= 5' or 'model != sdxl'")
    ] = ()
    min_words: Annotated[int, Ge(0), Doc("shorter prompts are left out")] = 0
    max_words: Annotated[int | None, Gt(0), Doc("longer prompts are left out; null: none")] = None
    min_characters: Annotated[int, Ge(0), Doc("shorter prompts are left out")] = 0
    max_characters: Annotated[int | None, Gt(0), Doc("longer prompts are left out; null: none")] = None
    language: Annotated[
        str | None, Doc("two letters, such as en; prompts that are surely in another language are left out")
    ] = None
    duplicates: Annotated[
        Literal["merge", "keep"], Doc("merge: of prompts that differ in spaces at most, the first is used")
    ] = "merge"
    limit: Annotated[int | None, Gt(0), Doc("the first so many that are left; null: all")] = None

    def __post_init__(self) -> None:
        for unit in ("words", "characters"):
            least, most = (vars(self)[f"{end}_{unit}"] for end in ("min", "max"))
            if most is not None and least > most:
                raise InputError(f"prompts: min_{unit} {least} is above max_{unit} {most}: exchange them")

    @property
    def filters(self) -> tuple[Filter, ...]:
        """`where`, read."""
        return tuple(map(Filter.read, self.where))

    @property
    def is_dataset(self) -> bool:
        """Whether `datasets` reads it, and not a file after the other."""
        return not is_address(self.path) and is_dataset(self.path, self.split)

    def description(self) -> dict[str, Any]:
        """What its rows depend on: options that are not left at their default, and what the files hold.

        Files here are known by their content, wherever they lie; remote ones by their name, which needs no network.
        """
        options = {field.name: (getattr(self, field.name), field.default) for field in dataclasses.fields(self)}
        found: dict[str, Any] = {name: value for name, (value, default) in options.items() if value != default}
        if self.where:
            found["where"] = list(self.where)  # as the manifest gives it back
        if is_address(self.path):
            return found | {"path": identity(self.path, "prompts")}
        if self.is_dataset or is_url(self.path):
            return found
        return found | {"path": fingerprint(find(self.path, "prompts"))}
