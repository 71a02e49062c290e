"""Takes the variants that come with the prompts, in a column of their own."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from typing_extensions import Doc

from ddspo.degradations.base import Degradation, Degraded
from ddspo.errors import InputError, quoted


@dataclass(frozen=True)
class Given(Degradation):
    """Every prompt's own variants: a text, a list of texts, or the {text, kind} of a run's prompts.jsonl."""

    needs: ClassVar[str] = "variants of their own"

    column: Annotated[str, Doc("the column of the prompts that holds them")] = "degraded"

    @property
    def reads(self) -> str:
        """Its column."""
        return self.column

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[list[Degraded]]:
        """None: a prompt alone has no variants."""
        return [[] for _ in prompts]

    def of_rows(self, rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[list[Degraded]]:
        """The different variants of each row; empty ones and the prompt itself are none."""
        return [self._variants(row) for row in rows]

    def _variants(self, row: Mapping[str, Any]) -> list[Degraded]:
        found = {_plain(row["prompt"]): Degraded("", "")}
        for each in self._each(row):
            found.setdefault(_plain(each.text), each)
        return [each for each in found.values() if each.text]

    def _each(self, row: Mapping[str, Any]) -> Iterator[Degraded]:
        value = row.get(self.column)
        for each in value if isinstance(value, list) else [value]:
            text, kind = (each.get("text"), each.get("kind")) if isinstance(each, Mapping) else (each, None)
            if not isinstance(text, str | None):
                where = f"prompts: {row['id']}: {quoted(each)} under {quoted(self.column)}"
                raise InputError(f"{where}: give a text, or a list of texts")
            if text and text.strip():
                yield Degraded(text.strip(), str(kind or "given"))


def _plain(text: str) -> str:
    return " ".join(text.split())
